//! The changes to the original text: jumps from every point that control reaches from outside into the copy.
//!
//! Points of a function are its entry, its return sites, and its outside targets. Tactics, in this order:
//!
//! 1. near: a 5-byte jump, where no other point and no call lies within its bytes;
//! 2. short: a 2-byte jump to a 5-byte jump in bytes of the same function that are dead, because every
//!    point of the function is patched and so only calls are executed in its original;
//! 3. native: the point stays; what runs from there to the next patched point runs unchecked, and its sites are lost.
//!
//! Where a point stays native, dead bytes are not known to be dead: the function is then planned anew without
//! tactic 2 and with every branch target of its own as a barrier.

use super::copy::{branch_target, is_call};
use super::emit::{Emitter, ORIGIN};
use super::file::PlanTally;
use super::liveness::index_of;
use super::{FunctionCopy, Text};
use crate::scan::{Function, ModuleScan};
use crate::wire::plan::PlanPatch;
use iced_x86::{FlowControl, Instruction};
use std::collections::{BTreeMap, BTreeSet};

/// Plans the patches of all copied functions; the result is ascending and does not overlap.
pub(crate) fn plan_patches(
    scan: &ModuleScan,
    copies: &[FunctionCopy],
    text: &Text<'_>,
    em: &Emitter,
    tally: &mut PlanTally,
) -> Vec<PlanPatch> {
    let mut patches = Vec::new();
    let mut copies = copies.iter().peekable();
    for (index, function) in scan.functions.iter().enumerate() {
        let Some(copy) = copies.next_if(|c| c.start == function.start) else { continue };
        let limit = scan.functions.get(index + 1).map_or(function.end.0, |next| next.start.0);
        let mut ground = Ground::new(function, copy, limit, text);
        if !ground.plan(false) {
            ground.plan(true);
            ground.count_lost(tally);
        }
        tally.patches_near += ground.near;
        tally.patches_short += ground.short;
        tally.points_native += ground.native.len() as u64;
        patches.extend(ground.patches.iter().filter_map(|(&svma, jump)| write(svma, jump, text, em)));
    }
    patches
}

enum Jump {
    /// `jmp rel32` to an offset in the code section.
    Near(u32),
    /// `jmp rel8` to an address in the original text.
    Short(u64),
}

fn write(svma: u64, jump: &Jump, text: &Text<'_>, em: &Emitter) -> Option<PlanPatch> {
    let mut new = [0; 12];
    let len = match jump {
        Jump::Near(offset) => {
            new[0] = 0xe9;
            let displacement = em.address(*offset).wrapping_sub(ORIGIN.wrapping_add(svma + 5)) as i32;
            new[1..5].copy_from_slice(&displacement.to_le_bytes());
            5
        }
        Jump::Short(to) => {
            new[0] = 0xeb;
            new[1] = to.wrapping_sub(svma + 2) as u8;
            2
        }
    };
    let mut old = [0; 11];
    old[..len].copy_from_slice(text.bytes(svma, len)?);
    Some(PlanPatch { svma, len: len as u8, old, new })
}

/// A function's original bytes and what may be done with them.
struct Ground<'a> {
    function: &'a Function,
    copy: &'a FunctionCopy,
    start: u64,
    /// One past the last byte that may be written: padding after the function included.
    end: u64,
    /// Points and the offsets in the code section they lead to.
    points: BTreeMap<u64, u32>,
    calls: Vec<(u64, u64)>,
    patches: BTreeMap<u64, Jump>,
    /// Bytes that may not be written, by offset from `start`.
    used: Vec<bool>,
    native: Vec<u64>,
    near: u64,
    short: u64,
}

