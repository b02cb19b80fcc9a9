//! `profile.proto` as Go's mutex and block profiles have it: `contentions/count` and `delay/nanoseconds`.
//!
//! The schema is `proto/profile.proto` of github.com/google/pprof. Locations go leaf first; the frames that were inlined
//! at one address are the lines of one location, innermost first. Labels name the thread and the lock.

use crate::profile::{Class, Profile, StackId, frame_name};
use crate::report::Frame;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use std::collections::HashMap;
use std::io::Write;

/// `perftools.profiles.Profile`
#[derive(Clone, PartialEq, Message)]
struct ProfileMessage {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<SampleMessage>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// `ValueType`
#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

/// `Sample`
#[derive(Clone, PartialEq, Message)]
struct SampleMessage {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

/// `Label`
#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

/// `Mapping`
#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

/// `Location`
#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

/// `Line`
#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
    #[prost(int64, tag = "3")]
    column: i64,
}

/// `Function`
#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

struct Encoder {
    message: ProfileMessage,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    mappings: HashMap<String, u64>,
    locations: HashMap<Vec<(String, String, u32, u64)>, u64>,
}

impl Encoder {
    fn new() -> Encoder {
        let mut encoder = Encoder {
            message: ProfileMessage::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            mappings: HashMap::new(),
            locations: HashMap::new(),
        };
        // Index 0 must be the empty string.
        encoder.string("");
        encoder
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&id) = self.strings.get(text) {
            return id;
        }
        let id = self.message.string_table.len() as i64;
        self.message.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), id);
        id
    }

    fn value_type(&mut self, name: &str, unit: &str) -> ValueType {
        ValueType { r#type: self.string(name), unit: self.string(unit) }
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let name = self.string(&frame_name(frame));
        let system_name = self.string(&frame.function);
        let filename = self.string(&frame.file);
        let id = self.functions.len() as u64 + 1;
        let known = *self.functions.entry((system_name, filename)).or_insert(id);
        if known == id {
            self.message.function.push(Function { id, name, system_name, filename });
        }
        known
    }

    fn mapping(&mut self, module: &str) -> u64 {
        if let Some(&id) = self.mappings.get(module) {
            return id;
        }
        let id = self.mappings.len() as u64 + 1;
        let filename = self.string(module);
        self.mappings.insert(module.to_owned(), id);
        self.message.mapping.push(Mapping {
            id,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        });
        id
    }

    /// The location of the frames inlined at one address, innermost first, the last of them not inlined.
    fn location(&mut self, frames: &[Frame]) -> u64 {
        let key = frames.iter().map(|f| (f.function.clone(), f.file.clone(), f.line, f.module_offset)).collect();
        if let Some(&id) = self.locations.get(&key) {
            return id;
        }
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(key, id);
        let line = frames
            .iter()
            .map(|f| Line { function_id: self.function(f), line: i64::from(f.line), column: i64::from(f.column) })
            .collect();
        let (module, address) = frames.last().map_or(("", 0), |f| (f.module.as_str(), f.module_offset));
        let mapping_id = self.mapping(module);
        self.message.location.push(Location { id, mapping_id, address, line });
        id
    }

    fn locations(&mut self, profile: &Profile, stack: StackId) -> Vec<u64> {
        let frames = profile.stacks.frames(stack);
        frames.chunk_by(|a, _| a.inlined).map(|at_one_address| self.location(at_one_address)).collect()
    }
}

/// Which profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lock waiting by holding stack, as Go's mutex profile.
    Mutex,
    /// Lock waiting by waiting stack, as Go's block profile.
    Block,
}

fn message(profile: &Profile, kind: Kind, time_ns: i64) -> ProfileMessage {
    let mut encoder = Encoder::new();
    let contentions = encoder.value_type("contentions", "count");
    let delay = encoder.value_type("delay", "nanoseconds");
    encoder.message.sample_type = vec![contentions, delay];
    encoder.message.default_sample_type = delay.r#type;
    encoder.message.period_type = Some(contentions);
    encoder.message.period = 1;
    encoder.message.time_nanos = time_ns;
    encoder.message.duration_nanos = profile.duration_ns as i64;
    if profile.distorted {
        let comment = encoder.string("race checks were on: times are distorted; run with --checks contention");
        encoder.message.comment.push(comment);
    }
    let (thread_key, lock_key) = (encoder.string("thread"), encoder.string("lock"));
    let rows: Vec<(StackId, u64, u64, u32, String)> = match kind {
        Kind::Block => profile
            .waits
            .iter()
            .filter(|w| profile.class_of(w.kind, w.stack) == Class::Lock)
            .map(|w| (w.stack, w.count, w.total_ns, w.thread, profile.wait_label(w.lock, w.kind)))
            .collect(),
        Kind::Mutex => profile
            .blames
            .iter()
            .map(|b| (b.acquired, b.count, b.total_ns, b.thread, profile.lock_label(b.lock)))
            .collect(),
    };
    for (stack, count, total_ns, thread, lock) in rows {
        let location_id = encoder.locations(profile, stack);
        let thread = encoder.string(&profile.thread_name(thread));
        let lock = encoder.string(&lock);
        let label = vec![Label { key: thread_key, str: thread }, Label { key: lock_key, str: lock }];
        encoder.message.sample.push(SampleMessage { location_id, value: vec![count as i64, total_ns as i64], label });
    }
    encoder.message
}

/// The bytes of a `.pb.gz` file. `time_ns` is the wall-clock time of the run's start, since the epoch.
pub fn encode(profile: &Profile, kind: Kind, time_ns: i64) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message(profile, kind, time_ns).encode_to_vec())?;
    gzip.finish()
}
