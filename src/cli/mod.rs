//! The command line: arguments, one file a subcommand, and exit statuses.

mod analyze;
mod baseline;
mod cargo;
mod config;
mod diff;
mod doctor;
pub mod exit;
mod manuals;
mod merge;
mod options;
mod outputs;
mod pictures;
mod report;
mod run;
pub mod scan;
mod suppress;
mod watch;
mod words;

pub use options::{Format, RunOptions};

use crate::config::{Config, VARIABLE, tsan_keys};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
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
    /// Call cargo so that everything it runs is checked: `cargo conprof run|test|bench|nextest ...`
    Cargo(Box<cargo::CargoOptions>),
    /// Merge the results of several runs into one, for test shards and repeated runs.
    Merge(Box<merge::MergeOptions>),
    /// Write the line that suppresses a finding.
    Suppress(suppress::SuppressOptions),
    /// Write today's findings as a baseline: `run --baseline FILE` then gates on new ones only.
    Baseline(baseline::BaselineOptions),
    /// Show which options are in force and where they come from.
    Config(config::ConfigOptions),
    /// Check this machine, and a program, and explain cures.
    Doctor(doctor::DoctorOptions),
    /// Write the completion script of a shell to stdout.
    Completions(manuals::CompletionsOptions),
    /// Write man pages.
    Man(manuals::ManOptions),
    /// Compare where two runs waited: which locks got better or worse, and a differential flame graph.
    Diff(diff::DiffOptions),
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
    let plain = Arguments::command();
    let run_options = plain.find_subcommand("run").cloned().unwrap_or_default();
    let config = match load_config(&run_options) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("conprof: {why}");
            return exit::USAGE;
        }
    };
    let mut configured = plain.clone();
    for name in CONFIGURED {
        configured = configured.mut_subcommand(name, |subcommand| config.install(subcommand));
    }
    let parsed = configured.clone().try_get_matches_from(words(std::env::args_os()));
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
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
        Command::Cargo(options) => cargo::run(&options),
        Command::Merge(options) => merge::run(&options),
        Command::Suppress(options) => suppress::run(&options),
        Command::Baseline(options) => baseline::run(&options),
        Command::Config(options) => {
            let run = configured.find_subcommand("run").cloned().unwrap_or_default();
            config::run(&options, &config, run)
        }
        Command::Doctor(options) => doctor::run(&options),
        Command::Completions(options) => manuals::completions(&options, plain),
        Command::Man(options) => manuals::man(&options, plain),
        Command::Scan { file, sites, json } => scan::run(&file, scan::Format { json, sites }).map(|_| 0),
        Command::Diff(options) => diff::run(&options),
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

/// Subcommands whose options have defaults from the configuration.
const CONFIGURED: [&str; 3] = ["run", "cargo", "merge"];

/// The command line; `cargo-conprof conprof ...`, as cargo calls it, is `conprof cargo ...`. Under any other first
/// word `cargo-conprof` is another name of `conprof`.
fn words(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = arguments.collect();
    let name = words.first().map(PathBuf::from).unwrap_or_default();
    let called_by_cargo = words.get(1).is_some_and(|word| word == "conprof");
    if called_by_cargo && name.file_name().is_some_and(|name| name == "cargo-conprof") {
        words[1] = "cargo".into();
    }
    words
}

/// Reads conprof.toml and the variable; says what in them is not understood.
fn load_config(run: &clap::Command) -> Result<Config, String> {
    let folder = std::env::current_dir().unwrap_or_default();
    let variable = std::env::var(VARIABLE).ok();
    let config = Config::load(&folder, variable.as_deref(), run)?;
    for warning in &config.warnings {
        eprintln!("conprof: warning: {warning}");
    }
    if config.help {
        eprintln!("Keys of {VARIABLE}: the long options of `conprof run`, and\n\n{}", tsan_keys::table());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn cargo_finds_its_subcommand() {
        let line = |words_: &[&str]| words(words_.iter().map(OsString::from));
        assert_eq!(
            line(&["/bin/cargo-conprof", "conprof", "test", "-q"]),
            ["/bin/cargo-conprof", "cargo", "test", "-q"]
        );
        assert_eq!(line(&["cargo-conprof", "run", "--"]), ["cargo-conprof", "run", "--"]);
        assert_eq!(line(&["conprof", "run"]), ["conprof", "run"]);
    }
}
