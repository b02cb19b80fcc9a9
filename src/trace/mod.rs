//! Reader of recordings: rows of the file that the shim writes, while it writes them or after.
//!
//! The reader copies rows out of the file with positioned reads and never maps it, so that neither a writer
//! at work nor a truncated file can harm it. Every number in the file is hostile: indices are bounded, chains
//! are cut at [`MAX_DEPTH`], and no input makes it panic or loop.

mod reader;
mod rows;
mod run_record;
mod threads;

pub(crate) use reader::ROW_SIZES;
pub use reader::{HeaderView, MAX_DEPTH, Recording, TraceError};
pub use rows::Row;
pub use run_record::{LOCK, RECORDING, RUN_RECORD, RunRecord};
pub use threads::ThreadRows;
