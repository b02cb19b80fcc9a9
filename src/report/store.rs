//! Reading reports back from a folder of results, also one that comes from another machine.

use super::{Finding, Report, json};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::Path;

/// Name of the report in a folder of results.
pub const REPORT_FILE: &str = "report.json";

/// Reads `DIR/report.json`, or the file itself.
///
/// # Errors
/// No report there, or one of a schema that this version does not know.
pub fn load(path: &Path) -> Result<Report> {
    let file = if path.is_dir() { path.join(REPORT_FILE) } else { path.to_owned() };
    let text = fs::read_to_string(&file).with_context(|| {
        format!("{}: no report can be read; give a folder that `conprof run` wrote", file.display())
    })?;
    json::parse(&text).map_err(|why| anyhow!("{}: {why}", file.display()))
}

/// The finding whose fingerprint begins with `prefix`.
///
/// # Errors
/// None, or more than one.
pub fn find<'a>(report: &'a Report, prefix: &str) -> Result<&'a Finding> {
    let prefix = prefix.to_ascii_lowercase();
    let matching: Vec<&Finding> =
        report.findings.iter().filter(|finding| !prefix.is_empty() && finding.id.starts_with(&prefix)).collect();
    match matching.as_slice() {
        [finding] => Ok(finding),
        [] if report.findings.is_empty() => bail!("the report has no findings"),
        [] => {
            let known: Vec<&str> = report.findings.iter().take(10).map(|finding| finding.id.as_str()).collect();
            bail!("no finding's id begins with `{prefix}`; ids are {}", known.join(", "))
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|finding| finding.id.as_str()).collect();
            bail!("`{prefix}` fits several findings: {}", ids.join(", "))
        }
    }
}
