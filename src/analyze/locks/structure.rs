//! Happens-before by structure alone: thread creation and join, barriers, one-time initialisation.
//!
//! The lock-order filter must not see the order that a run's locks, atomics, channels and condition variables
//! happened to make: it would hide inversions that another schedule shows. These clocks know only what every
//! schedule has in common. Source: vector clocks as in Mattern 1989; the choice of edges is ours.
//!
//! Direction of error: an event that is missing makes two edges look unordered, so an inversion that cannot
//! happen is reported as one that can.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A structural event, in an order that agrees with each thread's and each object's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structural {
    /// `parent` creates `child`.
    Create {
        /// Who creates.
        parent: u32,
        /// Who is created.
        child: u32,
    },
    /// `joiner` has waited for the end of `child`.
    Join {
        /// Who joins.
        joiner: u32,
        /// Who has ended.
        child: u32,
    },
    /// `thread` arrives at a barrier, or has finished a one-time initialisation: what it did is published.
    Release {
        /// Who.
        thread: u32,
        /// The barrier or `Once`.
        object: u64,
    },
    /// `thread` leaves a barrier, or finds an initialisation done.
    Acquire {
        /// Who.
        thread: u32,
        /// The barrier or `Once`.
        object: u64,
    },
    /// The edge with this index was seen in `thread`.
    Edge {
        /// Who.
        thread: u32,
        /// Index, for [`Moments::of_edges`].
        edge: usize,
    },
}

/// Epochs by thread, of the threads that have edges; shared until it changes.
type Clock = Arc<HashMap<u32, u32>>;

/// A moment in a thread, with what is known to be before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    thread: u32,
    epoch: u32,
    clock: Clock,
}

impl Moment {
    /// Whether `self` happens before `later` in every schedule.
    pub fn is_before(&self, later: &Moment) -> bool {
        if self.thread == later.thread {
            return self.epoch <= later.epoch;
        }
        later.clock.get(&self.thread).is_some_and(|known| *known >= self.epoch)
    }

    /// Whether the order of the two depends on the schedule.
    pub fn is_unordered_with(&self, other: &Moment) -> bool {
        !self.is_before(other) && !other.is_before(self)
    }
}

#[derive(Clone, Debug, Default)]
struct ThreadClock {
    epoch: u32,
    clock: Clock,
}

fn join(into: &mut Clock, from: &Clock) {
    if into.is_empty() {
        *into = Arc::clone(from);
        return;
    }
    if Arc::ptr_eq(into, from)
        || from.iter().all(|(thread, epoch)| into.get(thread).is_some_and(|known| known >= epoch))
    {
        return;
    }
    let into = Arc::make_mut(into);
    for (thread, epoch) in from.iter() {
        let known = into.entry(*thread).or_default();
        *known = (*known).max(*epoch);
    }
}

/// Replays structural events and gives the moment of each edge, by edge index; an edge that no event names has the
/// first moment of thread `u32::MAX`, which is unordered with all others.
pub fn moments_of_edges(events: &[Structural], edges: usize) -> Vec<Moment> {
    let unknown = Moment { thread: u32::MAX, epoch: u32::MAX, clock: Clock::default() };
    let mut moments = vec![unknown; edges];
    let mut threads: HashMap<u32, ThreadClock> = HashMap::new();
    let mut objects: HashMap<u64, Clock> = HashMap::new();
    // Nobody asks what is before or after a thread without edges, of which there may be thousands.
    let asked: HashSet<u32> = events
        .iter()
        .filter_map(|event| if let Structural::Edge { thread, .. } = event { Some(*thread) } else { None })
        .collect();
    // What a thread did up to now, itself included, in a form that others may join; its epoch then advances.
    let published = |threads: &mut HashMap<u32, ThreadClock>, thread: u32| -> Clock {
        let state = threads.entry(thread).or_default();
        let mut clock = Arc::clone(&state.clock);
        if asked.contains(&thread) {
            Arc::make_mut(&mut clock).insert(thread, state.epoch);
            state.epoch += 1;
        }
        clock
    };
    for event in events {
        match *event {
            Structural::Create { parent, child } => {
                let clock = published(&mut threads, parent);
                join(&mut threads.entry(child).or_default().clock, &clock);
            }
            Structural::Join { joiner, child } => {
                let clock = published(&mut threads, child);
                join(&mut threads.entry(joiner).or_default().clock, &clock);
            }
            Structural::Release { thread, object } => {
                let clock = published(&mut threads, thread);
                join(objects.entry(object).or_default(), &clock);
            }
            Structural::Acquire { thread, object } => {
                if let Some(clock) = objects.get(&object) {
                    join(&mut threads.entry(thread).or_default().clock, clock);
                }
            }
            Structural::Edge { thread, edge } => {
                let state = threads.entry(thread).or_default();
                if let Some(moment) = moments.get_mut(edge) {
                    *moment = Moment { thread, epoch: state.epoch, clock: state.clock.clone() };
                }
            }
        }
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(thread: u32, edge: usize) -> Structural {
        Structural::Edge { thread, edge }
    }

    #[test]
    fn creation_orders_what_the_parent_did_before_it_only() {
        let events = [edge(0, 0), Structural::Create { parent: 0, child: 1 }, edge(0, 1), edge(1, 2)];
        let moments = moments_of_edges(&events, 3);
        assert!(moments[0].is_before(&moments[2]));
        assert!(!moments[2].is_before(&moments[0]));
        assert!(moments[1].is_unordered_with(&moments[2]));
    }

    #[test]
    fn join_orders_all_that_the_child_did() {
        let events = [
            Structural::Create { parent: 0, child: 1 },
            edge(1, 0),
            edge(0, 1),
            Structural::Join { joiner: 0, child: 1 },
            edge(0, 2),
            Structural::Create { parent: 0, child: 2 },
            edge(2, 3),
        ];
        let moments = moments_of_edges(&events, 4);
        assert!(moments[0].is_unordered_with(&moments[1]));
        assert!(moments[0].is_before(&moments[2]));
        assert!(moments[0].is_before(&moments[3]), "through the main thread, into one created later");
    }

    #[test]
    fn a_barrier_orders_the_phases_of_all_its_threads() {
        let barrier = 0x1000;
        let mut events = vec![edge(1, 0), edge(2, 1)];
        events.extend([1, 2].map(|thread| Structural::Release { thread, object: barrier }));
        events.extend([1, 2].map(|thread| Structural::Acquire { thread, object: barrier }));
        events.extend([edge(1, 2), edge(2, 3)]);
        let moments = moments_of_edges(&events, 4);
        assert!(moments[0].is_before(&moments[3]) && moments[1].is_before(&moments[2]));
        assert!(moments[0].is_unordered_with(&moments[1]) && moments[2].is_unordered_with(&moments[3]));
    }

    #[test]
    fn an_unrecorded_edge_is_unordered_with_all() {
        let moments = moments_of_edges(&[edge(0, 0)], 2);
        assert!(moments[0].is_unordered_with(&moments[1]));
    }
}
