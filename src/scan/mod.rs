//! What conprof understands of a binary: functions, control flow, and the class of every access.
//!
//! `scan` is pure: bytes of an ELF file in, [`ModuleScan`] out.
//!
//! ```text
//! symbols, unwind tables --functions--> bounds --decode, jumptable--> instructions --targets--> outside targets
//!                                                                          |
//! DWARF --crate::dwarf--> inline frames, lines ------------------------classify--> sites
//! ```
//!
//! Invariant: no bytes make it panic or run without end; a file that can't be scanned is a [`ScanError`], a function that
//! can't is [`Policy::Native`] with a reason. Direction of error: a plain access may be called unknown or be skipped, an atomic one must not be
//! called plain.

mod access;
mod allocator;
mod catalogue;
mod classify;
mod constants;
mod dataflow;
mod decode;
mod frame;
mod functions;
mod jumptable;
mod meaning;
mod model;
pub mod primitives;
mod sufficiency;
mod targets;

pub use crate::elf::ImageError as ScanError;
pub use classify::class_name;
pub use model::*;

use crate::dwarf::{self, DebugInfo, Orderings};
use crate::elf::{CodePointers, Image, Svma, UnwindTables};
use std::sync::atomic::{AtomicU64, Ordering};

/// Scans a dynamically linked x86-64 program.
///
/// `progress` is called with (done, total) in arbitrary units, from several threads.
///
/// # Errors
///
/// [`ScanError`] says what the file is instead, and [`ScanError::cure`] what to do.
pub fn scan_module(data: &[u8], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<ModuleScan, ScanError> {
    let image = Image::parse(data)?;
    let unwind = UnwindTables::of(&image);
    let rseq = image.section("__rseq_cs").map_or((0, 0), |section| (section.start, section.end));
    let pointers = CodePointers::of(&image, rseq);
    let bounds = functions::find(&image, &unwind);
    let progress = Progress::new(3 * bounds.len() as u64, progress);
    let step = bounds.len() as u64;
    let bodies = targets::decode_all(&image, &bounds, &unwind, &pointers, &|done| progress.at(0, done));
    let allocators = allocator::Allocators::of(&image);
    let mut functions = bodies
        .into_iter()
        .zip(&bounds)
        .map(|(body, bounds)| {
            let list = bounds.names.iter().any(|name| catalogue::is_list_of_stacks(name));
            let native = bounds.native.or(body.problem).or(list.then_some("std's own bookkeeping")).map(Policy::Native);
            let policy = native.or_else(|| allocators.policy(bounds)).unwrap_or(Policy::Instrument);
            Function {
                start: Svma(bounds.start),
                end: Svma(bounds.end),
                symbol: bounds.names.first().copied().unwrap_or_default().to_owned(),
                policy,
                instructions: body.instructions,
                outside_targets: body.outside_targets.into_iter().map(Svma).collect(),
                sites: Vec::new(),
                frame_escapes: false,
                quiet_returns: Vec::new(),
            }
        })
        .collect::<Vec<_>>();
    let sections = dwarf::load_sections(&image);
    let debug =
        DebugInfo::parse(&image, &sections, &|done, all| progress.at(step, done.saturating_mul(step) / all.max(1)));
    let debuginfo = sufficiency::debuginfo(&image, &debug);
    let meanings = meaning::Meanings {
        debug: &debug,
        orderings: Orderings::default(),
        benign: catalogue::Benign::of(&debug),
        sufficient: debuginfo >= Debuginfo::LineTables,
        commit: sufficiency::comment_commit(&image),
    };
    let tally = classify::classify_all(&image, &meanings, &mut functions, &|done| progress.at(2 * step, done));
    Ok(ModuleScan {
        build_id: image.build_id().map_or_else(|| hash_of(data), <[u8]>::to_vec),
        is_pie: image.is_pie,
        debuginfo,
        text: image.text(),
        functions,
        producers: sufficiency::producers(&image, &debug),
        degraded: sufficiency::degraded(&image, &debug, debuginfo),
        tally,
    })
}

/// Progress that only goes forward, though parts of it are reported by several threads.
struct Progress<'p> {
    total: u64,
    reached: AtomicU64,
    report: &'p (dyn Fn(u64, u64) + Sync),
}

impl<'p> Progress<'p> {
    fn new(total: u64, report: &'p (dyn Fn(u64, u64) + Sync)) -> Progress<'p> {
        Progress { total, reached: AtomicU64::new(0), report }
    }

    fn at(&self, before: u64, done: u64) {
        let now = before.saturating_add(done);
        // Relaxed: a progress figure.
        if self.reached.fetch_max(now, Ordering::Relaxed) < now {
            (self.report)(now, self.total);
        }
    }
}

/// Stands in for a build id: 20 bytes from three FNV-1a hashes over the file with different seeds.
fn hash_of(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    for seed in [0u64, 0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f] {
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
        for chunk in data.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
            hash ^= hash >> 29;
        }
        bytes.extend_from_slice(&(hash ^ data.len() as u64).to_le_bytes());
    }
    bytes.truncate(20);
    bytes
}
