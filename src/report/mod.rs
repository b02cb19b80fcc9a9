//! Formats only: a [`Report`] in, text out. No analysis.

pub mod flamegraph;
pub mod github;
pub mod html;
pub mod json;
pub mod junit;
mod model;
pub mod place;
pub mod pprof;
pub mod sarif;
pub mod store;
pub mod text;
pub mod timeline;
pub mod tsan;

pub use model::*;
