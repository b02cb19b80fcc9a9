//! From recorded facts to findings: pure functions, no I/O.

pub mod locks;
