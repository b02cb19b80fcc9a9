//! `conprof analyze DIR`: derives the findings again from the recorded events, and compares.

use crate::analyze::replay::replay_recording;
use crate::trace::{RECORDING, Recording};
use anyhow::Context;
use std::path::Path;

/// Runs the subcommand and returns the exit status: 0 where the replay agrees with what was found in the process.
pub fn run(dir: &Path) -> anyhow::Result<i32> {
    let path = dir.join(RECORDING);
    let recording = Recording::open(&path).with_context(|| format!("{} has no recording", dir.display()))?;
    let (replay, comparison) = replay_recording(&recording).context("the recording's header can't be read")?;
    if replay.events == 0 {
        anyhow::bail!("the run recorded no events: use `conprof run --record full`");
    }
    eprintln!(
        "conprof: replayed {} events ({} dropped, {} broken): {} races found by both, {} only in the process, \
         {} only by the replay, {} of which a side is lost",
        replay.events,
        comparison.dropped,
        replay.broken,
        comparison.both.len(),
        comparison.process_only.len(),
        comparison.replay_only.len(),
        comparison.incomparable
    );
    Ok(if comparison.agrees() { 0 } else { super::exit::INTERNAL })
}
