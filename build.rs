//! Builds the shim with an inner cargo and hands its path to `include_bytes!` as `CONPROF_SHIM_SO`.
//!
//! The shim's packages have manifests of their own, and cargo leaves such folders out of a packed crate.
//! So their sources come in through symbolic links under `src/` and `shim/`, which a packed crate contains as
//! files, and are laid out as a workspace in `OUT_DIR` here, in the repository and in a packed crate alike.
//! The inner build is locked, has a target folder of its own, and does not see the outer one's flags.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// What goes where: source under the package's root, destination under the staged workspace.
const STAGED: [(&str, &str); 8] = [
    ("shim/workspace.toml", "Cargo.toml"),
    ("shim/workspace.lock", "Cargo.lock"),
    ("shim/instrument.toml", "instrument/Cargo.toml"),
    ("shim/wire.toml", "instrument/wire/Cargo.toml"),
    ("shim/detect.toml", "instrument/detect/Cargo.toml"),
    ("shim/src", "instrument/src"),
    ("src/wire", "instrument/wire/src"),
    ("src/detect", "instrument/detect/src"),
];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Flags of the shim's code. `noimplicitfloat` keeps the compiler from using vector registers for copies and
/// comparisons, so that the stubs need not save them; a test of the built library asserts it.
const RUSTFLAGS: [&str; 16] = [
    "-Cpanic=abort",
    "-Cpasses=forceattrs",
    "-Cllvm-args=-force-attribute=noimplicitfloat",
    "-Cno-vectorize-loops",
    "-Cno-vectorize-slp",
    "-Ctarget-cpu=x86-64",
    "-Cforce-unwind-tables=yes",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-Wl,-soname,libconprof-shim.so",
    "-Clink-arg=-Wl,-z,initfirst",
    "-Clink-arg=-Wl,-z,now",
    // An undefined symbol is an error: that is how a reachable panic is found.
    "-Clink-arg=-Wl,-z,defs",
    "-Clink-arg=-Wl,-z,nodelete",
    "-Clink-arg=-Wl,-Bsymbolic",
    "-Clink-arg=-Wl,--gc-sections",
    "-Clink-arg=-Wl,--build-id=none",
];

fn main() {
    if let Err(error) = build() {
        println!("cargo::error=building conprof's in-process shim failed: {error}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let root = path_variable("CARGO_MANIFEST_DIR")?;
    let out = path_variable("OUT_DIR")?;
    println!("cargo::rerun-if-changed=build.rs");
    for (source, _) in STAGED {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=CARGO_NET_OFFLINE");
    if env::var("TARGET").as_deref() != Ok(TARGET) {
        return Err(format!("only {TARGET} is supported"));
    }
    let staged = out.join("shim");
    for (source, destination) in STAGED {
        stage(&root.join(source), &staged.join(destination))
            .map_err(|error| format!("cannot stage {source}: {error}"))?;
    }
    let target = out.join("shim-target");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--package", "conprof-instrument", "--target", TARGET])
        .arg("--manifest-path")
        .arg(staged.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&staged);
    for (name, _) in env::vars_os() {
        if is_outer(&name) {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"));
    let output = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("inner cargo: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let library = target.join(TARGET).join("release/libconprof_instrument.so");
    if !library.is_file() {
        return Err(format!("{} was not built", library.display()));
    }
    println!("cargo::rustc-env=CONPROF_SHIM_SO={}", library.display());
    Ok(())
}

fn path_variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"))
}

/// Whether a variable comes from the outer build and would change the inner one: flags, wrappers such as
/// clippy's and miri's, profiles, target settings. Where crates come from and how cargo reaches them stays.
fn is_outer(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    const KEPT: [&str; 3] = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"];
    if KEPT.contains(&name) || name.starts_with("CARGO_REGISTR") || name.starts_with("CARGO_SOURCE") {
        return false;
    }
    name.starts_with("CARGO")
        || name.starts_with("RUSTC")
        || name.starts_with("CLIPPY")
        || name.starts_with("MIRI")
        || name == "RUSTFLAGS"
        || name == "RUSTDOCFLAGS"
        || name == "TARGET"
        || name == "PROFILE"
        || name == "LD_PRELOAD"
        || name == "__CARGO_DEFAULT_LIB_METADATA"
}

/// Copies a file, or a folder with all its Rust sources, where the content differs, so that the inner cargo
/// sees no change where there is none.
fn stage(source: &Path, destination: &Path) -> io::Result<()> {
    if !fs::metadata(source)?.is_dir() {
        if let Some(folder) = destination.parent() {
            fs::create_dir_all(folder)?;
        }
        let content = fs::read(source)?;
        if fs::read(destination).ok().as_deref() != Some(&content) {
            fs::write(destination, content)?;
        }
        return Ok(());
    }
    fs::create_dir_all(destination)?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        stage(&entry.path(), &destination.join(entry.file_name()))?;
        kept.push(entry.file_name());
    }
    for entry in fs::read_dir(destination)? {
        let entry = entry?;
        if !kept.contains(&entry.file_name()) {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}
