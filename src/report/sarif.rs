//! SARIF 2.1.0, as GitHub's code scanning reads it (OASIS standard; the schema stands in `tests/formats/`).
//!
//! One result a finding. Its location is the later access (or the acquisition that closes a cycle), the other places
//! are related locations, and each thread's way there is a thread flow of one code flow. Within GitHub's limits:
//! 5,000 results, 100 locations a result, 1,000 steps a code flow.

use super::place::{
    self, KINDS, in_repository, kind_index, location_words, place, primary, primary_of, stack_heading, words,
};
use super::{Confidence, Exit, Finding, Frame, Report, Stack, Verdict};
use serde_json::{Value, json};

const MAX_RESULTS: usize = 5_000;
const MAX_RELATED: usize = 50;
const MAX_THREAD_FLOWS: usize = 10;
const MAX_STEPS: usize = 100;

/// Renders the report as one SARIF log.
pub fn render(report: &Report) -> String {
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run(report)],
    });
    let mut text = serde_json::to_string_pretty(&log).unwrap_or_default();
    text.push('\n');
    text
}

fn run(report: &Report) -> Value {
    let rules: Vec<Value> = KINDS.iter().map(rule).collect();
    let compared = place::has_baseline(report);
    let results: Vec<Value> =
        report.findings.iter().take(MAX_RESULTS).map(|finding| result(report, finding, compared)).collect();
    json!({
        "tool": { "driver": {
            "name": "conprof",
            "semanticVersion": env!("CARGO_PKG_VERSION"),
            "informationUri": "https://crates.io/crates/conprof",
            "rules": rules,
        }},
        "automationDetails": { "id": "conprof/" },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": { "SRCROOT": { "description": { "text": "The root of the repository." } } },
        "invocations": [invocation(report)],
        "results": results,
        "properties": {
            "baselineGone": report.baseline_gone,
            "resultsLeftOut": report.findings.len().saturating_sub(MAX_RESULTS),
        },
    })
}

