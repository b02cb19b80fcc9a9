//! `conprof scan FILE`: what conprof understands of a binary, and what it cannot.

use crate::dwarf::{DebugInfo, load_sections};
use crate::elf::Image;
use crate::scan::primitives::{Catalogue, LockMarks, mark, operation_name};
use crate::scan::{Debuginfo, Function, ModuleScan, Policy, Site, class_name, scan_module};
use crate::wire::locks::{Operation, Type};
use crate::wire::site::{Order, SiteFlags};
use anyhow::Context as _;
use serde_json::{Value, json};
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
    let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scan = scan_module(&data, &|_, _| {})
        .map_err(|error| anyhow::anyhow!("{}: {error}; {}", file.display(), error.cure()))?;
    let marks = mark(&scan, &data, &Catalogue::built_in());
    let took = start.elapsed();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = if format.json {
        let mut object = summary(file, &scan, &marks, took);
        if format.sites {
            object["sites"] = with_places(&data, &scan, &marks, |rows| rows.iter().map(SiteRow::json).collect());
        }
        serde_json::to_writer_pretty(&mut out, &object).map_err(std::io::Error::from).and_then(|()| writeln!(out))
    } else if format.sites {
        with_places(&data, &scan, &marks, |rows| rows.iter().try_for_each(|row| row.print(&mut out)))
    } else {
        print_text(&mut out, file, &scan, &marks, took)
    };
    match written.and_then(|()| out.flush()) {
        // Nobody reads on, as with `conprof scan FILE | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => Ok(other.map(|()| ExitCode::SUCCESS)?),
    }
}

fn debuginfo_name(debuginfo: Debuginfo) -> &'static str {
    match debuginfo {
        Debuginfo::Stripped => "stripped",
        Debuginfo::SymbolsOnly => "symbols-only",
        Debuginfo::LineTables => "line-tables",
        Debuginfo::Full => "full",
    }
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::Unknown => "-",
        Order::Relaxed => "relaxed",
        Order::Acquire => "acquire",
        Order::Release => "release",
        Order::AcqRel => "acqrel",
        Order::SeqCst => "seqcst",
    }
}

fn flag_names(flags: SiteFlags) -> Vec<&'static str> {
    let names = [
        (SiteFlags::SPECULATIVE, "speculative"),
        (SiteFlags::FOREIGN, "foreign"),
        (SiteFlags::RESULT_UNUSED, "result-unused"),
        (SiteFlags::ORDERS_NOTHING, "orders-nothing"),
        (SiteFlags::RELEASE_ALWAYS, "release-always"),
        (SiteFlags::STACK, "stack"),
        (SiteFlags::BENIGN, "benign"),
    ];
    names.iter().filter(|(flag, _)| flags.has(*flag)).map(|&(_, name)| name).collect()
}

