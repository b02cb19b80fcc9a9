//! Working with cargo: `cargo conprof ...`, and `conprof run --` as the runner of cargo and nextest.
//!
//! ```text
//! cargo conprof test --workspace
//!   -> cargo test --no-fail-fast --workspace     own target folder, debuginfo set, runner = conprof run --session DIR --
//!        -> conprof run --session DIR -- target/.../deps/x-hash      once a binary (nextest: once a test): report.json
//!   -> merge of DIR/runs/*, report.html and the other formats, exit 66 before cargo's own status
//! ```

mod build;
pub mod runner;
pub mod tests;

pub use build::{Invocation, Plan};