impl<'a> Ground<'a> {
    fn new(function: &'a Function, copy: &'a FunctionCopy, limit: u64, text: &Text<'_>) -> Ground<'a> {
        let start = function.start.0;
        let mut points = BTreeMap::new();
        let mut calls = Vec::new();
        for instruction in &function.instructions {
            if is_call(instruction) {
                calls.push((instruction.ip(), instruction.next_ip()));
                if let Some(offset) = copy.label(instruction.next_ip()) {
                    points.insert(instruction.next_ip(), offset);
                }
            }
        }
        for target in &function.outside_targets {
            if let Some(offset) = copy.label(target.0) {
                points.insert(target.0, offset);
            }
        }
        if let Some(entry) = copy.entry {
            points.insert(start, entry);
        }
        // A point at a call needs no patch: the call itself is executed there.
        for (call, _) in &calls {
            if *call != start {
                points.remove(call);
            }
        }
        let padding = (function.end.0..limit.min(function.end.0 + 16))
            .take_while(|&at| text.bytes(at, 1).is_some_and(|b| matches!(b[0], 0xcc | 0x90)))
            .count() as u64;
        let end = function.end.0 + padding;
        Ground {
            function,
            copy,
            start,
            end,
            points,
            calls,
            patches: BTreeMap::new(),
            used: Vec::new(),
            native: Vec::new(),
            near: 0,
            short: 0,
        }
    }

    /// Plans all points; `false` where one stays native and `careful` was not asked for.
    fn plan(&mut self, careful: bool) -> bool {
        self.patches.clear();
        self.native.clear();
        self.near = 0;
        self.short = 0;
        // Bytes that were not decoded may be code that is reached in a way nobody saw.
        let inside = (self.function.end.0 - self.start) as usize;
        self.used = vec![true; (self.end - self.start) as usize];
        self.used[inside..].fill(false);
        for instruction in &self.function.instructions {
            let from = (instruction.ip() - self.start) as usize;
            self.used[from..(from + instruction.len()).min(inside)].fill(false);
        }
        for &(from, to) in &self.calls {
            let (from, to) = ((from - self.start) as usize, ((to - self.start) as usize).min(self.used.len()));
            self.used[from..to].fill(true);
        }
        let mut barriers: BTreeSet<u64> = self.points.keys().copied().collect();
        if careful {
            barriers.extend(self.function.instructions.iter().filter_map(branch_target));
            barriers.extend(self.function.outside_targets.iter().map(|t| t.0));
        }
        let mut rest = Vec::new();
        for (&point, &offset) in &self.points {
            let clear = barriers.range(point + 1..point + 5).next().is_none();
            if clear && self.is_free(point, 5) {
                self.patches.insert(point, Jump::Near(offset));
                self.near += 1;
            } else {
                rest.push((point, offset));
            }
        }
        for &point in self.patches.keys() {
            let from = (point - self.start) as usize;
            self.used[from..from + 5].fill(true);
        }
        for &(point, _) in &rest {
            let from = (point - self.start) as usize;
            let to = (from + 2).min(self.used.len());
            if !careful && self.is_free(point, 2) && !barriers.contains(&(point + 1)) {
                self.used[from..to].fill(true);
            } else {
                self.native.push(point);
            }
        }
        if careful {
            self.leave_native_code(&barriers);
            return true;
        }
        if !self.native.is_empty() {
            return false;
        }
        for (point, offset) in rest {
            if self.native.contains(&point) {
                continue;
            }
            match self.hole_near(point) {
                Some(hole) => {
                    let from = (hole - self.start) as usize;
                    self.used[from..from + 5].fill(true);
                    self.patches.insert(point, Jump::Short(hole));
                    self.patches.insert(hole, Jump::Near(offset));
                    self.short += 1;
                }
                None => {
                    self.native.push(point);
                    return false;
                }
            }
        }
        true
    }

    /// Follows what runs natively from the points that stayed, and patches the first places on the way that have room.
    fn leave_native_code(&mut self, barriers: &BTreeSet<u64>) {
        let mut work = self.native.clone();
        let mut seen = BTreeSet::new();
        while let Some(at) = work.pop() {
            if self.patches.contains_key(&at) || !seen.insert(at) {
                continue;
            }
            let Some(index) = index_of(self.function, at) else { continue };
            let instruction = &self.function.instructions[index];
            if is_call(instruction) {
                continue;
            }
            let clear = barriers.range(at + 1..at + 5).next().is_none();
            if let Some(offset) = self.copy.label(at).filter(|_| clear && self.is_free(at, 5)) {
                let from = (at - self.start) as usize;
                self.used[from..from + 5].fill(true);
                self.patches.insert(at, Jump::Near(offset));
                self.near += 1;
                continue;
            }
            work.extend(successors(instruction));
        }
    }

    fn is_free(&self, at: u64, len: u64) -> bool {
        let from = (at - self.start) as usize;
        self.used.get(from..from + len as usize).is_some_and(|bytes| bytes.iter().all(|used| !used))
    }

    /// Five dead bytes that a short jump at `point` reaches.
    fn hole_near(&self, point: u64) -> Option<u64> {
        let low = (point + 2).saturating_sub(128).max(self.start);
        let high = (point + 2 + 127).min(self.end.saturating_sub(5));
        (low..=high).find(|&at| self.is_free(at, 5))
    }

    /// Walks what runs natively from the points that stayed and counts the sites on the way.
    fn count_lost(&self, tally: &mut PlanTally) {
        let mut work = self.native.clone();
        let mut seen = BTreeSet::new();
        while let Some(at) = work.pop() {
            if self.patches.contains_key(&at) || !seen.insert(at) {
                continue;
            }
            let Some(index) = index_of(self.function, at) else { continue };
            let instruction = &self.function.instructions[index];
            if let Some(site) = self.function.sites.iter().find(|s| s.pc.0 == at) {
                tally.lost(site, "runs natively: no room for a patch");
            }
            if is_call(instruction) {
                continue;
            }
            work.extend(successors(instruction));
        }
    }
}

/// Where control may go from an instruction that is no call.
fn successors(instruction: &Instruction) -> impl Iterator<Item = u64> {
    let ends = matches!(
        instruction.flow_control(),
        FlowControl::IndirectBranch | FlowControl::Return | FlowControl::UnconditionalBranch
    );
    branch_target(instruction).into_iter().chain((!ends).then(|| instruction.next_ip()))
}
