//! Builds the programs, once: an existing one of the right version stays.

use crate::target;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tools: program, package, version.
const TOOLS: &[(&str, &str, &str)] = &[("rg", "ripgrep", "15.2.0"), ("fd", "fd-find", "10.5.0")];

/// Crates whose tests run: package, version.
const CRATES: &[(&str, &str)] = &[
    ("crossbeam-channel", "0.5.17"),
    ("crossbeam-deque", "0.8.8"),
    ("crossbeam-utils", "0.8.23"),
    ("once_cell", "1.21.4"),
    ("parking_lot", "0.12.5"),
    ("dashmap", "6.2.1"),
];

/// A tool's program, with line tables and not stripped.
pub fn tool(name: &str) -> Result<PathBuf, String> {
    let &(_, package, version) =
        TOOLS.iter().find(|(program, ..)| *program == name).ok_or(format!("no tool {name}"))?;
    let root = target().join(format!("{package}-{version}"));
    let program = root.join("bin").join(name);
    let _lock = lock(package)?;
    if !program.exists() {
        let mut command = cargo();
        command.args(["install", "--quiet", "--locked", package, "--version", version]).arg("--root").arg(&root);
        run(&mut command)?;
    }
    Ok(program)
}

/// The tree of sources that the tools go through: cargo's registry, where conprof's own dependencies lie.
pub fn source_tree() -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let package = package_folder(&manifest, "iced-x86")?;
    package.parent().map(Path::to_path_buf).ok_or(format!("{} has no parent", package.display()))
}

/// The test binary of a crate's test target; `lib` is that of its unit tests.
pub fn test_binary(package: &str, test: &str) -> Result<PathBuf, String> {
    let &(_, version) = CRATES.iter().find(|(name, _)| *name == package).ok_or(format!("no crate {package}"))?;
    let root = target().join(format!("{package}-{version}"));
    let _lock = lock(package)?;
    let list = root.join("tests.json");
    if !list.exists() {
        let source = fetch(package, version, &root)?;
        let mut command = cargo();
        command.args(["test", "--no-run", "--lib", "--tests", "--release", "--message-format=json"]);
        command.arg("--manifest-path").arg(source.join("Cargo.toml")).arg("--target-dir").arg(root.join("target"));
        fs::write(&list, run(&mut command)?).map_err(|error| error.to_string())?;
    }
    let messages = fs::read_to_string(&list).map_err(|error| error.to_string())?;
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let is_lib = message["target"]["kind"][0] == "lib" && message["profile"]["test"] == true;
        let is_test = message["target"]["kind"][0] == "test" && message["target"]["name"] == test;
        if let Some(program) = message["executable"].as_str()
            && (is_test || (is_lib && test == "lib"))
        {
            return Ok(program.into());
        }
    }
    Err(format!("{package} has no test target {test}"))
}

/// Copies a crate's source out of cargo's registry, since it is built as a package of its own.
fn fetch(package: &str, version: &str, root: &Path) -> Result<PathBuf, String> {
    let io = |error: std::io::Error| error.to_string();
    let asking = root.join("asking");
    fs::create_dir_all(asking.join("src")).map_err(io)?;
    fs::write(asking.join("src/lib.rs"), "").map_err(io)?;
    let manifest = format!(
        "[package]\nname = \"asking\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{package} = \"={version}\"\n"
    );
    fs::write(asking.join("Cargo.toml"), manifest).map_err(io)?;
    let source = root.join("source");
    copy(&package_folder(&asking.join("Cargo.toml"), package)?, &source).map_err(io)?;
    let manifest = fs::read_to_string(source.join("Cargo.toml")).map_err(io)?;
    fs::write(source.join("Cargo.toml"), manifest + "\n[workspace]\n").map_err(io)?;
    Ok(source)
}

fn package_folder(manifest: &Path, package: &str) -> Result<PathBuf, String> {
    let output = run(cargo().args(["metadata", "--format-version", "1", "--manifest-path"]).arg(manifest))?;
    let metadata: Value = serde_json::from_str(&output).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let found = packages.iter().find(|found| found["name"] == package).ok_or(format!("no package {package}"))?;
    let path = Path::new(found["manifest_path"].as_str().unwrap_or_default());
    path.parent().map(Path::to_path_buf).ok_or("no manifest".into())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn lock(name: &str) -> Result<File, String> {
    fs::create_dir_all(target()).map_err(|error| error.to_string())?;
    let file = File::create(target().join(format!("{name}.lock"))).map_err(|error| error.to_string())?;
    file.lock().map_err(|error| error.to_string())?;
    Ok(file)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    command.env_remove("CARGO_TARGET_DIR");
    command
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
