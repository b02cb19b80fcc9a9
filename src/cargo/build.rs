//! How cargo is to be called so that what it builds and runs is checked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the folder below cargo's target folder that checked builds go into.
const BUILD_FOLDER: &str = "conprof-build";
/// Subcommands that end at the first failing binary unless told otherwise.
const FAIL_FAST: [&str; 2] = ["test", "nextest"];

/// A command line of `cargo conprof`, as far as conprof looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    /// `+toolchain`, if given.
    pub toolchain: Option<OsString>,
    /// `run`, `test`, `bench` or `nextest`.
    pub subcommand: String,
    /// The rest.
    pub arguments: Vec<OsString>,
}

/// What to execute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Arguments for cargo.
    pub arguments: Vec<OsString>,
    /// Variables to set.
    pub environment: Vec<(String, OsString)>,
}

impl Invocation {
    /// Takes the words after `cargo conprof`.
    ///
    /// # Errors
    /// A subcommand that runs nothing.
    pub fn parse(words: &[OsString]) -> Result<Invocation, String> {
        let mut words = words.iter().peekable();
        let toolchain = words.next_if(|word| word.to_string_lossy().starts_with('+')).cloned();
        let subcommand = words.next().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        match subcommand.as_str() {
            "run" | "r" | "test" | "t" | "bench" | "nextest" => {}
            "" => return Err("say what cargo is to do: cargo conprof run, test, bench or nextest".to_owned()),
            other => {
                return Err(format!("`cargo {other}` runs no program; use cargo conprof run, test, bench or nextest"));
            }
        }
        let subcommand = match subcommand.as_str() {
            "r" => "run".to_owned(),
            "t" => "test".to_owned(),
            _ => subcommand,
        };
        Ok(Invocation { toolchain, subcommand, arguments: words.cloned().collect() })
    }

    /// Words that belong to cargo, not to the programs.
    fn own(&self) -> impl Iterator<Item = (usize, &OsString)> {
        self.arguments.iter().enumerate().take_while(|(_, word)| *word != "--")
    }

    /// The value of an option given as `--name value` or `--name=value`.
    pub fn option(&self, name: &str) -> Option<OsString> {
        let joined = format!("{name}=");
        self.own().find_map(|(index, word)| {
            if word == name {
                return self.arguments.get(index + 1).cloned();
            }
            word.to_str()?.strip_prefix(&joined).map(OsString::from)
        })
    }

    fn has(&self, names: &[&str]) -> bool {
        self.own().any(|(_, word)| names.iter().any(|name| word == name))
    }

    /// What to execute. `target` is cargo's target folder, `runner` the words that run a program under conprof,
    /// `env` the environment as it is: what the user set stays.
    ///
    /// # Errors
    /// A path with a blank in `runner`, which cargo would split.
    pub fn plan(
        &self,
        target: &Path,
        runner: &[String],
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Plan, String> {
        if let Some(word) = runner.iter().find(|word| word.contains(char::is_whitespace)) {
            return Err(format!(
                "`{word}` has a blank in its path, which cargo's runner setting can't express; move it"
            ));
        }
        let mut plan = Plan::default();
        plan.arguments.extend(self.toolchain.clone());
        plan.arguments.push(self.subcommand.clone().into());
        let mut rest = self.arguments.as_slice();
        if self.subcommand == "nextest" {
            let (verb, others) = match rest.split_first() {
                Some((verb, others)) if verb == "run" || verb == "r" => (verb.clone(), others),
                _ => return Err("say `cargo conprof nextest run`".to_owned()),
            };
            plan.arguments.push(verb);
            rest = others;
        }
        let fails_fast = FAIL_FAST.contains(&self.subcommand.as_str());
        if fails_fast && !self.has(&["--no-fail-fast", "--fail-fast", "--ff", "--nff", "--no-run", "--max-fail"]) {
            plan.arguments.push("--no-fail-fast".into());
        }
        plan.arguments.extend(rest.iter().cloned());

        let mut set = |name: String, value: OsString| {
            if env(&name).is_none() {
                plan.environment.push((name, value));
            }
        };
        for profile in self.profiles() {
            let debug = if matches!(profile.as_str(), "DEV" | "TEST") { "full" } else { "line-tables-only" };
            set(format!("CARGO_PROFILE_{profile}_DEBUG"), debug.into());
            set(format!("CARGO_PROFILE_{profile}_STRIP"), "none".into());
            set(format!("CARGO_PROFILE_{profile}_SPLIT_DEBUGINFO"), "off".into());
        }
        if self.option("--target-dir").is_none() {
            plan.environment.push(("CARGO_TARGET_DIR".to_owned(), target.join(BUILD_FOLDER).into()));
        }
        plan.environment.push(("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER".to_owned(), runner.join(" ").into()));
        Ok(plan)
    }

    /// The profiles that may be built, as they stand in names of variables.
    fn profiles(&self) -> Vec<String> {
        let mut profiles = vec!["DEV".to_owned(), "TEST".to_owned(), "RELEASE".to_owned(), "BENCH".to_owned()];
        let named = self.option("--profile").or_else(|| self.option("--cargo-profile"));
        if let Some(name) = named.and_then(|name| name.into_string().ok()) {
            let name = name.to_ascii_uppercase().replace('-', "_");
            if !profiles.contains(&name) {
                profiles.push(name);
            }
        }
        profiles
    }

    /// Arguments of `cargo metadata` that find the same workspace.
    pub fn metadata_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = self.toolchain.clone().into_iter().collect();
        arguments.extend(["metadata", "--no-deps", "--format-version", "1"].map(OsString::from));
        if let Some(manifest) = self.option("--manifest-path") {
            arguments.extend([OsString::from("--manifest-path"), manifest]);
        }
        arguments
    }

