//! Mutexes, condition variables, spin locks and one-time initialisation, of pthreads and of C11.

use super::{interpose, real};
use crate::check;
use crate::lock;
use crate::thread::{self, ThreadState};
use conprof_wire::incident::Misuse;
use conprof_wire::locks::Type;
use conprof_wire::recording::NO_SITE;
use conprof_wire::waits::WaitKind;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

interpose! {
    pthread_mutex_init => mutex_init;
    pthread_mutex_destroy => mutex_destroy;
    pthread_mutex_lock => mutex_lock;
    pthread_mutex_trylock => mutex_trylock;
    pthread_mutex_timedlock => mutex_timedlock;
    pthread_mutex_clocklock => mutex_clocklock;
    pthread_mutex_unlock => mutex_unlock;
    mtx_lock => c11_lock;
    mtx_trylock => c11_trylock;
    mtx_timedlock => c11_timedlock;
    mtx_unlock => c11_unlock;
    mtx_destroy => c11_destroy;
    pthread_cond_wait => condition_wait;
    pthread_cond_timedwait => condition_timedwait;
    pthread_cond_clockwait => condition_clockwait;
    pthread_cond_signal => condition_signal;
    pthread_cond_broadcast => condition_broadcast;
    pthread_cond_destroy => condition_destroy;
    cnd_wait => c11_wait;
    cnd_timedwait => c11_timedwait;
    cnd_signal => c11_signal;
    cnd_broadcast => c11_broadcast;
    pthread_spin_init => spin_init;
    pthread_spin_destroy => spin_destroy;
    pthread_spin_lock => spin_lock;
    pthread_spin_trylock => spin_trylock;
    pthread_spin_unlock => spin_unlock;
    pthread_once => once;
    call_once => c11_once;
}

/// Makes a lock call that may wait: the wait is published, and what it took is a hold.
pub(super) fn takes(
    lock: Ptr,
    lock_type: Type,
    exclusive: bool,
    is_timed: bool,
    take: impl FnOnce() -> c_int,
) -> c_int {
    let kind = if exclusive { WaitKind::Lock } else { WaitKind::Shared };
    thread::run(|state| lock::wait(state, kind, lock as usize, lock as usize, 0, is_timed));
    let result = take();
    thread::run(|state| {
        lock::waited(state);
        hold(state, lock, lock_type, result, exclusive, is_timed);
    });
    result
}

/// After a lock call that did not wait.
pub(super) fn tried(lock: Ptr, lock_type: Type, exclusive: bool, result: c_int) -> c_int {
    thread::run(|state| {
        hold(state, lock, lock_type, result, exclusive, true);
        if result == libc::EBUSY {
            lock::interposed_failed(state, lock as usize, exclusive);
        }
    });
    result
}

/// `result` says whether the lock is held now.
fn hold(state: &mut ThreadState, lock: Ptr, lock_type: Type, result: c_int, exclusive: bool, is_try: bool) {
    if result == 0 || result == libc::EOWNERDEAD {
        // SAFETY: the call has just taken it.
        if lock_type != Type::PthreadMutex || unsafe { Glibc::of(lock) }.count <= 1 {
            lock::interposed_acquired(state, lock as usize, exclusive, is_try, lock_type);
        }
    } else if result == libc::EDEADLK && !is_try {
        lock::misused(state, lock as usize, lock_type, Misuse::DoubleLock);
    }
}

/// The beginning of glibc's `pthread_mutex_t` on x86-64 (`struct __pthread_mutex_s`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Glibc {
    lock: u32,
    /// Of a recursive mutex, how often its owner has it.
    count: u32,
    /// Kernel thread id; 0 where nobody has it.
    owner: u32,
    users: u32,
    kind: u32,
}

impl Glibc {
    /// Kinds whose unlock does not look at who calls: `PTHREAD_MUTEX_TIMED_NP` and `PTHREAD_MUTEX_ADAPTIVE_NP`, private to the
    /// process, without robustness, priority or elision.
    fn is_unchecked(self) -> bool {
        matches!(self.kind, 0 | 3)
    }

    /// # Safety
    /// `mutex` is a mutex that the target uses now.
    unsafe fn of(mutex: Ptr) -> Glibc {
        // SAFETY: the structure begins so; others may change it meanwhile.
        unsafe { (mutex as *const Glibc).read_volatile() }
    }
}

/// Before an unlock call.
pub(super) fn giving_up(lock: Ptr) {
    thread::run(|state| lock::released(state, lock as usize, NO_SITE));
}

