//! `conprof analyze DIR`: derives the findings again from the recorded events, and compares.

use std::path::Path;

/// Runs the subcommand and returns the exit status.
pub fn run(dir: &Path) -> anyhow::Result<i32> {
    anyhow::bail!("`conprof analyze {}` is not available in this build", dir.display())
}
