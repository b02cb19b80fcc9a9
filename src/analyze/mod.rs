//! From a recording to a report: rows in, [`Report`](crate::report::Report) out. No I/O but reading the recording, the modules it
//! names and their sources.
//!
//! ```text
//! FindingRow --sides--> stacks, locks, threads --race--> Finding --merge by fingerprint--> findings
//! header, ModuleRow, RunRecord --session--> coverage, counters, verdict
//! ```
//!
//! Direction of error: what the recording does not prove lowers a finding's confidence, and never raises it.

mod advice;
mod fingerprint;
pub mod locks;
mod profile;
mod race;
pub mod replay;
mod session;
mod sides;
mod task_stack;

pub use locks::incidents::Thresholds;
pub use locks::recorded::Task;
pub use profile::{add_samples, generated_code};
pub(crate) use race::join;
pub use session::{Ending, Session, WaitsNow};
