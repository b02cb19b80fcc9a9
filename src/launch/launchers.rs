//! Programs that only start other programs: conprof checks the process it starts and not its children, so the
//! right place for `conprof run --` is inside such a command line, and this module says where.

use std::ffi::OsString;
use std::path::Path;

/// What to run instead of the command, if the command is a launcher.
pub(super) fn suggestion(command: &[OsString]) -> Option<(String, String)> {
    let words: Vec<String> = command.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let name = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
    let arguments = &words[1..];
    let advice = match name.as_str() {
        "cargo" => cargo(arguments),
        "sh" | "bash" | "dash" | "zsh" | "ksh" | "fish" => shell(arguments)?,
        "timeout" | "nice" | "nohup" | "env" | "setsid" | "stdbuf" | "taskset" | "chrt" | "ionice" | "unshare"
        | "sudo" | "doas" | "time" | "xargs" | "flock" | "prlimit" | "catchsegv" | "script" => {
            prefix(&name, arguments)?
        }
        "strace" | "ltrace" | "gdb" | "lldb" | "rr" | "valgrind" | "perf" => {
            format!(
                "conprof run -- {} (without {name}, which would be checked in the program's place)",
                program_part(arguments).map_or_else(|| "PROGRAM".to_string(), join)
            )
        }
        "make" | "just" | "ninja" => format!("find the command that {name} runs, and put `conprof run --` before it"),
        _ => return None,
    };
    Some((name, advice))
}

fn join(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Name of the package in the current directory, for a path that can be pasted.
fn package_name() -> String {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap_or_default();
    let mut in_package = false;
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            in_package = line == "[package]";
        } else if let Some(value) = line.strip_prefix("name").map(str::trim_start).and_then(|l| l.strip_prefix('='))
            && in_package
        {
            return value.trim().trim_matches('"').to_string();
        }
    }
    "<program>".to_string()
}

fn value_of<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(index, word)| match word.strip_prefix(option) {
        Some("") => arguments.get(index + 1).map(String::as_str),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    })
}

fn cargo(arguments: &[String]) -> String {
    let (own, program): (&[String], &[String]) = match arguments.iter().position(|a| a == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[]),
    };
    let release = own.iter().any(|a| a == "--release" || a == "-r");
    let profile = if release { "release" } else { value_of(own, "--profile").unwrap_or("debug") };
    let folder = if profile == "dev" { "debug" } else { profile };
    let prefix = if release { "CARGO_PROFILE_RELEASE_DEBUG=line-tables-only " } else { "" };
    let rest = if program.is_empty() { String::new() } else { format!(" {}", join(program)) };
    let subcommand = own.iter().find(|a| !a.starts_with(['-', '+'])).map_or("", String::as_str);
    let others: Vec<String> = own.iter().filter(|a| a.as_str() != subcommand).cloned().collect();
    let others = if others.is_empty() { String::new() } else { format!(" {}", join(&others)) };
    match subcommand {
        "test" | "t" | "bench" | "nextest" => {
            let build = if subcommand == "bench" { "bench" } else { "test" };
            format!(
                "{prefix}cargo {build} --no-run{others} && conprof run -- ./target/{folder}/deps/<test binary it names>{rest}"
            )
        }
        "run" | "r" => {
            let binary = value_of(own, "--bin").map_or_else(package_name, str::to_string);
            let path = match value_of(own, "--example") {
                Some(example) => format!("examples/{example}"),
                None => binary,
            };
            format!("{prefix}cargo build{others} && conprof run -- ./target/{folder}/{path}{rest}")
        }
        _ => format!("cargo build && conprof run -- ./target/debug/{}", package_name()),
    }
}

fn shell(arguments: &[String]) -> Option<String> {
    match arguments.first().map(String::as_str) {
        Some("-c") => {
            let script = arguments.get(1)?;
            let simple = !script.contains(['|', ';', '&', '>', '<', '$', '`', '(', '\n']);
            Some(if simple {
                let script = script.strip_prefix("exec ").unwrap_or(script);
                format!("conprof run -- {script}")
            } else {
                format!(
                    "put `conprof run --` inside, before the program in question: sh -c {}",
                    quote(&format!("... conprof run -- PROGRAM ... # {script}"))
                )
            })
        }
        Some(script) if !script.starts_with('-') => {
            Some(format!("put `conprof run --` inside {}, before the program in question", quote(script)))
        }
        _ => None,
    }
}

/// Where the launched program stands among a launcher's arguments: after options with their values, assignments, and
/// `operands` operands of the launcher's own.
fn program_at(arguments: &[String], operands: usize) -> usize {
    const WITH_VALUE: [&str; 10] = ["-n", "-c", "-u", "-g", "-p", "-s", "-k", "-I", "-P", "-L"];
    let mut at = 0;
    while let Some(word) = arguments.get(at).filter(|word| word.starts_with('-') || word.contains('=')) {
        at += if WITH_VALUE.contains(&word.as_str()) { 2 } else { 1 };
    }
    (at + operands).min(arguments.len())
}

/// The arguments from the program on.
fn program_part(arguments: &[String]) -> Option<&[String]> {
    Some(&arguments[program_at(arguments, 0)..]).filter(|program| !program.is_empty())
}

fn prefix(name: &str, arguments: &[String]) -> Option<String> {
    let operands = usize::from(matches!(name, "timeout" | "taskset" | "chrt" | "flock"));
    let (own, program) = arguments.split_at(program_at(arguments, operands));
    if program.is_empty() {
        return None;
    }
    let own = if own.is_empty() { String::new() } else { format!(" {}", join(own)) };
    Some(format!("{name}{own} conprof run -- {}", join(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(command: &str) -> String {
        let words: Vec<OsString> = shell_words(command);
        suggestion(&words).map_or_else(|| "none".to_string(), |(_, advice)| advice)
    }

    fn shell_words(command: &str) -> Vec<OsString> {
        command.split('|').map(OsString::from).collect()
    }

    #[test]
    fn each_launcher_gets_its_command() {
        assert_eq!(advice("timeout|5|./app|x"), "timeout 5 conprof run -- ./app x");
        assert_eq!(advice("timeout|-k|2|5|./app"), "timeout -k 2 5 conprof run -- ./app");
        assert_eq!(advice("env|A=b|./app"), "env A=b conprof run -- ./app");
        assert_eq!(advice("nice|-n|5|./app"), "nice -n 5 conprof run -- ./app");
        assert_eq!(advice("/bin/sh|-c|./app 1 2"), "conprof run -- ./app 1 2");
        assert!(advice("bash|-c|./a > b").starts_with("put `conprof run --` inside"));
        assert_eq!(advice("bash"), "none");
        assert!(advice("cargo|test|--release|--|--nocapture").starts_with(
            "CARGO_PROFILE_RELEASE_DEBUG=line-tables-only cargo test --no-run --release && conprof run -- ./target/release/deps/"
        ));
        assert_eq!(advice("cargo|run|--bin|x|--|a b"), "cargo build --bin x && conprof run -- ./target/debug/x 'a b'");
        assert_eq!(advice("./app"), "none");
    }
}