/// Before the object is initialised or after it is destroyed.
pub(super) fn gone(object: Ptr) {
    thread::run(|state| {
        check::destroy(state, object as usize);
        lock::gone(object as usize);
    });
}

unsafe extern "C" fn mutex_init(mutex: Ptr, attributes: Ptr) -> c_int {
    gone(mutex);
    // SAFETY: forwarded.
    unsafe { real::pthread_mutex_init(mutex, attributes) }
}

unsafe extern "C" fn mutex_destroy(mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::pthread_mutex_destroy(mutex) };
    if result == libc::EBUSY {
        thread::run(|state| lock::misused(state, mutex as usize, Type::PthreadMutex, Misuse::DestroyOfHeld));
    }
    if result == 0 {
        gone(mutex);
    }
    result
}

unsafe extern "C" fn mutex_lock(mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    takes(mutex, Type::PthreadMutex, true, false, || unsafe { real::pthread_mutex_lock(mutex) })
}

unsafe extern "C" fn mutex_trylock(mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    tried(mutex, Type::PthreadMutex, true, unsafe { real::pthread_mutex_trylock(mutex) })
}

unsafe extern "C" fn mutex_timedlock(mutex: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(mutex, Type::PthreadMutex, true, true, || unsafe { real::pthread_mutex_timedlock(mutex, time) })
}

unsafe extern "C" fn mutex_clocklock(mutex: Ptr, clock: c_int, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(mutex, Type::PthreadMutex, true, true, || unsafe { real::pthread_mutex_clocklock(mutex, clock, time) })
}

unsafe extern "C" fn mutex_unlock(mutex: Ptr) -> c_int {
    // SAFETY: the target is about to unlock it.
    let before = unsafe { Glibc::of(mutex) };
    let misuse = |state: &mut ThreadState, how| lock::misused(state, mutex as usize, Type::PthreadMutex, how);
    thread::run(|state| {
        if before.is_unchecked() && before.lock == 0 {
            misuse(state, Misuse::UnlockOfUnlocked);
        } else if before.is_unchecked() && before.owner != 0 && before.owner != state.tid {
            misuse(state, Misuse::UnlockByOther);
        }
        // The inner calls of a recursive mutex give nothing up.
        if before.count <= 1 {
            lock::released(state, mutex as usize, NO_SITE);
        }
    });
    // SAFETY: forwarded.
    let result = unsafe { real::pthread_mutex_unlock(mutex) };
    if result == libc::EPERM {
        let how = if before.owner == 0 { Misuse::UnlockOfUnlocked } else { Misuse::UnlockByOther };
        thread::run(|state| misuse(state, how));
    }
    result
}

unsafe extern "C" fn c11_lock(mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    takes(mutex, Type::PthreadMutex, true, false, || unsafe { real::mtx_lock(mutex) })
}

unsafe extern "C" fn c11_trylock(mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    tried(mutex, Type::PthreadMutex, true, unsafe { real::mtx_trylock(mutex) })
}

unsafe extern "C" fn c11_timedlock(mutex: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(mutex, Type::PthreadMutex, true, true, || unsafe { real::mtx_timedlock(mutex, time) })
}

unsafe extern "C" fn c11_unlock(mutex: Ptr) -> c_int {
    giving_up(mutex);
    // SAFETY: forwarded.
    unsafe { real::mtx_unlock(mutex) }
}

unsafe extern "C" fn c11_destroy(mutex: Ptr) {
    // SAFETY: forwarded.
    unsafe { real::mtx_destroy(mutex) };
    gone(mutex);
}

/// Around a wait: the mutex is given up and taken again, and the wake-up orders the waker before the waiter.
fn waits(condition: Ptr, mutex: Ptr, is_timed: bool, wait: impl FnOnce() -> c_int) -> c_int {
    thread::run(|state| {
        lock::released(state, mutex as usize, NO_SITE);
        lock::wait(state, WaitKind::Condvar, condition as usize, mutex as usize, 0, is_timed);
    });
    let result = wait();
    thread::run(|state| {
        lock::waited(state);
        lock::interposed_acquired(state, mutex as usize, true, false, Type::PthreadMutex);
        if result == 0 {
            check::acquire(state, condition as usize);
        }
    });
    result
}

fn signals(condition: Ptr) {
    thread::run(|state| {
        check::release(state, condition as usize);
        lock::notified(state, condition as usize);
    });
}

unsafe extern "C" fn condition_wait(condition: Ptr, mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    waits(condition, mutex, false, || unsafe { real::pthread_cond_wait(condition, mutex) })
}

