//! Suppressions, baselines, gates and merging.

use crate::sample::{self, DEADLOCK, INVERSION, POSSIBLE, RACE};
use conprof::baseline::Baseline;
use conprof::gate::{self, FailOn};
use conprof::merge::{Relation, merge};
use conprof::report::*;
use conprof::suppress::{Suppressions, line_for};

fn suppressed_by(line: &str) -> Vec<String> {
    let mut report = sample::everything();
    let mut suppressions = Suppressions::default();
    let problems = suppressions.add_text(line, "test");
    assert!(problems.is_empty(), "{problems:?}");
    suppressions.apply(&mut report);
    let hits: u64 = report.suppressions.iter().map(|used| used.hits).sum();
    let ids: Vec<String> = report.findings.iter().filter(|f| f.suppressed).map(|f| f.id.clone()).collect();
    assert_eq!(hits as usize, ids.len());
    ids
}

#[test]
fn thread_sanitizers_kinds_match_what_they_name() {
    for (line, expected) in [
        ("race:Cache::put", vec![RACE]),
        ("race:Cache::get", vec![RACE]),
        ("race:src/cache.rs", vec![RACE]),
        ("race:^app::main$", vec![RACE]),
        ("race:app::flags::FLAG", vec![POSSIBLE]),
        ("race:debug/app$", vec![RACE, POSSIBLE]),
        ("race:transfer", vec![]),
        ("race:Cache::new", vec![]),
        ("race_top:core::ptr::write", vec![RACE]),
        ("race_top:Cache::put", vec![]),
        ("race_top:Cache::get", vec![RACE]),
        ("deadlock:transfer", vec![INVERSION]),
        ("deadlock:bank.rs", vec![DEADLOCK, INVERSION]),
        ("deadlock:^app::B$", vec![INVERSION]),
        ("mutex:*", vec![]),
        ("thread:*", vec![]),
        ("signal:*", vec![]),
        ("called_from_lib:app", vec![RACE, POSSIBLE]),
        ("called_from_lib:libfoo.so", vec![]),
        ("lock-order-inversion:*", vec![INVERSION]),
        ("fingerprint:00112233445566AA # known", vec![RACE]),
        ("fingerprint:99998888", vec![DEADLOCK]),
        ("  # race:Cache::put", vec![]),
    ] {
        assert_eq!(suppressed_by(line), expected, "{line}");
    }
}

#[test]
fn lines_that_mean_nothing_are_named() {
    let mut suppressions = Suppressions::default();
    let text = "# comment\n\nrace:ok\nraces:oops\nrace:\njust words\nfingerprint:12\n";
    let problems = suppressions.add_text(text, "supp.txt");
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(problems[0].starts_with("supp.txt:4: `races:oops`:"));
    assert!(problems[3].contains("8 to 16"));
}

#[test]
fn the_written_line_suppresses_exactly_its_finding() {
    for finding in sample::everything().findings {
        assert_eq!(suppressed_by(&line_for(&finding, None)), [finding.id.as_str()]);
        assert_eq!(suppressed_by(&line_for(&finding, Some("ours,\nsee #12"))), [finding.id.as_str()]);
    }
}

#[test]
fn unused_suppressions_are_listed() {
    let mut report = sample::everything();
    let mut suppressions = Suppressions::default();
    suppressions.add_text("race:nothing_here\nrace:Cache", "test");
    suppressions.apply(&mut report);
    let uses: Vec<(&str, u64)> = report.suppressions.iter().map(|used| (used.line.as_str(), used.hits)).collect();
    assert_eq!(uses, [("race:nothing_here", 0), ("race:Cache", 1)]);
}

