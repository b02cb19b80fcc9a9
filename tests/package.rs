//! The packed crate, installed from elsewhere, is one program that carries its shim.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RACY: &str = "
static mut HITS: u64 = 0;
#[inline(never)]
fn bump() { unsafe { HITS += 1 } }
fn main() {
    for thread in [std::thread::spawn(bump), std::thread::spawn(bump)] { thread.join().unwrap(); }
}
";

/// Cargo as from a shell: without what the cargo that runs this test told it.
fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(words);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO") && name != "CARGO_HOME" || name.starts_with("NEXTEST") || name == "RUSTFLAGS" {
            command.env_remove(name);
        }
    }
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The packed crate's folder below `folder`.
fn unpacked(folder: &Path) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let packing = folder.join("packing");
    // The registry's index needs the network; the crates themselves are there.
    let words = ["package", "--no-verify", "--allow-dirty", "--locked", "--offline", "--quiet"];
    succeed(cargo(&[&words[..], &["--manifest-path", text(&manifest), "--target-dir", text(&packing)]].concat()));
    let name = format!("conprof-{}", env!("CARGO_PKG_VERSION"));
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(packing.join(format!("package/{name}.crate"))).arg("-C").arg(folder);
    succeed(tar);
    folder.join(name)
}

#[test]
fn the_packed_crate_installs_and_finds_a_race() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = unpacked(folder.path());
    let root = folder.path().join("root");
    // The build's own folder is kept from one test run to the next.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
    let words = ["install", "--debug", "--locked", "--offline", "--quiet", "--no-track"];
    let places = ["--path", text(&source), "--root", text(&root), "--target-dir", text(&target)];
    succeed(cargo(&[&words[..], &places].concat()));
    std::fs::remove_dir_all(&source).expect("removed");
    let mut programs: Vec<String> = std::fs::read_dir(root.join("bin"))
        .expect("listed")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    programs.sort();
    assert_eq!(programs, ["cargo-conprof", "conprof"]);

    std::fs::write(folder.path().join("racy.rs"), RACY).expect("written");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-g", "racy.rs"]).current_dir(folder.path());
    succeed(rustc);
    let mut run = Command::new(root.join("bin/conprof"));
    run.args(["run", "--", "./racy"]).current_dir(folder.path()).env("XDG_CACHE_HOME", folder.path().join("cache"));
    let output = run.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(66), "{said}");
    assert!(said.contains("error[data-race]: `bump` writes `HITS`"), "{said}");
}
