//! `conprof run --` as cargo's and nextest's runner: what the environment and the arguments say about the process.
//!
//! Facts, seen with cargo 1.95 and nextest 0.9.143: cargo sets `CARGO`, `CARGO_MANIFEST_DIR` and `CARGO_PKG_NAME`
//! for a runner, for rustdoc's tests too (their program is `/tmp/rustdoctest.../rust_out`). nextest calls the runner
//! with `--list --format terse` (`NEXTEST_TEST_PHASE=list`), then once per test with `NEXTEST_RUN_ID`,
//! `NEXTEST_BINARY_ID` and `NEXTEST_TEST_NAME`.

use super::tests::TestContext;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Name of the folder of results below cargo's target folder.
pub const RESULTS_FOLDER: &str = "conprof";

/// What is known about a program that a test runner asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runner {
    /// The program is asked for the list of its tests: it is to run as it is, and nothing is to be written.
    pub lists: bool,
    /// Cargo or nextest started it.
    pub under_cargo: bool,
    /// Which test it is.
    pub tests: TestContext,
    /// Folder for the results of this whole invocation of cargo or nextest; one folder a process goes below it.
    pub results: Option<PathBuf>,
}

/// Looks at this process: its environment, and whether cargo, nextest or rustdoc started it.
pub fn detect_here(command: &[OsString]) -> Runner {
    let parent = std::os::unix::process::parent_id();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    // `cargo run` becomes the runner, so its parent is a shell, which does not have cargo's variables. A program
    // that itself runs under cargo and calls conprof passes them on; that is no runner.
    let inherited = std::fs::read(format!("/proc/{parent}/environ"))
        .is_ok_and(|variables| variables.split(|byte| *byte == 0).any(|line| line.starts_with(b"CARGO_MANIFEST_DIR=")));
    let direct = matches!(name.trim_end(), "cargo" | "cargo-nextest" | "rustdoc") || !inherited;
    if direct { detect(command, &|name| std::env::var_os(name), parent) } else { Runner::default() }
}

/// Looks at the command and the environment. `parent` identifies the process that started this one.
pub fn detect(command: &[OsString], env: &dyn Fn(&str) -> Option<OsString>, parent: u32) -> Runner {
    let text = |name: &str| env(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    let nextest = text("NEXTEST").is_some();
    let under_cargo = nextest || (env("CARGO").is_some() && env("CARGO_MANIFEST_DIR").is_some());
    let lists = (under_cargo && is_list(command)) || text("NEXTEST_TEST_PHASE").as_deref() == Some("list");
    let binary = text("NEXTEST_BINARY_ID");
    let test = text("NEXTEST_TEST_NAME");
    let tests = match (binary, test) {
        (Some(binary), Some(test)) => TestContext::One { binary, test },
        _ => {
            let name = command.first().map_or(String::new(), |program| binary_name(program));
            let package = text("CARGO_PKG_NAME").filter(|_| name == "rust_out");
            TestContext::Libtest { binary: package.map_or(name, |package| format!("{package}::doc")) }
        }
    };
    let results = under_cargo.then(|| {
        let target = target_folder(command.first(), env);
        let run = text("NEXTEST_RUN_ID").unwrap_or_else(|| format!("cargo-{parent}"));
        target.join(RESULTS_FOLDER).join(run)
    });
    Runner { lists, under_cargo, tests, results }
}

/// Whether libtest's `--list` is among the arguments.
fn is_list(command: &[OsString]) -> bool {
    command.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--list")
}

/// The target folder: the one above the program that has cargo's marker, else what the environment says.
fn target_folder(program: Option<&OsString>, env: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let above = program.map(Path::new).into_iter().flat_map(Path::ancestors).skip(1);
    let marked =
        above.filter(|folder| !folder.as_os_str().is_empty()).find(|folder| folder.join("CACHEDIR.TAG").is_file());
    if let Some(folder) = marked {
        return folder.to_owned();
    }
    match env("CARGO_TARGET_DIR").or_else(|| env("CARGO_BUILD_TARGET_DIR")) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env("CARGO_MANIFEST_DIR").unwrap_or_default()).join("target"),
    }
}

/// The program's name without the hash that cargo appends.
fn binary_name(program: &OsStr) -> String {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rsplit_once('-') {
        Some((stem, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => stem.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use std::collections::HashMap;

    fn with(command: &[&str], variables: &[(&str, &str)]) -> Runner {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        detect(&command, &|name| variables.get(name).map(OsString::from), 77)
    }

    #[test]
    fn outside_of_cargo_nothing_is_assumed() {
        let runner = with(&["./app", "--port", "80"], &[]);
        assert!(!runner.under_cargo && !runner.lists && runner.results.is_none());
    }

    #[test]
    fn the_list_phase_is_known_by_argument_and_by_variable() {
        assert!(with(&["/t/debug/deps/x-1", "--list", "--format", "terse"], &[("NEXTEST", "1")]).lists);
        assert!(with(&["/t/debug/deps/x-1", "--ignored"], &[("NEXTEST_TEST_PHASE", "list")]).lists);
        assert!(!with(&["/t/debug/deps/x-1", "--", "--list"], &[("NEXTEST", "1")]).lists);
        assert!(!with(&["./app", "--list"], &[]).lists, "a program of its own");
    }

    #[test]
    fn nextest_names_the_test_and_the_run() {
        let runner = with(
            &["/t/debug/deps/x-0123456789abcdef", "--exact", "m::t"],
            &[
                ("NEXTEST", "1"),
                ("NEXTEST_RUN_ID", "u-u-i-d"),
                ("NEXTEST_BINARY_ID", "crate::it"),
                ("NEXTEST_TEST_NAME", "m::t"),
                ("NEXTEST_TEST_PHASE", "run"),
                ("CARGO_TARGET_DIR", "/t"),
            ],
        );
        assert_eq!(runner.tests, TestContext::One { binary: "crate::it".to_owned(), test: "m::t".to_owned() });
        assert_eq!(runner.results, Some(PathBuf::from("/t/conprof/u-u-i-d")));
    }

    #[test]
    fn cargo_gives_the_manifest_folder() {
        let runner =
            with(&["/tmp/rustdoctestX/rust_out"], &[("CARGO", "/bin/cargo"), ("CARGO_MANIFEST_DIR", "/srv/app")]);
        assert_eq!(runner.results, Some(PathBuf::from("/srv/app/target/conprof/cargo-77")));
        assert_eq!(binary_name(OsStr::new("/t/debug/deps/my-crate-0123456789abcdef")), "my-crate");
        assert_eq!(binary_name(OsStr::new("/t/debug/my-app")), "my-app");
    }
}
