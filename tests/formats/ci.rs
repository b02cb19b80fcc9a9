//! SARIF, JUnit and GitHub's formats.

use crate::sample;
use conprof::report::*;
use serde_json::Value;
use std::sync::LazyLock;

static SARIF_SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("sarif-schema-2.1.0.json")).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
});

/// The log of a report, checked against the official schema.
pub fn valid_sarif(report: &Report) -> Value {
    let log: Value = serde_json::from_str(&sarif::render(report)).expect("JSON");
    let errors: Vec<String> =
        SARIF_SCHEMA.iter_errors(&log).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    log
}

#[test]
fn sarif_validates_and_points_into_the_repository() {
    let mut report = sample::everything();
    report.source_folder = "crates/app".to_owned();
    let log = valid_sarif(&report);
    let race = &log["runs"][0]["results"][0];
    assert_eq!(race["ruleId"], "data-race");
    assert_eq!(race["level"], "error");
    let physical = &race["locations"][0]["physicalLocation"];
    assert_eq!(physical["artifactLocation"]["uri"], "crates/app/src/cache.rs");
    assert_eq!(physical["artifactLocation"]["uriBaseId"], "SRCROOT");
    assert_eq!(physical["region"]["startLine"], 42);
    assert_eq!(race["partialFingerprints"]["conprofFingerprint/v1"], sample::RACE);
    let flows = race["codeFlows"][0]["threadFlows"].as_array().expect("flows");
    assert_eq!(flows.len(), 2, "one a thread");
    assert_eq!(flows[0]["id"], "thread T1 'worker'");
    let steps = flows[0]["locations"].as_array().expect("steps");
    assert_eq!(steps[0]["location"]["physicalLocation"]["region"]["startLine"], 12, "outermost first");
    assert!(race["relatedLocations"].as_array().expect("related").len() >= 4);
    assert!(race.get("baselineState").is_none(), "nothing was compared");
    assert_eq!(log["runs"][0]["results"][3]["level"], "note");
    for rule in log["runs"][0]["tool"]["driver"]["rules"].as_array().expect("rules") {
        assert!(rule["properties"]["tags"].as_array().expect("tags").len() <= 20);
    }
}

#[test]
fn sarif_says_what_is_accepted() {
    let mut report = sample::everything();
    report.findings[1].baseline = true;
    report.findings[2].suppressed = true;
    let log = valid_sarif(&report);
    let results = &log["runs"][0]["results"];
    assert_eq!(results[0]["baselineState"], "new");
    assert_eq!(results[1]["baselineState"], "unchanged");
    assert_eq!(results[2]["suppressions"][0]["kind"], "external");
}

#[test]
fn sarif_stays_within_githubs_limits() {
    let mut report = sample::many(5_010, 0);
    let deep: Vec<Frame> = (0..3_000).map(|n| sample::frame("app::recurse", "src/deep.rs", n + 1)).collect();
    report.findings[0].stacks[0].frames = deep;
    let stack = report.findings[1].stacks[0].clone();
    report.findings[0].stacks.extend(std::iter::repeat_n(stack, 60));
    let log: Value = serde_json::from_str(&sarif::render(&report)).expect("JSON");
    let results = log["runs"][0]["results"].as_array().expect("results");
    assert_eq!(results.len(), 5_000);
    assert_eq!(log["runs"][0]["properties"]["resultsLeftOut"], 10);
    let flows = results[0]["codeFlows"][0]["threadFlows"].as_array().expect("flows");
    let steps: usize = flows.iter().map(|flow| flow["locations"].as_array().map_or(0, Vec::len)).sum();
    assert!(flows.len() <= 10 && steps <= 1_000, "{} flows, {steps} steps", flows.len());
    assert!(results[0]["relatedLocations"].as_array().expect("related").len() <= 100);
}

#[test]
fn sarif_survives_odd_paths_and_lost_places() {
    let mut report = sample::everything();
    report.findings[0].stacks[0].frames = vec![sample::frame("f", "src/with space/ü#?.rs", 3)];
    report.findings[1].stacks.iter_mut().for_each(|stack| stack.frames.clear());
    report.findings[2].stacks[0].frames =
        vec![Frame { function: "<unknown>".to_owned(), module: "app".to_owned(), ..Frame::default() }];
    report.coverage.degraded = vec![DegradedCheck {
        check: "races".to_owned(),
        reason: "no debuginfo".to_owned(),
        cure: "Set it.".to_owned(),
    }];
    report.processes[0].exit = Some(Exit::Signal(11));
    let log = valid_sarif(&report);
    let first = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert_eq!(first, "src/with%20space/%C3%BC%23%3F.rs");
    valid_sarif(&sample::report(vec![]));
    assert_eq!(place::in_repository("a/b", "../c/./d.rs"), "a/c/d.rs");
}

