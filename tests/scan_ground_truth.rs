//! Compares the scan with the compiler's own record of every machine instruction: LLVM prints after its last pass but one, beside
//! each instruction, the memory operands with their atomic ordering.

use conprof::dwarf::{DebugInfo, load_sections, plain_name};
use conprof::elf::{Image, Svma};
use conprof::scan::{Function, Site, scan_module};
use conprof::wire::site::{Class, Order, SiteFlags};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What LLVM says of an instruction's memory operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    /// No memory operand recorded.
    None,
    /// Not atomic.
    Plain,
    /// Atomic, with the (success) ordering.
    Atomic(Order),
}

/// Instructions by function, in the order of their layout.
fn parse(dump: &str) -> BTreeMap<String, Vec<Record>> {
    let mut functions = BTreeMap::new();
    let mut current: Option<(String, Vec<Record>)> = None;
    for line in dump.lines() {
        if let Some(rest) = line.strip_prefix("# Machine code for function ") {
            let name = rest.split(": ").next().unwrap_or_default();
            current = Some((name.to_owned(), Vec::new()));
        } else if line.starts_with("# End machine code") {
            functions.extend(current.take());
        } else if let (Some((_, records)), Some(text)) = (&mut current, line.strip_prefix("  "))
            && is_code(text)
        {
            records.push(record(text));
        }
    }
    functions
}

fn is_code(text: &str) -> bool {
    const PSEUDO: &[&str] = &[
        "CFI_INSTRUCTION",
        "EH_LABEL",
        "MEMBARRIER",
        "KILL",
        "DBG_",
        "IMPLICIT_DEF",
        "successors:",
        "liveins:",
        "fi#",
        "SEH_",
        "PSEUDO_PROBE",
        "LIFETIME_",
        "ANNOTATION_LABEL",
        "BUNDLE",
        "}",
        ";",
        "NOOP",
    ];
    let body = text.trim_start();
    let body =
        body.split(" = ").nth(1).filter(|_| !body.contains("::") || body.find(" = ") < body.find("::")).unwrap_or(body);
    let body = body.trim_start_matches("frame-setup ").trim_start_matches("frame-destroy ");
    !PSEUDO.iter().any(|pseudo| body.starts_with(pseudo))
        && !text.trim_start().starts_with("fi#")
        && !text.trim_start().starts_with("successors:")
        && !text.trim_start().starts_with("liveins:")
}

fn record(text: &str) -> Record {
    let Some((_, operands)) = text.split_once(" :: (") else { return Record::None };
    let words: Vec<&str> = operands.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    // The ordering stands between `load`/`store` and the type.
    let order =
        words.iter().take_while(|word| !word.starts_with('s') || word[1..].parse::<u32>().is_err()).find_map(|word| {
            Some(match *word {
                "unordered" | "monotonic" => Order::Relaxed,
                "acquire" => Order::Acquire,
                "release" => Order::Release,
                "acq_rel" => Order::AcqRel,
                "seq_cst" => Order::SeqCst,
                _ => return None,
            })
        });
    order.map_or(Record::Plain, Record::Atomic)
}

/// Instructions of a function in address order, without padding.
fn decode(image: &Image<'_>, function: &Function) -> Vec<Instruction> {
    let (Svma(start), Svma(end)) = (function.start, function.end);
    let Some(bytes) = image.range(start, end) else { return Vec::new() };
    let decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    decoder.into_iter().filter(|i| !matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)).collect()
}

#[derive(Debug, Default)]
struct Score {
    functions: usize,
    aligned: usize,
    atomic: usize,
    found: usize,
    unknown: usize,
    looked_plain: Vec<String>,
    skipped: Vec<String>,
    wrong_order: Vec<String>,
    order_known: usize,
    false_atomic: Vec<String>,
}

