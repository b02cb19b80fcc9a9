//! The in-process shim: preloaded into the target, it applies the patch plan, interposes what lives in
//! libc, keeps thread states and the recording, and calls the detector.
//!
//! ```text
//! apply   constructor: environment, recording, shadow, plan     (once, single-threaded)
//! stubs   called by generated code   \
//! hook    called instead of libc      }-> thread (state, guard, shadow stacks) -> check -> record
//! ```
//!
//! # Invariants
//! - No std, no allocation of the target's, no thread-local storage, no floats, no vector registers, no panics
//!   (a reachable one fails the link), no lock of the shim held while code of the target runs.
//! - Everything enters through the thread's guard ([`thread::enter`] or a stub); entered again from within, it
//!   forwards and records nothing. Before initialisation and in forked children everything forwards.
//! - Anything the target can observe is preserved: errno, flags, registers, red zone, signal mask, descriptors.
#![no_std]

pub mod apply;
pub mod check;
mod covered;
pub mod hook;
pub mod lock;
pub mod record;
pub mod rt;
pub mod stubs;
pub mod thread;
