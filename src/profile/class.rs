//! Lock waiting or idle waiting.

use crate::report::Frame;
use crate::wire::waits::WaitKind;

/// What waiting says about the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Another thread stands in the way: a lock, a permit, a barrier, a full channel.
    Lock,
    /// There is nothing to do: an empty channel, a parked pool, a join, a sleep, the outside.
    Idle,
}

/// Functions that wait for a lock by parking, by a condition variable or by a bare futex.
const LOCK_FUNCTIONS: &[&str] = &[
    "::lock_contended",
    "::read_contended",
    "::write_contended",
    "::lock_slow",
    "::lock_shared_slow",
    "::lock_exclusive_slow",
    "::lock_upgradable_slow",
    "::upgrade_slow",
    "::Mutex<T>::lock",
    "Once::call",
    "Once::call_once_slow",
    "spin::mutex",
];

/// Tells the class of a wait by its kind, and for parks and bare futexes by who parks.
pub fn classify(kind: WaitKind, frames: &[Frame]) -> Class {
    match kind {
        WaitKind::Lock
        | WaitKind::Shared
        | WaitKind::Upgradable
        | WaitKind::Barrier
        | WaitKind::Semaphore
        | WaitKind::Once
        | WaitKind::Send => Class::Lock,
        WaitKind::Condvar
        | WaitKind::Receive
        | WaitKind::Join
        | WaitKind::Sleep
        | WaitKind::Outside
        | WaitKind::Signal => Class::Idle,
        WaitKind::Park | WaitKind::Futex => {
            // Only the innermost frames: a pool may well be started inside a `Once`.
            let locks = frames.iter().take(12).any(|f| LOCK_FUNCTIONS.iter().any(|l| f.function.contains(l)));
            if locks { Class::Lock } else { Class::Idle }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Vec<Frame> {
        functions.iter().map(|f| Frame { function: (*f).to_owned(), ..Frame::default() }).collect()
    }

    #[test]
    fn parking_is_idle_unless_a_lock_parks() {
        assert_eq!(
            classify(WaitKind::Park, &stack(&["std::thread::park", "rayon_core::sleep::Sleep::sleep"])),
            Class::Idle
        );
        let lock = stack(&["syscall", "parking_lot::raw_mutex::RawMutex::lock_slow", "app::work"]);
        assert_eq!(classify(WaitKind::Park, &lock), Class::Lock);
        assert_eq!(classify(WaitKind::Futex, &[]), Class::Idle);
        assert_eq!(classify(WaitKind::Condvar, &lock), Class::Idle);
    }
}
