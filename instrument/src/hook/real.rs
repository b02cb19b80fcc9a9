//! The functions behind the interposers, as the next module in lookup order defines them.

#![allow(missing_docs, non_snake_case)]

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

const UNRESOLVED: *mut c_void = core::ptr::null_mut();

fn resolve(pointer: &AtomicPtr<c_void>, name: &'static [u8]) -> *mut c_void {
    // SAFETY: `name` is zero-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr() as *const c_char) };
    if !found.is_null() {
        pointer.store(found, Ordering::Relaxed);
        return found;
    }
    pointer.load(Ordering::Relaxed)
}

/// libc's clock, where there is one.
pub fn clock() -> Option<crate::rt::syscall::ClockGettime> {
    // SAFETY: the name is zero-terminated; a function of this name has this type (clock_gettime(2)).
    unsafe {
        let found = libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr());
        core::mem::transmute::<*mut c_void, Option<crate::rt::syscall::ClockGettime>>(found)
    }
}

/// The real function's address, looked up where that was not done.
pub fn address(pointer: &AtomicPtr<c_void>, name: &'static [u8]) -> *mut c_void {
    let known = pointer.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let found = resolve(pointer, name);
    if found.is_null() { missing as *const () as *mut c_void } else { found }
}

#[cold]
extern "C" fn missing() -> isize {
    -1
}

macro_rules! reals {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty, $initial:expr;)*) => {
        #[allow(non_upper_case_globals)]
        pub mod pointer {
            use super::*;
            $(pub static $name: AtomicPtr<c_void> = AtomicPtr::new($initial);)*
        }

        /// Looks all functions up, so that none is looked up at a bad moment.
        pub fn resolve_all() {
            $(resolve(&pointer::$name, concat!(stringify!($name), "\0").as_bytes());)*
        }

        $(
            /// # Safety
            /// As for the function of this name.
            #[inline]
            #[allow(clippy::too_many_arguments)]
            pub unsafe fn $name($($argument: $type),*) -> $result {
                let function = address(&pointer::$name, concat!(stringify!($name), "\0").as_bytes());
                // SAFETY: the symbol of this name has this type.
                unsafe {
                    core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $result>(function)($($argument),*)
                }
            }
        )*
    };
}

type Ptr = *mut c_void;
type Time = *const libc::timespec;

