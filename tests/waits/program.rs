//! Building the programs of `fixtures/contention` and running them under conprof.

use conprof::profile::Folded;
use conprof::report::Report;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Seconds that a run may take on a loaded machine.
const LIMIT_SECONDS: &str = "120";

/// The release build of a program, with line tables.
pub fn fixture(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build("release")).join("release").join(name)
}

/// Its unoptimised build.
pub fn dev_fixture(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build("dev")).join("debug").join(name)
}

/// Builds the programs; gives the folder of all builds.
fn build(profile: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("contention");
    fs::create_dir_all(&target).expect("a folder");
    // Test processes of one run build once; the others wait.
    let lock = File::create(target.join("lock")).expect("a lock file");
    lock.lock().expect("locked");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/Cargo.toml");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "-p", "contention", "--profile", profile])
        .args(["--manifest-path", manifest])
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the programs can't be built");
    target
}

/// A finished run.
pub struct Run {
    pub dir: tempfile::TempDir,
    pub output: Output,
}

impl Run {
    /// Runs `program` with conprof's `options`.
    pub fn new(options: &[&str], program: &Path) -> Run {
        Run::with(options, program, |_| {})
    }

    /// The same, with a last word on how conprof is started.
    pub fn with(options: &[&str], program: &Path, change: impl FnOnce(&mut Command)) -> Run {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("timeout");
        command.arg(LIMIT_SECONDS).arg(env!("CARGO_BIN_EXE_conprof"));
        // Races have tests of their own.
        command
            .args(["run", "--fail-on", "none", "--out"])
            .arg(dir.path().join("out"))
            .args(options)
            .arg("--")
            .arg(program);
        change(&mut command);
        let output = command.output().expect("conprof starts");
        let run = Run { dir, output };
        assert_eq!(run.output.status.code(), Some(0), "{}", run.stderr());
        run
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn folded(&self, name: &str) -> Folded {
        Folded::from_text(&self.text(&format!("{name}.folded")))
    }

    pub fn report(&self) -> Report {
        let text = self.text("report.json");
        crate::schema::assert_valid(&text);
        serde_json::from_str(&text).expect("a report")
    }

    /// What the program measured itself, in nanoseconds.
    pub fn truth(&self) -> u64 {
        self.truths().next().map(|(_, ns)| ns).unwrap_or_else(|| panic!("no truth: {:?}", self.output))
    }

    /// The same of one of its locks.
    pub fn truth_of(&self, name: &str) -> u64 {
        let of_name = self.truths().find(|(lock, _)| lock == name);
        of_name.map(|(_, ns)| ns).unwrap_or_else(|| panic!("no truth of {name}: {:?}", self.output))
    }

    fn truths(&self) -> impl Iterator<Item = (String, u64)> {
        let stdout = String::from_utf8_lossy(&self.output.stdout).into_owned();
        let truth = |line: &str| {
            let (name, ns) = line.strip_prefix("truth ")?.split_once(' ')?;
            Some((name.to_owned(), ns.parse().ok()?))
        };
        stdout.lines().filter_map(truth).collect::<Vec<_>>().into_iter()
    }
}

/// Time of the stacks that have a frame containing `part`.
pub fn time_in(folded: &Folded, part: &str) -> u64 {
    folded.iter().filter(|(stack, _)| stack.split(';').any(|f| f.contains(part))).map(|(_, ns)| ns).sum()
}
