//! Decodes all functions and finds every address inside one that something outside of it can reach.
//!
//! Landing pads and jump-table entries are roots from the start. Address-taken middles and targets of other functions' branches come
//! out of decoding itself, so functions that gain a root are decoded again until none does.

use super::decode::{self, Body, LinearBoundaries};
use super::functions::Bounds;
use crate::elf::{CodePointers, Image, UnwindTables};
use iced_x86::Instruction;
use std::collections::BTreeMap;

/// A decoded function with its outside targets.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// Reachable instructions, ascending.
    pub instructions: Vec<Instruction>,
    /// See [`Function::outside_targets`](super::Function::outside_targets).
    pub outside_targets: Vec<u64>,
    /// Why the function can't be copied.
    pub problem: Option<&'static str>,
}

/// Rounds of decoding again. Inlined stack switches add one target a round, so dozens occur; a function that still gains
/// roots after the last stays native.
const MAX_ROUNDS: usize = 1024;

/// Decodes every function of the image.
pub(super) fn decode_all(
    image: &Image<'_>,
    bounds: &[Bounds<'_>],
    unwind: &UnwindTables,
    pointers: &CodePointers,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<Decoded> {
    let mut roots: Vec<Vec<u64>> = vec![Vec::new(); bounds.len()];
    for (at, function) in bounds.iter().enumerate() {
        roots[at].extend(&function.inner_entries);
    }
    for &address in unwind.landing_pads.iter().chain(&pointers.relocated) {
        if let Some((at, false)) = locate(bounds, address) {
            roots[at].push(address);
        }
    }
    for list in &mut roots {
        list.sort_unstable();
        list.dedup();
    }
    let mut bodies = crate::parallel::map(
        bounds,
        64,
        || (),
        |_, at, function| decode::decode(image, bounds, function, &roots[at]),
        progress,
    );
    for round in 0..=MAX_ROUNDS {
        let mut gained: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let mut add = |source: usize, address: u64, exact: bool| {
            let Some((at, false)) = locate(bounds, address) else { return };
            if at == source && exact || roots[at].binary_search(&address).is_ok() {
                return;
            }
            // An address that is merely computed may be data; a real instruction begins where decoding says so.
            if exact
                || bodies[at].index_of(address).is_some()
                || LinearBoundaries::of(image, &bounds[at]).contains(address)
            {
                gained.entry(at).or_default().push(address);
            }
        };
        for (source, body) in bodies.iter().enumerate() {
            for &address in &body.branches_out {
                add(source, address, true);
            }
            for &address in body.table_targets.iter().filter(|&&target| !bounds[source].contains(target)) {
                add(source, address, true);
            }
            for &address in &body.code_addresses {
                add(source, address, false);
            }
        }
        if gained.is_empty() {
            break;
        }
        for (at, addresses) in gained {
            roots[at].extend(addresses);
            roots[at].sort_unstable();
            roots[at].dedup();
            bodies[at] = decode::decode(image, bounds, &bounds[at], &roots[at]);
            if round == MAX_ROUNDS {
                bodies[at].problem = Some("its targets do not settle");
            }
        }
    }
    for &address in &pointers.guessed {
        if let Some((at, false)) = locate(bounds, address)
            && bodies[at].index_of(address).is_some()
        {
            roots[at].push(address);
        }
    }
    let mut decoded: Vec<Decoded> =
        bodies.into_iter().zip(roots).zip(bounds).map(|((body, roots), bounds)| finish(body, roots, bounds)).collect();
    keep_restartable_native(image, bounds, pointers, &mut decoded);
    decoded
}

fn finish(body: Body, mut roots: Vec<u64>, bounds: &Bounds<'_>) -> Decoded {
    roots.extend(body.table_targets.iter().filter(|&&target| bounds.contains(target)));
    roots.retain(|&target| target != bounds.start && body.index_of(target).is_some());
    roots.sort_unstable();
    roots.dedup();
    Decoded { instructions: body.instructions, outside_targets: roots, problem: body.problem }
}

/// The function that covers an address, and whether it begins there.
fn locate(bounds: &[Bounds<'_>], address: u64) -> Option<(usize, bool)> {
    let at = bounds.partition_point(|function| function.start <= address).checked_sub(1)?;
    bounds[at].contains(address).then(|| (at, bounds[at].start == address))
}

/// The kernel compares program counters with `struct rseq_cs` (linux/rseq.h), so code that one describes must not move.
fn keep_restartable_native(image: &Image<'_>, bounds: &[Bounds<'_>], pointers: &CodePointers, decoded: &mut [Decoded]) {
    let Some(section) = image.section("__rseq_cs") else { return };
    let word = |place: u64| {
        let relocated = pointers.values_in_range.binary_search_by_key(&place, |&(place, _)| place);
        match relocated {
            Ok(at) => Some(pointers.values_in_range[at].1),
            Err(_) => image.bytes_at(place).first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        }
    };
    for descriptor in (section.start..section.end).step_by(32) {
        for place in [descriptor + 8, descriptor + 24] {
            if let Some((at, _)) = word(place).and_then(|address| locate(bounds, address)) {
                decoded[at].problem = Some("restartable sequence");
            }
        }
    }
}
