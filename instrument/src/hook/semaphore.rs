//! Barriers and semaphores.

use super::mutex::gone;
use super::{interpose, real};
use crate::check;
use crate::lock;
use crate::thread;
use conprof_wire::waits::WaitKind;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

interpose! {
    pthread_barrier_init => barrier_init;
    pthread_barrier_destroy => barrier_destroy;
    pthread_barrier_wait => barrier_wait;
    sem_init => init;
    sem_destroy => destroy;
    sem_post => post;
    sem_wait => wait;
    sem_trywait => try_wait;
    sem_timedwait => timed_wait;
    sem_clockwait => clock_wait;
}

unsafe extern "C" fn barrier_init(barrier: Ptr, attributes: Ptr, count: u32) -> c_int {
    gone(barrier);
    // SAFETY: forwarded.
    unsafe { real::pthread_barrier_init(barrier, attributes, count) }
}

unsafe extern "C" fn barrier_destroy(barrier: Ptr) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::pthread_barrier_destroy(barrier) };
    gone(barrier);
    result
}

unsafe extern "C" fn barrier_wait(barrier: Ptr) -> c_int {
    thread::run(|state| {
        check::release(state, barrier as usize);
        lock::publishes(state, barrier as usize);
        lock::wait(state, WaitKind::Barrier, barrier as usize, 0, 0, false);
    });
    // SAFETY: forwarded.
    let result = unsafe { real::pthread_barrier_wait(barrier) };
    thread::run(|state| {
        lock::waited(state);
        check::acquire(state, barrier as usize);
        lock::learns(state, barrier as usize);
    });
    result
}

unsafe extern "C" fn init(semaphore: Ptr, shared: c_int, value: u32) -> c_int {
    gone(semaphore);
    // SAFETY: forwarded.
    unsafe { real::sem_init(semaphore, shared, value) }
}

unsafe extern "C" fn destroy(semaphore: Ptr) -> c_int {
    gone(semaphore);
    // SAFETY: forwarded.
    unsafe { real::sem_destroy(semaphore) }
}

unsafe extern "C" fn post(semaphore: Ptr) -> c_int {
    thread::run(|state| check::release(state, semaphore as usize));
    // SAFETY: forwarded.
    unsafe { real::sem_post(semaphore) }
}

fn waits(semaphore: Ptr, is_timed: bool, wait: impl FnOnce() -> c_int) -> c_int {
    thread::run(|state| lock::wait(state, WaitKind::Semaphore, semaphore as usize, 0, 0, is_timed));
    let result = wait();
    thread::run(lock::waited);
    waited(semaphore, result)
}

fn waited(semaphore: Ptr, result: c_int) -> c_int {
    if result == 0 {
        thread::run(|state| check::acquire(state, semaphore as usize));
    }
    result
}

unsafe extern "C" fn wait(semaphore: Ptr) -> c_int {
    // SAFETY: forwarded.
    waits(semaphore, false, || unsafe { real::sem_wait(semaphore) })
}

unsafe extern "C" fn try_wait(semaphore: Ptr) -> c_int {
    // SAFETY: forwarded.
    waited(semaphore, unsafe { real::sem_trywait(semaphore) })
}

unsafe extern "C" fn timed_wait(semaphore: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    waits(semaphore, true, || unsafe { real::sem_timedwait(semaphore, time) })
}

unsafe extern "C" fn clock_wait(semaphore: Ptr, clock: c_int, time: Time) -> c_int {
    // SAFETY: forwarded.
    waits(semaphore, true, || unsafe { real::sem_clockwait(semaphore, clock, time) })
}
