//! `report.html`: one self-contained page that opens without a network.
//!
//! The page is a skeleton, a style sheet, a script and the report as JSON; the script builds everything from the JSON
//! with text nodes only, so nothing of a program's names or sources is ever markup. Equal frames are stored once.
//! The page stays below [`MAX_DATA_BYTES`] of data: source excerpts of outer frames go first, then the last findings;
//! the page says what was left out.

use super::place::{KINDS, primary};
use super::{LockOrder, Report};
use crate::suppress;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Most bytes of JSON in a page, pictures aside.
pub const MAX_DATA_BYTES: usize = 9_000_000;
const MAX_SOURCE_BYTES: usize = 4_000_000;
/// Most bytes of pictures in a page; a larger one stays a file beside it.
const MAX_PICTURE_BYTES: usize = 6_000_000;

/// A picture to put into the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Title of its tab.
    pub title: String,
    /// A whole SVG document.
    pub svg: String,
}

/// Renders the page. `results` is the folder that the page's commands name.
pub fn render(report: &Report, pictures: &[Picture], results: &str) -> String {
    let mut data = Compactor::default().report(report, results);
    let mut room = MAX_PICTURE_BYTES;
    let mut shown = Vec::new();
    for picture in pictures.iter() {
        if picture.svg.len() > room {
            continue;
        }
        room -= picture.svg.len();
        shown.push(json!({ "title": picture.title, "svg": picture.svg }));
    }
    data.insert("pictures_left_out".to_owned(), json!(pictures.len() - shown.len()));
    data.insert("pictures".to_owned(), Value::Array(shown));
    let data = serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c");
    let name = report.processes.first().map_or("", |process| process.program.as_str());
    include_str!("page.html")
        .replace("@TITLE@", &escape(&format!("conprof: {name}")))
        .replace("@STYLE@", include_str!("page.css"))
        .replace("@SCRIPT@", include_str!("page.js"))
        .replace("@DATA@", &data)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Turns a report into JSON whose frames and source excerpts are indices into tables.
#[derive(Default)]
struct Compactor {
    frames: Vec<Value>,
    frame_index: HashMap<String, usize>,
    sources: Vec<Value>,
    source_index: HashMap<String, usize>,
    source_bytes: usize,
    sources_left_out: usize,
}

impl Compactor {
    fn report(mut self, report: &Report, results: &str) -> Map<String, Value> {
        // The excerpts that matter most take the room first.
        for finding in &report.findings {
            for stack in &finding.stacks {
                if let Some(source) = primary(&stack.frames).and_then(|frame| Some((frame, frame.source.as_ref()?))) {
                    let key = source_key(&source.0.file, source.1.first_line, source.1.lines.len());
                    self.source(key, json!(source.1));
                }
            }
        }
        let mut data = match serde_json::to_value(report) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        data.remove("findings");
        let mut findings = Vec::new();
        let mut bytes = 0;
        for finding in &report.findings {
            let frames_before = self.frames.len();
            let mut value = serde_json::to_value(finding).unwrap_or_default();
            self.compact(&mut value);
            value["suppress"] = json!(suppress::line_for(finding, None));
            bytes += value.to_string().len();
            bytes += self.frames[frames_before..].iter().map(|frame| frame.to_string().len()).sum::<usize>();
            if bytes + self.source_bytes > MAX_DATA_BYTES && !findings.is_empty() {
                break;
            }
            findings.push(value);
        }
        let left_out = report.findings.len() - findings.len();
        for value in data.values_mut() {
            self.compact(value);
        }
        data.insert("findings".to_owned(), Value::Array(findings));
        data.insert("lock_order".to_owned(), json!(lock_order(report)));
        data.insert("findings_left_out".to_owned(), json!(left_out));
        data.insert("sources_left_out".to_owned(), json!(self.sources_left_out));
        data.insert("frames".to_owned(), Value::Array(self.frames));
        data.insert("sources".to_owned(), Value::Array(self.sources));
        data.insert("results".to_owned(), json!(results));
        let kinds: Vec<Value> = KINDS
            .iter()
            .map(|kind| json!({ "name": kind.name, "heading": kind.heading, "meaning": kind.meaning }))
            .collect();
        data.insert("kinds".to_owned(), Value::Array(kinds));
        data
    }

    /// Replaces every frame inside `value` by its index.
    fn compact(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.compact(item)),
            Value::Object(map) if map.contains_key("module_offset") => {
                let mut frame = std::mem::take(map);
                if let Some(source) = frame.remove("source") {
                    let file = frame.get("file").and_then(Value::as_str).unwrap_or_default();
                    let first = source["first_line"].as_u64().unwrap_or(0) as u32;
                    let lines = source["lines"].as_array().map_or(0, Vec::len);
                    if let Some(index) = self.source(source_key(file, first, lines), source) {
                        frame.insert("source".to_owned(), json!(index));
                    }
                }
                *value = json!(self.frame(Value::Object(frame)));
            }
            Value::Object(map) => map.values_mut().for_each(|item| self.compact(item)),
            _ => {}
        }
    }

    fn frame(&mut self, frame: Value) -> usize {
        match self.frame_index.entry(frame.to_string()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.frames.push(frame);
                *new.insert(self.frames.len() - 1)
            }
        }
    }

    fn source(&mut self, key: String, source: Value) -> Option<usize> {
        if let Some(index) = self.source_index.get(&key) {
            return Some(*index);
        }
        let bytes = source.to_string().len();
        if self.source_bytes + bytes > MAX_SOURCE_BYTES {
            self.sources_left_out += 1;
            return None;
        }
        self.source_bytes += bytes;
        self.sources.push(source);
        self.source_index.insert(key, self.sources.len() - 1);
        Some(self.sources.len() - 1)
    }
}

fn source_key(file: &str, first_line: u32, lines: usize) -> String {
    format!("{file}:{first_line}+{lines}")
}

/// Edges of the lock-order graph: those recorded, and those that the findings' stacks show.
fn lock_order(report: &Report) -> Vec<LockOrder> {
    let mut edges = report.lock_order.clone();
    for stack in report.findings.iter().flat_map(|finding| &finding.stacks) {
        let Some(wanted) = &stack.lock else { continue };
        for held in stack.locks_held.iter().filter(|held| held.name != wanted.name) {
            if !edges.iter().any(|edge| edge.from == held.name && edge.to == wanted.name) {
                edges.push(LockOrder { from: held.name.clone(), to: wanted.name.clone(), count: 1 });
            }
        }
    }
    edges
}
