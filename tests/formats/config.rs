//! conprof.toml and CONPROF_OPTIONS.

use clap::{Arg, ArgAction, Command, value_parser};
use conprof::config::{Config, Origin, find_file, tsan_keys};
use std::path::{Path, PathBuf};

/// Options of each sort that `run` has.
fn run() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new("run")
        .arg(Arg::new("exitcode").long("exitcode").value_parser(value_parser!(i32).range(0..256)).default_value("66"))
        .arg(Arg::new("fail_on").long("fail-on").value_delimiter(',').default_value("data-race,deadlock"))
        .arg(
            Arg::new("suppressions")
                .long("suppressions")
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(Arg::new("log").long("log").value_parser(value_parser!(PathBuf)))
        .arg(Arg::new("history").long("history").value_parser(value_parser!(u64)))
        .arg(Arg::new("strip-path-prefix").long("strip-path-prefix"))
        .arg(Arg::new("verbose").long("verbose").short('v').action(ArgAction::Count))
        .arg(flag("halt-on-error"))
        .arg(flag("quiet"))
        .arg(Arg::new("command").last(true))
}

fn values(config: &Config, arguments: &[&str], id: &str) -> Vec<String> {
    let words = std::iter::once("run").chain(arguments.iter().copied());
    let matches = config.install(run()).try_get_matches_from(words).expect("a command line");
    let raw = matches.get_raw(id).into_iter().flatten();
    raw.map(|value| value.to_string_lossy().into_owned()).collect()
}

#[test]
fn the_file_sets_defaults_and_the_command_line_wins() {
    let mut config = Config::default();
    let text = "exitcode = 3\nfail-on = ['data-race', 'starvation']\nquiet = true\nsuppressions = ['a.txt', '/b.txt']\nverbose = 2\n\
                [[lock]]\nname = 'my::Spin'\n";
    config.add_file(Path::new("/srv/app/conprof.toml"), text, &run()).expect("a file");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(values(&config, &[], "exitcode"), ["3"]);
    assert_eq!(values(&config, &["--exitcode", "9"], "exitcode"), ["9"]);
    assert_eq!(values(&config, &[], "fail_on"), ["data-race", "starvation"]);
    assert_eq!(values(&config, &["--fail-on=none"], "fail_on"), ["none"]);
    assert_eq!(values(&config, &[], "suppressions"), ["/srv/app/a.txt", "/b.txt"], "paths count from the file");
    assert_eq!(values(&config, &[], "history"), Vec::<String>::new());
    let matches = config.install(run()).try_get_matches_from(["run"]).expect("matches");
    assert!(matches.get_flag("quiet") && !matches.get_flag("halt-on-error"));
    assert_eq!(matches.get_count("verbose"), 2);
    assert_eq!(config.locks.len(), 1);
    assert_eq!(config.origin("quiet"), Some(&Origin::File("/srv/app/conprof.toml".into())));
    assert_eq!(config.origin("log"), None);
}

#[test]
fn the_variable_beats_the_file() {
    let mut config = Config::default();
    config.add_file(Path::new("/conprof.toml"), "exitcode = 3\nquiet = true", &run()).expect("a file");
    config
        .add_variable("exitcode=4:halt_on_error=1:quiet=0:fail_on=deadlock,data-race:strip_path_prefix=/build", &run())
        .expect("a value");
    assert_eq!(values(&config, &[], "exitcode"), ["4"]);
    assert_eq!(values(&config, &[], "fail_on"), ["deadlock", "data-race"]);
    assert_eq!(values(&config, &[], "strip-path-prefix"), ["/build"]);
    let matches = config.install(run()).try_get_matches_from(["run"]).expect("matches");
    assert!(matches.get_flag("halt-on-error") && !matches.get_flag("quiet"));
    assert_eq!(config.origin("exitcode"), Some(&Origin::Environment));
}

#[test]
fn thread_sanitizers_keys_keep_their_meaning() {
    let mut config = Config::default();
    config
        .add_variable("log_path=/tmp/x history_size=2 verbosity=1 suppressions=s.txt symbolize=1", &run())
        .expect("ok");
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(values(&config, &[], "log"), [format!("/tmp/x.{}", std::process::id())]);
    assert_eq!(values(&config, &[], "history"), ["131072"]);
    assert_eq!(values(&config, &[], "suppressions"), ["s.txt"]);
    let mut config = Config::default();
    config
        .add_variable("log_path=stdout:print_suppressions=0:atexit_sleep_ms=100:history_size=9:log_path=stderr", &run())
        .expect("ok");
    assert_eq!(config.warnings.len(), 4, "{:?}", config.warnings);
    assert!(config.settings.is_empty());
    for (number, word) in
        ["stdout belongs to the program", "always lists", "ends when it ends", "0 to 7"].iter().enumerate()
    {
        assert!(config.warnings[number].contains(word), "{:?}", config.warnings[number]);
    }
}

#[test]
fn what_is_unknown_is_a_warning_and_what_is_wrong_an_error() {
    let mut config = Config::default();
    config.add_file(Path::new("/c.toml"), "exit-code = 3\nnonsense = 1", &run()).expect("a file");
    assert_eq!(config.warnings[0], "/c.toml: unknown key `exit-code` is ignored; did you mean `exitcode`?");
    assert_eq!(config.warnings[1], "/c.toml: unknown key `nonsense` is ignored");
    let error = config.add_variable("exitcode=many", &run()).expect_err("no number");
    assert!(error.starts_with("CONPROF_OPTIONS: ") && error.contains("--exitcode"), "{error}");
    let error = config.add_file(Path::new("/c.toml"), "quiet = 'perhaps'", &run()).expect_err("no flag");
    assert!(error.contains("true or false"), "{error}");
    assert!(config.add_file(Path::new("/c.toml"), "a = ", &run()).is_err_and(|error| error.starts_with("/c.toml: ")));
    config.add_variable("quiet:help=1", &run()).expect("ok");
    assert!(config.help && config.warnings.last().is_some_and(|warning| warning.contains("`quiet` has no value")));
}

#[test]
fn the_nearest_file_above_counts() {
    let dir = tempfile::tempdir().expect("a folder");
    let deep = dir.path().join("a/b/c");
    std::fs::create_dir_all(&deep).expect("folders");
    std::fs::write(dir.path().join("conprof.toml"), "").expect("a file");
    std::fs::write(dir.path().join("a/conprof.toml"), "exitcode = 5").expect("a file");
    assert_eq!(find_file(&deep), Some(dir.path().join("a/conprof.toml")));
    let config = Config::load(&deep, Some("exitcode=6"), &run()).expect("both");
    assert_eq!(values(&config, &[], "exitcode"), ["6"]);
}

#[test]
fn the_documented_table_of_keys_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let documented = std::fs::read_to_string(&file).unwrap_or_default();
    let table = tsan_keys::table();
    if std::env::var_os("BLESS").is_some() && !documented.contains(&table) {
        let head = documented.split("| TSAN_OPTIONS key |").next().unwrap_or_default();
        let tail = documented.split_once("\n\n<!-- end of keys -->").map_or("", |(_, tail)| tail);
        std::fs::write(&file, format!("{head}{table}\n<!-- end of keys -->{tail}"))
            .expect("docs/options.md is written");
        return;
    }
    assert!(documented.contains(&table), "docs/options.md lists other keys than conprof knows; BLESS=1 renews it");
}
