//! Options of `conprof run`.

use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How the findings are rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: source lines with carets, notes and help.
    Text,
    /// ThreadSanitizer's layout.
    Tsan,
    /// The contents of report.json.
    Json,
    /// SARIF 2.1.0.
    Sarif,
    /// JUnit XML.
    Junit,
    /// GitHub annotations.
    Github,
    /// One self-contained page.
    Html,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What is recorded beside findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Record {
    /// Findings and their stacks.
    Findings,
    /// Also every happens-before event and access that reaches the detector, for `conprof analyze`.
    Full,
}

/// Arguments of `conprof run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Put the results straight into DIR; replaces only an earlier conprof result
    /// [default: conprof-out/<program>-<time>-<pid>, linked as conprof-out/latest]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to check: kinds of finding, as data-race or deadlock, or the groups `races`, `locks`, `contention`; `hot-lock` beside races only if named
    /// [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub checks: Option<Vec<String>>,
    /// Kinds of finding that make the exit status 66; `all`, `none`
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "data-race,lock-order-inversion,deadlock,lost-wakeup"
    )]
    pub fail_on: Vec<String>,
    /// Exit status when a finding gates
    #[arg(long, value_name = "N", default_value_t = super::exit::FINDINGS, value_parser = clap::value_parser!(i32).range(0..=255))]
    pub exitcode: i32,
    /// End the program after DUR: 66 if something gates, else 124
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// End a program that can never go on by itself after DUR; 0 never does
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "10s")]
    pub hang_after: Duration,
    /// Shortest blocking call with a lock held, or in an async task, that is a finding
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "20ms")]
    pub blocking_after: Duration,
    /// Longest poll of an async task, time blocked not counted, that is none
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "200ms")]
    pub poll_after: Duration,
    /// Shortest wait for a lock that others take meanwhile that is starvation
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "200ms")]
    pub starvation_after: Duration,
    /// Shortest time of attempts that keep failing that is a livelock
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "200ms")]
    pub livelock_after: Duration,
    /// Share of the threads' time that waiting for one lock must cost to be a finding, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub hot_lock_share: u32,
    /// A further row of the lock catalogue, as `function my::Spin::lock lock-exclusive always user` (may be given several times)
    #[arg(long, value_name = "ROW")]
    pub lock_row: Vec<String>,
    /// Run N times and merge; each finding says in how many runs it was seen
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// With --repeat: stop at the first run with a gating finding
    #[arg(long, requires = "repeat")]
    pub until_finding: bool,
    /// Exit with 69 if a check that was asked for could not be done
    #[arg(long)]
    pub require_complete: bool,
    /// Run a program that can't be checked (static, setuid, a launcher) all the same
    #[arg(long)]
    pub allow_unchecked: bool,
    /// What to keep beside findings
    #[arg(long, value_name = "WHAT", value_enum, default_value = "findings")]
    pub record: Record,
    /// Most disk space a recording takes
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub max_recording: u64,
    /// Distinct calling contexts kept for the stacks of earlier accesses
    #[arg(long, value_name = "N", default_value = "2M", value_parser = parse_count)]
    pub history: u64,
    /// CPU samples per second of CPU time, by perf events; 0 for none
    #[arg(long, value_name = "HZ", default_value_t = crate::perf::DEFAULT_RATE_HZ, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub sample_rate: u32,
    /// End the program at the first data race
    #[arg(long)]
    pub halt_on_error: bool,
    /// Report patterns that are known to be intended, too
    #[arg(long)]
    pub report_benign: bool,
    /// Also write DIR/report.<format>; `text`, `tsan` and `github` choose what stderr shows
    #[arg(long, value_name = "FORMAT", value_enum, value_delimiter = ',', default_value = "text")]
    pub format: Vec<Format>,
    /// File of suppressions (may be given several times)
    #[arg(long, value_name = "FILE")]
    pub suppressions: Vec<PathBuf>,
    /// A suppression, as a line of such a file (may be given several times)
    #[arg(long, value_name = "LINE")]
    pub suppress: Vec<String>,
    /// Baseline or earlier report.json whose findings do not gate
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Do not store lines of source in the report
    #[arg(long)]
    pub no_source: bool,
    /// Do not store the program's arguments in the report
    #[arg(long)]
    pub redact_args: bool,
    /// Take PREFIX off the front of paths in the report
    #[arg(long, value_name = "PREFIX")]
    pub strip_path_prefix: Option<String>,
    /// Colours on stderr
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub color: Color,
    /// Write conprof's own words to FILE instead of stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Say nothing; the exit status and DIR tell
    #[arg(short, long)]
    pub quiet: bool,
    /// Say more: how long each step took, counters
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Folder of `cargo conprof`, which merges: the result goes below it and the exit status is the program's own
    #[arg(long, value_name = "DIR", hide = true)]
    pub session: Option<PathBuf>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM [ARGS]")]
    pub command: Vec<OsString>,
}

/// Reads `10us`, `5ms`, `2s`, `1m`, `1h`; `0` means zero.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is no duration; write 10us, 5ms, 2s or 1m"))?;
    let seconds = match unit {
        "ns" => number * 1e-9,
        "us" => number * 1e-6,
        "ms" => number * 1e-3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "" if number == 0.0 => 0.0,
        _ => return Err(format!("`{text}` needs a unit: {digits}us, {digits}ms, {digits}s or {digits}m")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is out of range"))
}

fn parse_scaled(text: &str, base: u64) -> Option<u64> {
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &upper[digits.len()..] {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => base,
        "M" | "MB" | "MIB" => base * base,
        "G" | "GB" | "GIB" => base * base * base,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn parse_size(text: &str) -> Result<u64, String> {
    const SMALLEST: u64 = 16 << 20;
    let bytes = parse_scaled(text, 1024).ok_or_else(|| format!("`{text}` is no size; write 64M or 2G"))?;
    if bytes < SMALLEST {
        return Err(format!("`{text}` is too little; a recording needs at least 16M"));
    }
    Ok(bytes)
}

fn parse_count(text: &str) -> Result<u64, String> {
    parse_scaled(text, 1000).ok_or_else(|| format!("`{text}` is no number; write 500000 or 2M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("10us"), Ok(Duration::from_micros(10)));
        assert_eq!(parse_duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("5").is_err_and(|e| e.contains("5s")));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("fast").is_err());
    }

    #[test]
    fn sizes_have_a_floor() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert!(parse_size("1K").is_err());
        assert_eq!(parse_count("2M"), Ok(2_000_000));
    }
}
