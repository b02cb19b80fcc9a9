//! Turns a function's instructions into sites.

use super::access::{Access, access_of};
use super::constants::ReadOnlyBases;
use super::dataflow::Dataflow;
use super::frame::{Frame, Spills};
use super::meaning::Meanings;
use super::model::{Function, Policy, Site, Tally};
use crate::elf::{Image, Svma};
use crate::wire::site::{Class, Order, SiteFlags};
use iced_x86::{FlowControl, InstructionInfoFactory, InstructionInfoOptions, Mnemonic};

/// Fills `sites` and `frame_escapes` of every function, and finds those that are not understood.
pub(super) fn classify_all(
    image: &Image<'_>,
    meanings: &Meanings<'_, '_>,
    functions: &mut [Function],
    progress: &(dyn Fn(u64) + Sync),
) -> Tally {
    let found = crate::parallel::map(
        functions,
        64,
        InstructionInfoFactory::new,
        |factory, _, function| classify(image, meanings, function, factory),
        progress,
    );
    let mut tally = Tally::default();
    for (function, classified) in functions.iter_mut().zip(found) {
        function.sites = classified.sites;
        function.frame_escapes = classified.frame_escapes;
        function.quiet_returns = classified.quiet_returns;
        if classified.opaque && function.policy == Policy::Instrument && !is_toolchain_code(function) {
            function.policy = Policy::Opaque;
        }
        tally.add(function, &classified.skipped);
    }
    tally
}

/// Precompiled code of the Rust toolchain that has no debuginfo: the crates that std's backtraces are made of, and what they share with
/// user code (`str::find`). It has no atomics but locked ones, and ordering every caller of it would hide races.
fn is_toolchain_code(function: &Function) -> bool {
    const CRATES: &[&str] = &["14rustc_demangle", "11miniz_oxide", "6adler2", "5gimli", "9addr2line", "6object4read"];
    let symbol = &function.symbol;
    if !symbol.starts_with("_R") && !symbol.starts_with("_ZN") {
        return false;
    }
    let path = format!("{:#}", rustc_demangle::demangle(symbol));
    let path = path.trim_start_matches('<');
    let in_library = ["core::", "alloc::", "std::"].iter().any(|library| path.starts_with(library));
    CRATES.iter().any(|name| symbol.contains(name))
        || in_library && !function.instructions.iter().any(iced_x86::Instruction::has_lock_prefix)
}

#[derive(Default)]
struct Classified {
    sites: Vec<Site>,
    frame_escapes: bool,
    quiet_returns: Vec<Svma>,
    /// The function's accesses can't be told apart, in a module where most can.
    opaque: bool,
    skipped: Vec<(&'static str, u64)>,
}

impl Classified {
    fn skip(&mut self, reason: &'static str) {
        match self.skipped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.skipped.push((reason, 1)),
        }
    }
}

fn classify(
    image: &Image<'_>,
    meanings: &Meanings<'_, '_>,
    function: &Function,
    factory: &mut InstructionInfoFactory,
) -> Classified {
    let options = InstructionInfoOptions::NO_MEMORY_USAGE;
    let targets: Vec<u64> = function.outside_targets.iter().map(|target| target.0).collect();
    let frame = Frame::of(&function.instructions, &targets, &mut |i| factory.info_options(i, options).clone());
    let mut result = Classified { frame_escapes: frame.escapes, ..Classified::default() };
    let mut constants = ReadOnlyBases::new(image, &function.outside_targets);
    let mut uncovered = 0usize;
    let mut atomics: Vec<(usize, (u32, u32))> = Vec::new();
    let synchronises = std::cell::LazyCell::new(|| {
        function.instructions.iter().any(|instruction| instruction.has_lock_prefix())
            || meanings.has_atomics(function.start.0, function.end.0)
    });
    for (index, instruction) in function.instructions.iter().enumerate() {
        let info = factory.info_options(instruction, options);
        let reads_constant = constants.addresses(instruction);
        constants.step(instruction, info);
        let pc = instruction.ip();
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
            && meanings.is_unseen(&meanings.debug.place(pc))
        {
            result.quiet_returns.push(Svma(instruction.next_ip()));
        }
        let (encoded, size, stack, masked) = match access_of(image, &frame, index, instruction, info) {
            Access::None => continue,
            Access::Skipped(reason) => {
                result.skip(reason);
                continue;
            }
            Access::Syscall => {
                let (class, order, flags) = (Class::Syscall, Order::Unknown, SiteFlags(0));
                result.sites.push(Site { pc: Svma(pc), class, order, flags, size: 0 });
                continue;
            }
            Access::Memory { class: Class::Read, .. } if reads_constant => {
                result.skip("read-only");
                continue;
            }
            Access::Memory { class, size, stack, masked } => (class, size, stack, masked),
        };
        let is_string = matches!(encoded, Class::StringMove | Class::StringStore | Class::StringRead);
        if is_string {
            let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
            let flags = SiteFlags(if repeated { SiteFlags::REPEATED } else { 0 });
            let order = Order::Unknown;
            result.sites.push(Site { pc: Svma(pc), class: encoded, order, flags, size });
            continue;
        }
        let (meaning, place) = meanings.of(pc, encoded, size, stack);
        if meanings.is_unseen(&place) {
            result.skip("std's own bookkeeping");
            continue;
        }
        if stack && !meaning.uncovered && is_unknown(meaning.class) && !*synchronises {
            // The register allocator's spills have line 0; without any atomic around it is nothing else.
            result.skip("stack");
            continue;
        }
        let mut flags = meaning.flags;
        if stack {
            flags |= SiteFlags::STACK;
        } else if meaning.uncovered {
            uncovered += 1;
        }
        let mut dataflow = Dataflow { instructions: &function.instructions, factory };
        match meaning.class {
            Class::AtomicRmw => {
                if dataflow.result_unused(index) {
                    flags |= SiteFlags::RESULT_UNUSED;
                }
                let counts = matches!(instruction.mnemonic(), Mnemonic::Inc | Mnemonic::Add | Mnemonic::Xadd);
                if counts && meanings.counts_up(&place) {
                    flags |= SiteFlags::ORDERS_NOTHING;
                }
            }
            Class::Read if masked || dataflow.is_speculative_load(index) => flags |= SiteFlags::SPECULATIVE,
            _ => {}
        }
        if let (Class::AtomicLoad | Class::AtomicStore | Class::AtomicRmw, Some(frame)) =
            (meaning.class, place.frame_id())
        {
            atomics.push((result.sites.len(), frame));
        }
        let (class, order) = (meaning.class, meaning.order);
        result.sites.push(Site { pc: Svma(pc), class, order, flags: SiteFlags(flags), size });
    }
    demote_spills(&mut result.sites, &atomics);
    result.opaque = meanings.sufficient && uncovered > 0;
    if result.sites.iter().any(|site| site.class == Class::UnknownStore) && *synchronises {
        let spills = frame.spills(&function.instructions);
        for site in &mut result.sites {
            if site.class == Class::UnknownStore
                && matches!(site.size, 1 | 2 | 4 | 8)
                && !is_spill(function, &frame, spills.as_ref(), site)
            {
                site.flags.0 |= SiteFlags::RELEASE_ALWAYS;
            }
        }
    }
    result
}

