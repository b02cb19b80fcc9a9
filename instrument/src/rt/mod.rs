//! The runtime's own ground: system calls, memory, locks, emergency messages, CPU registers.
//!
//! Nothing here uses libc, thread-local storage, floats or vector registers, and nothing panics.

pub mod arena;
pub mod cpu;
pub mod lock;
pub mod memory;
pub mod panic;
pub mod print;
pub mod syscall;