reals! {
    malloc(size: usize) -> Ptr, __libc_malloc as *const () as Ptr;
    free(block: Ptr) -> (), __libc_free as *const () as Ptr;
    calloc(count: usize, size: usize) -> Ptr, __libc_calloc as *const () as Ptr;
    realloc(block: Ptr, size: usize) -> Ptr, __libc_realloc as *const () as Ptr;
    memalign(alignment: usize, size: usize) -> Ptr, __libc_memalign as *const () as Ptr;
    aligned_alloc(alignment: usize, size: usize) -> Ptr, __libc_memalign as *const () as Ptr;
    posix_memalign(out: *mut Ptr, alignment: usize, size: usize) -> c_int, UNRESOLVED;
    reallocarray(block: Ptr, count: usize, size: usize) -> Ptr, UNRESOLVED;
    valloc(size: usize) -> Ptr, UNRESOLVED;
    pvalloc(size: usize) -> Ptr, UNRESOLVED;
    malloc_usable_size(block: Ptr) -> usize, UNRESOLVED;

    memcpy(to: Ptr, from: Ptr, len: usize) -> Ptr, crate::rt::memory::copy as *const () as Ptr;
    memmove(to: Ptr, from: Ptr, len: usize) -> Ptr, crate::rt::memory::copy_overlapping as *const () as Ptr;
    memset(to: Ptr, byte: c_int, len: usize) -> Ptr, crate::rt::memory::fill as *const () as Ptr;
    memcmp(left: Ptr, right: Ptr, len: usize) -> c_int, crate::rt::memory::compare as *const () as Ptr;
    bcmp(left: Ptr, right: Ptr, len: usize) -> c_int, crate::rt::memory::compare as *const () as Ptr;
    strlen(text: Ptr) -> usize, crate::rt::memory::string_len as *const () as Ptr;
    mempcpy(to: Ptr, from: Ptr, len: usize) -> Ptr, UNRESOLVED;
    memchr(text: Ptr, byte: c_int, len: usize) -> Ptr, UNRESOLVED;
    memrchr(text: Ptr, byte: c_int, len: usize) -> Ptr, UNRESOLVED;
    strnlen(text: Ptr, len: usize) -> usize, UNRESOLVED;
    strcpy(to: Ptr, from: Ptr) -> Ptr, UNRESOLVED;
    stpcpy(to: Ptr, from: Ptr) -> Ptr, UNRESOLVED;
    strncpy(to: Ptr, from: Ptr, len: usize) -> Ptr, UNRESOLVED;
    strcat(to: Ptr, from: Ptr) -> Ptr, UNRESOLVED;
    strcmp(left: Ptr, right: Ptr) -> c_int, UNRESOLVED;
    strncmp(left: Ptr, right: Ptr, len: usize) -> c_int, UNRESOLVED;
    strchr(text: Ptr, byte: c_int) -> Ptr, UNRESOLVED;
    strrchr(text: Ptr, byte: c_int) -> Ptr, UNRESOLVED;

    syscall(number: i64) -> i64, UNRESOLVED;

    nanosleep(time: Time, rest: Ptr) -> c_int, UNRESOLVED;
    clock_nanosleep(clock: c_int, flags: c_int, time: Time, rest: Ptr) -> c_int, UNRESOLVED;
    usleep(time: u32) -> c_int, UNRESOLVED;
    sleep(time: u32) -> u32, UNRESOLVED;
    fsync(fd: c_int) -> c_int, UNRESOLVED;
    fdatasync(fd: c_int) -> c_int, UNRESOLVED;
    flock(fd: c_int, operation: c_int) -> c_int, UNRESOLVED;
    getaddrinfo(node: Ptr, service: Ptr, hints: Ptr, result: Ptr) -> c_int, UNRESOLVED;
    waitpid(pid: i32, status: Ptr, options: c_int) -> i32, UNRESOLVED;
    wait4(pid: i32, status: Ptr, options: c_int, usage: Ptr) -> i32, UNRESOLVED;
    waitid(kind: c_int, id: u32, info: Ptr, options: c_int) -> c_int, UNRESOLVED;

    pthread_create(thread: *mut u64, attributes: Ptr, start: Ptr, argument: Ptr) -> c_int, UNRESOLVED;
    pthread_join(thread: u64, result: *mut Ptr) -> c_int, UNRESOLVED;
    pthread_tryjoin_np(thread: u64, result: *mut Ptr) -> c_int, UNRESOLVED;
    pthread_timedjoin_np(thread: u64, result: *mut Ptr, time: Time) -> c_int, UNRESOLVED;
    pthread_clockjoin_np(thread: u64, result: *mut Ptr, clock: c_int, time: Time) -> c_int, UNRESOLVED;
    pthread_detach(thread: u64) -> c_int, UNRESOLVED;
    pthread_setname_np(thread: u64, name: *const u8) -> c_int, UNRESOLVED;
    pthread_attr_getstacksize(attributes: Ptr, size: *mut usize) -> c_int, UNRESOLVED;
    pthread_attr_getdetachstate(attributes: Ptr, state: *mut c_int) -> c_int, UNRESOLVED;
    thrd_create(thread: *mut u64, start: Ptr, argument: Ptr) -> c_int, UNRESOLVED;
    thrd_join(thread: u64, result: *mut c_int) -> c_int, UNRESOLVED;
    thrd_detach(thread: u64) -> c_int, UNRESOLVED;

    pthread_mutex_init(mutex: Ptr, attributes: Ptr) -> c_int, UNRESOLVED;
    pthread_mutex_destroy(mutex: Ptr) -> c_int, UNRESOLVED;
    pthread_mutex_lock(mutex: Ptr) -> c_int, UNRESOLVED;
    pthread_mutex_trylock(mutex: Ptr) -> c_int, UNRESOLVED;
    pthread_mutex_timedlock(mutex: Ptr, time: Time) -> c_int, UNRESOLVED;
    pthread_mutex_clocklock(mutex: Ptr, clock: c_int, time: Time) -> c_int, UNRESOLVED;
    pthread_mutex_unlock(mutex: Ptr) -> c_int, UNRESOLVED;
    mtx_lock(mutex: Ptr) -> c_int, UNRESOLVED;
    mtx_trylock(mutex: Ptr) -> c_int, UNRESOLVED;
    mtx_timedlock(mutex: Ptr, time: Time) -> c_int, UNRESOLVED;
    mtx_unlock(mutex: Ptr) -> c_int, UNRESOLVED;
    mtx_destroy(mutex: Ptr) -> (), UNRESOLVED;
    pthread_cond_wait(condition: Ptr, mutex: Ptr) -> c_int, UNRESOLVED;
    pthread_cond_timedwait(condition: Ptr, mutex: Ptr, time: Time) -> c_int, UNRESOLVED;
    pthread_cond_clockwait(condition: Ptr, mutex: Ptr, clock: c_int, time: Time) -> c_int, UNRESOLVED;
    pthread_cond_signal(condition: Ptr) -> c_int, UNRESOLVED;
    pthread_cond_broadcast(condition: Ptr) -> c_int, UNRESOLVED;
    pthread_cond_destroy(condition: Ptr) -> c_int, UNRESOLVED;
    cnd_wait(condition: Ptr, mutex: Ptr) -> c_int, UNRESOLVED;
    cnd_timedwait(condition: Ptr, mutex: Ptr, time: Time) -> c_int, UNRESOLVED;
    cnd_signal(condition: Ptr) -> c_int, UNRESOLVED;
    cnd_broadcast(condition: Ptr) -> c_int, UNRESOLVED;
    pthread_spin_init(lock: Ptr, shared: c_int) -> c_int, UNRESOLVED;
    pthread_spin_destroy(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_spin_lock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_spin_trylock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_spin_unlock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_once(control: Ptr, routine: Ptr) -> c_int, UNRESOLVED;
    call_once(control: Ptr, routine: Ptr) -> (), UNRESOLVED;

    pthread_rwlock_init(lock: Ptr, attributes: Ptr) -> c_int, UNRESOLVED;
    pthread_rwlock_destroy(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_rwlock_rdlock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_rwlock_tryrdlock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_rwlock_timedrdlock(lock: Ptr, time: Time) -> c_int, UNRESOLVED;
    pthread_rwlock_clockrdlock(lock: Ptr, clock: c_int, time: Time) -> c_int, UNRESOLVED;
    pthread_rwlock_wrlock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_rwlock_trywrlock(lock: Ptr) -> c_int, UNRESOLVED;
    pthread_rwlock_timedwrlock(lock: Ptr, time: Time) -> c_int, UNRESOLVED;
    pthread_rwlock_clockwrlock(lock: Ptr, clock: c_int, time: Time) -> c_int, UNRESOLVED;
    pthread_rwlock_unlock(lock: Ptr) -> c_int, UNRESOLVED;

    pthread_barrier_init(barrier: Ptr, attributes: Ptr, count: u32) -> c_int, UNRESOLVED;
    pthread_barrier_destroy(barrier: Ptr) -> c_int, UNRESOLVED;
    pthread_barrier_wait(barrier: Ptr) -> c_int, UNRESOLVED;
    sem_init(semaphore: Ptr, shared: c_int, value: u32) -> c_int, UNRESOLVED;
    sem_destroy(semaphore: Ptr) -> c_int, UNRESOLVED;
    sem_post(semaphore: Ptr) -> c_int, UNRESOLVED;
    sem_wait(semaphore: Ptr) -> c_int, UNRESOLVED;
    sem_trywait(semaphore: Ptr) -> c_int, UNRESOLVED;
    sem_timedwait(semaphore: Ptr, time: Time) -> c_int, UNRESOLVED;
    sem_clockwait(semaphore: Ptr, clock: c_int, time: Time) -> c_int, UNRESOLVED;

    mmap(address: Ptr, len: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> Ptr, UNRESOLVED;
    mmap64(address: Ptr, len: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> Ptr, UNRESOLVED;
    munmap(address: Ptr, len: usize) -> c_int, UNRESOLVED;
    mremap(address: Ptr, len: usize, new_len: usize, flags: c_int, place: Ptr) -> Ptr, UNRESOLVED;
    madvise(address: Ptr, len: usize, advice: c_int) -> c_int, UNRESOLVED;

    read(fd: c_int, buffer: Ptr, len: usize) -> isize, UNRESOLVED;
    write(fd: c_int, buffer: Ptr, len: usize) -> isize, UNRESOLVED;
    pread(fd: c_int, buffer: Ptr, len: usize, offset: i64) -> isize, UNRESOLVED;
    pread64(fd: c_int, buffer: Ptr, len: usize, offset: i64) -> isize, UNRESOLVED;
    pwrite(fd: c_int, buffer: Ptr, len: usize, offset: i64) -> isize, UNRESOLVED;
    pwrite64(fd: c_int, buffer: Ptr, len: usize, offset: i64) -> isize, UNRESOLVED;
    readv(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize, UNRESOLVED;
    writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize, UNRESOLVED;
    recv(fd: c_int, buffer: Ptr, len: usize, flags: c_int) -> isize, UNRESOLVED;
    recvfrom(fd: c_int, buffer: Ptr, len: usize, flags: c_int, from: Ptr, from_len: Ptr) -> isize, UNRESOLVED;
    recvmsg(fd: c_int, message: *mut libc::msghdr, flags: c_int) -> isize, UNRESOLVED;
    send(fd: c_int, buffer: Ptr, len: usize, flags: c_int) -> isize, UNRESOLVED;
    sendto(fd: c_int, buffer: Ptr, len: usize, flags: c_int, to: Ptr, to_len: u32) -> isize, UNRESOLVED;
    sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> isize, UNRESOLVED;
    accept(fd: c_int, address: Ptr, len: Ptr) -> c_int, UNRESOLVED;
    accept4(fd: c_int, address: Ptr, len: Ptr, flags: c_int) -> c_int, UNRESOLVED;
    connect(fd: c_int, address: Ptr, len: u32) -> c_int, UNRESOLVED;
    eventfd_read(fd: c_int, value: *mut u64) -> c_int, UNRESOLVED;
    eventfd_write(fd: c_int, value: u64) -> c_int, UNRESOLVED;
    epoll_ctl(fd: c_int, operation: c_int, other: c_int, event: Ptr) -> c_int, UNRESOLVED;
    epoll_wait(fd: c_int, events: Ptr, count: c_int, timeout: c_int) -> c_int, UNRESOLVED;
    epoll_pwait(fd: c_int, events: Ptr, count: c_int, timeout: c_int, mask: Ptr) -> c_int, UNRESOLVED;
    poll(fds: Ptr, count: u64, timeout: c_int) -> c_int, UNRESOLVED;
    ppoll(fds: Ptr, count: u64, timeout: Time, mask: Ptr) -> c_int, UNRESOLVED;
    select(count: c_int, read: Ptr, write: Ptr, except: Ptr, timeout: Ptr) -> c_int, UNRESOLVED;

    fork() -> c_int, UNRESOLVED;
    _Fork() -> c_int, UNRESOLVED;
    vfork() -> c_int, UNRESOLVED;
    posix_spawn(pid: Ptr, path: Ptr, actions: Ptr, attributes: Ptr, argv: Ptr, envp: Ptr) -> c_int, UNRESOLVED;
    posix_spawnp(pid: Ptr, file: Ptr, actions: Ptr, attributes: Ptr, argv: Ptr, envp: Ptr) -> c_int, UNRESOLVED;
    system(command: Ptr) -> c_int, UNRESOLVED;
    popen(command: Ptr, mode: Ptr) -> Ptr, UNRESOLVED;
    _exit(status: c_int) -> (), UNRESOLVED;
    _Exit(status: c_int) -> (), UNRESOLVED;
    dlopen(path: Ptr, flags: c_int) -> Ptr, UNRESOLVED;
    dlclose(handle: Ptr) -> c_int, UNRESOLVED;

    sigaction(signal: c_int, action: *const libc::sigaction, old: *mut libc::sigaction) -> c_int, UNRESOLVED;
    signal(signal: c_int, handler: usize) -> usize, UNRESOLVED;
    __sysv_signal(signal: c_int, handler: usize) -> usize, UNRESOLVED;
    kill(pid: c_int, signal: c_int) -> c_int, UNRESOLVED;
    pthread_kill(thread: u64, signal: c_int) -> c_int, UNRESOLVED;
    sigqueue(pid: c_int, signal: c_int, value: Ptr) -> c_int, UNRESOLVED;
    pthread_sigqueue(thread: u64, signal: c_int, value: Ptr) -> c_int, UNRESOLVED;
    timer_settime(timer: Ptr, flags: c_int, value: Ptr, old: Ptr) -> c_int, UNRESOLVED;
    setitimer(which: c_int, value: Ptr, old: Ptr) -> c_int, UNRESOLVED;
    alarm(seconds: u32) -> u32, UNRESOLVED;
    sigwait(set: Ptr, signal: *mut c_int) -> c_int, UNRESOLVED;
    sigwaitinfo(set: Ptr, info: Ptr) -> c_int, UNRESOLVED;
    sigtimedwait(set: Ptr, info: Ptr, time: Time) -> c_int, UNRESOLVED;
}
