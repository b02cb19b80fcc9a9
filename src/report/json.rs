//! `report.json`: the model as it is.

use super::{Report, SCHEMA};

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
    let head: serde_json::Value = serde_json::from_str(text).map_err(|error| format!("this is no report: {error}"))?;
    // The schema first: a report of another one need not have the fields of this one.
    match head.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(schema) => {
            let version = head.get("conprof_version").and_then(serde_json::Value::as_str).unwrap_or("another version");
            return Err(format!(
                "this report has schema {schema}, written by conprof {version}, and this conprof reads schema {SCHEMA}; \
                 use that version"
            ));
        }
        None => return Err("this is no report: it has no `schema`".to_owned()),
    }
    serde_json::from_value(head).map_err(|error| format!("this is no report: {error}"))
}
