//! The program's own behaviour and how conprof ends.

use crate::program::{ECHO, conprof, finish, report, rust, text};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

#[test]
fn output_input_environment_and_status_are_the_programs_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("echo", ECHO);
    let run = |mut command: Command| {
        command.env("LD_PRELOAD", "").env("MARK", "a b");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        child.stdin.take().expect("piped").write_all(b"some input").expect("written");
        child.wait_with_output().expect("ended")
    };
    let mut native = Command::new(&program);
    native.args(["7", "--flag", ""]).current_dir(folder.path());
    native.env("XDG_CACHE_HOME", std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache"));
    let native = run(native);
    let checked = run(conprof(folder.path(), &["run", "--", program.to_str().expect("UTF-8"), "7", "--flag", ""]));
    assert_eq!(text(&checked.stdout), text(&native.stdout));
    assert_eq!(checked.status.code(), Some(7), "{}", text(&checked.stderr));
    assert!(text(&checked.stderr).contains("to stderr"));
    let report = report(&folder.path().join("conprof-out/latest"));
    assert_eq!(report["processes"][0]["exit"]["code"], 7);
}

#[test]
fn conprof_dies_by_the_programs_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("abort", "fn main() { std::process::abort() }");
    let output = finish(conprof(folder.path(), &["run", "--", program.to_str().expect("UTF-8")]));
    assert_eq!(output.status.signal(), Some(6), "{}", text(&output.stderr));
    let report = report(&folder.path().join("conprof-out/latest"));
    assert_eq!(report["processes"][0]["exit"]["signal"], 6);
}

#[test]
fn a_fault_is_the_programs_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let program =
        rust("fault", "fn main() { unsafe { std::ptr::write_volatile(std::hint::black_box(8 as *mut u8), 1) } }");
    let output = finish(conprof(folder.path(), &["run", "--", program.to_str().expect("UTF-8")]));
    assert_eq!(output.status.signal(), Some(11), "{}", text(&output.stderr));
}

#[test]
fn the_time_limit_ends_the_program_with_124() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("sleeper", "fn main() { std::thread::sleep(std::time::Duration::from_secs(50)) }");
    let output = finish(conprof(folder.path(), &["run", "--timeout", "200ms", "--", program.to_str().expect("UTF-8")]));
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
}

#[test]
fn quiet_says_nothing_and_log_says_it_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("silent", "fn main() {}");
    let program = program.to_str().expect("UTF-8");
    let output = finish(conprof(folder.path(), &["run", "-q", "--", program]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
    let output = finish(conprof(folder.path(), &["run", "--log", "words", "--", program]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
    let words = std::fs::read_to_string(folder.path().join("words")).expect("the log");
    assert!(words.contains("nothing found"), "{words}");
}

#[test]
fn hot_locks_are_looked_for_by_name_or_without_race_checks() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("silent", "fn main() {}");
    let program = program.to_str().expect("UTF-8");
    let looks = |options: &[&str]| {
        let output = finish(conprof(folder.path(), &[&["run"], options, &["--", program]].concat()));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let record = std::fs::read_to_string(folder.path().join("conprof-out/latest/run.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        record["checks"].as_array().expect("a list").iter().any(|check| check == "hot-lock")
    };
    for (options, expected) in [
        (&[][..], false),
        (&["--checks", "all"], false),
        (&["--checks", "contention"], true),
        (&["--checks", "hot-lock"], true),
        (&["--checks", "all,hot-lock"], true),
    ] {
        assert_eq!(looks(options), expected, "{options:?}");
    }
}

#[test]
fn the_plan_is_made_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("planned", "fn main() { println!(\"planned\") }");
    let program = program.to_str().expect("UTF-8");
    let run = || {
        let mut command = conprof(folder.path(), &["run", "-v", "--", program]);
        command.env("XDG_CACHE_HOME", folder.path().join("cache"));
        text(&finish(command).stderr)
    };
    assert!(run().contains("plan made in"));
    assert!(run().contains("plan from the cache in"));
}

#[test]
fn without_a_cache_folder_the_plan_is_made_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("silent", "fn main() {}");
    let mut command = conprof(folder.path(), &["run", "-v", "--", program.to_str().expect("UTF-8")]);
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    let output = finish(command);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("plan made in"));
}
