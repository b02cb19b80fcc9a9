//! A counter that threads share without any order.
//!
//! ```
//! // A test of the documentation that races.
//! counter::bump_from(2);
//! ```

static mut HITS: u64 = 0;

/// Counts one; wrong from two threads at once.
pub fn bump() {
    // SAFETY: none; this is the bug.
    unsafe { HITS += 1 };
}

/// Counts in `threads` threads at once, which start together.
pub fn bump_from(threads: usize) {
    let start = std::sync::Barrier::new(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                start.wait();
                (0..200).for_each(|_| bump());
            });
        }
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn counting_from_two_threads_races() {
        super::bump_from(2);
    }

    #[test]
    fn counting_alone_is_fine_however_long_the_name() {
        // Not by `bump`: the tests run at once, and would race with each other.
        assert_eq!([1u64; 3].iter().sum::<u64>(), 3);
    }
}
