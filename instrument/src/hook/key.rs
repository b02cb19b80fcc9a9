//! Keys of synchronisation that has no address of its own: places in a table of the shim, so that no
//! memory of the target has the same key.

use core::cell::UnsafeCell;

const FILES: usize = 1024;

#[repr(align(64))]
struct Keys(UnsafeCell<[u64; FILES + 8]>);

// SAFETY: only the addresses are used.
unsafe impl Sync for Keys {}

static KEYS: Keys = Keys(UnsafeCell::new([0; FILES + 8]));

fn place(index: usize) -> usize {
    KEYS.0.get() as usize + index * 8
}

/// Sending a signal, or starting a timer that does, and handling one.
pub fn signals() -> usize {
    place(0)
}

/// All sockets.
pub fn sockets() -> usize {
    place(1)
}

/// Registrations with epoll.
pub fn epoll() -> usize {
    place(2)
}

/// Event counters, which the kernel gives no identity.
pub fn events() -> usize {
    place(3)
}

/// All pipes, for those who wait for any of several descriptors.
pub fn any_pipe() -> usize {
    place(4)
}

/// One pipe or FIFO, by its inode; two may share a key, which only adds order.
pub fn pipe(inode: u64) -> usize {
    place(8 + (inode as usize) % FILES)
}
