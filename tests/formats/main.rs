//! The report's formats, suppressions, baselines and merging, on realistic reports.

mod accepted;
mod ci;
mod config;
mod sample;
mod tsan;
