//! Where time goes: perf sampling beside a run, and the pictures and tables made of it.

use super::words::Words;
use crate::analyze::{Ending, Session, generated_code};
use crate::launch::{OutDir, Planned, shim_image};
use crate::perf::{Collected, Collector, Denied, Options, Sampling};
use crate::profile::{Class, Profile, lock_summaries, lock_table, thread_lives};
use crate::report::flamegraph::{Picture, svg};
use crate::report::{PerfCoverage, Report, Span, pprof, timeline};
use crate::trace::Recording;
use anyhow::Context as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Waits on the timeline of the page; the timeline files have all.
const MAX_SPANS: usize = 3_000;

/// Sampling of one run.
#[derive(Debug, Default)]
pub(super) struct Perf {
    waiting: Option<Sampling>,
    collector: Option<Collector>,
    coverage: PerfCoverage,
}

impl Perf {
    /// Opens the events for the program that this thread starts next; says why where that is not allowed. A rate of 0 is no sampling.
    pub(super) fn prepare(rate_hz: u32, words: &Words) -> Perf {
        if rate_hz == 0 {
            let coverage = PerfCoverage {
                available: false,
                reason: "sampling was switched off".into(),
                cure: "leave out --sample-rate 0".into(),
            };
            return Perf { coverage, ..Perf::default() };
        }
        match Sampling::prepare(Options { rate_hz }) {
            Ok(sampling) => Perf {
                waiting: Some(sampling),
                coverage: PerfCoverage { available: true, ..PerfCoverage::default() },
                ..Perf::default()
            },
            Err(Denied { reason, cure }) => {
                words.say(&format!("conprof: no CPU samples, so no cpu.svg: {reason}; cure: {cure}\n"));
                Perf { coverage: PerfCoverage { available: false, reason, cure }, ..Perf::default() }
            }
        }
    }

    /// The program runs.
    pub(super) fn started(&mut self, pid: u32, recording: &Path, planned: Option<&Planned>) {
        let Some(sampling) = self.waiting.take() else { return };
        let recording = Recording::open(recording).ok();
        let plan = planned.and_then(|planned| planned.plan.clone());
        let source = Box::new(move || generated_code(recording.as_ref()?, plan.as_deref()?));
        match Collector::start(sampling, pid, source, shim_image()) {
            Ok(collector) => self.collector = Some(collector),
            Err(error) => {
                self.coverage = PerfCoverage {
                    available: false,
                    reason: format!("no thread could be started: {error}"),
                    cure: "raise `ulimit -u`".into(),
                };
            }
        }
    }

    /// The program has ended: what was collected, and how sampling went.
    pub(super) fn finish(self) -> (Option<Collected>, PerfCoverage) {
        (self.collector.map(Collector::finish), self.coverage)
    }
}

/// Puts the lock table and the threads' times into the report.
pub(super) fn fill(report: &mut Report, profile: &Profile) {
    report.locks = lock_summaries(profile);
    report.thread_times = thread_lives(profile);
    report.timeline = spans(profile);
    report.times_distorted = profile.distorted && !profile.waits.is_empty();
    for thread in &mut report.threads {
        if let Some(life) = profile.lives.iter().find(|life| life.tid == thread.tid) {
            thread.start_ns = Some(life.start_ns.saturating_sub(profile.start_ns));
            thread.end_ns = Some(life.end_ns.saturating_sub(profile.start_ns));
        }
    }
}

/// The longest lock waits of the run, for the timeline of the page.
fn spans(profile: &Profile) -> Vec<Span> {
    let of_threads = profile.events.iter().filter(|wait| wait.task.is_none());
    let waits = of_threads.filter(|wait| profile.class_of(wait.kind, wait.stack) == Class::Lock);
    let mut spans: Vec<Span> = waits
        .map(|wait| Span {
            thread: wait.thread,
            start_ns: wait.start_ns.saturating_sub(profile.start_ns),
            end_ns: wait.end_ns.saturating_sub(profile.start_ns),
            what: "wait".to_owned(),
            lock: profile.wait_label(wait.lock, wait.kind),
        })
        .collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.end_ns - span.start_ns.min(span.end_ns)));
    spans.truncate(MAX_SPANS);
    spans.sort_by_key(|span| span.start_ns);
    spans
}

/// Locks shown on the screen.
const LOCKS_SHOWN: usize = 10;
/// Less waiting than this in all is not worth a table.
const WORTH_SHOWING_NS: u64 = 1_000_000;

/// The lock table for the screen; empty where next to nobody waited.
pub(super) fn table(report: &Report) -> String {
    if report.locks.iter().map(|lock| lock.wait_ns).sum::<u64>() < WORTH_SHOWING_NS {
        return String::new();
    }
    let mut text = format!("conprof: locks by waiting time\n{}", lock_table(&report.locks, LOCKS_SHOWN));
    if report.times_distorted {
        text.push_str(
            "  these times are distorted by the race checks; without them: conprof run --checks contention\n",
        );
    }
    text
}

/// Writes pictures, pprof files and timelines. cpu.svg only where there was sampling.
pub(super) fn write(out: &OutDir, profile: &Profile, sampled: bool, pid: u32) -> anyhow::Result<()> {
    for picture in Picture::ALL {
        if picture == Picture::Cpu && !sampled {
            continue;
        }
        let folded = picture.folded(profile);
        write_file(out, &format!("{}.folded", picture.stem()), folded.to_text().as_bytes())?;
        write_file(out, &format!("{}.svg", picture.stem()), &svg(picture, &folded, profile)?)?;
    }
    let started = timeline::wall_start(SystemTime::now(), profile.duration_ns);
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let time_ns = i64::try_from(since_epoch).unwrap_or(0);
    write_file(out, "mutex.pb.gz", &pprof::encode(profile, pprof::Kind::Mutex, time_ns)?)?;
    write_file(out, "block.pb.gz", &pprof::encode(profile, pprof::Kind::Block, time_ns)?)?;
    write_file(out, "timeline.chrome.json", &timeline::chrome(profile, pid)?)?;
    write_file(out, "timeline.firefox.json", &timeline::firefox(profile, pid, started)?)?;
    Ok(())
}

fn write_file(out: &OutDir, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    out.write(name, bytes).with_context(|| format!("`{}` can't be written", out.file(name).display()))
}

/// The profile of a session, and what sampling missed as counters of the report.
pub(super) fn profile(
    session: &mut Session,
    ending: &Ending,
    collected: Option<&Collected>,
    report: &mut Report,
) -> anyhow::Result<Profile> {
    let profile = session.profile(ending, collected)?;
    if let Some(collected) = collected {
        let named = [
            ("cpu samples", collected.samples.len() as u64),
            ("cpu samples with a stack cut off", collected.cut_off),
            ("cpu samples inside conprof", collected.in_runtime),
            ("perf records lost", collected.lost),
            ("switches not kept for the timeline", collected.spans_dropped),
            ("sampling cost in conprof, in microseconds", collected.collector_cpu_ns / 1000),
        ];
        let seen = named.into_iter().filter(|(_, value)| *value > 0);
        report.counters.extend(seen.map(|(name, value)| (name.to_owned(), value)));
    }
    Ok(profile)
}
