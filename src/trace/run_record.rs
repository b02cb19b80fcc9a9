//! `run.json`: what was run, so that a recording can be analysed later, by another conprof.

use crate::analyze::Thresholds;
use crate::report::{DegradedCheck, ModuleCoverage};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// File that marks a folder as conprof's, and says what was run.
pub const RUN_RECORD: &str = "run.json";
/// File that is locked while a conprof writes into the folder.
pub const LOCK: &str = ".lock";
/// The recording's file.
pub const RECORDING: &str = "recording";

/// What a recording does not say about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of conprof.
    pub conprof_version: String,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// The program as it was named on the command line.
    pub program_as_given: String,
    /// The command; absent with `--redact-args`.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Folder conprof was started in.
    pub directory: PathBuf,
    /// The main program, as scanned.
    pub coverage: ModuleCoverage,
    /// What can't be checked, and why.
    pub degraded: Vec<DegradedCheck>,
    /// `FLAG_*` of the plan.
    pub plan_flags: u64,
    /// Kinds that gate.
    pub fail_on: Vec<String>,
    /// Checks by name.
    pub checks: Vec<String>,
    /// Whether lines of source may be stored.
    pub store_source: bool,
    /// How long something must last to be a finding.
    #[serde(default)]
    pub thresholds: Thresholds,
}

impl RunRecord {
    /// Reads the record of a result folder.
    pub fn read(dir: &Path) -> anyhow::Result<RunRecord> {
        use anyhow::Context;
        let path = dir.join(RUN_RECORD);
        let text = std::fs::read(&path)
            .with_context(|| format!("`{}` is no result of conprof: {RUN_RECORD} can't be read", dir.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", path.display()))
    }

    /// Whether a conprof is still at work in the folder.
    pub fn is_running(dir: &Path) -> bool {
        match File::open(dir.join(LOCK)) {
            Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }

    /// The record's file contents.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}
