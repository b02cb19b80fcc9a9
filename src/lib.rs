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
pub mod cargo;
pub mod cli;
pub mod config;
#[path = "detect/mod.rs"]
pub mod detect;
pub mod doctor;
pub mod dwarf;
pub mod elf;
pub mod gate;
pub mod launch;
pub mod merge;
pub mod os;
mod parallel;
pub mod perf;
pub mod plan;
pub mod profile;
pub mod report;
pub mod scan;
pub mod suppress;
pub mod symbolize;
pub mod trace;
#[path = "wire/mod.rs"]
#[allow(missing_docs)]
pub mod wire;
