//! Memory orderings by the line of the match arm in `core/src/sync/atomic.rs`.
//!
//! Each of `atomic_load`, `atomic_store` ... there matches on its ordering, one arm a line, so an instruction's line names the
//! ordering. The lines differ from one version of the library to the next: `orderings.txt` has them by the compiler's commit, as
//! the test `scan_orderings` reads them back from a probe that it compiles. An unknown version has unknown orderings.

use crate::wire::site::Order;
use std::collections::HashMap;

const TABLE: &str = include_str!("orderings.txt");

/// Orderings of the known versions.
#[derive(Debug)]
pub struct Orderings {
    by_commit: HashMap<&'static str, Vec<(u32, Order)>>,
}

impl Default for Orderings {
    fn default() -> Orderings {
        let mut by_commit: HashMap<&str, Vec<(u32, Order)>> = HashMap::new();
        for line in TABLE.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(commit), Some(line), Some(order)) = (words.next(), words.next(), words.next()) else { continue };
            if let (false, Ok(line), Some(order)) = (commit.starts_with('#'), line.parse(), order_of(order)) {
                by_commit.entry(commit).or_default().push((line, order));
            }
        }
        for lines in by_commit.values_mut() {
            lines.sort_unstable();
        }
        Orderings { by_commit }
    }
}

impl Orderings {
    /// Ordering of the arm at `line` in the version that `commit` (nine digits) names.
    pub fn order(&self, commit: &str, line: u32) -> Order {
        let Some(lines) = self.by_commit.get(commit) else { return Order::Unknown };
        lines.binary_search_by_key(&line, |&(line, _)| line).map_or(Order::Unknown, |at| lines[at].1)
    }

    /// Whether the version is known.
    pub fn knows(&self, commit: &str) -> bool {
        self.by_commit.contains_key(commit)
    }
}

fn order_of(word: &str) -> Option<Order> {
    Some(match word {
        "relaxed" => Order::Relaxed,
        "acquire" => Order::Acquire,
        "release" => Order::Release,
        "acqrel" => Order::AcqRel,
        "seqcst" => Order::SeqCst,
        _ => return None,
    })
}
