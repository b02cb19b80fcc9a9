//! `conprof config [OPTIONS OF RUN]`: what is in force and where it comes from.

use super::outputs::print;
use crate::config::{Config, FILE_NAME, configurable};
use clap::parser::ValueSource;
use clap::{Args, Command};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

/// Arguments of `conprof config`.
#[derive(Debug, Args)]
pub struct ConfigOptions {
    /// Options as they would be given to `run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS OF RUN")]
    pub options: Vec<OsString>,
}

/// Prints each option of `run` with its value and origin. `run` has the configuration installed.
pub fn run(options: &ConfigOptions, config: &Config, run: Command) -> anyhow::Result<i32> {
    let words = std::iter::once(OsString::from("run"))
        .chain(options.options.iter().cloned())
        .chain([OsString::from("--"), OsString::from("PROGRAM")]);
    let definition = run.clone();
    let matches = match run.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            error.print()?;
            return Ok(super::exit::USAGE);
        }
    };
    let mut text = String::new();
    for option in configurable(&definition).filter(|option| !option.is_hide_set()) {
        let id = option.get_id().as_str();
        let values: Vec<String> = match matches.get_raw(id) {
            Some(values) => values.map(|value| value.to_string_lossy().into_owned()).collect(),
            None => Vec::new(),
        };
        // Flags and counts have no raw value when they stand on the command line.
        let given = matches.value_source(id) == Some(ValueSource::CommandLine);
        let value = match (values.is_empty(), given) {
            (false, _) => values.join(","),
            (true, true) => "true".to_owned(),
            (true, false) => "-".to_owned(),
        };
        let origin = match (given, config.origin(id)) {
            (true, _) => "command line".to_owned(),
            (false, Some(origin)) => origin.to_string(),
            (false, None) => "built in".to_owned(),
        };
        let _ = writeln!(text, "{:22} = {value:45} # {origin}", option.get_long().unwrap_or(id));
    }
    for lock in &config.locks {
        let row: Vec<String> = lock
            .iter()
            .map(|(key, value)| format!("{key} = {}", serde_json::to_string(value).unwrap_or_default()))
            .collect();
        let origin = config.file.as_deref().unwrap_or(Path::new(FILE_NAME)).display();
        let _ = writeln!(text, "{:22} = {:45} # {origin}", "lock", row.join(", "));
    }
    print(&text)
}
