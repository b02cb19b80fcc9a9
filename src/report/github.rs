//! GitHub Actions: workflow commands that annotate a change, and the Markdown of a step's summary.
//!
//! GitHub shows 10 errors and 10 warnings a step; what does not fit goes into the summary, which may hold 1 MiB.

use super::place::{in_repository, place, primary_of, stack_text, words};
use super::{Finding, Report, Verdict};
use std::fmt::Write;

/// Annotations of each level that GitHub shows for a step.
pub const MAX_ANNOTATIONS: usize = 10;
/// Size in bytes of a step's summary that GitHub accepts.
pub const MAX_SUMMARY_BYTES: usize = 1 << 20;

/// The workflow commands: gating findings as errors, others as warnings.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let open = || report.findings.iter().filter(|finding| !finding.suppressed && !finding.baseline);
    let errors: Vec<&Finding> = open().filter(|finding| finding.gating).collect();
    let warnings: Vec<&Finding> = open().filter(|finding| !finding.gating).collect();
    for (level, findings) in [("error", &errors), ("warning", &warnings)] {
        for finding in findings.iter().take(MAX_ANNOTATIONS) {
            out.push_str(&annotation(report, finding, level));
        }
    }
    for check in report.coverage.degraded.iter().take(MAX_ANNOTATIONS.saturating_sub(warnings.len())) {
        let message = format!("{}. {}", check.reason, check.cure);
        let title = format!("conprof: {} not fully checked", check.check);
        let _ = writeln!(out, "::warning title={}::{}", property(&title), data(&message));
    }
    let left_out = errors.len().saturating_sub(MAX_ANNOTATIONS) + warnings.len().saturating_sub(MAX_ANNOTATIONS);
    if left_out > 0 {
        let text = format!("{left_out} more findings are in the step's summary and in the report.");
        let _ = writeln!(out, "::notice title=conprof::{text}");
    }
    out
}

fn annotation(report: &Report, finding: &Finding, level: &str) -> String {
    let mut properties = Vec::new();
    if let Some(frame) = primary_of(finding).filter(|frame| !frame.file.is_empty()) {
        let file = if frame.file.starts_with('/') {
            frame.file.clone()
        } else {
            in_repository(&report.source_folder, &frame.file)
        };
        properties.push(format!("file={}", property(&file)));
        if frame.line > 0 {
            properties.push(format!("line={}", frame.line));
        }
        if frame.column > 0 {
            properties.push(format!("col={}", frame.column));
        }
    }
    properties.push(format!("title={}", property(&format!("conprof: {}", words(finding.kind).heading))));
    let mut message = format!("{}\n", finding.title);
    for stack in &finding.stacks {
        message.push_str(&stack_text(stack));
    }
    if !finding.fix.is_empty() {
        let _ = writeln!(message, "Fix: {}", finding.fix);
    }
    let _ = write!(message, "Suppress with: fingerprint:{}", finding.id);
    format!("::{level} {}::{}\n", properties.join(","), data(&message))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The Markdown for `$GITHUB_STEP_SUMMARY`, at most `limit_bytes` long; whole findings are left out at the end.
pub fn render_summary(report: &Report, limit_bytes: usize) -> String {
    let gating = report.findings.iter().filter(|finding| finding.gating).count();
    let mut out = String::from("## conprof\n\n");
    let verdict = match report.verdict {
        Verdict::Clean => "No findings that gate.".to_owned(),
        Verdict::Findings if gating == 1 => format!("**1 finding gates** of {} in all.", report.findings.len()),
        Verdict::Findings => format!("**{gating} findings gate** of {} in all.", report.findings.len()),
        Verdict::Incomplete => "**Incomplete:** a requested check could not be done.".to_owned(),
        Verdict::InternalError => "**conprof failed.**".to_owned(),
    };
    let _ = writeln!(out, "{verdict}\n");
    for check in &report.coverage.degraded {
        let _ = writeln!(out, "- {} not fully checked: {}. {}", check.check, check.reason, check.cure);
    }
    if !report.findings.is_empty() {
        out.push_str("\n| | kind | where | what | seen | id |\n|---|---|---|---|---|---|\n");
    }
    let tail_bytes = 120;
    let fits = |part: String, out: &mut String| {
        let room = out.len() + part.len() + tail_bytes <= limit_bytes;
        if room {
            out.push_str(&part);
        }
        room
    };
    for (done, finding) in report.findings.iter().enumerate() {
        if !fits(row(finding), &mut out) {
            let _ = writeln!(out, "\n{} more findings are in the report.", report.findings.len() - done);
            return out;
        }
    }
    let open = report.findings.iter().filter(|finding| !finding.suppressed && !finding.baseline);
    for finding in open {
        if !fits(details(finding), &mut out) {
            out.push_str("\nThe details of further findings are in the report.\n");
            return out;
        }
    }
    if !report.baseline_gone.is_empty() {
        let gone = format!("\nIn the baseline, not found this time: {}\n", report.baseline_gone.join(", "));
        fits(gone, &mut out);
    }
    out
}

fn row(finding: &Finding) -> String {
    let state = match (finding.gating, finding.suppressed, finding.baseline) {
        (true, ..) => "gates",
        (false, true, _) => "suppressed",
        (false, false, true) => "baseline",
        (false, false, false) => "",
    };
    format!(
        "| {state} | {} | `{}` | {} | {}x | `{}` |\n",
        words(finding.kind).heading,
        primary_of(finding).map_or("?".to_owned(), place).replace('|', "\\|"),
        finding.title.replace('|', "\\|").replace('\n', " "),
        finding.count,
        finding.id,
    )
}

fn details(finding: &Finding) -> String {
    let mut text = String::new();
    for stack in &finding.stacks {
        text.push_str(&stack_text(stack));
    }
    format!(
        "\n<details><summary>{}: {}</summary>\n\n````text\n{text}````\n\n{}\n\n</details>\n",
        words(finding.kind).heading,
        escape_html(&finding.title),
        escape_html(&finding.fix),
    )
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
