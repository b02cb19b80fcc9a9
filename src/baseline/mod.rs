//! Baselines: findings known today, so that only new ones gate.
//!
//! The file is text, one finding a line in order of fingerprints, so that it merges and reads well:
//! `<fingerprint> <kind> <place>: <title>`. Only the fingerprint counts. A `report.json` serves as well.

use crate::report::place::{place, primary_of, words};
use crate::report::{Finding, Report, json};
use std::collections::BTreeMap;

const HEADER: &str = "# conprof baseline 1: known findings, which do not gate; only the first word of a line counts\n";

/// A baseline: fingerprints, each with the rest of its line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline(BTreeMap<String, String>);

impl Baseline {
    /// Takes the findings of a report that are not suppressed.
    pub fn of(report: &Report) -> Baseline {
        let open = report.findings.iter().filter(|finding| !finding.suppressed);
        Baseline(open.map(|finding| (finding.id.clone(), describe(finding))).collect())
    }

    /// Reads a baseline file or a `report.json`.
    ///
    /// # Errors
    /// A line whose first word is no fingerprint, or JSON that is no report of this schema.
    pub fn parse(text: &str) -> Result<Baseline, String> {
        if text.trim_start().starts_with('{') {
            return json::parse(text).map(|report| Baseline::of(&report));
        }
        let mut entries = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("line {}: `{id}` is no fingerprint of 16 hexadecimal digits", number + 1));
            }
            entries.insert(id.to_ascii_lowercase(), rest.trim().to_owned());
        }
        Ok(Baseline(entries))
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = HEADER.to_owned();
        for (id, rest) in &self.0 {
            text.push_str(&format!("{id} {rest}\n"));
        }
        text
    }

    /// Marks the known findings and names those that are gone.
    pub fn apply(&self, report: &mut Report) {
        for finding in &mut report.findings {
            finding.baseline = self.0.contains_key(&finding.id);
        }
        let seen = |id: &str| report.findings.iter().any(|finding| finding.id == id);
        let gone = self.0.iter().filter(|(id, _)| !seen(id));
        report.baseline_gone = gone.map(|(id, rest)| format!("{id} {rest}").trim_end().to_owned()).collect();
    }
}

fn describe(finding: &Finding) -> String {
    let at = primary_of(finding).map_or("?".to_owned(), place);
    format!("{} {at}: {}", words(finding.kind).name, finding.title.replace(['\n', '\r'], " "))
}
