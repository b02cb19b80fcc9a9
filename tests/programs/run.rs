//! Runs a program natively and under conprof, within a time limit, its output in files.

use conprof::report::{Report, Verdict};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a program left behind.
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// What a run under conprof left behind.
pub struct Outcome {
    /// How conprof ended and what went to its standard streams.
    pub ended: Ended,
    /// `report.json`.
    pub report: Report,
    /// The result folder.
    pub folder: PathBuf,
}

impl Outcome {
    /// Fails with what was found.
    pub fn must_be_clean(&self) -> Result<(), String> {
        if self.report.verdict == Verdict::Clean && self.report.findings.iter().all(|finding| !finding.gating) {
            return Ok(());
        }
        let titles: Vec<&str> = self.report.findings.iter().map(|finding| finding.title.as_str()).collect();
        let verdict = self.report.verdict;
        Err(format!("verdict {verdict:?}, {} findings: {titles:#?}\n{}", titles.len(), self.ended.stderr))
    }
}

/// Runs the program by itself.
pub fn native(program: &Path, arguments: &[PathBuf], limit: Duration) -> Result<Ended, String> {
    let mut command = Command::new(program);
    command.args(arguments);
    end(command, limit)
}

/// Runs the program under conprof with all checks.
pub fn under_conprof(name: &str, program: &Path, arguments: &[PathBuf], limit: Duration) -> Result<Outcome, String> {
    with_options(name, &[], program, arguments, limit)
}

/// Runs the program under conprof, which gets the options.
pub fn with_options(
    name: &str,
    options: &[&str],
    program: &Path,
    arguments: &[PathBuf],
    limit: Duration,
) -> Result<Outcome, String> {
    let out = crate::target().join("out").join(name.replace("::", "-"));
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|error| error.to_string())?;
    }
    fs::create_dir_all(out.parent().expect("a parent")).map_err(|error| error.to_string())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_conprof"));
    command.arg("run").arg("--out").arg(&out).args(options).arg("--").arg(program).args(arguments);
    let ended = end(command, limit)?;
    let path = out.join("report.json");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("{}: {error}\nconprof: {}\n{}", path.display(), ended.status, ended.stderr))?;
    crate::schema::check(&text)?;
    let report = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Outcome { ended, report, folder: out })
}

fn end(mut command: Command, limit: Duration) -> Result<Ended, String> {
    let shown = format!("{command:?}");
    let folder = crate::target();
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let file = |stream: &str| folder.join(format!("{stream}-{}-{:?}", std::process::id(), thread::current().id()));
    let (out, err) = (file("stdout"), file("stderr"));
    let create = |path: &PathBuf| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create(&out)?)
        .stderr(create(&err)?)
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let deadline = Instant::now() + limit;
    let mut too_late = false;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if !too_late && Instant::now() > deadline => {
                too_late = true;
                child.kill().map_err(|error| error.to_string())?;
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let read = |path: &PathBuf| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stdout = read(&out).map_err(|error| error.to_string())?;
    let stderr = read(&err).map_err(|error| error.to_string())?;
    let _ = (fs::remove_file(out), fs::remove_file(err));
    if too_late {
        return Err(format!("{shown}: killed after {limit:?}\n{stderr}"));
    }
    Ok(Ended { status, stdout, stderr })
}
