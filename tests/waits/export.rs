//! Pictures as XML, pprof files by their schema, timelines by their viewers' shapes, and the comparison of two runs.

use crate::program::{Run, fixture};
use flate2::read::GzDecoder;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use serde_json::Value as Json;
use std::io::Read;
use std::process::Command;
use std::sync::OnceLock;

fn hog() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| Run::new(&[], &fixture("hog")))
}

#[test]
fn pictures_are_xml_with_the_expected_frames() {
    let run = hog();
    let names = ["contention", "blame", "idle", "offcpu"];
    for (name, frame) in names.iter().zip(["hog::light", "hog::hog", "waits for a thread", "waits for Mutex"]) {
        let text = run.text(&format!("{name}.svg"));
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(&text, options).expect(name);
        let titles: Vec<&str> =
            document.descendants().filter(|n| n.has_tag_name("title")).filter_map(|n| n.text()).collect();
        assert!(titles.iter().any(|t| t.contains(frame)), "{name}: no `{frame}` in {titles:?}");
        assert!(titles.iter().any(|t| t.contains(" us, ")), "{name}: no unit in {titles:?}");
        let heading = document.descendants().any(|n| n.text().is_some_and(|t| t.contains("(hog): ")));
        assert!(heading, "{name}: the title names the program and the total");
        assert!(!text.contains("::h0") && !text.contains("17h"), "{name}: a hash");
    }
}

fn decode(run: &Run, file: &str) -> DynamicMessage {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/waits");
    let files = protox::compile(["profile.proto"], [schema]).expect("the schema compiles");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("a schema");
    let profile = pool.get_message_by_name("perftools.profiles.Profile").expect("the message");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(run.file(file)).expect("the file");
    GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
    DynamicMessage::decode(profile, bytes.as_slice()).expect("a profile")
}

fn list(message: &DynamicMessage, field: &str) -> Vec<Value> {
    match message.get_field_by_name(field).expect("the field").as_list() {
        Some(list) => list.to_vec(),
        None => panic!("{field} is no list"),
    }
}

fn number(value: &Value, field: &str) -> u64 {
    let message = value.as_message().expect("a message");
    let value = message.get_field_by_name(field).expect("the field").into_owned();
    value.as_u64().or_else(|| value.as_i64().map(|n| n as u64)).expect("a number")
}

