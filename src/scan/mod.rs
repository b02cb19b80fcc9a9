//! What conprof understands of a binary: functions, control flow, and the class of every access.
//!
//! `scan` is pure: bytes of an ELF file in, [`ModuleScan`] out.

mod model;

pub use model::*;
