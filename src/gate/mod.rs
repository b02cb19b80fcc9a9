//! What makes a finding gate, and the verdict that follows.
//!
//! A finding gates if its kind is among those asked for, its confidence is at least "likely", and it is neither
//! suppressed nor in the baseline.

use crate::report::place::{KINDS, kind_index};
use crate::report::{Confidence, Kind, Report, Verdict};
use std::cmp::Reverse;

/// The kinds that gate (`--fail-on`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailOn(pub Vec<Kind>);

impl Default for FailOn {
    fn default() -> FailOn {
        FailOn(vec![Kind::DataRace, Kind::LockOrderInversion, Kind::Deadlock, Kind::LostWakeup])
    }
}

impl FailOn {
    /// Reads names of kinds and groups (`races`, `locks`, `contention`), `all` and `none`.
    ///
    /// # Errors
    /// A name that is none of these, in a sentence that lists what is.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<FailOn, String> {
        let mut kinds = Vec::new();
        for name in names.iter().map(|name| name.as_ref().trim()).filter(|name| !name.is_empty()) {
            let matching: Vec<Kind> = KINDS
                .iter()
                .filter(|words| name == "all" || words.name == name || words.group == name)
                .map(|words| words.kind)
                .collect();
            if matching.is_empty() && name != "none" {
                let known: Vec<&str> = KINDS.iter().map(|words| words.name).collect();
                return Err(format!(
                    "`{name}` is no kind of finding; known are {}, the groups races, locks, contention, and all, none",
                    known.join(", ")
                ));
            }
            kinds.extend(matching);
        }
        kinds.sort();
        kinds.dedup();
        Ok(FailOn(kinds))
    }
}

/// Sets [`Finding::gating`](crate::report::Finding::gating) of all findings and the verdict, and puts the gravest first.
///
/// A verdict of "incomplete" or "internal-error" stays unless a finding gates.
pub fn decide(report: &mut Report, fail_on: &FailOn) {
    for finding in &mut report.findings {
        finding.gating = fail_on.0.contains(&finding.kind)
            && finding.confidence >= Confidence::Likely
            && !finding.suppressed
            && !finding.baseline;
    }
    settle(report);
}

/// Sets the verdict from the findings' `gating`, and puts the gravest first.
pub fn settle(report: &mut Report) {
    let gates = report.findings.iter().any(|finding| finding.gating);
    report.verdict = match (report.verdict, gates) {
        (Verdict::InternalError, _) => Verdict::InternalError,
        (_, true) => Verdict::Findings,
        (Verdict::Findings, false) => Verdict::Clean,
        (other, false) => other,
    };
    report.findings.sort_by(|a, b| {
        let key = |f: &crate::report::Finding| {
            (!f.gating, f.suppressed || f.baseline, kind_index(f.kind), Reverse(f.confidence), Reverse(f.seen_in.k))
        };
        key(a).cmp(&key(b)).then(b.count.cmp(&a.count)).then_with(|| a.id.cmp(&b.id))
    });
}
