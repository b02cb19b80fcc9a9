//! `report.json`: the model as it is.

use super::Report;

/// The file's text.
pub fn render(report: &Report) -> String {
    // The model has string keys only and no value that JSON can't hold.
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}

/// Reads a `report.json`. Unknown fields are allowed; another schema number is not.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<Report, String> {
    let report: Report = serde_json::from_str(text).map_err(|error| format!("this is no report.json: {error}"))?;
    if report.schema != super::SCHEMA {
        return Err(format!(
            "this report.json has schema {}, and this conprof reads schema {}",
            report.schema,
            super::SCHEMA
        ));
    }
    Ok(report)
}
