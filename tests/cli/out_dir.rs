//! Where results go.

use crate::program::{conprof, finish, report, rust, text};
use std::fs;

#[test]
fn results_are_below_conprof_out_with_a_link_to_the_latest() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("silent", "fn main() {}");
    let program = program.to_str().expect("UTF-8");
    for _ in 0..2 {
        assert_eq!(finish(conprof(folder.path(), &["run", "-q", "--", program])).status.code(), Some(0));
    }
    let root = folder.path().join("conprof-out");
    assert_eq!(fs::read_to_string(root.join(".gitignore")).expect("ignored"), "*\n");
    let folders = fs::read_dir(&root)
        .expect("listed")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("silent-"));
    assert_eq!(folders.count(), 2);
    report(&root.join("latest"));
    assert!(root.join("latest/report.html").exists());
}

#[test]
fn a_folder_of_others_is_refused_before_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("touch", "fn main() { std::fs::write(\"started\", \"\").unwrap() }");
    let program = program.to_str().expect("UTF-8");
    fs::create_dir(folder.path().join("mine")).expect("made");
    fs::write(folder.path().join("mine/thesis"), "x").expect("written");
    let output = finish(conprof(folder.path(), &["run", "--out", "mine", "--", program]));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("not empty"));
    // A file where a folder has to be can't be written to, for root as well.
    let output = finish(conprof(folder.path(), &["run", "--out", "mine/thesis/x", "--", program]));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("can't be written"));
    assert!(!folder.path().join("started").exists(), "the program was started");
}

#[test]
fn an_earlier_result_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust("silent", "fn main() {}");
    let program = program.to_str().expect("UTF-8");
    for _ in 0..2 {
        let output = finish(conprof(folder.path(), &["run", "--out", "a/b", "--format", "sarif,junit", "--", program]));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let dir = folder.path().join("a/b");
    report(&dir);
    assert!(dir.join("report.sarif").exists() && dir.join("report.xml").exists());
    assert!(!folder.path().join("conprof-out").exists());
}
