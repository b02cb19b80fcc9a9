//! Provides the shim that the host embeds.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let shim = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shim.so");
    std::fs::write(&shim, b"").expect("OUT_DIR is writable");
    println!("cargo::rustc-env=CONPROF_SHIM_SO={}", shim.display());
}
