//! Images, symbols, unwind tables, and the kinds of address.

mod address;
mod image;
mod relocation;
mod unwind;

pub use address::{Avma, FileOffset, Svma};
pub use image::{Image, ImageError, Section, Symbol};
pub use relocation::CodePointers;
pub use unwind::{Fde, UnwindTables};
