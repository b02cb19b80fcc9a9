//! What is refused before it starts, with which status, and the cure that is named.

use crate::program::{c, conprof, finish, rust, text};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn refused(folder: &Path, command: &[&str], status: i32, words: &[&str]) {
    let mut arguments = vec!["run", "--"];
    arguments.extend(command);
    let output = finish(conprof(folder, &arguments));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {said}");
    assert_eq!(text(&output.stdout), "", "{command:?}");
    for word in words {
        assert!(said.contains(word), "{command:?}: `{word}` is not in: {said}");
    }
    assert!(!folder.join("conprof-out").exists(), "{command:?} left a folder");
}

#[test]
fn a_missing_program_is_127() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(folder.path(), &["./absent"], 127, &["there is no file `./absent`", "cargo build"]);
    refused(folder.path(), &["absent-from-path"], 127, &["there is no program `absent-from-path` in PATH"]);
}

#[test]
fn what_cannot_be_executed_is_126() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plain");
    fs::write(&file, "text").expect("written");
    refused(folder.path(), &["./plain"], 126, &["no permission to execute", "chmod +x ./plain"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("changed");
    refused(folder.path(), &["./plain"], 126, &["is not an ELF program"]);
    refused(folder.path(), &["./"], 126, &["is a folder"]);
}

#[test]
fn a_script_names_its_interpreter() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tool");
    fs::write(&file, "#!/usr/bin/python3 -u\nprint(1)\n").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("changed");
    refused(
        folder.path(),
        &["./tool", "x"],
        2,
        &["is a script for `/usr/bin/python3 -u`", "conprof run -- /usr/bin/python3 -u ./tool x"],
    );
}

#[test]
fn other_machines_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bytes = fs::read(rust("silent", "fn main() {}")).expect("read");
    // e_machine of AArch64 is 183.
    bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
    let file = folder.path().join("arm");
    fs::write(&file, &bytes).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("changed");
    refused(folder.path(), &["./arm"], 126, &["AArch64"]);
}

#[test]
fn a_static_program_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = c("static", "int main(void) { return 5; }", &["-static"]);
    let program = program.to_str().expect("UTF-8");
    refused(folder.path(), &[program], 2, &["statically linked", "crt-static"]);
    let output = finish(conprof(folder.path(), &["run", "--allow-unchecked", "--", program]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.starts_with("warning: races: "), "{said}");
    assert!(
        said.trim_end().lines().last().is_some_and(|line| line.starts_with("INCOMPLETE: races NOT checked: ")),
        "{said}"
    );
    let output = finish(conprof(folder.path(), &["run", "--allow-unchecked", "--require-complete", "--", program]));
    assert_eq!(output.status.code(), Some(69));
}

#[test]
fn launchers_get_the_right_command() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(folder.path(), &["sh", "-c", "./app --flag"], 2, &["conprof run -- ./app --flag"]);
    refused(folder.path(), &["timeout", "5", "./app"], 2, &["timeout 5 conprof run -- ./app"]);
    refused(folder.path(), &["cargo", "test"], 2, &["cargo test --no-run"]);
}

#[test]
fn usage_errors_are_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["run"][..],
        &["run", "--nonsense", "--", "ls"],
        &["run", "--timeout", "5", "--", "ls"],
        &["run", "--fail-on", "typo", "--", "ls"],
        &["report", "absent"],
        &["nonsense"],
    ] {
        let output = finish(conprof(folder.path(), arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(finish(conprof(folder.path(), &["--help"])).status.code(), Some(0));
    assert_eq!(finish(conprof(folder.path(), &["--version"])).status.code(), Some(0));
}
