//! The modules of the process, from the dynamic linker.

use crate::record;
use crate::rt::lock::SpinLock;
use conprof_wire::recording::ModuleRow;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

/// Modules that are told apart; further ones are recorded again at each snapshot.
const CAPACITY: usize = 512;

/// The main program.
#[derive(Clone, Copy)]
pub struct MainModule {
    /// Load bias.
    pub bias: u64,
    /// The build id, zero-padded.
    pub build_id: [u8; 32],
    /// Bytes used in `build_id`.
    pub build_id_len: usize,
}

struct Seen {
    starts: [u64; CAPACITY],
    len: usize,
}

static SEEN: SpinLock<Seen> = SpinLock::new(Seen { starts: [0; CAPACITY], len: 0 });

/// Whether a module may have been loaded since the last snapshot.
static NEW: AtomicBool = AtomicBool::new(false);

/// A module is about to be loaded.
pub fn expect_new() {
    NEW.store(true, Ordering::Relaxed);
}

/// Records modules loaded since the last snapshot, if any was announced. Called without the guard.
pub fn snapshot_new() {
    if NEW.swap(false, Ordering::Relaxed) {
        snapshot();
    }
}

/// Records the modules that were not recorded before. Called without the guard: it takes the linker's lock.
pub fn snapshot() {
    // SAFETY: the callback keeps to the protocol of `dl_iterate_phdr`.
    unsafe { libc::dl_iterate_phdr(Some(record_module), core::ptr::null_mut()) };
}

unsafe fn headers<'a>(info: *const libc::dl_phdr_info) -> &'a [libc::Elf64_Phdr] {
    // SAFETY: the linker's own tables, valid during the callback.
    unsafe {
        if (*info).dlpi_phdr.is_null() {
            return &[];
        }
        core::slice::from_raw_parts((*info).dlpi_phdr, (*info).dlpi_phnum as usize)
    }
}

unsafe extern "C" fn record_module(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: the linker passes a valid description.
    unsafe {
        let bias = (*info).dlpi_addr;
        let (mut start, mut end) = (u64::MAX, 0);
        for header in headers(info) {
            if header.p_type == libc::PT_LOAD {
                start = start.min(bias.wrapping_add(header.p_vaddr));
                end = end.max(bias.wrapping_add(header.p_vaddr).wrapping_add(header.p_memsz));
            }
        }
        if start >= end || !is_new(start) {
            return 0;
        }
        let mut row = ModuleRow { bias, start, end, path: [0; 232] };
        let name = (*info).dlpi_name as *const u8;
        if !name.is_null() {
            let len = crate::rt::memory::string_len(name).min(row.path.len() - 1);
            crate::rt::memory::copy(row.path.as_mut_ptr(), name, len);
        }
        record::module(&row);
    }
    0
}

fn is_new(start: u64) -> bool {
    let mut seen = SEEN.lock();
    let len = seen.len;
    if seen.starts.iter().take(len).any(|other| *other == start) {
        return false;
    }
    if let Some(place) = seen.starts.get_mut(len) {
        *place = start;
        seen.len += 1;
    }
    true
}

/// The main program, which the linker lists first.
pub fn main_module() -> MainModule {
    let mut main = MainModule { bias: 0, build_id: [0; 32], build_id_len: 0 };
    // SAFETY: the callback keeps to the protocol and the pointer is to a live value.
    unsafe { libc::dl_iterate_phdr(Some(read_main), &raw mut main as *mut c_void) };
    main
}

unsafe extern "C" fn read_main(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: the linker passes a valid description, and `data` is the value of `main_module`.
    unsafe {
        let main = &mut *(data as *mut MainModule);
        main.bias = (*info).dlpi_addr;
        for header in headers(info) {
            if header.p_type == libc::PT_NOTE {
                let start = main.bias.wrapping_add(header.p_vaddr) as *const u8;
                read_build_id(core::slice::from_raw_parts(start, header.p_memsz as usize), main);
            }
        }
    }
    1
}

const NT_GNU_BUILD_ID: u32 = 3;

fn read_build_id(mut notes: &[u8], main: &mut MainModule) {
    while let Some((header, rest)) = notes.split_at_checked(12) {
        let word = |index: usize| {
            header
                .get(index..index + 4)
                .map_or(0, |bytes| bytes.iter().rev().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)))
        };
        let (name_len, len, kind) = (word(0) as usize, word(4) as usize, word(8));
        let Some((name, rest)) = rest.split_at_checked((name_len + 3) & !3) else { return };
        let Some(content) = rest.get(..len) else { return };
        if kind == NT_GNU_BUILD_ID && name.starts_with(b"GNU\0") && main.build_id_len == 0 {
            for (to, from) in main.build_id.iter_mut().zip(content) {
                *to = *from;
            }
            main.build_id_len = len.min(32);
        }
        let Some(next) = rest.get((len + 3) & !3..) else { return };
        notes = next;
    }
}