fn junit_events(report: &Report) -> (String, Vec<(String, String)>) {
    let xml = junit::render(report);
    let mut reader = quick_xml::Reader::from_str(&xml);
    let mut elements = Vec::new();
    loop {
        match reader.read_event().expect("well-formed") {
            quick_xml::events::Event::Eof => break,
            quick_xml::events::Event::Start(start) | quick_xml::events::Event::Empty(start) => {
                let name = start.name().as_ref().to_owned();
                let attributes: Vec<String> = start
                    .attributes()
                    .map(|a| a.expect("an attribute"))
                    .map(|a| format!("{}={}", a.key.as_ref(), a.value))
                    .collect();
                elements.push((name, attributes.join(" ")));
            }
            _ => {}
        }
    }
    (xml, elements)
}

#[test]
fn junit_has_a_case_per_kind_without_a_test_runner() {
    let mut report = sample::everything();
    report.findings[0].title = "control \u{1} and <tag> & \"quote\"".to_owned();
    report.coverage.degraded = vec![DegradedCheck {
        check: "contention".to_owned(),
        reason: "switched off".to_owned(),
        cure: "Ask for it.".to_owned(),
    }];
    let (xml, elements) = junit_events(&report);
    let cases = elements.iter().filter(|(name, _)| name == "testcase").count();
    let failures = elements.iter().filter(|(name, _)| name == "failure").count();
    assert_eq!((cases, failures), (9, 3), "{xml}");
    assert!(elements[0].1.contains("tests=9 failures=3"), "{:?}", elements[0]);
    assert!(elements.iter().any(|(name, _)| name == "skipped"));
    assert!(!xml.contains('\u{1}'));
}

#[test]
fn junit_has_a_case_per_test_under_a_runner() {
    let mut report = sample::everything();
    report.tests = vec!["app::it passes".to_owned(), "app::it races".to_owned()];
    report.findings.truncate(1);
    report.findings[0].tests = vec!["app::it races".to_owned()];
    let (xml, elements) = junit_events(&report);
    let cases: Vec<&String> = elements.iter().filter(|(name, _)| name == "testcase").map(|(_, a)| a).collect();
    assert_eq!(cases, ["name=passes classname=app::it time=0", "name=races classname=app::it time=0"], "{xml}");
    assert_eq!(elements.iter().filter(|(name, _)| name == "failure").count(), 1);
}

#[test]
fn github_annotations_are_escaped_and_limited() {
    let mut report = sample::everything();
    report.source_folder = "crates/app".to_owned();
    report.findings[0].title = "100% wrong\r\nreally".to_owned();
    let text = github::render(&report);
    let first = text.lines().next().expect("a line");
    assert!(
        first.starts_with("::error file=crates/app/src/cache.rs,line=42,col=9,title=conprof%3A data race::"),
        "{first}"
    );
    assert!(first.contains("100%25 wrong%0D%0Areally"));
    assert_eq!(text.lines().filter(|line| line.starts_with("::error ")).count(), 3);
    assert_eq!(text.lines().filter(|line| line.starts_with("::warning ")).count(), 1);
    let many = github::render(&sample::many(25, 5));
    assert_eq!(many.lines().filter(|line| line.starts_with("::error ")).count(), 10);
    assert!(many.ends_with("::notice title=conprof::15 more findings are in the step's summary and in the report.\n"));
}

#[test]
fn github_summary_fits_its_limit() {
    let text = github::render_summary(&sample::many(1_000, 25), github::MAX_SUMMARY_BYTES);
    assert!(text.len() <= github::MAX_SUMMARY_BYTES, "{}", text.len());
    assert!(text.contains("**1000 findings gate**"));
    let short = github::render_summary(&sample::many(50, 5), 4_000);
    assert!(short.len() <= 4_000 && short.contains("more findings are in the report."), "{short}");
    assert!(github::render_summary(&sample::report(vec![]), 1 << 20).contains("No findings that gate."));
}

#[test]
fn reports_validate_against_the_published_schema() {
    let mut report = sample::everything();
    report.tests = vec!["app t".to_owned()];
    report.source_folder = "crates/app".to_owned();
    report.timeline = vec![Span { thread: 1, what: "wait".to_owned(), ..Span::default() }];
    report.thread_times = vec![ThreadTimes { thread: 1, ..ThreadTimes::default() }];
    report.lock_order = vec![LockOrder { from: "a".to_owned(), to: "b".to_owned(), count: 1 }];
    for report in [report, sample::report(vec![])] {
        crate::schema::assert_valid(&json::render(&report));
    }
}
