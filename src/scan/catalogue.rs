//! Rows of data about known code: benign accesses (`benign.txt`) and the fast paths of locks (`primitives.txt`).

use super::model::{LockOperation, LockSite};
use crate::dwarf::{DebugInfo, Place};
use iced_x86::{Instruction, Mnemonic};

const BENIGN: &str = include_str!("benign.txt");
const LOCKS: &str = include_str!("primitives.txt");

/// Whether a function belongs to std's list of thread stacks (`std::sys::pal::unix::stack_overflow`), or is a collection's function that was
/// made for it alone. Each thread takes the list's lock when it starts and when it ends, which would hide races between short-lived threads.
pub(super) fn is_list_of_stacks(symbol: &str) -> bool {
    (symbol.starts_with("_R") || symbol.starts_with("_ZN")) && symbol.contains("14stack_overflow")
}

/// How an access that the catalogue names is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Counted instead of reported.
    Benign,
    /// As if its class were not known.
    Unknown,
    /// Neither checked nor tracked, atomic or not.
    Unseen,
}

#[derive(Debug)]
struct Row {
    treatment: Treatment,
    function: &'static str,
    path_part: &'static str,
}

/// The catalogue of benign accesses, prepared for a module.
#[derive(Debug)]
pub(super) struct Benign {
    rows: Vec<Row>,
    /// By unit: whether a file of its line table is in any row.
    concerned: Vec<bool>,
}

impl Benign {
    /// Reads the catalogue and finds the units that it concerns.
    pub fn of(debug: &DebugInfo<'_>) -> Benign {
        let rows: Vec<Row> = BENIGN.lines().filter_map(parse_row).collect();
        let concerned = crate::parallel::map(
            debug.units(),
            4,
            || (),
            |(), _, unit| unit.files().any(|file| rows.iter().any(|row| file.contains(row.path_part))),
            &|_| {},
        );
        Benign { rows, concerned }
    }

    /// What the catalogue says of a place.
    pub fn treatment<'s>(&self, debug: &DebugInfo<'s>, place: &Place<'s>) -> Option<Treatment> {
        if !self.concerned.get(place.unit_index()).copied().unwrap_or(false) {
            return None;
        }
        debug.frames(place).find_map(|frame| {
            let matches = |row: &&Row| {
                (row.function == "*" || row.function.as_bytes() == frame.plain_name())
                    && frame.file.contains(row.path_part)
            };
            self.rows.iter().find(matches).map(|row| row.treatment)
        })
    }
}

fn parse_row(line: &'static str) -> Option<Row> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut parts = line.split('|').map(str::trim);
    let treatment = match parts.next()? {
        "benign" => Treatment::Benign,
        "unknown" => Treatment::Unknown,
        "unseen" => Treatment::Unseen,
        _ => return None,
    };
    let row = Row { treatment, function: parts.next()?, path_part: parts.next()? };
    parts.next().map(|_reason| row)
}

/// A row of the lock catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRow {
    /// What the user calls the primitive.
    pub primitive: &'static str,
    /// What the instruction does.
    pub operation: LockOperation,
    /// Function of the inline chain, without generic arguments.
    pub function: &'static str,
    /// End of the path of that function's file.
    pub file_suffix: &'static str,
    /// The instruction.
    mnemonic: Mnemonic,
}

/// The lock catalogue, in the order that [`LockSite::row`] counts.
pub fn lock_rows() -> Vec<LockRow> {
    LOCKS.lines().filter_map(parse_lock).collect()
}

fn parse_lock(line: &'static str) -> Option<LockRow> {
    let mut parts = line.split('|').map(str::trim);
    let primitive = parts.next().filter(|first| !first.is_empty() && !first.starts_with('#'))?;
    let operation = match parts.next()? {
        "acquire" => LockOperation::AcquireExclusive,
        "acquire-shared" => LockOperation::AcquireShared,
        "try" => LockOperation::TryAcquireExclusive,
        "try-shared" => LockOperation::TryAcquireShared,
        "release" => LockOperation::ReleaseExclusive,
        "release-shared" => LockOperation::ReleaseShared,
        _ => return None,
    };
    let (function, file_suffix) = (parts.next()?, parts.next()?);
    let mnemonic = match parts.next()? {
        "cmpxchg" => Mnemonic::Cmpxchg,
        "xchg" => Mnemonic::Xchg,
        "xadd" => Mnemonic::Xadd,
        "add" => Mnemonic::Add,
        "sub" => Mnemonic::Sub,
        "and" => Mnemonic::And,
        "or" => Mnemonic::Or,
        _ => return None,
    };
    Some(LockRow { primitive, operation, function, file_suffix, mnemonic })
}

/// The lock catalogue, ready to be asked.
#[derive(Debug)]
pub(super) struct Locks {
    rows: Vec<LockRow>,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks { rows: lock_rows() }
    }
}

impl Locks {
    /// The lock operation that a read-modify-write at a place is part of. The innermost function that is in a row decides; where several rows name it, the first.
    pub fn operation<'s>(
        &self,
        debug: &DebugInfo<'s>,
        place: &Place<'s>,
        instruction: &Instruction,
    ) -> Option<LockSite> {
        let mnemonic = match instruction.mnemonic() {
            // The optimiser turns an unused result into the plain locked form.
            Mnemonic::Inc => Mnemonic::Add,
            Mnemonic::Dec => Mnemonic::Sub,
            other => other,
        };
        debug.frames(place).find_map(|frame| {
            let name = frame.plain_name();
            let row = self.rows.iter().position(|row| {
                let adds = matches!(mnemonic, Mnemonic::Add | Mnemonic::Sub) && row.mnemonic == Mnemonic::Xadd;
                (row.mnemonic == mnemonic || adds)
                    && row.function.as_bytes() == name
                    && frame.file.ends_with(row.file_suffix)
            })?;
            Some(LockSite { row: u16::try_from(row).ok()?, operation: self.rows[row].operation })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_understood() {
        let lines = BENIGN.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        for line in lines {
            assert!(parse_row(line).is_some(), "not understood: {line}");
        }
        let lines = LOCKS.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        for line in lines {
            assert!(parse_lock(line).is_some(), "not understood: {line}");
        }
    }
}
