//! The report's formats, suppressions, baselines and merging, on realistic reports.

mod accepted;
mod ci;
mod sample;
mod tsan;
