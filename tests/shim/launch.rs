//! Compiles a program of `tests/shim/programs` and runs it with the shim and, if asked, with a plan.

use conprof::launch;
use conprof::trace::{HeaderView, Recording};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Longest run of a program: far above what any takes, also on a machine with ten times as much to do.
const LIMIT: Duration = Duration::from_secs(240);

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: String,
    pub exit: Option<i32>,
    pub signal: Option<i32>,
}

/// Compiles a program; the executable is in the test's temporary folder.
pub fn compile(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/programs").join(name);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim");
    fs::create_dir_all(&folder).expect("the folder can be made");
    let (file, program) = (folder.join(name), folder.join(name.replace('.', "_")));
    // Tests are threads or processes of their own, and several run the same program: none may replace what another runs, and
    // compilers name their intermediate files by the program.
    let lock = File::create(folder.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("locked");
    let text = fs::read_to_string(&source).expect("a source file");
    if program.exists() && fs::read_to_string(&file).is_ok_and(|built| built == text) {
        return program;
    }
    let mut compiler = if source.extension() == Some(OsStr::new("c")) {
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-O1", "-w", "-pthread", "-o"]).arg(&program).arg(&source);
        gcc
    } else {
        let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2021", "-O", "-g", "-Awarnings", "-o"]).arg(&program).arg(&source);
        rustc
    };
    let output = compiler.output().expect("the compiler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The copy is the sign that the program is there.
    fs::write(&file, text).expect("a file");
    program
}

/// Waits with a limit, so that a hang is a failure.
fn finish(mut command: Command) -> Outcome {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let begun = Instant::now();
    let mut pipe = child.stdout.take().expect("stdout is piped");
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut pipe, &mut bytes).expect("stdout can be read");
        bytes
    });
    let status = loop {
        if let Some(status) = child.try_wait().expect("the program can be waited for") {
            break status;
        }
        if begun.elapsed() > LIMIT {
            child.kill().expect("the program can be ended");
            panic!("the program hangs");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let stdout = reader.join().expect("the reader ends");
    let output = Output { status, stdout, stderr: Vec::new() };
    Outcome {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        exit: status.code(),
        signal: status.signal(),
    }
}

/// Runs a program without the shim.
pub fn natively(program: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    // In the order that `run` passes them in.
    command.args(arguments).env_clear().envs(std::env::vars_os());
    finish(command)
}

/// Runs a program with the shim and a plan, as `conprof run` starts it.
pub fn with_plan(program: &Path, arguments: &[&str]) -> (Outcome, HeaderView) {
    let image = fs::read(program).expect("the program can be read");
    let planned =
        launch::obtain_plan(&image, program, conprof::plan::Tactic::Races, &launch::LockRows::default(), &|_, _| {})
            .expect("the program can be planned");
    let plan = planned.plan.as_ref().expect("there is a plan");
    run(program, arguments, Some(plan))
}

/// Runs a program with the shim only.
pub fn without_plan(program: &Path, arguments: &[&str]) -> (Outcome, HeaderView) {
    run(program, arguments, None)
}

/// Runs a program with the shim and the given plan.
pub fn run(program: &Path, arguments: &[&str], plan: Option<&launch::PlanFile>) -> (Outcome, HeaderView) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("recording");
    let options = launch::RecordingOptions {
        config: conprof::wire::recording::CONFIG_RACES,
        max_bytes: 1 << 20,
        nodes: 1 << 16,
        sites: Vec::new(),
    };
    let file = launch::create_recording(&path, &options).expect("the recording can be made");
    let prepared = launch::prepare(plan, Some(file)).expect("the start can be prepared");
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(prepared.environment.iter().map(|(name, value)| (name, value)));
    let inherit = prepared.inherit.clone();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for fd in &inherit {
                libc::fcntl(*fd, libc::F_SETFD, 0);
            }
            Ok(())
        });
    }
    let outcome = finish(command);
    let header = Recording::open(&path).expect("it is a recording").header().expect("it has a header");
    (outcome, header)
}
