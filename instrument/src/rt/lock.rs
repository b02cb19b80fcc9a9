//! Spin locks with ranks.
//!
//! A lock is taken only while the thread's guard is set, so no signal handler of the target runs under
//! it and no target code runs while it is held; every critical section is bounded. A thread that holds
//! a lock takes only locks of higher rank (see [`SpinLock::lock`]).

use super::syscall;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// Spins before the processor is given away.
const SPINS: u32 = 200;

/// Takes a word that is 0 while it is free, as a [`SpinLock`]'s or one inside a row. Acquires what [`give_word`] released.
pub fn take_word(word: &AtomicU32) {
    let mut spins = 0u32;
    while word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        while word.load(Ordering::Relaxed) != 0 {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) {
                syscall::yield_now();
            }
            core::hint::spin_loop();
        }
    }
}

/// Gives it back.
pub fn give_word(word: &AtomicU32) {
    word.store(0, Ordering::Release);
}

/// A spin lock around a value.
pub struct SpinLock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out one exclusive reference at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> SpinLock<T> {
        SpinLock { word: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Takes the lock. The order of the ranks is: threads, shadow stacks, tables of the recording, arena.
    pub fn lock(&self) -> SpinGuard<'_, T> {
        take_word(&self.word);
        SpinGuard { lock: self }
    }
}

/// Holds a [`SpinLock`].
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        give_word(&self.lock.word);
    }
}
