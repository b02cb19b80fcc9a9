//! Reads back, from a probe compiled with the installed rustc, at which line of `core/src/sync/atomic.rs` each ordering has its arm,
//! and compares with the table that the scan uses. `BLESS=1` adds what is missing.

use conprof::dwarf::{DebugInfo, load_sections};
use conprof::elf::Image;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dwarf/orderings.txt");

const ORDERS: [(&str, &str); 5] = [
    ("relaxed", "Relaxed"),
    ("acquire", "Acquire"),
    ("release", "Release"),
    ("acqrel", "AcqRel"),
    ("seqcst", "SeqCst"),
];

/// One function per operation and ordering; the ordering is in its name.
fn probe_source() -> String {
    let mut source = String::from("use std::sync::atomic::*;\nfn main() {}\n");
    let mut function = |name: String, order: &str, types: &str, body: String| {
        writeln!(source, "#[unsafe(no_mangle)] #[inline(never)] pub extern \"C\" fn probe_{order}_{name}({types}) -> u64 {{ {body} }}")
            .expect("writing to a string");
    };
    for (order, variant) in ORDERS {
        let order_path = format!("Ordering::{variant}");
        if !matches!(order, "release" | "acqrel") {
            function("load".into(), order, "a: &AtomicU32", format!("u64::from(a.load({order_path}))"));
        }
        if !matches!(order, "acquire" | "acqrel") {
            function("store".into(), order, "a: &AtomicU32, v: u32", format!("a.store(v, {order_path}); 0"));
        }
        for operation in [
            "swap",
            "fetch_add",
            "fetch_sub",
            "fetch_and",
            "fetch_nand",
            "fetch_or",
            "fetch_xor",
            "fetch_max",
            "fetch_min",
        ] {
            let body = format!("u64::from(a.{operation}(v, {order_path}))");
            function(operation.into(), order, "a: &AtomicU32, v: u32", body);
            let body = format!("a.{operation}(v, {order_path}) as u64");
            function(format!("signed_{operation}"), order, "a: &AtomicI32, v: i32", body);
        }
        for operation in ["compare_exchange", "compare_exchange_weak"] {
            for failure in ["Relaxed", "Acquire", "SeqCst"] {
                let body = format!("a.{operation}(v, w, {order_path}, Ordering::{failure}).is_ok() as u64");
                function(format!("{operation}_{failure}"), order, "a: &AtomicU32, v: u32, w: u32", body);
            }
        }
    }
    source
}

/// Lines of the form `commit line ordering` for the toolchain that `rustc` is.
fn probe(rustc: &[&str], folder: &Path) -> BTreeSet<String> {
    let source = folder.join("probe.rs");
    let program = folder.join("probe");
    std::fs::write(&source, probe_source()).expect("the probe's source is written");
    let mut command = Command::new(rustc[0]);
    command.args(&rustc[1..]).args(["--edition=2024", "-Copt-level=3", "-Cdebuginfo=line-tables-only"]);
    // Dead functions would be left out of a program; identical ones would be merged.
    command.args(["-Clink-dead-code", "-Zmerge-functions=disabled"]).env("RUSTC_BOOTSTRAP", "1");
    let status = command.arg(&source).arg("-o").arg(&program).status().expect("rustc runs");
    assert!(status.success(), "the probe does not compile");
    let data = std::fs::read(&program).expect("the probe is there");
    let image = Image::parse(&data).expect("the probe is a program");
    let sections = load_sections(&image);
    let debug = DebugInfo::parse(&image, &sections, &|_, _| {});
    let scan = conprof::scan::scan_module(&data, &|_, _| {}).expect("the probe is scanned");
    let mut lines = BTreeSet::new();
    for function in &scan.functions {
        let Some(order) = function.symbol.strip_prefix("probe_").and_then(|rest| rest.split('_').next()) else {
            continue;
        };
        let atomics = function.sites.iter().filter(|site| conprof::scan::class_name(site.class).starts_with("atomic"));
        for site in atomics {
            let place = debug.place(site.pc.0);
            let commit = debug.unit_kind(&place).and_then(|kind| kind.rustc_commit()).expect("a rustc unit").to_owned();
            let innermost = debug.frames(&place).next().expect("a frame");
            if innermost.name.starts_with(b"atomic_") && innermost.line != 0 {
                lines.insert(format!("{commit} {} {order}", innermost.line));
            }
        }
    }
    lines
}

#[test]
fn table_agrees_with_the_installed_compiler() {
    let folder = tempfile::tempdir().expect("a folder");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let mut found = probe(&[&rustc], folder.path());
    assert!(found.len() >= 90, "the probe showed only {} arms", found.len());
    let table = std::fs::read_to_string(TABLE).expect("the table is there");
    let known: BTreeSet<String> = table.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    if std::env::var_os("BLESS").is_some() {
        for toolchain in std::env::var("CONPROF_PROBE_TOOLCHAINS").unwrap_or_default().split_whitespace() {
            found.extend(probe(&[&rustc, &format!("+{toolchain}")], folder.path()));
        }
        let header: String =
            table.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let lines: String = known.union(&found).map(|line| format!("{line}\n")).collect();
        std::fs::write(TABLE, header + &lines).expect("the table is written");
        return;
    }
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "not in the table (BLESS=1 adds it): {missing:?}");
}
