//! `conprof scan FILE`: what conprof understands of a binary, and what it cannot.

use crate::scan::{Debuginfo, ModuleScan, Policy, class_name, scan_module};
use anyhow::Context as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How the result is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// One JSON object instead of text.
    pub json: bool,
    /// Every site with its function, place and class.
    pub sites: bool,
}

/// Scans a file and prints to stdout.
///
/// # Errors
///
/// The file can't be read, or is not a program that conprof can check; the message holds the cure.
pub fn run(file: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let opened = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    // SAFETY: the map is only read; a file truncated meanwhile ends conprof with SIGBUS, as with every linker and debugger.
    let data = unsafe { memmap2::Mmap::map(&opened) }.with_context(|| format!("cannot read {}", file.display()))?;
    let scan = scan_module(&data, &|_, _| {})
        .map_err(|error| anyhow::anyhow!("{}: {error}: {}", file.display(), error.cure()))?;
    let took = start.elapsed();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    print_text(&mut out, file, &scan, took)?;
    if format.sites {
        print_sites(&mut out, &scan)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn debuginfo_name(debuginfo: Debuginfo) -> &'static str {
    match debuginfo {
        Debuginfo::Stripped => "stripped",
        Debuginfo::SymbolsOnly => "symbols-only",
        Debuginfo::LineTables => "line-tables",
        Debuginfo::Full => "full",
    }
}

fn print_text(out: &mut impl Write, file: &Path, scan: &ModuleScan, took: Duration) -> std::io::Result<()> {
    for degraded in &scan.degraded {
        writeln!(out, "{}: {}\n  cure: {}", degraded.check, degraded.reason, degraded.cure)?;
    }
    writeln!(out, "file        {}", file.display())?;
    writeln!(out, "debuginfo   {}", debuginfo_name(scan.debuginfo))?;
    let native = scan.functions.iter().filter(|function| matches!(function.policy, Policy::Native(_))).count();
    writeln!(out, "functions   {} ({native} stay native)", scan.functions.len())?;
    writeln!(out, "instructions {}", scan.tally.instructions)?;
    writeln!(out, "accesses by class")?;
    for (class, count) in &scan.tally.accesses_by_class {
        writeln!(out, "  {count:>9}  {class}")?;
    }
    writeln!(out, "skipped by reason")?;
    for (reason, count) in &scan.tally.skipped_by_reason {
        writeln!(out, "  {count:>9}  {reason}")?;
    }
    writeln!(out, "orders recovered {} of {}", scan.tally.orders_known, scan.tally.atomics)?;
    writeln!(out, "took        {} ms", took.as_millis())
}

fn print_sites(out: &mut impl Write, scan: &ModuleScan) -> std::io::Result<()> {
    for function in &scan.functions {
        for site in &function.sites {
            writeln!(out, "{:#x} {} {} {}", site.pc.0, class_name(site.class), site.size, function.symbol)?;
        }
    }
    Ok(())
}