unsafe extern "C" fn condition_timedwait(condition: Ptr, mutex: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    waits(condition, mutex, true, || unsafe { real::pthread_cond_timedwait(condition, mutex, time) })
}

unsafe extern "C" fn condition_clockwait(condition: Ptr, mutex: Ptr, clock: c_int, time: Time) -> c_int {
    // SAFETY: forwarded.
    waits(condition, mutex, true, || unsafe { real::pthread_cond_clockwait(condition, mutex, clock, time) })
}

unsafe extern "C" fn condition_signal(condition: Ptr) -> c_int {
    signals(condition);
    // SAFETY: forwarded.
    unsafe { real::pthread_cond_signal(condition) }
}

unsafe extern "C" fn condition_broadcast(condition: Ptr) -> c_int {
    signals(condition);
    // SAFETY: forwarded.
    unsafe { real::pthread_cond_broadcast(condition) }
}

unsafe extern "C" fn condition_destroy(condition: Ptr) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::pthread_cond_destroy(condition) };
    gone(condition);
    result
}

unsafe extern "C" fn c11_wait(condition: Ptr, mutex: Ptr) -> c_int {
    // SAFETY: forwarded.
    waits(condition, mutex, false, || unsafe { real::cnd_wait(condition, mutex) })
}

unsafe extern "C" fn c11_timedwait(condition: Ptr, mutex: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    waits(condition, mutex, true, || unsafe { real::cnd_timedwait(condition, mutex, time) })
}

unsafe extern "C" fn c11_signal(condition: Ptr) -> c_int {
    signals(condition);
    // SAFETY: forwarded.
    unsafe { real::cnd_signal(condition) }
}

unsafe extern "C" fn c11_broadcast(condition: Ptr) -> c_int {
    signals(condition);
    // SAFETY: forwarded.
    unsafe { real::cnd_broadcast(condition) }
}

unsafe extern "C" fn spin_init(lock: Ptr, shared: c_int) -> c_int {
    gone(lock);
    // SAFETY: forwarded.
    unsafe { real::pthread_spin_init(lock, shared) }
}

unsafe extern "C" fn spin_destroy(lock: Ptr) -> c_int {
    gone(lock);
    // SAFETY: forwarded.
    unsafe { real::pthread_spin_destroy(lock) }
}

unsafe extern "C" fn spin_lock(lock: Ptr) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadSpin, true, false, || unsafe { real::pthread_spin_lock(lock) })
}

unsafe extern "C" fn spin_trylock(lock: Ptr) -> c_int {
    // SAFETY: forwarded.
    tried(lock, Type::PthreadSpin, true, unsafe { real::pthread_spin_trylock(lock) })
}

unsafe extern "C" fn spin_unlock(lock: Ptr) -> c_int {
    giving_up(lock);
    // SAFETY: forwarded.
    unsafe { real::pthread_spin_unlock(lock) }
}

/// Runs the routine that the innermost [`initialise_once`] of this thread left in its state, and releases
/// what it did before the real function lets others pass.
unsafe extern "C" fn run_once_routine() {
    let mut pending = [0usize; 2];
    thread::run(|state| pending = state.once);
    let [control, routine] = pending;
    if routine != 0 {
        // SAFETY: the target passed it as the routine.
        unsafe { core::mem::transmute::<usize, unsafe extern "C" fn()>(routine)() };
        thread::run(|state| check::release(state, control));
    }
}

unsafe fn initialise_once<R>(control: Ptr, routine: Ptr, real: unsafe fn(Ptr, Ptr) -> R) -> R {
    let mut before = None;
    thread::run(|state: &mut ThreadState| {
        before = Some(state.once);
        state.once = [control as usize, routine as usize];
    });
    let Some(before) = before else {
        // SAFETY: forwarded.
        return unsafe { real(control, routine) };
    };
    // SAFETY: forwarded, with a routine that calls the target's.
    let result = unsafe { real(control, run_once_routine as *const () as Ptr) };
    thread::run(|state| {
        state.once = before;
        check::acquire(state, control as usize);
    });
    result
}

unsafe extern "C" fn once(control: Ptr, routine: Ptr) -> c_int {
    // SAFETY: forwarded.
    unsafe { initialise_once(control, routine, real::pthread_once) }
}

unsafe extern "C" fn c11_once(control: Ptr, routine: Ptr) {
    // SAFETY: forwarded.
    unsafe { initialise_once(control, routine, real::call_once) };
}
