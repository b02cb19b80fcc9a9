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

use crate::stubs;
use conprof_wire::state::{CELL_READ, GRANULE_MASK, KEY, SHADOW_BASE};
use core::arch::naked_asm;

/// Bytes from `rsp` to the pushed address, behind four registers, the return address and the site.
const ADDRESS: usize = 48;

macro_rules! covered {
    ($name:ident, $rest:path, $last_start:literal, $mask:literal, read $($cell:literal)*) => {
        covered!(@ $name, $rest, $last_start, $mask, concat!($(
            "mov rcx, gs:[{key}]\n",
            "xor rcx, [rax+", $cell, "]\n",
            "test rcx, rdx\n",
            "jz 2f\n",
            "btr rdx, 9\n",
        )*));
    };
    ($name:ident, $rest:path, $last_start:literal, $mask:literal, write $($cell:literal)*) => {
        covered!(@ $name, $rest, $last_start, $mask, concat!($(
            "mov rcx, gs:[{key}]\n",
            "xor rcx, [rax+", $cell, "]\n",
            "test rcx, rdx\n",
            "jz 2f\n",
        )*));
    };
    (@ $name:ident, $rest:path, $last_start:literal, $mask:literal, $compare:expr) => {
        /// A data stub; see [`conprof_wire::entry`].
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "push rax",
                "push rcx",
                "push rdx",
                "lahf",
                "seto al",
                "push rax",
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
                $compare,
                "3:",
                "pop rax",
                "add al, 0x7f",
                "sahf",
                "pop rdx",
                "pop rcx",
                "pop rax",
                "jmp {rest}",
                "2:",
                "pop rax",
                "add al, 0x7f",
                "sahf",
                "pop rdx",
                "pop rcx",
                "pop rax",
                "ret 16",
                address = const ADDRESS,
                mask = const GRANULE_MASK,
                base = const SHADOW_BASE,
                key = const KEY,
                rest = sym $rest,
            )
        }
    };
}

const _: () = assert!(CELL_READ == 1 << 9, "the bit that the extra cell of a read may have");

covered!(read_1, stubs::read_1, 7, 0x1, read 8 0 16);
covered!(read_2, stubs::read_2, 6, 0x3, read 8 0 16);
covered!(read_4, stubs::read_4, 4, 0xf, read 8 0 16);
covered!(read_8, stubs::read_8, 0, 0xff, read 8 0 16);
covered!(write_1, stubs::write_1, 7, 0x1, write 0 16);
covered!(write_2, stubs::write_2, 6, 0x3, write 0 16);
covered!(write_4, stubs::write_4, 4, 0xf, write 0 16);
covered!(write_8, stubs::write_8, 0, 0xff, write 0 16);