fn policy_counts(scan: &ModuleScan) -> [(&'static str, usize); 4] {
    let count = |wanted: fn(&Policy) -> bool| scan.functions.iter().filter(|f| wanted(&f.policy)).count();
    [
        ("instrumented", count(|policy| *policy == Policy::Instrument)),
        ("opaque", count(|policy| *policy == Policy::Opaque)),
        ("hooked", count(|policy| matches!(policy, Policy::Hooked(_)))),
        ("native", count(|policy| matches!(policy, Policy::Native(_)))),
    ]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print_text(
    out: &mut impl Write,
    file: &Path,
    scan: &ModuleScan,
    marks: &LockMarks,
    took: Duration,
) -> std::io::Result<()> {
    let suffices = !scan.degraded.iter().any(|degraded| degraded.check == "races");
    for degraded in &scan.degraded {
        writeln!(out, "{} can't be checked: {}\n  cure: {}\n", degraded.check, degraded.reason, degraded.cure)?;
    }
    let verdict = if suffices { "suffices for races" } else { "does NOT suffice for races" };
    writeln!(out, "file          {}", file.display())?;
    writeln!(out, "build id      {}", hexadecimal(&scan.build_id))?;
    writeln!(out, "linkage       {}", if scan.is_pie { "position-independent" } else { "fixed address" })?;
    writeln!(out, "debuginfo     {} ({verdict})", debuginfo_name(scan.debuginfo))?;
    for producer in &scan.producers {
        writeln!(out, "compiled by   {producer}")?;
    }
    writeln!(out, "instructions  {}", scan.tally.instructions)?;
    writeln!(out, "functions     {}", scan.functions.len())?;
    for (policy, count) in policy_counts(scan) {
        writeln!(out, "  {count:>9}  {policy}")?;
    }
    writeln!(out, "accesses")?;
    for (class, count) in &scan.tally.accesses_by_class {
        writeln!(out, "  {count:>9}  {class}")?;
    }
    writeln!(out, "not checked")?;
    for (reason, count) in scan.tally.skipped_by_reason.iter().filter(|&(_, &count)| count > 0) {
        writeln!(out, "  {count:>9}  {reason}")?;
    }
    let (known, all) = (scan.tally.orders_known, scan.tally.atomics);
    let share = if all == 0 { 100.0 } else { known as f64 / all as f64 * 100.0 };
    writeln!(out, "orderings     {share:.1} % of {all} atomic accesses")?;
    writeln!(out, "lock operations")?;
    for ((primitive, operation), count) in marks.counts() {
        writeln!(out, "  {count:>9}  {primitive} {operation}")?;
    }
    writeln!(out, "took          {} ms", took.as_millis())
}

fn summary(file: &Path, scan: &ModuleScan, marks: &LockMarks, took: Duration) -> Value {
    let degraded: Vec<Value> = scan
        .degraded
        .iter()
        .map(|degraded| json!({ "check": degraded.check, "reason": degraded.reason, "cure": degraded.cure }))
        .collect();
    let locks: Vec<Value> = marks
        .counts()
        .into_iter()
        .map(
            |((primitive, operation), count)| json!({ "primitive": primitive, "operation": operation, "count": count }),
        )
        .collect();
    json!({
        "file": file.display().to_string(),
        "build_id": hexadecimal(&scan.build_id),
        "pie": scan.is_pie,
        "debuginfo": debuginfo_name(scan.debuginfo),
        "degraded": degraded,
        "producers": scan.producers,
        "functions": scan.functions.len(),
        "functions_by_policy": policy_counts(scan).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "instructions": scan.tally.instructions,
        "accesses_by_class": scan.tally.accesses_by_class,
        "skipped_by_reason": scan.tally.skipped_by_reason,
        "atomics": scan.tally.atomics,
        "orders_known": scan.tally.orders_known,
        "locks": locks,
        "took_ms": took.as_millis() as u64,
    })
}

/// A site ready to print.
struct SiteRow<'a> {
    site: &'a Site,
    function: &'a Function,
    lock: Option<(Operation, Type)>,
    /// `file:line` of each function of the inline chain, innermost first.
    places: Vec<String>,
}

impl SiteRow<'_> {
    fn policy(&self) -> &'static str {
        match self.function.policy {
            Policy::Instrument => "instrumented",
            Policy::Opaque => "opaque",
            Policy::Hooked(_) => "hooked",
            Policy::Native(_) => "native",
        }
    }

    fn name(&self) -> String {
        format!("{:#}", rustc_demangle::demangle(&self.function.symbol))
    }

    /// Tab-separated: address, class, size, ordering, flags, lock operation, policy, function, places from the innermost out.
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let flags = flag_names(self.site.flags).join(",");
        let lock = match self.lock {
            Some((operation, lock)) => format!("{} {}", lock.name(), operation_name(operation)),
            None => String::new(),
        };
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        writeln!(
            out,
            "{:#x}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.site.pc.0,
            class_name(self.site.class),
            self.site.size,
            order_name(self.site.order),
            or_dash(&flags),
            or_dash(&lock),
            self.policy(),
            or_dash(&self.name()),
            or_dash(&self.places.join(" < ")),
        )
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "pc": self.site.pc.0,
            "class": class_name(self.site.class),
            "size": self.site.size,
            "policy": self.policy(),
            "function": self.name(),
            "places": self.places,
            "flags": flag_names(self.site.flags),
        });
        if self.site.order != Order::Unknown {
            object["order"] = order_name(self.site.order).into();
        }
        if let Some((operation, lock)) = self.lock {
            object["lock"] = json!({ "primitive": lock.name(), "operation": operation_name(operation) });
        }
        object
    }
}

/// Looks up where every site's code comes from, and hands the rows over.
fn with_places<R>(data: &[u8], scan: &ModuleScan, marks: &LockMarks, use_rows: impl FnOnce(&[SiteRow<'_>]) -> R) -> R {
    let image = Image::parse(data).ok();
    let sections = image.as_ref().map(load_sections);
    let debug = image.as_ref().zip(sections.as_ref()).map(|(i, sections)| DebugInfo::parse(i, sections, &|_, _| {}));
    let places = |pc: u64| -> Vec<String> {
        let Some(debug) = &debug else { return Vec::new() };
        let place = debug.place(pc);
        let chain: Vec<_> = debug.frames(&place).map(|frame| format!("{}:{}", frame.file.path(), frame.line)).collect();
        match place.row {
            Some((file, line)) if chain.is_empty() => vec![format!("{}:{line}", file.path())],
            _ => chain,
        }
    };
    let sites = scan.functions.iter().flat_map(|function| function.sites.iter().map(move |site| (function, site)));
    let found: Vec<SiteRow<'_>> = sites
        .map(|(function, site)| SiteRow { site, function, lock: marks.at(site.pc.0), places: places(site.pc.0) })
        .collect();
    use_rows(&found)
}
