//! Real results of real runs: every format, acceptance, configuration, and results that travel.

#[path = "../schema/mod.rs"]
mod schema;

use conprof::report::{Report, Verdict, store};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Two threads that start together and count without order. The marked lines race.
const RACY: &str = r#"
use std::sync::Barrier;

static mut HITS: u64 = 0;

#[inline(never)]
fn bump() {
    unsafe { HITS += 1 }; // RACE
}

fn main() {
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                (0..300).for_each(|_| bump());
            });
        }
    });
    println!("done");
}
"#;

/// A folder with the program built in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().expect("a folder") };
        place.build(RACY, &["-g"]);
        place
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn build(&self, source: &str, options: &[&str]) {
        std::fs::create_dir_all(self.path("src")).expect("a folder");
        std::fs::write(self.path("src/main.rs"), source).expect("the source is written");
        let status = Command::new("rustc")
            .args(["--edition", "2024", "-o", "app", "src/main.rs"])
            .args(options)
            .current_dir(self.dir.path())
            .status();
        assert!(status.expect("rustc starts").success());
    }

    fn conprof(&self, words: &[&str]) -> Output {
        self.conprof_with(words, &[])
    }

    fn conprof_with(&self, words: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new("timeout")
            .args(["120", env!("CARGO_BIN_EXE_conprof")])
            .args(words)
            .current_dir(self.dir.path())
            .env_remove("CONPROF_OPTIONS")
            .env_remove("GITHUB_STEP_SUMMARY")
            .envs(environment.iter().copied())
            .output()
            .expect("conprof starts")
    }

    /// Runs the program with the result in `out`.
    fn run(&self, options: &[&str]) -> (Output, Report) {
        let words = [&["run", "--out", "out"], options, &["--", "./app", "secret-argument"]].concat();
        let output = self.conprof(&words);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{}", text(&output.stderr));
        (output, self.load("out"))
    }

    /// A folder's report, which is what the published schema says.
    fn load(&self, folder: &str) -> Report {
        schema::assert_valid(&self.read(&format!("{folder}/report.json")));
        store::load(&self.path(folder)).expect("a report")
    }

    fn read(&self, relative: &str) -> String {
        std::fs::read_to_string(self.path(relative)).expect(relative)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn schema(path: &str) -> jsonschema::Validator {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let schema = serde_json::from_str(&std::fs::read_to_string(file).expect("a schema")).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

fn assert_valid(validator: &jsonschema::Validator, json: &str) -> Value {
    let value = serde_json::from_str(json).expect("JSON");
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    value
}

#[test]
fn every_format_renders_a_real_race() {
    let place = Place::new();
    let (output, report) = place.run(&["--format", "text,tsan,json,sarif,junit,github"]);
    assert_eq!(output.status.code(), Some(66), "{}", text(&output.stderr));
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Findings, 1));
    let sarif = assert_valid(&schema("tests/formats/sarif-schema-2.1.0.json"), &place.read("out/report.sarif"));
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "src/main.rs");
    assert_eq!(result["locations"][0]["physicalLocation"]["region"]["startLine"], 8);
    assert_eq!(result["codeFlows"][0]["threadFlows"].as_array().map(Vec::len), Some(2), "both threads");
    let id = &report.findings[0].id;
    for line in [
        format!("= id: {id}, accepted by a suppression `fingerprint:{id}`"),
        "= again: conprof run -- ./app secret-argument".to_owned(),
    ] {
        assert!(text(&output.stderr).contains(&line), "{}", text(&output.stderr));
    }
    let tsan = place.read("out/report.tsan");
    let pid = report.processes[0].pid;
    assert!(tsan.contains(&format!("==================\nWARNING: conprof: data race (pid={pid})\n")), "{tsan}");
    assert!(tsan.contains("  Location is global ") && tsan.contains("conprof: reported 1 warnings\n"), "{tsan}");
    assert!(tsan.contains("SUMMARY: conprof: data race src/main.rs:8 in "), "{tsan}");
    let junit = place.read("out/report.xml");
    assert!(junit.contains("<testcase name=\"data-race\"") && junit.contains("failures=\"1\""), "{junit}");
    assert!(text(&output.stderr).contains("::error file=src/main.rs,line=8,"), "{}", text(&output.stderr));
    let page = place.read("out/report.html");
    assert!(page.contains("</html>") && page.len() < 10_000_000);
    for format in ["text", "tsan", "json", "sarif", "junit", "github", "html"] {
        let output = place.conprof(&["report", "--format", format, "out"]);
        assert_eq!(output.status.code(), Some(0), "{format}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("bump"), "{format}");
    }
}

