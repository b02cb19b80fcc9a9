//! Input and output: the memory it reads and writes, and the order it makes between threads.
//!
//! A pipe orders writer and reader, by an object per pipe. Event counters have no identity the kernel
//! tells, so all share one object, as do all sockets. Who waits for several descriptors acquires all of these.
//! Sharing only adds order.

use super::{blocking, blocking_on, caller_is_checked, interpose, key, real, run_where_checked};
use crate::check;
use crate::rt::syscall;
use crate::thread::ThreadState;
use conprof_wire::recording::Interposed;
use conprof_wire::waits::WaitKind;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

interpose! {
    read => io_read;
    write => io_write;
    pread => io_pread;
    pread64 => io_pread;
    pwrite => io_pwrite;
    pwrite64 => io_pwrite;
    readv => io_readv;
    writev => io_writev;
    recv => io_recv;
    recvfrom => io_recvfrom;
    recvmsg => io_recvmsg;
    send => io_send;
    sendto => io_sendto;
    sendmsg => io_sendmsg;
    accept => io_accept;
    accept4 => io_accept4;
    connect => io_connect;
    eventfd_read => io_eventfd_read;
    eventfd_write => io_eventfd_write;
    epoll_ctl => io_epoll_ctl;
    epoll_wait => io_epoll_wait;
    epoll_pwait => io_epoll_pwait;
    poll => io_poll;
    ppoll => io_ppoll;
    select => io_select;
}

/// Longest range that is checked before a call, in bytes: the length is the target's claim.
const CHECKED_BYTES: usize = 16 << 20;

/// Most parts that the kernel takes in one call.
const MAX_PARTS: usize = 1024;

/// What a descriptor orders.
enum Order {
    Nothing,
    By(usize),
    Pipe(u64),
}

fn order_of(fd: c_int) -> Order {
    // SAFETY: an all-zero `stat` is valid.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `stat` is valid for the write.
    if unsafe { syscall::call3(libc::SYS_fstat, fd as usize, &raw mut stat as usize, 0) } != 0 {
        return Order::Nothing;
    }
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFIFO => Order::Pipe(stat.st_ino),
        libc::S_IFSOCK => Order::By(key::sockets()),
        0 => Order::By(key::events()),
        _ => Order::Nothing,
    }
}

/// Before something is written to `fd`.
pub(super) fn sending(state: &mut ThreadState, fd: c_int) {
    match order_of(fd) {
        Order::Nothing => {}
        Order::By(key) => check::release(state, key),
        Order::Pipe(inode) => {
            check::release(state, key::pipe(inode));
            check::release(state, key::any_pipe());
        }
    }
}

/// After something was read from `fd`.
pub(super) fn received(state: &mut ThreadState, fd: c_int) {
    match order_of(fd) {
        Order::Nothing => {}
        Order::By(key) => check::acquire(state, key),
        Order::Pipe(inode) => check::acquire(state, key::pipe(inode)),
    }
}

/// After a wait for any of several descriptors.
pub(super) fn waited(state: &mut ThreadState) {
    for key in [key::epoll(), key::events(), key::sockets(), key::any_pipe()] {
        check::acquire(state, key);
    }
}

/// Before a descriptor is registered with epoll.
pub(super) fn registering(state: &mut ThreadState) {
    check::release(state, key::epoll());
}

/// Memory that a call is about to read.
pub(super) fn reading(state: &mut ThreadState, start: usize, len: usize) {
    if len != 0 {
        check::range(state, start, len.min(CHECKED_BYTES), false, Interposed::Write);
    }
}

/// Memory that a call has written.
pub(super) fn written(state: &mut ThreadState, start: usize, len: isize) {
    if len > 0 {
        check::range(state, start, len as usize, true, Interposed::Read);
    }
}

/// The parts of a scattered buffer, up to `len` bytes of them.
///
/// # Safety
/// `parts` points to `count` parts, as the target promised the kernel.
pub(super) unsafe fn for_each_part(
    parts: *const libc::iovec,
    count: usize,
    mut len: usize,
    mut visit: impl FnMut(usize, usize),
) {
    for index in 0..count.min(MAX_PARTS) {
        // SAFETY: promised by the caller.
        let part = unsafe { *parts.add(index) };
        let here = part.iov_len.min(len);
        visit(part.iov_base as usize, here);
        len -= here;
    }
}

