//! CONPROF_OPTIONS.

#![no_main]

use clap::Args;
use conprof::cli::RunOptions;
use conprof::config::Config;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static RUN: LazyLock<clap::Command> =
    LazyLock::new(|| RunOptions::augment_args(clap::Command::new("run")));

fuzz_target!(|text: &str| {
    let mut config = Config::default();
    if config.add_variable(text, &RUN).is_ok() {
        // What was accepted must be a default that the command line accepts.
        let run = config.install(RUN.clone());
        let _ = run.try_get_matches_from(["run", "--", "program"]);
    }
});