#[test]
fn a_baseline_accepts_the_known_gates_the_new_and_names_the_gone() {
    let yesterday = sample::report(vec![sample::race(), sample::deadlock()]);
    let text = Baseline::of(&yesterday).to_text();
    assert!(text.contains("00112233445566aa data-race src/cache.rs:42: `Cache::put`"), "{text}");
    let mut today = sample::report(vec![sample::race(), sample::inversion()]);
    Baseline::parse(&text).expect("a baseline").apply(&mut today);
    gate::decide(&mut today, &FailOn::default());
    let gating: Vec<&str> = today.findings.iter().filter(|f| f.gating).map(|f| f.id.as_str()).collect();
    assert_eq!(gating, [INVERSION]);
    assert_eq!(today.baseline_gone.len(), 1);
    assert!(today.baseline_gone[0].starts_with(DEADLOCK));
    let json = serde_json::to_string(&yesterday).expect("JSON");
    assert_eq!(Baseline::parse(&json).expect("a report"), Baseline::of(&yesterday));
    assert!(Baseline::parse("not a fingerprint").is_err());
}

#[test]
fn a_gate_needs_kind_and_confidence() {
    let mut report = sample::everything();
    gate::decide(&mut report, &FailOn::parse(&["all"]).expect("all"));
    assert_eq!(report.verdict, Verdict::Findings);
    assert!(!report.findings.iter().find(|f| f.id == POSSIBLE).expect("it").gating);
    gate::decide(&mut report, &FailOn::parse(&["none"]).expect("none"));
    assert_eq!(report.verdict, Verdict::Clean);
    report.verdict = Verdict::Incomplete;
    gate::decide(&mut report, &FailOn::parse(&["starvation", "contention"]).expect("names"));
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert!(FailOn::parse(&["race"]).is_err_and(|e| e.contains("data-race")));
    assert_eq!(FailOn::parse(&["races"]).expect("a group").0, [Kind::DataRace]);
}

#[test]
fn repeats_count_the_runs_a_finding_was_seen_in() {
    let runs = vec![
        sample::report(vec![sample::race()]),
        sample::report(vec![]),
        sample::report(vec![sample::race(), sample::inversion()]),
    ];
    let merged = merge(runs, Relation::Repeats);
    let seen: Vec<(&str, u32, u32, u64)> =
        merged.findings.iter().map(|f| (f.id.as_str(), f.seen_in.k, f.seen_in.n, f.count)).collect();
    assert_eq!(seen, [(RACE, 2, 3, 6), (INVERSION, 1, 3, 3)]);
    assert_eq!(merged.processes.len(), 3);
    assert_eq!(merged.locks[0].acquisitions, 300);
    assert_eq!(merged.verdict, Verdict::Findings);
    assert!(merged.command.is_some(), "the same command each time");
}

#[test]
fn parts_unite_their_tests() {
    let part = |test: &str, mut findings: Vec<Finding>| {
        findings.iter_mut().for_each(|finding| finding.tests = vec![test.to_owned()]);
        let mut report = sample::report(findings);
        report.tests = vec![test.to_owned()];
        report.command = Some(vec![test.to_owned()]);
        report
    };
    let mut lost = sample::race();
    lost.stacks[1].frames.clear();
    let merged = merge(
        vec![part("b races", vec![lost]), part("a races", vec![sample::race()]), part("c passes", vec![])],
        Relation::Parts,
    );
    assert_eq!(merged.findings.len(), 1);
    assert_eq!(merged.findings[0].tests, ["a races", "b races"]);
    assert!(!merged.findings[0].stacks[1].frames.is_empty(), "the report with both stacks wins");
    assert_eq!(merged.findings[0].seen_in, SeenIn { k: 1, n: 1 });
    assert_eq!(merged.tests, ["a races", "b races", "c passes"]);
    assert_eq!(merged.command, None);
}

#[test]
fn only_what_is_gone_everywhere_is_gone() {
    let mut a = sample::report(vec![]);
    let mut b = sample::report(vec![sample::race()]);
    let baseline = Baseline::of(&sample::report(vec![sample::race(), sample::deadlock()]));
    baseline.apply(&mut a);
    baseline.apply(&mut b);
    let merged = merge(vec![a, b], Relation::Parts);
    assert_eq!(merged.baseline_gone.len(), 1);
    assert!(merged.baseline_gone[0].starts_with(DEADLOCK));
}