fn sends(fd: c_int, buffer: Ptr, len: usize) {
    run_where_checked(|state| {
        if caller_is_checked(state) {
            reading(state, buffer as usize, len);
        }
        sending(state, fd);
    });
}

fn receives(fd: c_int, buffer: Ptr, len: isize) -> isize {
    if len >= 0 {
        run_where_checked(|state| {
            if caller_is_checked(state) {
                written(state, buffer as usize, len);
            }
            received(state, fd);
        });
    }
    len
}

unsafe extern "C" fn io_read(fd: c_int, buffer: Ptr, len: usize) -> isize {
    // SAFETY: forwarded.
    receives(fd, buffer, blocking_on(fd, || unsafe { real::read(fd, buffer, len) }))
}

unsafe extern "C" fn io_write(fd: c_int, buffer: Ptr, len: usize) -> isize {
    sends(fd, buffer, len);
    // SAFETY: forwarded.
    blocking_on(fd, || unsafe { real::write(fd, buffer, len) })
}

unsafe extern "C" fn io_pread(fd: c_int, buffer: Ptr, len: usize, offset: i64) -> isize {
    // SAFETY: forwarded.
    receives(fd, buffer, blocking_on(fd, || unsafe { real::pread(fd, buffer, len, offset) }))
}

unsafe extern "C" fn io_pwrite(fd: c_int, buffer: Ptr, len: usize, offset: i64) -> isize {
    sends(fd, buffer, len);
    // SAFETY: forwarded.
    blocking_on(fd, || unsafe { real::pwrite(fd, buffer, len, offset) })
}

unsafe fn send_parts(fd: c_int, parts: *const libc::iovec, count: usize) {
    run_where_checked(|state| {
        if caller_is_checked(state) {
            // SAFETY: the target promised the kernel the same.
            unsafe { for_each_part(parts, count, usize::MAX, |start, len| reading(state, start, len)) };
        }
        sending(state, fd);
    });
}

unsafe fn receive_parts(fd: c_int, parts: *const libc::iovec, count: usize, len: isize) -> isize {
    if len >= 0 {
        run_where_checked(|state| {
            if caller_is_checked(state) {
                // SAFETY: the target promised the kernel the same.
                unsafe { for_each_part(parts, count, len as usize, |start, len| written(state, start, len as isize)) };
            }
            received(state, fd);
        });
    }
    len
}

unsafe extern "C" fn io_readv(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    // SAFETY: forwarded.
    unsafe {
        let len = blocking_on(fd, || real::readv(fd, parts, count));
        receive_parts(fd, parts, count.max(0) as usize, len)
    }
}

unsafe extern "C" fn io_writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    // SAFETY: forwarded.
    unsafe {
        send_parts(fd, parts, count.max(0) as usize);
        blocking_on(fd, || real::writev(fd, parts, count))
    }
}

unsafe extern "C" fn io_recv(fd: c_int, buffer: Ptr, len: usize, flags: c_int) -> isize {
    // SAFETY: forwarded.
    let received = blocking_on(fd, || unsafe { real::recv(fd, buffer, len, flags) });
    receives(fd, buffer, received.min(len as isize));
    received
}

unsafe extern "C" fn io_recvfrom(fd: c_int, buffer: Ptr, len: usize, flags: c_int, from: Ptr, from_len: Ptr) -> isize {
    // SAFETY: forwarded.
    let received = blocking_on(fd, || unsafe { real::recvfrom(fd, buffer, len, flags, from, from_len) });
    receives(fd, buffer, received.min(len as isize));
    received
}

unsafe extern "C" fn io_recvmsg(fd: c_int, message: *mut libc::msghdr, flags: c_int) -> isize {
    // SAFETY: forwarded; after success the message was readable.
    unsafe {
        let len = blocking_on(fd, || real::recvmsg(fd, message, flags));
        if len >= 0 {
            receive_parts(fd, (*message).msg_iov, (*message).msg_iovlen, len);
        }
        len
    }
}

