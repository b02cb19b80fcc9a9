//! Programs that end badly or jump about: their behaviour stays their own, and what was recorded is reported.
//! More of them are in fixtures/hostile.

use crate::program::{c, conprof, finish, report, rust, text, until, wait};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

/// Races on `hits` twice and then does what its argument says.
const ENDINGS: &str = r#"
static mut HITS: u64 = 0;
#[inline(never)]
fn bump() { unsafe { HITS += 1 } }
#[inline(never)]
fn deeper(depth: u64) -> u64 { let bytes = std::hint::black_box([depth; 64]); deeper(depth + 1) + bytes[3] }
unsafe extern "C" { fn fork() -> i32; fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32; fn raise(n: i32) -> i32; fn signal(n: i32, handler: usize) -> usize; }
extern "C" fn handler(_: i32) { std::process::exit(9) }
fn main() {
    let ending = std::env::args().nth(1).unwrap();
    for thread in [std::thread::spawn(bump), std::thread::spawn(bump)] { thread.join().unwrap(); }
    match ending.as_str() {
        "fault" => unsafe { std::hint::black_box(16 as *mut u8).write_volatile(1) },
        "abort" => std::process::abort(),
        "panic" => panic!("on purpose"),
        "panic-thread" => { std::thread::spawn(|| panic!("on purpose")).join().unwrap_err(); std::process::exit(5) }
        "exit-thread" => { std::thread::spawn(|| std::process::exit(6)); loop { std::thread::park() } }
        "overflow" => { std::thread::spawn(|| deeper(0)).join().unwrap(); }
        "kill" => unsafe { raise(9); },
        "handled" => unsafe { signal(10, handler as *const () as usize); raise(10); },
        "fork" => unsafe {
            let child = fork();
            if child == 0 { (0..100).for_each(|_| bump()); std::process::exit(0) }
            waitpid(child, std::ptr::null_mut(), 0);
        },
        "exec" => { use std::os::unix::process::CommandExt; panic!("{}", std::process::Command::new("true").exec()) }
        other => panic!("{other}"),
    }
}
"#;

#[test]
fn what_was_found_before_a_bad_end_is_reported() {
    let program = rust("endings", ENDINGS);
    let program = program.to_str().expect("UTF-8");
    for (ending, code, signal) in [
        ("fault", None, Some(11_i64)),
        ("abort", None, Some(6)),
        ("panic", Some(101_i64), None),
        ("panic-thread", Some(5), None),
        ("exit-thread", Some(6), None),
        ("overflow", None, Some(6)),
        ("kill", None, Some(9)),
        ("handled", Some(9), None),
        ("fork", Some(0), None),
        ("exec", Some(0), None),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = finish(conprof(folder.path(), &["run", "--out", "out", "--", program, ending]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(66), "{ending}: {said}");
        let report = report(&folder.path().join("out"));
        let exit = &report["processes"][0]["exit"];
        assert_eq!(exit["code"].as_i64(), code, "{ending}: {said}");
        assert_eq!(exit["signal"].as_i64(), signal, "{ending}: {said}");
        let findings = report["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), 1, "{ending}: {said}");
        let [a, b] =
            [&findings[0]["stacks"][0], &findings[0]["stacks"][1]].map(|stack| &stack["frames"][0]["function"]);
        assert!(a.as_str().is_some_and(|f| f.ends_with("bump")) && a == b, "{ending}: {said}");
        // Without a finding that gates, the end is the program's.
        let words = ["run", "-q", "--fail-on", "none", "--out", "out", "--", program, ending];
        let own = finish(conprof(folder.path(), &words)).status;
        let narrow = |number: Option<i64>| number.map(|number| number as i32);
        assert_eq!((own.code(), own.signal()), (narrow(code), narrow(signal)), "{ending}");
    }
}

#[test]
fn longjmp_leaves_no_frames_behind() {
    let source = r#"
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
static int hits;
static __thread jmp_buf env;
__attribute__((noinline)) void dive(int depth) { if (depth == 0) longjmp(env, 1); dive(depth - 1); __asm__(""); }
__attribute__((noinline)) void count(void) { hits++; __asm__(""); }
static void *work(void *unused) { for (int i = 0; i < 50; i++) if (!setjmp(env)) dive(40); count(); return unused; }
int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, work, 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    puts("done");
    return 0;
}
"#;
    let folder = tempfile::tempdir().expect("a folder");
    let program = c("longjmp", source, &["-O1", "-pthread"]);
    let output = finish(conprof(folder.path(), &["run", "--out", "out", "--", program.to_str().expect("UTF-8")]));
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(66), "done\n"), "{said}");
    let report = report(&folder.path().join("out"));
    for stack in report["findings"][0]["stacks"].as_array().expect("a list") {
        let names: Vec<&str> =
            stack["frames"].as_array().expect("a list").iter().filter_map(|f| f["function"].as_str()).collect();
        assert_eq!(names[..2], ["count", "work"], "{names:?}");
        assert!(!names.contains(&"dive"), "{names:?}");
    }
}

#[test]
fn a_program_that_changes_its_user_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("tool");
    fs::copy(rust("silent", "fn main() {}"), &own).expect("copied");
    // Only root can give a file away; others have the system's own.
    let program = if chown(&own, Some(65534), Some(65534)).is_ok() {
        fs::set_permissions(&own, fs::Permissions::from_mode(0o4755)).expect("changed");
        own
    } else {
        Path::new("/usr/bin/passwd").to_path_buf()
    };
    let output = finish(conprof(folder.path(), &["run", "--", program.to_str().expect("UTF-8")]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("is setuid, and the loader ignores preloaded libraries") && said.contains("cp "), "{said}");
    assert!(!folder.path().join("conprof-out").exists());
}

#[test]
fn runs_at_once_never_mix() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("endings", ENDINGS);
    let program = program.to_str().expect("UTF-8");
    // A cache of their own, so that the plan is made by one of them while the others wait.
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = conprof(folder.path(), &["run", "-q", "--", program, "panic-thread"]);
            command.env("XDG_CACHE_HOME", folder.path().join("cache")).stderr(Stdio::null());
            command.spawn().expect("started")
        })
        .collect();
    for child in &mut children {
        assert_eq!(wait(child).code(), Some(66));
    }
    let results = fs::read_dir(folder.path().join("conprof-out")).expect("listed").flatten();
    let mut pids: Vec<u64> = results
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let report = report(&entry.path());
            assert_eq!(report["findings"].as_array().map(Vec::len), Some(1));
            report["processes"][0]["pid"].as_u64().expect("a number")
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4);
    let entries = fs::read_dir(folder.path().join("cache/conprof")).expect("listed").count();
    assert_eq!(entries, 1, "one plan, and no lock left");
}

#[test]
fn what_a_killed_conprof_recorded_can_be_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = r#"
static mut HITS: u64 = 0;
#[inline(never)]
fn bump() { unsafe { HITS += 1 } }
fn main() {
    for thread in [std::thread::spawn(bump), std::thread::spawn(bump)] { thread.join().unwrap(); }
    std::fs::write("ready", "").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(50));
}
"#;
    let program = rust("lingers", source);
    let mut child = conprof(folder.path(), &["run", "-q", "--out", "out", "--", program.to_str().expect("UTF-8")])
        .spawn()
        .expect("started");
    until("the program", || folder.path().join("ready").exists());
    child.kill().expect("killed");
    assert_eq!(wait(&mut child).signal(), Some(9));
    let output = finish(conprof(folder.path(), &["report", "out", "--format", "json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["kind"], "data-race", "{}", text(&output.stderr));
}
