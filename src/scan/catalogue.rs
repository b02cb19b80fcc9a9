//! Rows of data about known code: benign accesses (`benign.txt`). Those about locks are [`primitives`](super::primitives)'s.

use crate::dwarf::{DebugInfo, Place};

const BENIGN: &str = include_str!("benign.txt");

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_understood() {
        let lines = BENIGN.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        for line in lines {
            assert!(parse_row(line).is_some(), "not understood: {line}");
        }
    }
}
