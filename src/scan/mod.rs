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
mod classify;
mod decode;
mod frame;
mod functions;
mod jumptable;
mod model;
mod parallel;
mod targets;

pub use crate::elf::ImageError as ScanError;
pub use classify::class_name;
pub use model::*;

use crate::elf::{CodePointers, Image, Svma, UnwindTables};

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
    let total = 2 * bounds.len() as u64;
    let bodies = targets::decode_all(&image, &bounds, &unwind, &pointers, &|done| progress(done, total));
    let mut functions = bodies
        .into_iter()
        .zip(&bounds)
        .map(|(body, bounds)| {
            let native = bounds.native.or(body.problem);
            Function {
                start: Svma(bounds.start),
                end: Svma(bounds.end),
                symbol: bounds.names.first().copied().unwrap_or_default().to_owned(),
                policy: native.map_or(Policy::Instrument, Policy::Native),
                instructions: body.instructions,
                outside_targets: body.outside_targets.into_iter().map(Svma).collect(),
                sites: Vec::new(),
                frame_escapes: false,
            }
        })
        .collect::<Vec<_>>();
    let decoded = bounds.len() as u64;
    let tally = classify::classify_all(&image, &mut functions, &|done| progress(decoded + done, total));
    Ok(ModuleScan {
        build_id: image.build_id().map_or_else(|| hash_of(data), <[u8]>::to_vec),
        is_pie: image.is_pie,
        debuginfo: if image.has_symtab { Debuginfo::SymbolsOnly } else { Debuginfo::Stripped },
        text: image.text(),
        functions,
        producers: Vec::new(),
        degraded: Vec::new(),
        tally,
    })
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
