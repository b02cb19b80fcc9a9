//! Configuration: defaults for the options of `run`, from `conprof.toml` and from `CONPROF_OPTIONS`.
//!
//! ```text
//! built-in < conprof.toml (found upwards from the current folder) < CONPROF_OPTIONS < command line
//! ```
//!
//! The command line's own definition is the list of keys: each long option of `run` is a key of the file and of the
//! variable, so that no option can be forgotten. The settings become the options' default values; a command line
//! overrules them as it overrules any default. An unknown key is a warning that names it; a wrong value is an error
//! that says where it stands.

mod environment;
pub mod tsan_keys;

use clap::builder::OsStr;
use clap::{Arg, ArgAction, Command, ValueHint};
use std::path::{Path, PathBuf};
use tsan_keys::Support;

/// Name of the file.
pub const FILE_NAME: &str = "conprof.toml";
/// Name of the variable.
pub const VARIABLE: &str = "CONPROF_OPTIONS";

/// Options that make no sense as a default.
const NOT_CONFIGURABLE: [&str; 2] = ["help", "command"];

/// The option that rows of `[[lock]]` become values of.
const LOCK_ROW: &str = "lock-row";

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This file.
    File(PathBuf),
    /// [`VARIABLE`].
    Environment,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment => f.write_str(VARIABLE),
        }
    }
}

/// A default for one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The option's identity in the command line's definition.
    pub id: String,
    /// Values, as they would stand on a command line.
    pub values: Vec<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Everything configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Settings, the stronger ones later.
    pub settings: Vec<Setting>,
    /// Sentences about keys that are not understood.
    pub warnings: Vec<String>,
    /// Rows of `[[lock]]`: further lock types, as the lock catalogue reads them.
    pub locks: Vec<toml::Table>,
    /// The file that was read, where there is one.
    pub file: Option<PathBuf>,
    /// `help=1` was asked for.
    pub help: bool,
}

impl Config {
    /// Reads the file above `folder` and the variable's value. `run` defines the options.
    ///
    /// # Errors
    /// A file that can't be read or is no TOML, or a value that its option refuses; with the place.
    pub fn load(folder: &Path, variable: Option<&str>, run: &Command) -> Result<Config, String> {
        let mut config = Config::default();
        if let Some(file) = find_file(folder) {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            config.add_file(&file, &text, run)?;
        }
        if let Some(text) = variable {
            config.add_variable(text, run)?;
        }
        Ok(config)
    }

    /// Adds the text of a `conprof.toml`.
    ///
    /// # Errors
    /// Text that is no TOML, or a value that its option refuses.
    pub fn add_file(&mut self, file: &Path, text: &str, run: &Command) -> Result<(), String> {
        let origin = Origin::File(file.to_owned());
        self.file = Some(file.to_owned());
        let table: toml::Table = text.parse().map_err(|error| format!("{origin}: {error}"))?;
        for (key, value) in table {
            if key == "lock" {
                match value.try_into::<Vec<toml::Table>>() {
                    Ok(locks) => {
                        let mut rows = Vec::new();
                        for lock in &locks {
                            rows.extend(lock_rows(lock).map_err(|why| format!("{origin}: [[lock]]: {why}"))?);
                        }
                        if let Some(option) = find_option(run, LOCK_ROW) {
                            self.add(option, rows, origin.clone())?;
                        }
                        self.locks = locks;
                    }
                    Err(_) => self.warnings.push(format!("{origin}: `lock` is no list of tables; write [[lock]]")),
                }
                continue;
            }
            let Some(option) = find_option(run, &key) else {
                self.warnings.push(unknown(&origin, &key, run));
                continue;
            };
            let folder = file.parent().unwrap_or(Path::new("."));
            let values = toml_values(&value)
                .ok_or_else(|| format!("{origin}: `{key}` needs a text, a number, true or false, or a list of these"))?
                .into_iter()
                .map(|value| if is_path(option) { folder.join(value).display().to_string() } else { value })
                .collect();
            self.add(option, values, origin.clone())?;
        }
        Ok(())
    }

