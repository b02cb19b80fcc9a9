//! From the order log to what the search for inversions takes: edges of threads and of tasks, with what structure orders.

use super::lock_order::{self, Edge, Orders, Write};
use super::recorded::{Names, Recorded, hold};
use super::structure::{Structural, moments_of_edges};
use super::task_order::{Births, TaskEdge, is_of_permits};
use super::{Describe, Hold, Lock, LockId, Locks, Mode, Place};
use crate::report::{Finding, LockOrder};
use crate::wire::locks::*;
use std::collections::{BTreeMap, HashMap};

impl Recorded {
    /// The inversions in the lock order.
    pub(in crate::analyze) fn inversions(&self, names: &Names<'_, '_>) -> Vec<Finding> {
        let mut events = Vec::new();
        let mut orders = Orders::default();
        let mut moments_wanted = 0;
        let mut edge_moments = Vec::new();
        let mut write_moments = Vec::new();
        let births = Births::of(&self.orders);
        for (index, row) in self.orders.iter().enumerate() {
            for &(parent, child) in births.before(index) {
                events.push(Structural::Create { parent, child });
            }
            let thread = row.thread;
            let other = row.object as u32;
            match row.kind {
                kind if kind == OrderKind::Create as u32 => {
                    events.push(Structural::Create { parent: thread, child: other })
                }
                kind if kind == OrderKind::Join as u32 => {
                    events.push(Structural::Join { joiner: thread, child: other })
                }
                kind if kind == OrderKind::Release as u32 => {
                    events.push(Structural::Release { thread, object: row.object });
                }
                kind if kind == OrderKind::Acquire as u32 => {
                    events.push(Structural::Acquire { thread, object: row.object });
                }
                kind if kind == OrderKind::Edge as u32 => {
                    let TaskEdge { held, wanted, by_try, doubt } = if is_of_permits(row, &self.locks) {
                        let Some(edge) = self.task_edge(row, &births, names) else { continue };
                        edge
                    } else {
                        let by_try = row.wanted.reserved != 0;
                        TaskEdge { held: hold(&row.held), wanted: hold(&row.wanted), by_try, doubt: None }
                    };
                    events.push(Structural::Edge { thread, edge: moments_wanted });
                    edge_moments.push(moments_wanted);
                    moments_wanted += 1;
                    orders.edges.push(Edge {
                        thread,
                        held,
                        wanted,
                        by_try,
                        doubt,
                        others: self.others(row),
                        moment: Default::default(),
                        count: row.count,
                    });
                }
                kind if kind == OrderKind::Write as u32 => {
                    if is_of_permits(row, &self.locks) && !self.counts_as_write(row, names) {
                        continue;
                    }
                    events.push(Structural::Edge { thread, edge: moments_wanted });
                    write_moments.push(moments_wanted);
                    moments_wanted += 1;
                    orders.writes.push(Write {
                        thread,
                        hold: hold(&row.wanted),
                        others: self.others(row),
                        moment: Default::default(),
                    });
                }
                _ => {}
            }
        }
        if orders.edges.is_empty() {
            return Vec::new();
        }
        let moments = moments_of_edges(&events, moments_wanted);
        for (edge, at) in orders.edges.iter_mut().zip(edge_moments) {
            edge.moment = moments[at].clone();
        }
        for (write, at) in orders.writes.iter_mut().zip(write_moments) {
            write.moment = moments[at].clone();
        }
        lock_order::inversions(&orders, &self.classes(names), names).findings
    }

    /// The lock-order graph by names of locks, the most frequent edges first.
    pub(in crate::analyze) fn lock_order(&self, names: &Names<'_, '_>) -> Vec<LockOrder> {
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        for row in self.orders.iter().filter(|row| row.kind == OrderKind::Edge as u32) {
            *counts.entry((row.held.lock, row.wanted.lock)).or_default() += row.count.max(1);
        }
        let name = |lock: u32| names.lock(LockId(lock)).name;
        let mut named: BTreeMap<(String, String), u64> = BTreeMap::new();
        for ((from, to), count) in counts {
            *named.entry((name(from), name(to))).or_default() += count;
        }
        let edges = named.into_iter().map(|((from, to), count)| LockOrder { from, to, count });
        // Two locks of one name would be a loop in the picture, which is no cycle.
        let mut edges: Vec<LockOrder> = edges.filter(|edge| edge.from != edge.to).collect();
        edges.sort_by_key(|edge| std::cmp::Reverse(edge.count));
        edges
    }

    /// Locks first taken at one place are of one class.
    fn classes(&self, names: &Names<'_, '_>) -> Locks {
        let mut together = Together::new(self.locks.len());
        // Where one line takes several locks, they are of one kind.
        let mut takers: HashMap<(u32, u64), u32> = HashMap::new();
        for row in self.orders.iter().filter(|row| row.kind == OrderKind::Edge as u32) {
            for hold in [&row.held, &row.wanted] {
                let kind = self.locks.get(hold.lock as usize).map_or(0, |lock| lock.lock_type);
                if let Some(line) = names.line_key(Place(hold.access)) {
                    let first = *takers.entry((kind, line)).or_insert(hold.lock);
                    together.join(first, hold.lock);
                }
            }
        }
        let mut classes: HashMap<(u32, u64), u32> = HashMap::new();
        let mut locks = Vec::with_capacity(self.locks.len());
        for (index, row) in self.locks.iter().enumerate() {
            let id = LockId(index as u32);
            // Only locks that the log names matter, and symbolising is the costly part.
            let key = if row.lock_type & LOCK_REFERENCED != 0 {
                self.locks.get(together.of(index as u32) as usize).map_or(0, |first| names.class_key(first))
            } else {
                index as u64
            };
            let next = classes.len() as u32;
            let class = *classes.entry((row.lock_type, key)).or_insert(next);
            locks.push(Lock { class, rules: self.rules(id) });
        }
        Locks(locks)
    }

    fn others(&self, row: &OrderRow) -> Vec<Hold> {
        let place_of = |lock: u32| {
            let same = |other: &&OrderRow| {
                other.kind == OrderKind::Edge as u32
                    && other.thread == row.thread
                    && other.held.lock == lock
                    && other.wanted.lock == row.wanted.lock
                    && other.wanted.access == row.wanted.access
            };
            self.orders.iter().find(same).map_or(Place(0), |other| Place(other.held.access))
        };
        let used = row.others.iter().filter(|other| **other != 0);
        used.map(|other| {
            let lock = other & !OTHER_SHARED;
            let mode = if other & OTHER_SHARED != 0 { Mode::Shared } else { Mode::Exclusive };
            Hold { lock: LockId(lock), mode, place: place_of(lock) }
        })
        .collect()
    }

    /// Number of rows in the order log.
    pub fn order_rows(&self) -> usize {
        self.orders.len()
    }
}

/// Disjoint sets of locks (union-find with path halving).
struct Together(Vec<u32>);

impl Together {
    fn new(count: usize) -> Together {
        Together((0..count as u32).collect())
    }

    fn of(&mut self, mut lock: u32) -> u32 {
        while let Some(&up) = self.0.get(lock as usize).filter(|up| **up != lock) {
            let above = self.0.get(up as usize).copied().unwrap_or(up);
            self.0[lock as usize] = above;
            lock = above;
        }
        lock
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.of(a), self.of(b));
        if let Some(up) = self.0.get_mut(a.max(b) as usize) {
            *up = a.min(b);
        }
    }
}