unsafe extern "C" fn io_send(fd: c_int, buffer: Ptr, len: usize, flags: c_int) -> isize {
    sends(fd, buffer, len);
    // SAFETY: forwarded.
    blocking_on(fd, || unsafe { real::send(fd, buffer, len, flags) })
}

unsafe extern "C" fn io_sendto(fd: c_int, buffer: Ptr, len: usize, flags: c_int, to: Ptr, to_len: u32) -> isize {
    sends(fd, buffer, len);
    // SAFETY: forwarded.
    blocking_on(fd, || unsafe { real::sendto(fd, buffer, len, flags, to, to_len) })
}

unsafe extern "C" fn io_sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> isize {
    // The message itself is the target's claim; its parts are not looked at before the kernel did.
    run_where_checked(|state| sending(state, fd));
    // SAFETY: forwarded.
    blocking_on(fd, || unsafe { real::sendmsg(fd, message, flags) })
}

fn accepted(fd: c_int) -> c_int {
    if fd >= 0 {
        run_where_checked(|state| check::acquire(state, key::sockets()));
    }
    fd
}

unsafe extern "C" fn io_accept(fd: c_int, address: Ptr, len: Ptr) -> c_int {
    // SAFETY: forwarded.
    accepted(blocking_on(fd, || unsafe { real::accept(fd, address, len) }))
}

unsafe extern "C" fn io_accept4(fd: c_int, address: Ptr, len: Ptr, flags: c_int) -> c_int {
    // SAFETY: forwarded.
    accepted(blocking_on(fd, || unsafe { real::accept4(fd, address, len, flags) }))
}

unsafe extern "C" fn io_connect(fd: c_int, address: Ptr, len: u32) -> c_int {
    run_where_checked(|state| check::release(state, key::sockets()));
    // SAFETY: forwarded.
    blocking_on(fd, || unsafe { real::connect(fd, address, len) })
}

unsafe extern "C" fn io_eventfd_read(fd: c_int, value: *mut u64) -> c_int {
    // SAFETY: forwarded.
    let result = blocking_on(fd, || unsafe { real::eventfd_read(fd, value) });
    if result == 0 {
        run_where_checked(|state| check::acquire(state, key::events()));
    }
    result
}

unsafe extern "C" fn io_eventfd_write(fd: c_int, value: u64) -> c_int {
    run_where_checked(|state| check::release(state, key::events()));
    // SAFETY: forwarded.
    unsafe { real::eventfd_write(fd, value) }
}

unsafe extern "C" fn io_epoll_ctl(fd: c_int, operation: c_int, other: c_int, event: Ptr) -> c_int {
    run_where_checked(registering);
    // SAFETY: forwarded.
    unsafe { real::epoll_ctl(fd, operation, other, event) }
}

fn waits(result: c_int) -> c_int {
    if result > 0 {
        run_where_checked(waited);
    }
    result
}

unsafe extern "C" fn io_epoll_wait(fd: c_int, events: Ptr, count: c_int, timeout: c_int) -> c_int {
    // SAFETY: forwarded.
    waits(blocking(WaitKind::Outside, || unsafe { real::epoll_wait(fd, events, count, timeout) }))
}

unsafe extern "C" fn io_epoll_pwait(fd: c_int, events: Ptr, count: c_int, timeout: c_int, mask: Ptr) -> c_int {
    // SAFETY: forwarded.
    waits(blocking(WaitKind::Outside, || unsafe { real::epoll_pwait(fd, events, count, timeout, mask) }))
}

unsafe extern "C" fn io_poll(fds: Ptr, count: u64, timeout: c_int) -> c_int {
    // SAFETY: forwarded.
    waits(blocking(WaitKind::Outside, || unsafe { real::poll(fds, count, timeout) }))
}

unsafe extern "C" fn io_ppoll(fds: Ptr, count: u64, timeout: Time, mask: Ptr) -> c_int {
    // SAFETY: forwarded.
    waits(blocking(WaitKind::Outside, || unsafe { real::ppoll(fds, count, timeout, mask) }))
}

unsafe extern "C" fn io_select(count: c_int, read: Ptr, write: Ptr, except: Ptr, timeout: Ptr) -> c_int {
    // SAFETY: forwarded.
    waits(blocking(WaitKind::Outside, || unsafe { real::select(count, read, write, except, timeout) }))
}
