//! Images, symbols, and the kinds of address.

mod address;

pub use address::{Avma, FileOffset, Svma};
