//! JUnit XML in the flavour that Jenkins and nextest write.
//!
//! Under a test runner there is one test case per test that ran; otherwise one per kind of finding. A finding that
//! gates is a failure, others are told in the case's output.

use super::place::{KINDS, stack_text, words};
use super::{Finding, Kind, Report};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use std::io;

struct Case<'a> {
    class: String,
    name: String,
    findings: Vec<&'a Finding>,
    skipped: Option<String>,
}

/// Renders the report.
pub fn render(report: &Report) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 4);
    // Writing into memory does not fail.
    let _ = write_all(&mut writer, &cases(report), report);
    let mut text = String::from_utf8(writer.into_inner()).unwrap_or_default();
    text.push('\n');
    text
}

fn cases(report: &Report) -> Vec<Case<'_>> {
    let open = || report.findings.iter().filter(|finding| !finding.suppressed && !finding.baseline);
    let mut cases = Vec::new();
    let mut tests: Vec<&String> = report.tests.iter().chain(open().flat_map(|finding| &finding.tests)).collect();
    tests.sort();
    tests.dedup();
    for test in &tests {
        let (class, name) = test.split_once(' ').unwrap_or(("test", test));
        let findings = open().filter(|finding| finding.tests.contains(test)).collect();
        cases.push(Case { class: class.to_owned(), name: name.to_owned(), findings, skipped: None });
    }
    for kind in &KINDS {
        let outside = |finding: &&Finding| tests.is_empty() || finding.tests.is_empty();
        let findings: Vec<&Finding> = open().filter(|finding| finding.kind == kind.kind).filter(outside).collect();
        // Hot locks are looked for only where they are asked for or races are not checked: a case that passes would say otherwise.
        if findings.is_empty() && (!tests.is_empty() || kind.kind == Kind::HotLock) {
            continue;
        }
        let degraded = report.coverage.degraded.iter().find(|check| check.check == kind.group);
        let skipped = degraded.filter(|_| findings.is_empty()).map(|check| format!("{}. {}", check.reason, check.cure));
        cases.push(Case { class: "conprof".to_owned(), name: kind.name.to_owned(), findings, skipped });
    }
    cases
}

fn write_all(writer: &mut Writer<Vec<u8>>, cases: &[Case], report: &Report) -> io::Result<()> {
    let count = |test: fn(&Case) -> bool| cases.iter().filter(|case| test(case)).count().to_string();
    let fails = |case: &Case| case.findings.iter().any(|finding| finding.gating);
    let tests = cases.len().to_string();
    let failures = count(fails);
    let skipped = count(|case| case.skipped.is_some());
    let time_ns: u64 = report.processes.iter().map(|process| process.duration_ns).sum();
    let time = format!("{:.3}", time_ns as f64 / 1e9);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let totals = [("tests", tests.as_str()), ("failures", &failures), ("errors", "0"), ("time", &time)];
    writer.write_event(Event::Start(
        BytesStart::new("testsuites").with_attributes([("name", "conprof")]).with_attributes(totals),
    ))?;
    let suite = BytesStart::new("testsuite")
        .with_attributes([("name", "conprof")])
        .with_attributes(totals)
        .with_attributes([("skipped", skipped.as_str())]);
    writer.write_event(Event::Start(suite))?;
    for case in cases {
        write_case(writer, case)?;
    }
    writer.write_event(Event::End(BytesEnd::new("testsuite")))?;
    writer.write_event(Event::End(BytesEnd::new("testsuites")))
}

fn write_case(writer: &mut Writer<Vec<u8>>, case: &Case) -> io::Result<()> {
    let (class, name) = (legal(&case.class), legal(&case.name));
    let start = BytesStart::new("testcase").with_attributes([
        ("name", name.as_str()),
        ("classname", class.as_str()),
        ("time", "0"),
    ]);
    if case.findings.is_empty() && case.skipped.is_none() {
        return writer.write_event(Event::Empty(start));
    }
    writer.write_event(Event::Start(start))?;
    if let Some(reason) = &case.skipped {
        let reason = legal(reason);
        let skipped = BytesStart::new("skipped").with_attributes([("message", reason.as_str())]);
        writer.write_event(Event::Empty(skipped))?;
    }
    for finding in case.findings.iter().filter(|finding| finding.gating) {
        let message = legal(&finding.title);
        let failure = BytesStart::new("failure")
            .with_attributes([("message", message.as_str()), ("type", words(finding.kind).name)]);
        element(writer, failure, &finding_text(finding))?;
    }
    let quiet: Vec<String> =
        case.findings.iter().filter(|finding| !finding.gating).map(|finding| finding_text(finding)).collect();
    if !quiet.is_empty() {
        element(writer, BytesStart::new("system-out"), &quiet.join("\n"))?;
    }
    writer.write_event(Event::End(BytesEnd::new("testcase")))
}

fn element(writer: &mut Writer<Vec<u8>>, start: BytesStart, text: &str) -> io::Result<()> {
    let end = start.to_end().into_owned();
    writer.write_event(Event::Start(start))?;
    writer.write_event(Event::Text(BytesText::new(&legal(text))))?;
    writer.write_event(Event::End(end))
}

fn finding_text(finding: &Finding) -> String {
    let mut text = format!("{}: {}\n", words(finding.kind).heading, finding.title);
    for stack in &finding.stacks {
        text.push_str(&stack_text(stack));
    }
    if !finding.fix.is_empty() {
        text.push_str(&format!("fix: {}\n", finding.fix));
    }
    text.push_str(&format!("fingerprint: {}\n", finding.id));
    text
}

/// Replaces characters that XML 1.0 cannot hold.
fn legal(text: &str) -> String {
    let is_legal = |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars().map(|c| if is_legal(c) { c } else { '\u{fffd}' }).collect()
}
