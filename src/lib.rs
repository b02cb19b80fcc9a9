//! conprof's host side: data races, lock problems and contention of a program already built.
//!
//! ```text
//! ELF bytes --scan--> ModuleScan --plan--> plan file (cached by build id)
//!                                             |
//!                 target process: the shim (folder `instrument`) applies the plan and records
//!                                             |
//! recording --trace--> rows --analyze--> findings --symbolize--> report (text, JSON ...)
//! ```
//!
//! Dependencies point one way: `wire <- trace <- analyze <- report <- cli` and `elf <- dwarf <- scan <- plan`.

pub mod analyze;
pub mod baseline;
#[path = "detect/mod.rs"]
pub mod detect;
pub mod elf;
pub mod gate;
pub mod merge;
pub mod plan;
pub mod report;
pub mod scan;
pub mod suppress;
#[path = "wire/mod.rs"]
#[allow(missing_docs)]
pub mod wire;