    /// Adds the value of [`VARIABLE`].
    ///
    /// # Errors
    /// A value that its option refuses.
    pub fn add_variable(&mut self, text: &str, run: &Command) -> Result<(), String> {
        let origin = Origin::Environment;
        for (key, value) in environment::pairs(text) {
            if key == "help" {
                self.help = value.as_deref() != Some("0");
                continue;
            }
            let Some(value) = value else {
                self.warnings.push(format!("{origin}: `{key}` has no value; write {key}=..."));
                continue;
            };
            let (name, value) = match tsan_keys::lookup(&key) {
                None => (key.clone(), value),
                Some(Support::Same(option)) => (option.to_owned(), value),
                Some(Support::Mapped(option, _)) => match mapped(&key, &value) {
                    Ok(Some(value)) => (option.to_owned(), value),
                    Ok(None) => continue,
                    Err(why) => {
                        self.warnings.push(format!("{origin}: `{key}={value}`: {why}"));
                        continue;
                    }
                },
                Some(Support::Always(accepted, how)) => {
                    if value != accepted && parse_bool(&value) != parse_bool(accepted) {
                        self.warnings.push(format!("{origin}: `{key}={value}` is not supported: {how}"));
                    }
                    continue;
                }
                Some(Support::No(why)) => {
                    self.warnings.push(format!("{origin}: `{key}` is not supported: {why}"));
                    continue;
                }
            };
            match find_option(run, &name) {
                Some(option) => self.add(option, vec![value], origin.clone())?,
                None => self.warnings.push(unknown(&origin, &key, run)),
            }
        }
        Ok(())
    }

    fn add(&mut self, option: &Arg, mut values: Vec<String>, origin: Origin) -> Result<(), String> {
        if matches!(option.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
            for value in &mut values {
                let flag = parse_bool(value)
                    .ok_or_else(|| format!("{origin}: `{}` is true or false, not `{value}`", option.get_id()))?;
                *value = flag.to_string();
            }
        } else if !matches!(option.get_action(), ArgAction::Count) {
            check(option, &values).map_err(|why| format!("{origin}: {why}"))?;
        }
        let id = option.get_id().to_string();
        if values.is_empty() {
            self.warnings.push(format!("{origin}: `{id}` is an empty list and has no effect"));
            return Ok(());
        }
        self.settings.retain(|setting| setting.id != id);
        self.settings.push(Setting { id, values, origin });
        Ok(())
    }

    /// Makes the settings the default values of the options of `run`, or of a subcommand that shares some of them.
    pub fn install(&self, mut run: Command) -> Command {
        let known: Vec<String> = run.get_arguments().map(|option| option.get_id().to_string()).collect();
        for setting in self.settings.iter().filter(|setting| known.contains(&setting.id)) {
            let values: Vec<OsStr> = setting.values.iter().map(|value| OsStr::from(value.clone())).collect();
            run = run.mut_arg(&setting.id, |arg| arg.default_values(values));
        }
        run
    }

    /// Where the default of an option comes from; `None` for the built-in one.
    pub fn origin(&self, id: &str) -> Option<&Origin> {
        self.settings.iter().find(|setting| setting.id == id).map(|setting| &setting.origin)
    }
}

/// The nearest `conprof.toml` in `folder` or above it.
pub fn find_file(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().map(|folder| folder.join(FILE_NAME)).find(|file| file.is_file())
}