impl Score {
    fn compare(&mut self, function: &Function, instruction: &Instruction, record: Record, operation: &[u8]) {
        let site = function.sites.binary_search_by_key(&instruction.ip(), |site| site.pc.0);
        let site: Option<&Site> = site.ok().map(|at| &function.sites[at]);
        let place = format!("{:#x} in {}", instruction.ip(), function.symbol);
        let is_atomic = |class| matches!(class, Class::AtomicLoad | Class::AtomicStore | Class::AtomicRmw);
        let locked = instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
        match (record, site) {
            (Record::Atomic(order), site) => {
                self.atomic += 1;
                match site {
                    None => self.skipped.push(place),
                    Some(site) if is_atomic(site.class) => {
                        self.found += 1;
                        self.order_known += usize::from(site.order != Order::Unknown);
                        if site.order != Order::Unknown && site.order != order {
                            self.wrong_order.push(format!("{place}: {:?}, not {order:?}", site.order));
                        }
                    }
                    Some(site) if matches!(site.class, Class::Read | Class::Write | Class::ReadWrite) => {
                        self.looked_plain.push(place);
                    }
                    Some(_) => self.unknown += 1,
                }
            }
            (Record::Plain, Some(site)) if is_atomic(site.class) && !locked => {
                // LLVM writes the first load of a compare-exchange loop as a plain one, though it reads an atomic.
                let starts_loop = site.class == Class::AtomicLoad
                    && !matches!(operation, b"atomic_load" | b"atomic_store")
                    && !site.flags.has(SiteFlags::STACK);
                if !starts_loop {
                    self.false_atomic.push(place);
                }
            }
            _ => {}
        }
    }
}

fn score(flags: &[&str]) -> Score {
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scan_ground_truth/program.rs");
    let program = folder.path().join("program");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc)
        .args(["--edition=2024", "-Ccodegen-units=1", "-Cllvm-args=-print-after=unpack-mi-bundles"])
        .args(flags)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("rustc runs");
    assert!(output.status.success());
    let dump = String::from_utf8_lossy(&output.stderr);
    let records = parse(&dump);
    let data = std::fs::read(&program).expect("the program is there");
    let scan = scan_module(&data, &|_, _| {}).expect("it is scanned");
    let image = Image::parse(&data).expect("it is a program");
    let sections = load_sections(&image);
    let debug = DebugInfo::parse(&image, &sections, &|_, _| {});
    let mut score = Score { functions: records.len(), ..Score::default() };
    for function in &scan.functions {
        let Some(records) = records.get(&function.symbol) else { continue };
        let instructions = decode(&image, function);
        if instructions.len() != records.len() {
            continue;
        }
        score.aligned += 1;
        for (instruction, &record) in instructions.iter().zip(records) {
            let place = debug.place(instruction.ip());
            let operation = debug.frames(&place).next().map_or(&[][..], |frame| plain_name(frame.name));
            score.compare(function, instruction, record, operation);
        }
    }
    score
}

fn check(flags: &[&str]) {
    let score = score(flags);
    println!("{flags:?}: {score:#?}");
    assert!(
        score.aligned * 10 >= score.functions * 8,
        "{} of {} functions could be compared",
        score.aligned,
        score.functions
    );
    assert!(score.atomic >= 60, "only {} atomic accesses", score.atomic);
    assert!(score.wrong_order.is_empty(), "orderings: {:?}", score.wrong_order);
    assert!(score.looked_plain.len() * 100 <= score.atomic, "atomic, but look plain: {:?}", score.looked_plain);
    assert!(score.skipped.is_empty(), "atomic, but skipped: {:?}", score.skipped);
    assert!(score.false_atomic.len() <= 1, "plain, but called atomic: {:?}", score.false_atomic);
    assert!(score.found * 100 >= score.atomic * 95, "{} of {}", score.found, score.atomic);
}

#[test]
fn optimised_build_agrees_with_the_compiler() {
    check(&["-O", "-Cdebuginfo=line-tables-only"]);
}

#[test]
fn size_optimised_build_agrees_with_the_compiler() {
    check(&["-Copt-level=s", "-Cdebuginfo=2", "-Csymbol-mangling-version=v0"]);
}

#[test]
fn development_build_agrees_with_the_compiler() {
    check(&["-Cdebuginfo=2"]);
}
