//! What each thread did when: running, ready to run, waiting for which lock, held by whom.
//!
//! Two forms: Chrome trace events (chrome://tracing, Perfetto) and Firefox Profiler's processed profile
//! (profiler.firefox.com, which also shows the CPU samples).

use crate::profile::{Class, Profile, StackId, ThreadLife, WaitEvent, frame_name, kind_name};
use fxprof_processed_profile as fx;
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Frames of a stack shown with a wait.
const FRAMES_SHOWN: usize = 24;

/// `lock` is the label of what is waited for.
fn wait_name(class: Class, event: &WaitEvent, lock: &str) -> String {
    match class {
        Class::Lock => format!("waits for {lock}"),
        Class::Idle => format!("idle: {}", kind_name(event.kind)),
    }
}

/// The same for the row of a thread that a task's wait ended on.
fn wait_name_of_task(profile: &Profile, event: &WaitEvent, name: String) -> String {
    event.task.map_or(name.clone(), |task| format!("{} {name}", profile.task_name(task)))
}

fn shown(profile: &Profile, stack: StackId) -> Vec<String> {
    profile.stacks.frames(stack).iter().take(FRAMES_SHOWN).map(frame_name).collect()
}

/// Microseconds since the run's start.
fn us(profile: &Profile, ns: u64) -> f64 {
    ns.saturating_sub(profile.start_ns) as f64 / 1000.0
}

/// Kernel thread id of a serial; the serial itself where it is not known.
fn tid(profile: &Profile, serial: u32) -> u32 {
    profile.threads.iter().find(|t| t.serial == serial).map_or(serial, |t| t.tid)
}

/// Spans of a thread between its times off the CPU.
fn on_cpu(life: &ThreadLife) -> Vec<(u64, u64)> {
    let mut from = life.start_ns;
    let mut spans = Vec::new();
    for &(out, back, _) in &life.off_cpu {
        if out > from {
            spans.push((from, out));
        }
        from = from.max(back);
    }
    if life.end_ns > from {
        spans.push((from, life.end_ns));
    }
    spans
}

/// A Chrome trace event of a span.
#[derive(Serialize)]
struct Span<'a, Args> {
    ph: &'static str,
    name: &'a str,
    cat: &'static str,
    pid: u32,
    tid: u32,
    ts: f64,
    dur: f64,
    args: Args,
}

/// What a span of running says beside its times: nothing.
#[derive(Serialize)]
struct Nothing {}

/// What a wait says beside its times.
#[derive(Serialize)]
struct Wait<'a> {
    #[serde(rename = "for")]
    kind: &'static str,
    lock: &'a str,
    stack: &'a [String],
    #[serde(rename = "held by", skip_serializing_if = "Option::is_none")]
    holder: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
}

/// The events written so far, as the inside of a JSON array.
struct Events {
    bytes: Vec<u8>,
}

impl Events {
    fn push(&mut self, event: &impl Serialize) -> serde_json::Result<()> {
        if !self.bytes.is_empty() {
            self.bytes.push(b',');
        }
        serde_json::to_writer(&mut self.bytes, event)
    }
}