fn rule(words: &place::KindWords) -> Value {
    let security = if words.group == "races" { vec!["concurrency", "security"] } else { vec!["concurrency"] };
    json!({
        "id": words.name,
        "name": words.name.split('-').map(capitalised).collect::<String>(),
        "shortDescription": { "text": capitalised(words.heading) },
        "fullDescription": { "text": words.meaning },
        "help": { "text": words.advice },
        "defaultConfiguration": { "level": if words.group == "contention" { "warning" } else { "error" } },
        "properties": { "tags": security, "precision": "very-high" },
    })
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn invocation(report: &Report) -> Value {
    let mut invocation = json!({ "executionSuccessful": report.verdict != Verdict::InternalError });
    match report.processes.first().and_then(|process| process.exit) {
        Some(Exit::Code(code)) => invocation["exitCode"] = json!(code),
        Some(Exit::Signal(signal)) => invocation["exitSignalNumber"] = json!(signal),
        None => {}
    }
    if let Some(command) = &report.command {
        invocation["commandLine"] = json!(command.join(" "));
    }
    let degraded: Vec<Value> = report
        .coverage
        .degraded
        .iter()
        .map(|check| {
            let text = format!("{} not fully checked: {}. {}", check.check, check.reason, check.cure);
            json!({ "level": "warning", "message": { "text": text } })
        })
        .collect();
    if !degraded.is_empty() {
        invocation["toolExecutionNotifications"] = json!(degraded);
    }
    invocation
}

fn result(report: &Report, finding: &Finding, compared: bool) -> Value {
    let name = words(finding.kind).name;
    let mut text = sentence(&finding.title);
    if let Some(location) = &finding.location {
        text.push_str(&format!(" Memory: {}.", location_words(location)));
    }
    if !finding.fix.is_empty() {
        text.push_str(&format!(" Fix: {}", sentence(&finding.fix)));
    }
    let mut result = json!({
        "ruleId": name,
        "ruleIndex": kind_index(finding.kind),
        "level": level(finding),
        "message": { "text": text },
        "partialFingerprints": { "conprofFingerprint/v1": finding.id },
        "occurrenceCount": finding.count.max(1),
        "properties": {
            "confidence": finding.confidence,
            "gating": finding.gating,
            "seenIn": format!("{} of {}", finding.seen_in.k, finding.seen_in.n),
            "tests": finding.tests,
        },
    });
    let at = primary_of(finding);
    result["locations"] = at.map_or(json!([]), |frame| json!([location(report, frame)]));
    let related = related(report, finding);
    if !related.is_empty() {
        result["relatedLocations"] = json!(related);
    }
    let flows: Vec<Value> = finding
        .stacks
        .iter()
        .filter(|stack| stack.frames.iter().any(|frame| !frame.file.is_empty()))
        .take(MAX_THREAD_FLOWS)
        .map(|stack| thread_flow(report, stack))
        .collect();
    if !flows.is_empty() {
        result["codeFlows"] = json!([{ "message": { "text": "How each thread got there." }, "threadFlows": flows }]);
    }
    if compared {
        result["baselineState"] = json!(if finding.baseline { "unchanged" } else { "new" });
    }
    if finding.suppressed {
        result["suppressions"] = json!([{ "kind": "external", "status": "accepted" }]);
    }
    result
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

fn level(finding: &Finding) -> &'static str {
    match (finding.gating, finding.confidence) {
        (true, _) => "error",
        (false, Confidence::Possible) => "note",
        (false, _) => "warning",
    }
}

/// The places beside the first: one a stack, then allocation, creation of the threads and acquisition of the locks.
fn related(report: &Report, finding: &Finding) -> Vec<Value> {
    let mut places: Vec<(String, &Frame)> = Vec::new();
    let mut add = |text: String, frames| {
        if let Some(frame) = primary(frames).filter(|frame: &&Frame| !frame.file.is_empty()) {
            places.push((text, frame));
        }
    };
    for stack in &finding.stacks {
        add(stack_heading(stack), &stack.frames);
    }
    if let Some(super::Location::Heap { frames, .. }) = &finding.location {
        add("the memory is allocated here".to_owned(), frames);
    }
    for stack in &finding.stacks {
        if let Some(thread) = &stack.thread {
            add(format!("{} is created here", place::thread_name(thread)), &thread.created_at);
        }
        for lock in stack.lock.iter().chain(&stack.locks_held) {
            add(format!("{} is acquired here", lock.name), &lock.acquired);
        }
    }
    places
        .into_iter()
        .take(MAX_RELATED)
        .enumerate()
        .map(|(id, (text, frame))| {
            let mut location = location(report, frame);
            location["id"] = json!(id);
            location["message"] = json!({ "text": text });
            location
        })
        .collect()
}

fn thread_flow(report: &Report, stack: &Stack) -> Value {
    let inner_first = stack.frames.iter().filter(|frame| !frame.file.is_empty()).take(MAX_STEPS);
    let frames: Vec<&Frame> = inner_first.collect();
    let last = frames.len().saturating_sub(1);
    let steps: Vec<Value> = frames
        .iter()
        .rev()
        .enumerate()
        .map(|(number, frame)| {
            let mut location = location(report, frame);
            let text = if number == last { stack_heading(stack) } else { format!("in {}", frame.function) };
            location["message"] = json!({ "text": text });
            let own = place::is_own_source(&frame.file);
            let importance = match (number == last, own) {
                (true, _) => "essential",
                (false, true) => "important",
                (false, false) => "unimportant",
            };
            json!({ "location": location, "importance": importance, "nestingLevel": number })
        })
        .collect();
    let mut flow = json!({ "locations": steps });
    if let Some(thread) = &stack.thread {
        flow["id"] = json!(place::thread_name(thread));
    }
    flow["message"] = json!({ "text": stack_heading(stack) });
    flow
}

fn location(report: &Report, frame: &Frame) -> Value {
    let mut physical = json!({ "artifactLocation": artifact(report, &frame.file) });
    if frame.line > 0 {
        let mut region = json!({ "startLine": frame.line });
        if frame.column > 0 {
            region["startColumn"] = json!(frame.column);
        }
        if let Some(line) = frame.source.as_ref().and_then(|source| {
            let index = frame.line.checked_sub(source.first_line)?;
            source.lines.get(index as usize)
        }) {
            region["snippet"] = json!({ "text": line });
        }
        physical["region"] = region;
    }
    let mut location = json!({ "logicalLocations": [{ "fullyQualifiedName": frame.function, "kind": "function" }] });
    if frame.file.is_empty() {
        location["message"] = json!({ "text": place(frame) });
    } else {
        location["physicalLocation"] = physical;
    }
    location
}

/// A relative path counts from the repository's root; an absolute one is a `file:` URI.
fn artifact(report: &Report, file: &str) -> Value {
    if file.starts_with('/') {
        return json!({ "uri": format!("file://{}", uri_path(file)) });
    }
    json!({ "uri": uri_path(&in_repository(&report.source_folder, file)), "uriBaseId": "SRCROOT" })
}

fn uri_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b'+' | b'@' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
