//! Runs the programs of `fixtures/lockorder`, `fixtures/deadlock` and `fixtures/starvation` under `conprof run` and compares what is reported
//! with what their headers expect.
//!
//! One test per program and build profile, named `<folder>::<program>::<profile>`. A header says `expect:` and a kind of
//! finding, or `clean`; `allow: possible` permits findings that do not gate; `ends: by itself` says that the program ends
//! although some of its threads are stuck; `also: KIND` that another kind is found as well; `options:` what
//! conprof is given, `says:` what is in a title or note, `lock-row:` a row of the lock catalogue, and `twin:` the clean program that does the same rightly. A line marked `// HELD: NAME`, `// WANTED`, `// WAITING`, `// WRITE-LOCKED` or
//! `// NOTIFY`, `// BLOCKED`, `// POLLING`, `// SPAWNED` or `// MISUSE` must be in a stack of that role in the one finding, of the lock of that name where one is given; `NAME | START` says how the name begins
//! in builds whose debuginfo has no types; a name that ends with `at` is a beginning.

mod idle;
#[path = "../schema/mod.rs"]
mod schema;
mod twins;

use conprof::report::{Finding, Frame, Report, Stack};
use libtest_mimic::{Arguments, Failed, Trial};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far above what any program takes, also on a loaded machine.
const LIMIT: Duration = Duration::from_secs(90);

const PROFILES: [(&str, &str); 2] = [("dev", "debug"), ("release", "release")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The folder that all tests of fixtures build into.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fixtures")
}

/// A line that must be in a stack.
#[derive(Clone, Debug)]
struct Mark {
    line: u32,
    role: String,
    /// The lock's name, and how it begins without types.
    lock: Option<(String, Option<String>)>,
}

impl Mark {
    fn names(&self, lock: &str, profile: &str) -> bool {
        match &self.lock {
            None => true,
            Some((_, Some(start))) if profile == "release" => lock.starts_with(start),
            Some((name, _)) => lock == name || name.ends_with(" at") && lock.starts_with(name),
        }
    }
}

#[derive(Clone, Debug)]
struct Fixture {
    folder: &'static str,
    name: String,
    expect: String,
    allows_possible: bool,
    ends_by_itself: bool,
    also: Option<String>,
    options: Vec<String>,
    says: Option<String>,
    marks: Vec<Mark>,
    /// The clean program that does the same rightly.
    twin: Option<String>,
    source: String,
}

fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for folder in ["lockorder", "deadlock", "starvation"] {
        let sources = fs::read_dir(root().join(folder).join("src/bin")).expect("a folder of programs");
        for source in sources {
            let path = source.expect("a file").path();
            let text = fs::read_to_string(&path).expect("UTF-8");
            let header = |key: &str| text.lines().find_map(|line| line.strip_prefix(&format!("//! {key}: ")));
            all.push(Fixture {
                folder,
                name: path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned(),
                expect: header("expect").expect("a header that says what to expect").to_owned(),
                allows_possible: header("allow") == Some("possible"),
                ends_by_itself: header("ends") == Some("by itself"),
                also: header("also").map(str::to_owned),
                says: header("says").map(str::to_owned),
                options: {
                    let words = header("options").unwrap_or_default().split_whitespace().map(str::to_owned);
                    let rows = text.lines().filter_map(|line| line.strip_prefix("//! lock-row: "));
                    words.chain(rows.flat_map(|row| ["--lock-row".to_owned(), row.to_owned()])).collect()
                },
                marks: marks(&text),
                twin: header("twin").map(str::to_owned),
                source: text.clone(),
            });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn marks(text: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some((_, mark)) = line.rsplit_once("// ") else { continue };
        let (role, lock) = mark.split_once(": ").map_or((mark, None), |(role, lock)| (role, Some(lock)));
        let roles = ["HELD", "WANTED", "WAITING", "WRITE-LOCKED", "NOTIFY", "BLOCKED", "POLLING", "MISUSE", "SPAWNED"];
        if roles.contains(&role) {
            let lock = lock.map(|lock| match lock.split_once(" | ") {
                Some((name, start)) => (name.to_owned(), Some(start.to_owned())),
                None => (lock.to_owned(), None),
            });
            marks.push(Mark { line: index as u32 + 1, role: role.to_lowercase(), lock });
        }
    }
    marks
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for fixture in fixtures() {
        for (profile, folder) in PROFILES {
            let fixture = fixture.clone();
            let name = format!("{}::{}::{profile}", fixture.folder, fixture.name);
            trials.push(Trial::test(name, move || check(&fixture, profile, folder)));
        }
    }
    trials.push(Trial::test("catalogue::every_row", every_row_is_found));
    trials.push(Trial::test("idle::for_a_minute", idle::for_a_minute));
    trials.push(Trial::test("twins::there_are_enough", twins::there_are_enough));
    libtest_mimic::run(&arguments, trials).exit();
}

/// Parts of rows for what the build at hand does not contain.
const NOT_HERE: [&str; 6] = [
    // A feature of unstable Rust.
    "sync::nonpoison::",
    // Other versions of std.
    "thread_parking::futex::Parker::park",
    "function thread::Thread::park",
    // spin 0.10 and later.
    "try_lock_weak",
    // It has no atomic instruction of its own, in this version.
    "lock_shared dashmap-*",
    // rayon's way for a caller outside any pool, which it takes where the pool is busy in a way that no program can force.
    "LockLatch::wait pool",
];

/// Each row of the lock catalogue is found in the program that uses everything, in one of its builds.
fn every_row_is_found() -> Result<(), Failed> {
    use conprof::scan::primitives::{BUILT_IN, Catalogue, mark};
    let mut found = std::collections::BTreeSet::new();
    for (profile, folder) in PROFILES {
        build(profile)?;
        let data = fs::read(target().join(folder).join("catalogue")).map_err(|error| error.to_string())?;
        let scan = conprof::scan::scan_module(&data, &|_, _| {}).map_err(|error| error.to_string())?;
        found.extend(mark(&scan, &data, &Catalogue::built_in()).rows.into_keys());
    }
    let rows = BUILT_IN.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let rows = rows.filter(|row| row.starts_with("inline ") || row.starts_with("function "));
    let missing: Vec<String> =
        rows.filter(|row| !found.contains(row) && !NOT_HERE.iter().any(|absent| row.contains(absent))).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("not found: {missing:#?}").into()) }
}

