//! The middle of the three paths of a plain access of up to 8 bytes: between the inline check, which knows
//! only whole granules and one cell, and the detector.
//!
//! It answers one question: does a cell of the granule say that this thread made such an access in this epoch
//! already, to at least these bytes? Then the detector would find nothing new. For a read the read cell, the write cell and the extra
//! cell may say so; for a write the write cell and an extra cell that is no read. In a granule with a sync object the first word's tag is
//! set and the other words mean nothing, so that goes to the detector.
//!
//! Direction of error: as for the detector's own same-epoch rule (FastTrack, section 3), none. A thread that nobody wrapped
//! and that inherited another's gs may take that one's cells for its own, and so miss an access.

use crate::stubs::{SP_WITH_ADDRESS, handle_small, stub};
use conprof_wire::state::{CELL_READ, GRANULE_MASK, KEY, SHADOW_BASE};

/// Bytes from `rsp` to the pushed address, behind four registers, the return address and the site.
const ADDRESS: usize = 48;

/// The stub of an access of `$size` bytes; `$cells` are the code that compares the cells and jumps to `8:` where one covers it.
macro_rules! covered {
    ($name:ident, $size:literal, $writes:literal, $last_start:literal, $mask:literal, $cells:expr) => {
        stub!(
            /// A data stub; see [`conprof_wire::entry`].
            $name, handle_small::<$size, $writes>, pops 16, sp SP_WITH_ADDRESS,
            first [
                "mov rax, [rsp+{address}]",
                "mov ecx, eax",
                "and ecx, 7",
                concat!("cmp ecx, ", $last_start),
                "ja 3f",
                "and rax, gs:[{mask}]",
                "shl rax, 2",
                "add rax, gs:[{base}]",
                "cmp qword ptr [rax], 0",
                "js 3f",
                // The bytes accessed, under ones for everything that must be equal.
                concat!("mov edx, ", $mask),
                "shl edx, cl",
                "or rdx, -256",
                $cells,
                "jmp 3f",
                "8:",
                "pop rdx",
                "pop rcx",
                "pop rax",
                "add al, 0x7f",
                "sahf",
                "pop rax",
                "ret 16",
                "3:"
            ],
            address = const ADDRESS,
            mask = const GRANULE_MASK,
            base = const SHADOW_BASE,
            key = const KEY
        );
    };
}

const _: () = assert!(CELL_READ == 1 << 9, "the bit that the extra cell of a read may have");

/// Compares the cells at the given offsets.
macro_rules! cells {
    ($($cell:literal)*) => {
        concat!($("mov rcx, gs:[{key}]\n", "xor rcx, [rax+", $cell, "]\n", "test rcx, rdx\n", "jz 8f\n",)*)
    };
}

/// For a read: the extra cell, which comes last, may be one.
macro_rules! read_cells {
    () => {
        concat!(cells!(8 0), "btr rdx, 9\n", cells!(16))
    };
}

covered!(read_1, 1, false, 7, 0x1, read_cells!());
covered!(read_2, 2, false, 6, 0x3, read_cells!());
covered!(read_4, 4, false, 4, 0xf, read_cells!());
covered!(read_8, 8, false, 0, 0xff, read_cells!());
covered!(write_1, 1, true, 7, 0x1, cells!(0 16));
covered!(write_2, 2, true, 6, 0x3, cells!(0 16));
covered!(write_4, 4, true, 4, 0xf, cells!(0 16));
covered!(write_8, 8, true, 0, 0xff, cells!(0 16));
