//! The report's formats, suppressions, baselines and merging, on realistic reports.

mod accepted;
mod ci;
mod config;
mod sample;
#[path = "../schema/mod.rs"]
mod schema;
mod tsan;