/// Builds the packages, once per test run and profile.
fn build(profile: &str) -> Result<(), String> {
    fs::create_dir_all(target()).map_err(|error| error.to_string())?;
    let lock = File::create(target().join(format!("locks-{profile}.lock"))).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
    let stamp = target().join(format!("locks-{profile}.built"));
    if fs::read_to_string(&stamp).is_ok_and(|built| built == run) {
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--bins",
            "-p",
            "lockorder",
            "-p",
            "deadlock",
            "-p",
            "starvation",
            "--profile",
            profile,
        ])
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target())
        .status()
        .map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("the fixtures could not be built: {status}"));
    }
    fs::write(&stamp, run).map_err(|error| error.to_string())
}

fn check(fixture: &Fixture, profile: &str, folder: &str) -> Result<(), Failed> {
    build(profile)?;
    // A clean program outlives the limit, so that ending it would be seen.
    let hang_after = if fixture.expect == "clean" { "2s" } else { "1s" };
    Run::start(fixture, profile, folder, &["--fail-on", "all", "--hang-after", hang_after], &[])?.end(LIMIT)
}

/// A program that runs under conprof.
struct Run<'a> {
    fixture: &'a Fixture,
    profile: &'a str,
    child: Child,
    start: Instant,
    out: PathBuf,
    errors: PathBuf,
}

impl Run<'_> {
    fn start<'a>(
        fixture: &'a Fixture,
        profile: &'a str,
        folder: &str,
        options: &[&str],
        arguments: &[&str],
    ) -> Result<Run<'a>, String> {
        // Programs with arguments run at the same time as the same ones without.
        let name = [&[fixture.name.as_str(), profile], arguments].concat().join("-");
        let out = target().join("out").join(&name);
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(target().join("out")).map_err(|error| error.to_string())?;
        let errors = target().join("out").join(format!("{name}.stderr"));
        let child = Command::new(env!("CARGO_BIN_EXE_conprof"))
            .arg("run")
            .args(options)
            .arg("--out")
            .arg(&out)
            .args(&fixture.options)
            .arg("--")
            .arg(target().join(folder).join(&fixture.name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| error.to_string())?;
        Ok(Run { fixture, profile, child, start: Instant::now(), out, errors })
    }

    /// Waits for the end, and compares what is reported with what is expected.
    fn end(mut self, limit: Duration) -> Result<(), Failed> {
        let status = loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if self.start.elapsed() > limit => {
                    let _ = self.child.kill();
                    return Err("it did not end in time".into());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        let report = self.out.join("report.json");
        let report = fs::read_to_string(report).map_err(|error| format!("{error}\n{said}"))?;
        schema::check(&report)?;
        let report: Report = serde_json::from_str(&report).map_err(|error| error.to_string())?;
        verdict(self.fixture, self.profile, status.code(), &report, &said)
            .map_err(|why| format!("{why}\n{said}").into())
    }
}

