//! Samples of what the program executes and when it leaves the CPU, by `perf_event_open`.
//!
//! ```text
//! attach (before the program starts) --> one software clock per CPU, inherited by the program and all its threads
//! ring of each CPU --records--> samples with registers and a copy of the stack; switches; mappings
//! sample --space (modules, generated code)--> unwind (DWARF) --> run-time addresses --symbolize--> frames
//! ```
//!
//! The events are opened on the thread that starts the program, disabled, with `inherit` and `enable_on_exec`: so the
//! program is sampled from its first instruction, and a thread created at any time is covered. Inherited events can't
//! share a ring across CPUs, hence one event and one ring per CPU. The clock is `cpu-clock`, which needs no
//! hardware counter and no privilege at `perf_event_paranoid` 2. Kernel time is counted where the
//! system allows it; the stack is the user's in any case.
//!
//! Child processes of the program inherit the events as well (the kernel has no other way that also covers the first
//! process); their records are dropped here.
//!
//! **Direction of error.** A stack that can't be followed to its bottom keeps the frames found and is counted
//! as cut off; a record the rings had no room for is counted as lost. No input from the rings makes this panic.

mod attach;
mod collect;
mod record;
mod space;
mod unwind;

pub use attach::{DEFAULT_RATE_HZ, Denied, Options, Sampling};
pub use collect::{Collected, Collector, RawSample};
pub use space::{GeneratedCode, GeneratedCodeSource, MappedModule};
