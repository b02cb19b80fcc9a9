//! conprof's happens-before detector: epochs, vector clocks, shadow cells, sync objects.
//!
//! ```text
//! plain access  --> Detector::access --> Granule::check (cells against the thread's clock) --> Conflict
//! atomic, lock  --> Detector::release / acquire --> SyncObject (under its own spin lock)
//! memory reuse  --> Detector::clean / free
//! thread birth, end, join --> Detector::thread_*
//! ```
//!
//! The crate's contract. *Your duties*: hand over zeroed memory that stays mapped (shadow, object table, clock
//! pool, thread clocks), call from one thread at a time for each [`Thread`], call [`Detector::release`] before
//! the instruction that stores and [`Detector::acquire`] after the one that loads. *Ours*: no allocation, no I/O,
//! no clock, no panic in a release build on any input, no lock held while a method of [`Runtime`] other than
//! `pause` and `event` runs. *Non-goals*: stacks and texts; an access is known by a number of yours
//! ([`AccessId`]).
//!
//! Algorithm: FastTrack (Flanagan and Freund, "FastTrack: Efficient and Precise Dynamic Race Detection", PLDI 2009)
//! on shadow memory with a fixed number of cells a granule, as ThreadSanitizer v3 has it. Each deviation and its
//! direction of error is listed in `docs/detector.md`. Direction of error as a whole: **may miss a race, must not
//! invent one**.
//!
//! The crate is compiled twice: as `conprof-detect` for the shim and, through a symbolic link, as the module
//! `detect` of the host. Paths inside it are therefore relative (`super::`), never `crate::`.

pub mod cell;
pub mod clock;
pub mod detector;
pub mod granule;
pub mod lock;
mod objects;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
pub mod sync;
pub mod thread;
pub mod threads;

pub use cell::{AccessId, Cell, Epoch, Slot};
pub use clock::{ClockPool, VectorClock};
pub use detector::{Detector, Event, Memory, Runtime, Semantics};
pub use granule::{Checked, Common, Conflict, Granule, Kind};
pub use sync::SyncObject;
pub use thread::Thread;
