//! Cycles among those who wait for each other.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

/// The shortest cycle through `start`, from there on (breadth first). `edges` gives those that lead out of a waiter, preferred
/// ones first; `ends` an edge's waiter and whom it waits for.
pub(super) fn shortest_cycle<E: Copy>(
    start: u32,
    edges: impl Fn(u32) -> Vec<E>,
    ends: impl Fn(&E) -> (u32, u32),
) -> Option<Vec<E>> {
    let mut by: HashMap<u32, E> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for edge in edges(at) {
            let (_, target) = ends(&edge);
            if target == start {
                let mut cycle = vec![edge];
                let mut back = at;
                while back != start {
                    let edge = *by.get(&back)?;
                    cycle.push(edge);
                    back = ends(&edge).0;
                }
                cycle.reverse();
                return Some(cycle);
            }
            if let Entry::Vacant(first) = by.entry(target) {
                first.insert(edge);
                queue.push_back(target);
            }
        }
    }
    None
}
