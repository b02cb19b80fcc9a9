//! `conprof doctor [PROGRAM]`: what helps or hinders here, and the cure.

use super::outputs::print;
use crate::doctor::{State, check_program, check_system, render};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `conprof doctor`.
#[derive(Debug, Args)]
pub struct DoctorOptions {
    /// Also look at this program file
    pub program: Option<PathBuf>,
}

/// Runs the subcommand; the exit status is 1 where something is bad.
pub fn run(options: &DoctorOptions) -> anyhow::Result<i32> {
    let mut checks = check_system();
    if let Some(program) = &options.program {
        checks.extend(check_program(program));
    }
    print(&render(&checks))?;
    Ok(i32::from(checks.iter().any(|check| check.state == State::Bad)))
}