    /// The target folder that the user asked for, if any.
    pub fn target_option(&self) -> Option<PathBuf> {
        self.option("--target-dir").map(PathBuf::from)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn plan(words: &[&str], set: &[&str]) -> Result<Plan, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let runner = ["/bin/conprof".to_owned(), "run".to_owned(), "--".to_owned()];
        let env = |name: &str| set.contains(&name).then(|| OsString::from("theirs"));
        Invocation::parse(&words)?.plan(Path::new("/t"), &runner, &env)
    }

    fn variable(plan: &Plan, name: &str) -> Option<String> {
        plan.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string_lossy().into_owned())
    }

    #[test]
    fn tests_run_to_the_end_with_debuginfo() {
        let plan = plan(&["+nightly", "test", "--workspace", "--", "--nocapture"], &["CARGO_PROFILE_DEV_STRIP"])
            .expect("a plan");
        assert_eq!(plan.arguments, ["+nightly", "test", "--no-fail-fast", "--workspace", "--", "--nocapture"]);
        assert_eq!(variable(&plan, "CARGO_PROFILE_RELEASE_DEBUG").as_deref(), Some("line-tables-only"));
        assert_eq!(variable(&plan, "CARGO_PROFILE_DEV_DEBUG").as_deref(), Some("full"));
        assert_eq!(variable(&plan, "CARGO_PROFILE_DEV_STRIP"), None, "the user's own setting stays");
        assert_eq!(variable(&plan, "CARGO_TARGET_DIR").as_deref(), Some("/t/conprof-build"));
        let runner = variable(&plan, "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER");
        assert_eq!(runner.as_deref(), Some("/bin/conprof run --"));
    }

    #[test]
    fn nextest_and_custom_profiles_are_known() {
        let plan = plan(&["nextest", "run", "--cargo-profile=release-lto", "--fail-fast"], &[]).expect("a plan");
        assert_eq!(plan.arguments, ["nextest", "run", "--cargo-profile=release-lto", "--fail-fast"]);
        assert!(variable(&plan, "CARGO_PROFILE_RELEASE_LTO_DEBUG").is_some());
    }

    #[test]
    fn what_runs_nothing_is_refused() {
        assert!(plan(&["build"], &[]).is_err_and(|why| why.contains("cargo build")));
        assert!(plan(&[], &[]).is_err());
        assert!(plan(&["nextest", "list"], &[]).is_err());
        assert_eq!(plan(&["t", "--target-dir", "x"], &[]).map(|plan| variable(&plan, "CARGO_TARGET_DIR")), Ok(None));
    }
}