/// Whether an unknown store only puts a register aside: it orders nothing then, unless the address is known as an atomic's.
fn is_spill(function: &Function, frame: &Frame, spills: Option<&Spills>, site: &Site) -> bool {
    let Some(spills) = spills.filter(|_| site.flags.has(SiteFlags::STACK)) else { return false };
    let index = function.instructions.binary_search_by_key(&site.pc.0, |instruction| instruction.ip());
    index.is_ok_and(|index| spills.holds(frame, index, &function.instructions[index], site.size))
}

fn is_unknown(class: Class) -> bool {
    matches!(class, Class::UnknownLoad | Class::UnknownStore | Class::UnknownRmw)
}

/// An inlined atomic operation has one operand: where some access of it is not on the stack, those on the stack are the reloads of
/// its address or value. `atomics` are (site, inlined function).
fn demote_spills(sites: &mut [Site], atomics: &[(usize, (u32, u32))]) {
    let on_stack = |site: &Site| site.flags.has(SiteFlags::STACK) && site.class != Class::AtomicRmw;
    for &(at, frame) in atomics {
        if on_stack(&sites[at])
            && atomics.iter().any(|&(other, same)| same == frame && other != at && !on_stack(&sites[other]))
        {
            let site = &mut sites[at];
            site.class = if site.class == Class::AtomicLoad { Class::Read } else { Class::Write };
            site.order = Order::Unknown;
        }
    }
}

impl Tally {
    fn add(&mut self, function: &Function, skipped: &[(&'static str, u64)]) {
        self.instructions += function.instructions.len() as u64;
        for site in &function.sites {
            add(&mut self.accesses_by_class, class_name(site.class), 1);
        }
        for &(reason, number) in skipped {
            add(&mut self.accesses_by_class, reason, number);
            add(&mut self.skipped_by_reason, &format!("accesses: {reason}"), number);
        }
        match function.policy {
            Policy::Native(reason) => {
                add(&mut self.skipped_by_reason, &format!("functions: {reason}"), 1);
                add(&mut self.skipped_by_reason, &format!("accesses: {reason}"), function.sites.len() as u64);
            }
            Policy::Opaque => add(&mut self.skipped_by_reason, "functions: no debuginfo", 1),
            Policy::Hooked(_) => add(&mut self.skipped_by_reason, "functions: allocator entry", 1),
            Policy::Instrument => {}
        }
        let atomic = |class| matches!(class, Class::AtomicLoad | Class::AtomicStore | Class::AtomicRmw);
        for site in function.sites.iter().filter(|site| atomic(site.class)) {
            self.atomics += 1;
            self.orders_known += u64::from(site.order != Order::Unknown);
        }
    }
}

fn add(counts: &mut std::collections::BTreeMap<String, u64>, name: &str, number: u64) {
    match counts.get_mut(name) {
        Some(count) => *count += number,
        None => _ = counts.insert(name.to_owned(), number),
    }
}

/// How a class is called in tallies.
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Read => "plain read",
        Class::Write => "plain write",
        Class::ReadWrite => "plain read-write",
        Class::AtomicLoad => "atomic load",
        Class::AtomicStore => "atomic store",
        Class::AtomicRmw => "atomic read-modify-write",
        Class::UnknownLoad => "unknown load",
        Class::UnknownStore => "unknown store",
        Class::UnknownRmw => "unknown read-modify-write",
        Class::StringMove => "string move",
        Class::StringStore => "string store",
        Class::StringRead => "string read",
        Class::Syscall => "system call",
        Class::Opaque => "opaque",
    }
}
