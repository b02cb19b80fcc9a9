//! Formats only: a [`Report`] in, text out. No analysis.

mod model;

pub use model::*;