#[test]
fn pprof_files_decode_by_the_schema() {
    let run = hog();
    for (file, function, folded) in [("block.pb.gz", "hog::light", "contention"), ("mutex.pb.gz", "hog::hog", "blame")]
    {
        let profile = decode(run, file);
        let strings: Vec<String> =
            list(&profile, "string_table").iter().map(|s| s.as_str().expect("text").to_owned()).collect();
        assert_eq!(strings[0], "");
        let types: Vec<(String, String)> = list(&profile, "sample_type")
            .iter()
            .map(|t| (strings[number(t, "type") as usize].clone(), strings[number(t, "unit") as usize].clone()))
            .collect();
        let expected = [("contentions", "count"), ("delay", "nanoseconds")];
        assert_eq!(types, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        let locations: Vec<u64> = list(&profile, "location").iter().map(|l| number(l, "id")).collect();
        let functions = list(&profile, "function");
        let names: Vec<&String> = functions.iter().map(|f| &strings[number(f, "name") as usize]).collect();
        assert!(names.iter().any(|n| n.as_str() == function), "{file}: {names:?}");
        let mut delay = 0;
        for sample in list(&profile, "sample") {
            let sample = sample.as_message().expect("a sample").clone();
            for id in list(&sample, "location_id") {
                assert!(locations.contains(&id.as_u64().expect("an id")));
            }
            delay += list(&sample, "value")[1].as_i64().expect("a value") as u64;
            let keys: Vec<&String> =
                list(&sample, "label").iter().map(|l| number(l, "key") as usize).map(|k| &strings[k]).collect();
            assert_eq!(keys, ["thread", "lock"]);
        }
        assert_eq!(delay, run.folded(folded).total(), "{file}");
        // Inlined frames are further lines of their location.
        let inlined =
            list(&profile, "location").iter().any(|l| list(l.as_message().expect("a location"), "line").len() > 1);
        assert!(inlined, "{file}");
    }
}

#[test]
fn the_chrome_trace_has_the_shape_its_viewers_read() {
    let trace: Json = serde_json::from_str(&hog().text("timeline.chrome.json")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let mut starts = std::collections::HashSet::new();
    for event in events {
        let phase = event["ph"].as_str().expect("a phase");
        assert!(event["pid"].is_u64() && event["tid"].is_u64() && event["name"].is_string(), "{event}");
        match phase {
            "X" => assert!(event["ts"].as_f64() >= Some(0.0) && event["dur"].as_f64() >= Some(0.0), "{event}"),
            "M" => assert!(event["args"].is_object(), "{event}"),
            "s" => assert!(starts.insert(event["id"].as_u64().expect("an id")), "{event}"),
            "f" => assert!(starts.contains(&event["id"].as_u64().expect("an id")) && event["bp"] == "e", "{event}"),
            other => panic!("phase {other}"),
        }
    }
    let held = events.iter().any(|e| e["cat"] == "lock" && e["args"]["held by"] == "holder");
    assert!(held, "a wait names who holds the lock");
    assert!(events.iter().any(|e| e["ph"] == "M" && e["name"] == "thread_name" && e["args"]["name"] == "light-0"));
}

#[test]
fn the_firefox_profile_has_the_shape_its_viewer_reads() {
    let profile: Json = serde_json::from_str(&hog().text("timeline.firefox.json")).expect("JSON");
    let meta = &profile["meta"];
    for field in ["interval", "startTime", "processType", "version", "preprocessedProfileVersion"] {
        assert!(meta[field].is_number(), "meta.{field}");
    }
    let schemas = meta["markerSchema"].as_array().expect("marker schemas");
    assert!(schemas.iter().any(|s| s["name"] == "Wait"));
    let categories = meta["categories"].as_array().expect("categories").len() as u64;
    let threads = profile["threads"].as_array().expect("threads");
    assert!(threads.iter().any(|t| t["name"] == "light-0"));
    for thread in threads {
        for table in ["samples", "markers", "stackTable", "frameTable", "funcTable", "resourceTable", "nativeSymbols"] {
            assert!(thread[table]["length"].is_u64(), "{table}");
        }
        let frames = thread["frameTable"]["length"].as_u64().expect("frames");
        let stacks = &thread["stackTable"];
        for (index, frame) in stacks["frame"].as_array().expect("frames").iter().enumerate() {
            assert!(frame.as_u64().is_some_and(|f| f < frames));
            let prefix = &stacks["prefix"][index];
            assert!(prefix.is_null() || prefix.as_u64().is_some_and(|p| p < index as u64), "{prefix}");
        }
        for category in thread["markers"]["category"].as_array().expect("categories") {
            assert!(category.as_u64().is_some_and(|c| c < categories));
        }
    }
}

#[test]
fn the_comparison_tells_better_from_worse() {
    let before = hog();
    let after = Run::new(&[], &fixture("sharded"));
    let diff = |one: &Run, other: &Run, svg: &std::path::Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_conprof"))
            .arg("diff")
            .args([one.folder(), other.folder()])
            .arg("--svg")
            .arg(svg)
            .output()
            .expect("conprof starts");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let svg = folder.path().join("diff.svg");
    let better = diff(before, &after, &svg);
    assert!(better.lines().next().is_some_and(|line| line.trim_start().starts_with("gone")), "{better}");
    let text = std::fs::read_to_string(&svg).expect("the picture");
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(&text, options).expect("XML");
    assert!(std::fs::read_to_string(folder.path().join("diff.folded")).is_ok_and(|t| t.contains("hog::light")));
    let same = diff(before, before, &svg);
    assert!(same.lines().next().is_some_and(|line| line.trim_start().starts_with("same")), "{same}");
}
