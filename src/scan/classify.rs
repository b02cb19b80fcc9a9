//! Turns a function's instructions into sites.

use super::access::{Access, access_of};
use super::frame::Frame;
use super::model::{Function, Policy, Site, Tally};
use super::parallel;
use crate::elf::{Image, Svma};
use crate::wire::site::{Class, Order, SiteFlags};
use iced_x86::{InstructionInfoFactory, InstructionInfoOptions};

/// Fills `sites` and `frame_escapes` of every function.
pub(super) fn classify_all(image: &Image<'_>, functions: &mut [Function], progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let found = parallel::map(
        functions,
        InstructionInfoFactory::new,
        |factory, _, function| classify(image, function, factory),
        progress,
    );
    let mut tally = Tally::default();
    for (function, (sites, escapes, skipped)) in functions.iter_mut().zip(found) {
        function.sites = sites;
        function.frame_escapes = escapes;
        tally.add(function, &skipped);
    }
    tally
}

type Skipped = Vec<(&'static str, u64)>;

fn classify(
    image: &Image<'_>,
    function: &Function,
    factory: &mut InstructionInfoFactory,
) -> (Vec<Site>, bool, Skipped) {
    let options = InstructionInfoOptions::NO_MEMORY_USAGE;
    let frame = Frame::of(&function.instructions, &mut |i| factory.info_options(i, options).clone());
    let mut sites = Vec::new();
    let mut skipped = Skipped::new();
    for instruction in &function.instructions {
        let info = factory.info_options(instruction, options | InstructionInfoOptions::NO_REGISTER_USAGE);
        let pc = Svma(instruction.ip());
        match access_of(image, &frame, instruction, info) {
            Access::None => {}
            Access::Skipped(reason) => match skipped.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => skipped.push((reason, 1)),
            },
            Access::Syscall => sites.push(Site {
                pc,
                class: Class::Syscall,
                order: Order::Unknown,
                flags: SiteFlags(0),
                size: 0,
                lock: None,
            }),
            Access::Memory { class, size, stack, masked } => {
                let mut flags = 0;
                if stack {
                    flags |= SiteFlags::STACK;
                }
                if masked && class == Class::Read {
                    flags |= SiteFlags::SPECULATIVE;
                }
                sites.push(Site { pc, class, order: Order::Unknown, flags: SiteFlags(flags), size, lock: None });
            }
        }
    }
    (sites, frame.escapes, skipped)
}

impl Tally {
    fn add(&mut self, function: &Function, skipped: &[(&'static str, u64)]) {
        self.instructions += function.instructions.len() as u64;
        let mut count = |name: &str| *self.accesses_by_class.entry(name.to_owned()).or_default() += 1;
        for site in &function.sites {
            count(class_name(site.class));
        }
        for &(reason, number) in skipped {
            *self.accesses_by_class.entry(reason.to_owned()).or_default() += number;
            *self.skipped_by_reason.entry(format!("accesses: {reason}")).or_default() += number;
        }
        if let Policy::Native(reason) = function.policy {
            *self.skipped_by_reason.entry(format!("functions: {reason}")).or_default() += 1;
            *self.skipped_by_reason.entry(format!("accesses: {reason}")).or_default() += function.sites.len() as u64;
        }
        let atomic = |class| matches!(class, Class::AtomicLoad | Class::AtomicStore | Class::AtomicRmw);
        for site in function.sites.iter().filter(|site| atomic(site.class)) {
            self.atomics += 1;
            self.orders_known += u64::from(site.order != Order::Unknown);
        }
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
