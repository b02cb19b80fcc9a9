//! A spin lock for sections of bounded length inside the runtime.
//!
//! It is a leaf of the lock order unless its user says otherwise, and no target code runs while it is held.

use core::sync::atomic::{AtomicU32, Ordering};

/// A spin lock without data; zeroed memory is an unlocked one.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct SpinLock(AtomicU32);

impl SpinLock {
    /// An unlocked lock.
    pub const fn new() -> SpinLock {
        SpinLock(AtomicU32::new(0))
    }

    /// Takes the lock; `pause` is called with the number of failed attempts so far.
    #[inline]
    pub fn lock(&self, mut pause: impl FnMut(u32)) {
        let mut spins = 0;
        // Acquire: pairs with the release in `unlock`.
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.0.load(Ordering::Relaxed) != 0 {
                core::hint::spin_loop();
                spins += 1;
                pause(spins);
            }
        }
    }

    /// Whether somebody has it now.
    #[inline]
    pub fn is_locked(&self) -> bool {
        // Acquire: what is read after this is as new as what the last holder stored.
        self.0.load(Ordering::Acquire) != 0
    }

    /// Gives the lock up; the caller holds it.
    #[inline]
    pub fn unlock(&self) {
        // Release: pairs with the acquire in `lock`.
        self.0.store(0, Ordering::Release);
    }
}
