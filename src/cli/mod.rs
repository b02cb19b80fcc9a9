//! The command line: arguments, one file a subcommand, and exit statuses.

mod analyze;
pub mod exit;
mod options;
mod outputs;
mod report;
mod run;
pub mod scan;
mod words;

pub use options::{Format, RunOptions};

use clap::{Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  cargo build && conprof run -- ./target/debug/app --its args
  CARGO_PROFILE_RELEASE_DEBUG=line-tables-only cargo build --release && conprof run -- ./target/release/app
  conprof run --out results --format sarif -- ./target/debug/app
  conprof report conprof-out/latest
  conprof scan ./target/release/app

Exit status of `run`: 66 a finding gates; 69 incomplete, when asked for; 124 --timeout; 2 usage; 70 internal
error; 126/127 program not executable / not found; otherwise the program's own status or signal.";

/// Finds data races in a Rust program already built, without a rebuild.
#[derive(Debug, Parser)]
#[command(name = "conprof", version, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program and report what is wrong with its concurrency.
    Run(Box<RunOptions>),
    /// Show the report of a run again, also while the program runs, or on another machine.
    Report(report::ReportOptions),
    /// Show what conprof understands of a binary, and what it can't.
    Scan {
        /// The program file.
        file: PathBuf,
        /// Print every site with its function, place and class.
        #[arg(long)]
        sites: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Derive the findings of a run again from the events it recorded (`run --record full`), and compare.
    Analyze {
        /// Folder of the run.
        dir: PathBuf,
    },
}

/// Parses the command line, does what it says, and returns the exit status.
///
/// Does not return where conprof dies by the signal that killed the program.
pub fn main() -> i32 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = if error.use_stderr() { exit::USAGE } else { 0 };
            // A closed stdout or stderr is the reader's choice.
            let _ = error.print();
            return status;
        }
    };
    let result = match arguments.command {
        Command::Run(options) => run::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Scan { file, sites, json } => scan::run(&file, scan::Format { json, sites }).map(|_| 0),
        Command::Analyze { dir } => analyze::run(&dir),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            let status = error.downcast_ref::<crate::launch::Refusal>().map_or(exit::INTERNAL, |r| r.status);
            eprintln!("conprof: {error:#}");
            status
        }
    }
}
