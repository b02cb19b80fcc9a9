//! See the module documentation of `mod.rs`, which the host compiles as a module of its own.
#![cfg_attr(not(any(test, feature = "reference")), no_std)]

#[path = "mod.rs"]
mod contents;
pub use contents::*;
