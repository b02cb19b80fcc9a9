//! See the module documentation of `mod.rs`, which the host compiles as a module of its own.
#![cfg_attr(not(test), no_std)]
// Variants whose names say all.
#![allow(missing_docs)]

#[path = "mod.rs"]
mod contents;
pub use contents::*;