/// Chrome trace events: an object with `traceEvents`, as JSON. `pid` is the program's.
///
/// Waits come in hundreds of thousands: each is written at once, and what they have in common is made once.
pub fn chrome(profile: &Profile, pid: u32) -> serde_json::Result<Vec<u8>> {
    let mut events = Events { bytes: Vec::new() };
    events.push(&json!({
        "ph": "M", "name": "process_name", "pid": pid, "tid": pid, "args": { "name": profile.program }
    }))?;
    for thread in &profile.threads {
        events.push(&json!({
            "ph": "M", "name": "thread_name", "pid": pid, "tid": thread.tid,
            "args": { "name": profile.thread_name(thread.serial) }
        }))?;
        events.push(&json!({
            "ph": "M", "name": "thread_sort_index", "pid": pid, "tid": thread.tid,
            "args": { "sort_index": thread.serial }
        }))?;
    }
    let dur = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1000.0;
    for life in &profile.lives {
        let preempted = life.off_cpu.iter().filter(|span| span.2);
        let preempted = preempted.map(|&(from, to, _)| ("ready to run, preempted", from, to));
        for (name, from, to) in on_cpu(life).into_iter().map(|(from, to)| ("running", from, to)).chain(preempted) {
            let (ts, dur) = (us(profile, from), dur(from, to));
            events.push(&Span { ph: "X", name, cat: "cpu", pid, tid: life.tid, ts, dur, args: Nothing {} })?;
        }
    }
    let (mut stacks, mut locks, mut threads) = (HashMap::new(), HashMap::new(), HashMap::new());
    for event in &profile.events {
        stacks.entry(event.stack).or_insert_with(|| shown(profile, event.stack));
        locks.entry((event.lock, event.kind)).or_insert_with(|| profile.wait_label(event.lock, event.kind));
        let others = if event.task.is_some() { [None; 2] } else { [event.holder, event.waker] };
        for serial in [Some(event.thread)].into_iter().chain(others).flatten() {
            threads.entry(serial).or_insert_with(|| (tid(profile, serial), profile.thread_name(serial)));
        }
    }
    for (number, event) in profile.events.iter().enumerate() {
        let class = profile.class_of(event.kind, event.stack);
        let cat = if class == Class::Lock { "lock" } else { "idle" };
        let own = threads[&event.thread].0;
        let lock = &locks[&(event.lock, event.kind)];
        let name = wait_name(class, event, lock);
        let holder = profile.holder_name(event);
        let args = Wait {
            kind: kind_name(event.kind),
            lock,
            stack: &stacks[&event.stack],
            holder: holder.as_deref(),
            task: event.task.map(|task| profile.task_name(task)),
        };
        if event.task.is_some() {
            // Many tasks wait at once and none for a thread: tracks of their own, one for each lock.
            let (ts, end) = (us(profile, event.start_ns), us(profile, event.end_ns));
            events.push(&json!({
                "ph": "b", "id": number, "name": name, "cat": cat, "pid": pid, "tid": own, "ts": ts, "args": args
            }))?;
            events.push(&json!({
                "ph": "e", "id": number, "name": name, "cat": cat, "pid": pid, "tid": own, "ts": end
            }))?;
            continue;
        }
        let (ts, dur) = (us(profile, event.start_ns), dur(event.start_ns, event.end_ns));
        events.push(&Span { ph: "X", name: &name, cat, pid, tid: own, ts, dur, args })?;
        // An arrow from the release to the end of the wait.
        if let Some(waker) = event.waker.filter(|w| *w != event.thread) {
            let at = us(profile, event.end_ns);
            let waker = threads[&waker].0;
            events.push(
                &json!({ "ph": "s", "id": number, "name": "release", "cat": cat, "pid": pid, "tid": waker, "ts": at }),
            )?;
            events.push(&json!({ "ph": "f", "bp": "e", "id": number, "name": "release", "cat": cat, "pid": pid, "tid": own, "ts": at }))?;
        }
    }
    let other = json!({ "program": profile.program, "distorted": profile.distorted });
    let mut file = br#"{"displayTimeUnit":"ns","otherData":"#.to_vec();
    serde_json::to_writer(&mut file, &other)?;
    file.extend_from_slice(br#","traceEvents":["#);
    file.append(&mut events.bytes);
    file.extend_from_slice(b"]}");
    Ok(file)
}

/// A wait in the Firefox Profiler.
struct WaitMarker {
    name: fx::StringHandle,
    lock: fx::StringHandle,
    holder: fx::StringHandle,
    category: fx::CategoryHandle,
}

impl fx::StaticSchemaMarker for WaitMarker {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "Wait";
    const DESCRIPTION: Option<&'static str> = Some("A thread waits for another, or for something to do.");
    const LOCATIONS: fx::MarkerLocations = fx::MarkerLocations::MARKER_CHART
        .union(fx::MarkerLocations::MARKER_TABLE)
        .union(fx::MarkerLocations::TIMELINE_OVERVIEW);
    const TABLE_LABEL: Option<&'static str> = Some("{marker.data.lock}, held by {marker.data.holder}");
    const FIELDS: &'static [fx::StaticSchemaMarkerField] = &[
        fx::StaticSchemaMarkerField {
            key: "lock",
            label: "Lock",
            format: fx::MarkerFieldFormat::String,
            flags: fx::MarkerFieldFlags::SEARCHABLE,
        },
        fx::StaticSchemaMarkerField {
            key: "holder",
            label: "Held by",
            format: fx::MarkerFieldFormat::String,
            flags: fx::MarkerFieldFlags::SEARCHABLE,
        },
    ];

    fn name(&self, _profile: &mut fx::Profile) -> fx::StringHandle {
        self.name
    }

    fn category(&self, _profile: &mut fx::Profile) -> fx::CategoryHandle {
        self.category
    }

    fn string_field_value(&self, field_index: u32) -> fx::StringHandle {
        if field_index == 0 { self.lock } else { self.holder }
    }

    fn number_field_value(&self, _field_index: u32) -> f64 {
        0.0
    }
}

