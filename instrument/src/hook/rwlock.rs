//! Reader-writer locks.

use super::mutex::{giving_up, gone, takes, tried};
use super::{interpose, real};
use conprof_wire::locks::Type;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

interpose! {
    pthread_rwlock_init => init;
    pthread_rwlock_destroy => destroy;
    pthread_rwlock_rdlock => read;
    pthread_rwlock_tryrdlock => try_read;
    pthread_rwlock_timedrdlock => timed_read;
    pthread_rwlock_clockrdlock => clock_read;
    pthread_rwlock_wrlock => write;
    pthread_rwlock_trywrlock => try_write;
    pthread_rwlock_timedwrlock => timed_write;
    pthread_rwlock_clockwrlock => clock_write;
    pthread_rwlock_unlock => unlock;
}

unsafe extern "C" fn init(lock: Ptr, attributes: Ptr) -> c_int {
    gone(lock);
    // SAFETY: forwarded.
    unsafe { real::pthread_rwlock_init(lock, attributes) }
}

unsafe extern "C" fn destroy(lock: Ptr) -> c_int {
    gone(lock);
    // SAFETY: forwarded.
    unsafe { real::pthread_rwlock_destroy(lock) }
}

unsafe extern "C" fn read(lock: Ptr) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadRwLock, false, false, || unsafe { real::pthread_rwlock_rdlock(lock) })
}

unsafe extern "C" fn try_read(lock: Ptr) -> c_int {
    // SAFETY: forwarded.
    tried(lock, Type::PthreadRwLock, false, unsafe { real::pthread_rwlock_tryrdlock(lock) })
}

unsafe extern "C" fn timed_read(lock: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadRwLock, false, true, || unsafe { real::pthread_rwlock_timedrdlock(lock, time) })
}

unsafe extern "C" fn clock_read(lock: Ptr, clock: c_int, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadRwLock, false, true, || unsafe { real::pthread_rwlock_clockrdlock(lock, clock, time) })
}

unsafe extern "C" fn write(lock: Ptr) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadRwLock, true, false, || unsafe { real::pthread_rwlock_wrlock(lock) })
}

unsafe extern "C" fn try_write(lock: Ptr) -> c_int {
    // SAFETY: forwarded.
    tried(lock, Type::PthreadRwLock, true, unsafe { real::pthread_rwlock_trywrlock(lock) })
}

unsafe extern "C" fn timed_write(lock: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadRwLock, true, true, || unsafe { real::pthread_rwlock_timedwrlock(lock, time) })
}

unsafe extern "C" fn clock_write(lock: Ptr, clock: c_int, time: Time) -> c_int {
    // SAFETY: forwarded.
    takes(lock, Type::PthreadRwLock, true, true, || unsafe { real::pthread_rwlock_clockwrlock(lock, clock, time) })
}

unsafe extern "C" fn unlock(lock: Ptr) -> c_int {
    giving_up(lock);
    // SAFETY: forwarded.
    unsafe { real::pthread_rwlock_unlock(lock) }
}