#[test]
fn suppressions_and_baselines_accept_and_say_so() {
    let place = Place::new();
    let (_, report) = place.run(&[]);
    let id = report.findings[0].id.clone();
    let output = place.conprof(&["suppress", "out", &id[..9], "--reason", "known", "--file", "supp.txt"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(place.read("supp.txt"), format!("fingerprint:{id} # known\n"));
    std::fs::write(place.path("supp.txt"), place.read("supp.txt") + "race:nowhere\nrubbish\n").expect("written");
    let (output, report) = place.run(&["--suppressions", "supp.txt"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(report.findings[0].suppressed && !report.findings[0].gating);
    let hits: Vec<u64> = report.suppressions.iter().map(|used| used.hits).collect();
    assert_eq!(hits, [1, 0]);
    for words in ["supp.txt:3: `rubbish`", "suppressions: 1 finding of 1 matched\n    never matched: race:nowhere\n"] {
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    for line in ["race:^*bump$", "race:src/main.rs", "race:HITS", "race_top:bump", "called_from_lib:app"] {
        let (output, _) = place.run(&["--suppress", line]);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
    }
    let (_, _) = place.run(&[]);
    let baseline = place.conprof(&["baseline", "out"]);
    std::fs::write(place.path("base.txt"), &baseline.stdout).expect("written");
    let gone = "00000000000000ff data-race src/old.rs:1: gone\n";
    std::fs::write(place.path("base.txt"), place.read("base.txt") + gone).expect("written");
    let (output, report) = place.run(&["--baseline", "base.txt"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(report.findings[0].baseline);
    assert_eq!(report.baseline_gone, [gone.trim()]);
    assert!(text(&output.stderr).contains(&format!("gone since the baseline: {gone}")), "{}", text(&output.stderr));
    let unknown = place.conprof(&["suppress", "out", "ffff"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains(&id), "the ids there are: {}", text(&unknown.stderr));
}

#[test]
fn a_fingerprint_survives_moved_lines_rebuilds_and_optimisation() {
    let place = Place::new();
    let id = |place: &Place| place.run(&[]).1.findings.first().map(|finding| finding.id.clone());
    let first = id(&place);
    assert!(first.is_some());
    assert_eq!(id(&place), first, "another run, other addresses");
    let moved =
        RACY.replace("static mut", "// A line more.\n\n\nstatic mut").replace("#[inline(never)]", "\n#[inline(never)]");
    place.build(&moved, &["-g"]);
    assert_eq!(id(&place), first, "lines moved");
    place.build(RACY, &["-g", "-O"]);
    assert_eq!(id(&place), first, "optimised");
    place.build(RACY, &["-Cdebuginfo=line-tables-only", "-O"]);
    assert_eq!(id(&place), first, "with line tables only");
}

#[test]
fn results_travel_without_program_and_sources() {
    let place = Place::new();
    place.run(&[]);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let moved = elsewhere.path().join("artifact");
    std::fs::rename(place.path("out"), &moved).expect("moved");
    std::fs::remove_file(place.path("app")).expect("removed");
    std::fs::remove_dir_all(place.path("src")).expect("removed");
    let moved = moved.display().to_string();
    let shown = place.conprof(&["report", &moved]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("unsafe { HITS += 1 }; // RACE"), "the excerpt is stored");
    assert!(text(&place.conprof(&["suppress", &moved]).stdout).starts_with("fingerprint:"));
    assert!(text(&place.conprof(&["baseline", &moved]).stdout).contains(" data-race src/main.rs:8"));
    let merged = place.conprof(&["merge", "--out", "merged", "--repeats", &moved, &moved]);
    assert_eq!(merged.status.code(), Some(66), "{}", text(&merged.stderr));
    assert_eq!(place.load("merged").findings[0].seen_in.n, 2);
    let file = Path::new(&moved).join("report.json");
    let newer = std::fs::read_to_string(&file).expect("a report").replacen("\"schema\": 1", "\"schema\": 99", 1);
    std::fs::write(&file, newer).expect("written");
    let refused = place.conprof(&["suppress", &moved]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("schema 99"), "{}", text(&refused.stderr));
}

#[test]
fn sources_and_arguments_stay_out_where_asked() {
    let place = Place::new();
    let (_, report) = place.run(&["--no-source", "--redact-args", "--format", "sarif"]);
    assert_eq!(report.command, None);
    for file in ["report.json", "report.html", "report.sarif", "run.json"] {
        let text = place.read(&format!("out/{file}"));
        assert!(!text.contains("secret-argument") && !text.contains("// RACE"), "{file}");
    }
    place.run(&[]);
    assert!(
        place.read("out/report.json").contains("secret-argument") && place.read("out/report.json").contains("// RACE")
    );
}

#[test]
fn repeats_are_merged_and_end_with_the_first_finding() {
    let place = Place::new();
    let repeated = |options: &[&str]| {
        let words = [&["run", "--out", "out"], options, &["--", "./app"]].concat();
        let output = place.conprof(&words);
        (text(&output.stdout).lines().count(), place.load("out"))
    };
    let (runs, report) = repeated(&["--repeat", "3"]);
    let seen = report.findings[0].seen_in;
    assert!(runs == 3 && seen.n == 3 && (1..=3).contains(&seen.k), "{runs} runs, {seen:?}");
    let (runs, report) = repeated(&["--repeat", "20", "--until-finding"]);
    assert!(runs < 20 && report.findings[0].seen_in.n as usize == runs);
}

#[test]
fn configuration_is_in_force_and_shown() {
    let place = Place::new();
    std::fs::write(
        place.path("conprof.toml"),
        "exitcode = 9\nlog = 'words.txt'\nfail-onn = 'none'\n[[lock]]\nname = 'my::Spin'\n",
    )
    .expect("written");
    let run = |environment: &[(&str, &str)], options: &[&str]| {
        place.conprof_with(&[&["run", "--out", "out"], options, &["--", "./app"]].concat(), environment)
    };
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
    let file = place.path("conprof.toml");
    let warning =
        format!("conprof: warning: {}: unknown key `fail-onn` is ignored; did you mean `fail-on`?\n", file.display());
    assert_eq!(text(&output.stderr), warning, "everything else is in the log");
    assert!(place.read("words.txt").contains("error[data-race]"));
    assert_eq!(run(&[("CONPROF_OPTIONS", "exitcode=11")], &[]).status.code(), Some(11));
    assert_eq!(run(&[("CONPROF_OPTIONS", "exitcode=11")], &["--exitcode", "12"]).status.code(), Some(12));
    let tsan = "exitcode=13:suppressions=supp.txt:atexit_sleep_ms=0";
    std::fs::write(place.path("supp.txt"), "race:bump\n").expect("written");
    let output = run(&[("CONPROF_OPTIONS", tsan)], &[]);
    assert_eq!(output.status.code(), Some(0), "suppressed");
    assert!(text(&output.stderr).contains("`atexit_sleep_ms` is not supported"), "{}", text(&output.stderr));
    let wrong = run(&[("CONPROF_OPTIONS", "exitcode=x")], &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("CONPROF_OPTIONS"), "{}", text(&wrong.stderr));
    let output = place.conprof_with(&["config", "--repeat", "2"], &[("CONPROF_OPTIONS", "halt_on_error=1")]);
    let shown: Vec<String> =
        text(&output.stdout).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        format!("exitcode = 9 # {}", file.display()),
        "halt-on-error = true # CONPROF_OPTIONS".to_owned(),
        "repeat = 2 # command line".to_owned(),
        "quiet = false # built in".to_owned(),
        format!("lock = name = \"my::Spin\" # {}", file.display()),
    ] {
        assert!(shown.contains(&line), "`{line}` is not in {shown:#?}");
    }
}

#[test]
fn step_summaries_are_appended() {
    let place = Place::new();
    std::fs::write(place.path("summary.md"), "before\n").expect("written");
    let file = place.path("summary.md").display().to_string();
    let words = ["run", "--out", "out", "--format", "github", "-q", "--", "./app"];
    let output = place.conprof_with(&words, &[("GITHUB_STEP_SUMMARY", &file)]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(66), ""));
    let summary = place.read("summary.md");
    assert!(summary.starts_with("before\n## conprof\n\n**1 finding gates**"), "{summary}");
}

#[test]
fn completions_manuals_and_the_doctor_work() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = place.conprof(&["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("suppressions"), "{shell}");
    }
    assert!(place.conprof(&["man", "man"]).status.success());
    for page in ["conprof.1", "conprof-run.1", "conprof-cargo.1"] {
        assert!(place.read(&format!("man/{page}")).contains(".SH"), "{page}");
    }
    let output = place.conprof(&["doctor", "app"]);
    assert!(text(&output.stdout).contains("debuginfo: present"), "{}", text(&output.stdout));
}