/// Firefox Profiler's processed profile. `pid` is the program's, `started` the wall-clock time of the run's start.
pub fn firefox(profile: &Profile, pid: u32, started: SystemTime) -> serde_json::Result<Vec<u8>> {
    let interval = match profile.samples.first() {
        Some(sample) => fx::SamplingInterval::from_nanos(sample.weight_ns.max(1)),
        None => fx::SamplingInterval::from_millis(1),
    };
    let mut out = fx::Profile::new(&profile.program, started.into(), interval);
    let stamp = |ns: u64| fx::Timestamp::from_nanos_since_reference(ns.saturating_sub(profile.start_ns));
    let begin = fx::Timestamp::from_nanos_since_reference(0);
    let process = out.add_process(&profile.program, pid, begin);
    let lock_category = out.add_category("Lock waiting", fx::CategoryColor::Red);
    let idle_category = out.add_category("Idle", fx::CategoryColor::LightBlue);
    let user_category = out.add_category("User", fx::CategoryColor::Yellow);
    let mut threads = HashMap::new();
    for thread in &profile.threads {
        let life = profile.lives.iter().find(|l| l.tid == thread.tid);
        let start = life.map_or(begin, |l| stamp(l.start_ns));
        let handle = out.add_thread(process, thread.tid, start, thread.serial == 0);
        out.set_thread_name(handle, &profile.thread_name(thread.serial));
        if let Some(life) = life {
            out.set_thread_end_time(handle, stamp(life.end_ns));
        }
        out.set_thread_show_markers_in_timeline(handle, true);
        threads.insert(thread.tid, handle);
    }
    let mut stacks = HashMap::new();
    let mut samples: Vec<_> = profile.samples.iter().collect();
    samples.sort_by_key(|sample| sample.time_ns);
    for sample in samples {
        let Some(&thread) = threads.get(&sample.tid) else { continue };
        let stack = *stacks
            .entry((thread, sample.stack))
            .or_insert_with(|| stack(&mut out, thread, profile, sample.stack, user_category));
        let cpu = fx::CpuDelta::from_nanos(sample.weight_ns);
        out.add_sample(thread, stamp(sample.time_ns), stack, cpu, 1);
    }
    for event in &profile.events {
        let Some(&thread) = threads.get(&tid(profile, event.thread)) else { continue };
        let class = profile.class_of(event.kind, event.stack);
        let label = profile.wait_label(event.lock, event.kind);
        let name = wait_name_of_task(profile, event, wait_name(class, event, &label));
        let name = out.intern_string(&name);
        let lock = out.intern_string(&label);
        let holder = out.intern_string(&profile.holder_name(event).unwrap_or("nobody known".to_owned()));
        let category = match class {
            Class::Lock => lock_category,
            Class::Idle => idle_category,
        };
        let timing = fx::MarkerTiming::Interval(stamp(event.start_ns), stamp(event.end_ns));
        let marker = out.add_marker(thread, timing, WaitMarker { name, lock, holder, category });
        let stack = *stacks
            .entry((thread, event.stack))
            .or_insert_with(|| stack(&mut out, thread, profile, event.stack, user_category));
        out.set_marker_stack(thread, marker, stack);
    }
    out.set_symbolicated(true);
    serde_json::to_vec(&out)
}

fn stack(
    out: &mut fx::Profile,
    thread: fx::ThreadHandle,
    profile: &Profile,
    stack: StackId,
    category: fx::CategoryHandle,
) -> Option<fx::StackHandle> {
    let names: Vec<_> = profile.stacks.frames(stack).iter().rev().map(frame_name).collect();
    let frames: Vec<fx::FrameInfo> = names
        .iter()
        .map(|name| fx::FrameInfo {
            frame: fx::Frame::Label(out.intern_string(name)),
            category_pair: category.into(),
            flags: fx::FrameFlags::empty(),
        })
        .collect();
    out.intern_stack_frames(thread, frames.into_iter())
}

/// The start of the run as wall-clock time, from its end and its duration.
pub fn wall_start(ended: SystemTime, duration_ns: u64) -> SystemTime {
    ended.checked_sub(Duration::from_nanos(duration_ns)).unwrap_or(SystemTime::UNIX_EPOCH)
}
