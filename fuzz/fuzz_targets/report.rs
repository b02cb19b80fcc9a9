//! A report.json, a baseline or a file of suppressions from another machine, through merging and every format.

#![no_main]

use conprof::baseline::Baseline;
use conprof::gate::{FailOn, decide};
use conprof::merge::{Relation, merge};
use conprof::report::text::{self, Style};
use conprof::report::{github, html, json, junit, sarif, tsan};
use conprof::suppress::line_for;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let baseline = Baseline::parse(data);
    if let Ok(baseline) = &baseline {
        assert_eq!(Baseline::parse(&baseline.to_text()).as_ref(), Ok(baseline));
    }
    let Ok(report) = json::parse(data) else { return };
    let mut report = merge(vec![report.clone(), report], Relation::Parts);
    if let Ok(baseline) = baseline {
        baseline.apply(&mut report);
    }
    decide(&mut report, &FailOn::default());
    for finding in &report.findings {
        line_for(finding, None);
    }
    text::findings(&report, Style::default());
    text::summary(&report, "", Style::default());
    tsan::render(&report);
    sarif::render(&report);
    junit::render(&report);
    github::render(&report);
    github::render_summary(&report, github::MAX_SUMMARY_BYTES);
    html::render(&report, &[], "out");
    json::render(&report);
});