/// The kinds that a program is about. Races are the business of other tests; programs that show how a lock order or a hang
/// comes about may well hold locks for long.
fn is_about_locks(folder: &str, finding: &Finding) -> bool {
    use conprof::report::Kind::{DataRace, Deadlock, LockOrderInversion, LostWakeup};
    match folder {
        "starvation" => finding.kind != DataRace,
        _ => matches!(finding.kind, Deadlock | LostWakeup | LockOrderInversion),
    }
}

fn name(kind: conprof::report::Kind) -> String {
    conprof::report::place::words(kind).name.to_owned()
}

fn verdict(fixture: &Fixture, profile: &str, code: Option<i32>, report: &Report, said: &str) -> Result<(), String> {
    let found: Vec<&Finding> =
        report.findings.iter().filter(|finding| is_about_locks(fixture.folder, finding)).collect();
    let titles = || found.iter().map(|f| format!("{:?} {:?}: {}", f.confidence, f.kind, f.title)).collect::<Vec<_>>();
    let gating: Vec<&&Finding> = found.iter().filter(|finding| finding.gating).collect();
    if fixture.expect == "clean" {
        let unwanted = if fixture.allows_possible { gating.len() } else { found.len() };
        if unwanted > 0 {
            return Err(format!("nothing was to be found: {:?}", titles()));
        }
        // 66 for a race would be another test's failure; a signal would be conprof's ending it.
        return if matches!(code, Some(0 | 66)) { Ok(()) } else { Err(format!("it ended with {code:?}")) };
    }
    if let Some(also) = &fixture.also
        && !gating.iter().any(|finding| name(finding.kind) == *also)
    {
        return Err(format!("{also} was to be found as well: {:?}", titles()));
    }
    let gating: Vec<&&Finding> = gating
        .into_iter()
        .filter(|finding| fixture.also.as_ref().is_none_or(|also| name(finding.kind) != *also))
        .collect();
    let [finding] = gating[..] else { return Err(format!("one gating finding was to be found: {:?}", titles())) };
    let kind = name(finding.kind);
    if kind != fixture.expect {
        return Err(format!("it is a {kind}"));
    }
    if code != Some(66) {
        return Err(format!("it ended with {code:?}"));
    }
    for mark in &fixture.marks {
        let suffix = format!("{}.rs", fixture.name);
        let here = |frame: &Frame| frame.line == mark.line && frame.file.ends_with(&suffix);
        // A task's spawn site is that of a thread that is none.
        let spawned = |stack: &Stack| stack.thread.as_ref().is_some_and(|thread| thread.created_at.iter().any(here));
        if mark.role == "spawned" && finding.stacks.iter().any(spawned) {
            continue;
        }
        let marked = finding.stacks.iter().any(|stack| {
            stack.role == mark.role
                && mark.names(stack.lock.as_ref().map_or("", |lock| &lock.name), profile)
                && stack.frames.iter().any(here)
        });
        if !marked {
            let locks: Vec<&str> =
                finding.stacks.iter().filter_map(|s| s.lock.as_ref()).map(|l| l.name.as_str()).collect();
            return Err(format!("no stack has {mark:?}: {:?} {locks:?}", titles()));
        }
    }
    if let Some(says) = &fixture.says
        && !finding.notes.iter().chain([&finding.title]).any(|words| words.contains(says.as_str()))
    {
        return Err(format!("`{says}` was to be said: {:?} {:?}", titles(), finding.notes));
    }
    if finding.fix.is_empty() || finding.stacks.iter().any(|stack| stack.thread.is_none()) {
        return Err("a fix, and a thread for each stack, were to be given".to_owned());
    }
    let is_hang = matches!(fixture.expect.as_str(), "deadlock" | "lost-wakeup");
    if is_hang && finding.kind == conprof::report::Kind::Deadlock && !said.contains("error[deadlock]") {
        return Err("a deadlock is said in full".to_owned());
    }
    let exit = report.processes.first().and_then(|process| process.exit);
    let was_ended = matches!(exit, Some(conprof::report::Exit::Signal(_)));
    if was_ended == (fixture.ends_by_itself || !is_hang) {
        return Err(format!("it ended so: {exit:?}"));
    }
    Ok(())
}
