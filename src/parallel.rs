//! Spreads independent work over the processors.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` on every element of `items`, in any order, and returns the results in the items' order.
///
/// `block` items are handed out at once; `state` makes a thread's own scratch space; `done` hears how many items are finished.
pub(crate) fn map<T: Sync, S, R: Send>(
    items: &[T],
    block: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize, &T) -> R + Sync,
    done: &(dyn Fn(u64) + Sync),
) -> Vec<R> {
    let size = block.max(1);
    let next = AtomicUsize::new(0);
    let finished = AtomicUsize::new(0);
    let blocks = Mutex::new(Vec::new());
    let run = || {
        let mut state = state();
        loop {
            // Relaxed: the counter only hands out indices; results are published by the lock.
            let start = next.fetch_add(size, Ordering::Relaxed);
            let Some(block) = items.get(start..items.len().min(start + size)).filter(|block| !block.is_empty()) else {
                return;
            };
            let results: Vec<R> =
                block.iter().enumerate().map(|(at, item)| work(&mut state, start + at, item)).collect();
            blocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((start, results));
            // Relaxed: a progress figure.
            done((finished.fetch_add(block.len(), Ordering::Relaxed) + block.len()) as u64);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(items.len().div_ceil(size)).min(16);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    let mut blocks = blocks.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    blocks.sort_unstable_by_key(|&(start, _)| start);
    blocks.into_iter().flat_map(|(_, results)| results).collect()
}
