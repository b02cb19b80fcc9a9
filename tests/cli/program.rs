//! Programs for the tests, compiled once a test run, and ways to run them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// The conprof under test.
pub const CONPROF: &str = env!("CARGO_BIN_EXE_conprof");

/// Longest time that any run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A source file's text as a program with full debuginfo, compiled once.
pub fn rust(name: &str, source: &str) -> PathBuf {
    rust_as(name, source, &["-g", "-Cdebug-assertions=off"])
}

/// The same, built with these arguments.
pub fn rust_as(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    compile(name, "rs", source, |source, program| {
        let mut command = Command::new("rustc");
        command.arg("--edition=2024").args(arguments).arg("-o").arg(program).arg(source);
        command
    })
}

/// The same for C, with extra arguments for the compiler.
pub fn c(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    compile(name, "c", source, |source, program| {
        let mut command = Command::new("gcc");
        command.args(["-g", "-o"]).arg(program).arg(source).args(arguments);
        command
    })
}

fn compile(name: &str, kind: &str, source: &str, command: impl Fn(&Path, &Path) -> Command) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-programs");
    std::fs::create_dir_all(&folder).expect("a folder");
    let (file, program) = (folder.join(format!("{name}.{kind}")), folder.join(name));
    // Tests are threads or processes of their own, and several run the same program: none may replace what another scans or runs,
    // and compilers name their intermediate files by the program.
    let lock = File::create(folder.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("locked");
    if program.exists() && std::fs::read_to_string(&file).is_ok_and(|text| text == source) {
        return program;
    }
    // The source is the sign that the program is there.
    let file_new = folder.join(format!("{name}_new.{kind}"));
    std::fs::write(&file_new, source).expect("a source file");
    let output = command(&file_new, &program).output().expect("a compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&file_new, &file).expect("renamed");
    program
}

/// `conprof` in a folder of the test's own, with a cache of the test's own.
pub fn conprof(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(CONPROF);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache"));
    command
}

/// Runs a command to its end and gives what it printed.
pub fn finish(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(LIMIT) {
        Ok(output) => output.expect("waited for"),
        Err(_) => {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            panic!("the command did not end within {LIMIT:?}");
        }
    }
}

/// Waits for a child within the time limit.
pub fn wait(child: &mut std::process::Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waited for") {
            return status;
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("the child did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a condition holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The report of a result folder, checked against the published schema.
pub fn report(dir: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(dir.join("report.json")).expect("report.json");
    crate::schema::assert_valid(&text);
    serde_json::from_str(&text).expect("JSON")
}

/// A program that echoes: arguments on stdout, a line on stderr, stdin's length, then exits with its first argument.
pub const ECHO: &str = r#"
use std::io::Read;
fn main() {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    for argument in std::env::args() { println!("{argument}"); }
    println!("{} bytes", input.len());
    let mut names: Vec<_> = std::env::vars_os().collect();
    names.sort();
    for (name, value) in names { println!("{name:?}={value:?}"); }
    eprintln!("to stderr");
    let code = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(0);
    std::process::exit(code)
}
"#;
