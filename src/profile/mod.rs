//! Where waiting time goes: from recorded waits to stacks, figures per lock, and what changed between two runs.
//!
//! ```text
//! waits, blames, figures (recording) --Profile--> stacks weighted by time --report::flamegraph, pprof--> pictures
//!                                    \--table--> LockSummary rows, sorted by total wait
//!                                    \--life---> share of each thread's life that was waiting
//! two lock tables ----------------------diff---> which locks got better or worse, beyond the noise
//! ```
//!
//! Everything here is pure: values in, values out. A stack is a list of frames, innermost first, as the report has
//! them. Lock waiting and idle waiting are told apart by [`Profile::class_of`] and never added up.
//!
//! **Direction of error.** A wait that could be either counts as idle, so that the contention picture never
//! accuses a lock of a pool's leisure; idle.svg shows it all the same.

mod class;
pub mod diff;
mod fold;
mod histogram;
mod model;
mod name;
mod table;

pub use class::{Class, classify};
pub use fold::{Folded, Separator, kind_name};
pub use histogram::{mean_square, quantile_ns};
pub use model::{Blame, Figures, Profile, Sample, StackId, Stacks, ThreadLife, Wait, WaitEvent};
pub use name::{frame_name, function_name};
pub use table::{duration, lock_summaries, lock_table, thread_lives};
