//! Signals reach the program once, and a report is there when one asks conprof to end.

use crate::program::{conprof, report, rust, text, until, wait};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Counts signals and writes the counts to the file `count` whenever one arrives; ends at SIGHUP.
const COUNTER: &str = r#"
use std::sync::atomic::{AtomicU32, Ordering};
static COUNTS: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
unsafe extern "C" { fn signal(n: i32, handler: usize) -> usize; }
extern "C" fn handler(n: i32) { COUNTS[n as usize].fetch_add(1, Ordering::SeqCst); }
fn main() {
    for n in [1, 2, 10, 12, 15, 18] { unsafe { signal(n, handler as *const () as usize); } }
    std::fs::write("ready.new", std::process::id().to_string()).unwrap();
    std::fs::rename("ready.new", "ready").unwrap();
    loop {
        let text: Vec<String> = COUNTS.iter().map(|c| c.load(Ordering::SeqCst).to_string()).collect();
        std::fs::write("count.new", text.join(" ")).unwrap();
        std::fs::rename("count.new", "count").unwrap();
        if COUNTS[1].load(Ordering::SeqCst) > 0 { break; }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
"#;

fn start(folder: &Path) -> Child {
    let program = rust("counter", COUNTER);
    let mut command = conprof(folder, &["run", "--out", "out", "--", program.to_str().expect("UTF-8")]);
    let child = command.stderr(Stdio::piped()).spawn().expect("started");
    until("the program", || folder.join("ready").exists());
    child
}

fn send(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill").success());
}

fn count(folder: &Path, number: usize) -> u32 {
    let text = fs::read_to_string(folder.join("count")).unwrap_or_default();
    text.split(' ').nth(number).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[test]
fn each_signal_arrives_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = start(folder.path());
    for (signal, number) in [("-USR1", 10), ("-USR2", 12), ("-INT", 2), ("-CONT", 18)] {
        send(child.id(), signal);
        until(signal, || count(folder.path(), number) > 0);
        assert_eq!(count(folder.path(), number), 1, "{signal}");
    }
    send(child.id(), "-HUP");
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(count(folder.path(), 10), 1);
}

#[test]
fn at_the_first_term_the_report_is_written_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = start(folder.path());
    send(child.id(), "-TERM");
    until("the report", || folder.path().join("out/report.json").exists());
    let early = report(&folder.path().join("out"));
    assert!(early["processes"][0]["exit"].is_null(), "the program still runs: {early}");
    assert!(child.try_wait().expect("asked").is_none());
    until("the signal", || count(folder.path(), 15) == 1);
    send(child.id(), "-HUP");
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(report(&folder.path().join("out"))["processes"][0]["exit"]["code"], 0);
}

#[test]
fn the_program_dies_with_conprof() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = start(folder.path());
    let pid = fs::read_to_string(folder.path().join("ready")).expect("its id");
    child.kill().expect("killed");
    assert_eq!(wait(&mut child).signal(), Some(9));
    until("the program's end", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    // What was recorded until then can still be shown.
    let output = conprof(folder.path(), &["report", "out"]).output().expect("started");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("conprof: "), "{}", text(&output.stdout));
}

#[test]
fn a_running_programs_report_can_be_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = start(folder.path());
    let output = conprof(folder.path(), &["report", "out", "--format", "json"]).output().expect("started");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["processes"][0]["exit"].is_null());
    send(child.id(), "-HUP");
    wait(&mut child);
}

#[test]
fn a_default_action_is_conprofs_end_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust(
        "waiter",
        "fn main() { std::fs::write(\"ready\", \"\").unwrap(); std::thread::sleep(std::time::Duration::from_secs(50)) }",
    );
    let mut child =
        conprof(folder.path(), &["run", "-q", "--", program.to_str().expect("UTF-8")]).spawn().expect("started");
    until("the program", || folder.path().join("ready").exists());
    send(child.id(), "-USR1");
    assert_eq!(wait(&mut child).signal(), Some(10));
}