/// The rows of the lock catalogue that a `[[lock]]` means. Keys are operations, their values functions: those with `::` are
/// known by their path, the others are inlined and in `file`. `name` alone stands for its `lock` and `unlock`.
fn lock_rows(lock: &toml::Table) -> Result<Vec<String>, String> {
    let text = |key: &str| lock.get(key).and_then(toml::Value::as_str);
    let mut rows = Vec::new();
    for (key, value) in lock.iter().filter(|(key, _)| !matches!(key.as_str(), "name" | "file")) {
        let functions = toml_values(value).ok_or_else(|| format!("`{key}` needs a function or a list of them"))?;
        for function in functions {
            rows.push(match (function.contains("::"), text("file")) {
                (true, _) => format!("function {function} {key} always user"),
                (false, Some(file)) => format!("inline {function} {file} {key} always user"),
                (false, None) => return Err(format!("`{function}` is inlined: say in which `file`")),
            });
        }
    }
    if rows.is_empty() {
        let name = text("name").ok_or("give a `name`, or operations with their functions")?;
        rows.push(format!("function {name}::lock lock-exclusive always user"));
        rows.push(format!("function {name}::unlock unlock-exclusive always user"));
    }
    let mut tried = crate::scan::primitives::Catalogue::default();
    tried.add(&rows.join("\n")).map_err(|error| error.reason)?;
    Ok(rows)
}

/// The option with this long name, written with `-` or `_`.
fn find_option<'a>(run: &'a Command, key: &str) -> Option<&'a Arg> {
    let name = key.replace('_', "-");
    configurable(run).find(|option| option.get_long() == Some(name.as_str()))
}

/// The options that may be configured.
pub fn configurable(run: &Command) -> impl Iterator<Item = &Arg> {
    run.get_arguments().filter(|option| option.get_long().is_some_and(|name| !NOT_CONFIGURABLE.contains(&name)))
}

fn unknown(origin: &Origin, key: &str, run: &Command) -> String {
    let name = key.replace('_', "-");
    let near = configurable(run)
        .filter_map(Arg::get_long)
        .map(|long| (distance(long, &name), long))
        .min()
        .filter(|(distance, _)| *distance <= 3 && *distance * 2 <= name.len())
        .map_or(String::new(), |(_, long)| format!("; did you mean `{long}`?"));
    format!("{origin}: unknown key `{key}` is ignored{near}")
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

fn toml_values(value: &toml::Value) -> Option<Vec<String>> {
    Some(match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Float(number) => vec![number.to_string()],
        toml::Value::Boolean(flag) => vec![flag.to_string()],
        toml::Value::Array(items) => items.iter().map(toml_values).collect::<Option<Vec<_>>>()?.concat(),
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

fn is_path(option: &Arg) -> bool {
    matches!(option.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath)
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The value for conprof's option of a key that is mapped; `None` where it asks for the default.
fn mapped(key: &str, value: &str) -> Result<Option<String>, String> {
    match key {
        "log_path" => match value {
            "" | "stderr" => Ok(None),
            "stdout" => Err("stdout belongs to the program; conprof writes to stderr".to_owned()),
            path => Ok(Some(format!("{path}.{}", std::process::id()))),
        },
        "history_size" => match value.parse::<u32>() {
            Ok(size @ 0..=7) => Ok(Some((32_768_u64 << size).to_string())),
            _ => Err("give 0 to 7".to_owned()),
        },
        "verbosity" => match value.parse::<u8>() {
            Ok(level) => Ok(Some(level.to_string())),
            Err(_) => Err("give a number".to_owned()),
        },
        _ => Ok(Some(value.to_owned())),
    }
}

/// Whether the option accepts the values, tried on a command line of its own.
fn check(option: &Arg, values: &[String]) -> Result<(), String> {
    let long = option.get_long().unwrap_or_default();
    let tried = Command::new("run").arg(option.clone().required(false));
    let arguments = values.iter().map(|value| format!("--{long}={value}"));
    let arguments: Vec<String> = if matches!(option.get_action(), ArgAction::Append) {
        arguments.collect()
    } else {
        vec![format!("--{long}={}", values.join(","))]
    };
    match tried.try_get_matches_from(std::iter::once("run".to_owned()).chain(arguments)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}
