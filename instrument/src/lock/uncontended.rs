//! The short way of an acquisition or release that nobody waits for, where only locks are watched.
//!
//! ```text
//! generated code --> acquired, released (assembly) --all of it is remembered--> hold pushed or popped, owner, counts
//!                         `-- anything else --> stubs::lock_acquired ... --> lock::site_acquired --> remember
//! ```
//!
//! A thread remembers its latest acquisitions by the lock's address: the place with its access row, the lock's row, its
//! meter, and the lock that was held then. The same acquisition again (same site, same stack pointer, same caller, same
//! phase, same lock held) would log nothing new, so all there is to do is what the live row and the figures show.
//!
//! # Invariants
//! - Nothing is remembered where races are checked: an acquisition orders threads there.
//! - What is remembered of a lock that is gone never matches: its row says so, or names another address.
//! - Nothing comes in between: a signal that interrupts the code is deferred as if the guard were set ([`is_inside`]), and
//!   let in at the end ([`finish_acquired`]). A guard would cost two stores, and locked instructions wait for all stores before them.
//! - A compare-exchange that succeeded leaves the flags of equal operands, so [`acquired`] makes them instead of keeping them.
//!
//! Direction of error: the callers above the direct one are those of the first time. Holds are measured once in
//! [`SAMPLE`] acquisitions of a lock, or [`CONTENDED_SAMPLE`].

use super::{ThreadLock, contention, walk};
use crate::check;
use crate::stubs::{self, Saved};
use crate::thread::ThreadState;
use conprof_wire::locks::{HoldRow, LiveRow, LockRow};
use conprof_wire::recording::NO_SITE;
use conprof_wire::state::{GUARD, OWNER_FS, RED_ZONE, SIGNALS_PENDING};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::ptr::addr_of;

/// Acquisitions that a thread remembers; a power of two.
pub(super) const REMEMBERED: usize = 64;
/// Places that a thread remembers; a power of two.
pub(super) const PLACES: usize = 32;
/// One acquisition of a lock in so many goes the long way, and has its hold measured; a power of two.
pub(super) const SAMPLE: u64 = 256;
/// The same for a lock that somebody has waited for.
pub(super) const CONTENDED_SAMPLE: u64 = 32;
/// Bytes that the code of [`acquired`] and of [`released`] takes, padding included.
const CODE_BYTES: u64 = 512;

/// A site and its caller, whose access row is known. All-zero bytes match none.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Place {
    /// Stack pointer when the stub is entered.
    sp: u64,
    /// Return address of the function that the site is in.
    caller: u64,
    /// Where that lies, above [`Place::sp`] less what the stub pushes.
    caller_offset: u32,
    site: u32,
    access: u32,
    unused: u32,
}

impl Place {
    pub(super) const NONE: Place = Place { sp: 0, caller: 0, caller_offset: 0, site: 0, access: 0, unused: 0 };

    /// The access row.
    pub(super) fn access(&self) -> u32 {
        self.access
    }
}

/// An acquisition that is known. All-zero bytes match none, as no lock has address 0.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Known {
    /// The lock word.
    address: u64,
    /// Stack pointer when the stub is entered.
    sp: u64,
    site: u32,
    /// Bytes from there, less what the stub pushes, to the function's return address.
    caller_offset: u32,
    caller: u64,
    /// What is pushed.
    hold: HoldRow,
    /// What was held then; its lock is 0 for nothing.
    outer_lock: u64,
    outer_access: u32,
    unused: u32,
    /// No call under way, and the phase: as in [`ThreadLock`].
    calls_and_phase: u64,
    row: u64,
    /// 0 where waits are not measured.
    meter: u64,
    padding: u64,
}

const KNOWN: usize = size_of::<Known>();
const _: () = assert!(KNOWN == 96 && REMEMBERED.is_power_of_two());

impl Known {
    pub(super) const NONE: Known = Known {
        address: 0,
        sp: 0,
        site: 0,
        caller_offset: 0,
        caller: 0,
        hold: HoldRow { lock: 0, shared: 0, access: 0, reserved: 0 },
        outer_lock: 0,
        outer_access: 0,
        unused: 0,
        calls_and_phase: 0,
        row: 0,
        meter: 0,
        padding: 0,
    };
}

/// Stack pointer at a stub's entry, from the guest's as the handler knows it.
const ENTRY_BELOW_GUEST: u64 = (RED_ZONE + 24) as u64;
/// Bytes that [`acquired`] pushes.
const PUSHED: u64 = 24;

fn slot(address: u64) -> usize {
    ((address >> 4) ^ (address >> 10)) as usize & (REMEMBERED - 1)
}

/// Where an acquisition by a site is made, with its access row: looked up, or found out and kept.
pub(super) fn place(state: &mut ThreadState, site: u32) -> Place {
    let sp = state.guest_sp.wrapping_sub(ENTRY_BELOW_GUEST);
    let index = site as usize & (PLACES - 1);
    if let Some(known) = state.lock.places.get(index).copied().filter(|known| known.site == site && known.sp == sp) {
        let caller = sp.wrapping_sub(PUSHED).wrapping_add(u64::from(known.caller_offset)) as *const u64;
        // SAFETY: the slot lies in the frame of the function that the site is in, as it did when this was noted.
        if known.access != 0 && unsafe { caller.read() } == known.caller {
            return known;
        }
    }
    let access = check::place(state, site);
    let mut place = Place { access, ..Place::NONE };
    if let Some((slot, caller)) = walk::caller(state, site)
        && let Ok(caller_offset) = u32::try_from(slot.wrapping_sub(sp.wrapping_sub(PUSHED)))
    {
        place = Place { sp, caller, caller_offset, site, access, unused: 0 };
        if let Some(known) = state.lock.places.get_mut(index) {
            *known = place;
        }
    }
    place
}

/// The access row of where a site is, without a walk where that is known.
pub(super) fn access(state: &mut ThreadState, site: u32) -> u32 {
    if site == NO_SITE || check::is_on(state) {
        return check::place(state, site);
    }
    place(state, site).access
}

/// Notes an acquisition that has just been made at a place, as the thread's latest hold.
pub(super) fn remember(state: &mut ThreadState, address: usize, place: &Place, hold: &HoldRow) {
    let live = state.lock.live();
    if place.sp == 0 || state.lock.call_count != 0 {
        return;
    }
    // SAFETY: the row is in the recording's mapping; the hold was pushed, so there is one.
    let count = unsafe { addr_of!((*live).hold_count).read() };
    let outer = match count {
        1 => HoldRow::default(),
        // SAFETY: as above.
        2 => unsafe { (addr_of!((*live).holds) as *const HoldRow).read() },
        _ => return,
    };
    let Some(row) = super::table::row(hold.lock) else { return };
    let known = Known {
        address: address as u64,
        sp: place.sp,
        site: place.site,
        caller_offset: place.caller_offset,
        caller: place.caller,
        hold: *hold,
        outer_lock: u64::from(outer.lock) | u64::from(outer.shared) << 32,
        outer_access: outer.access,
        unused: 0,
        calls_and_phase: u64::from(state.lock.phase) << 32,
        row: row as u64,
        meter: contention::meter_address(hold.lock),
        padding: 0,
    };
    if let Some(slot) = state.lock.known.get_mut(slot(address as u64)) {
        *slot = known;
    }
}

/// The next acquisition of the lock at an address goes the long way.
pub(super) fn forget(state: &mut ThreadState, address: usize) {
    if let Some(known) = state.lock.known.get_mut(slot(address as u64)) {
        *known = Known::NONE;
    }
}

/// Whether a signal that interrupted `pc` is to be deferred until [`finish_acquired`] or a stub lets it in.
pub fn is_inside(pc: u64) -> bool {
    let within = |function: unsafe extern "C" fn()| pc.wrapping_sub(function as *const () as u64) < CODE_BYTES;
    within(acquired)
        || within(released)
        || [finish_acquired, finish_released].map(|f| f as *const () as u64).contains(&pc)
}

const LOCK: usize = offset_of!(ThreadState, lock);
const LIVE: usize = LOCK + offset_of!(ThreadLock, live);
const CALL_COUNT: usize = LOCK + offset_of!(ThreadLock, call_count);
const _: () = assert!(offset_of!(ThreadLock, phase) == offset_of!(ThreadLock, call_count) + 4);
const TABLE: usize = LOCK + offset_of!(ThreadLock, known);

/// `rax` becomes the place of what is remembered of the lock whose address is in `rdx`; `rcx` is lost.
macro_rules! find {
    () => {
        concat!(
            "mov rax, rdx\n",
            "mov rcx, rdx\n",
            "shr rax, 4\n",
            "shr rcx, 10\n",
            "xor eax, ecx\n",
            "and eax, {last}\n",
            "lea rax, [rax+rax*2]\n",
            "shl rax, 5\n",
            "add rax, gs:[0]\n",
            "add rax, {table}\n",
        )
    };
}

/// `Entry::LockAcquired`.
///
/// # Safety
/// Called by generated code, as the slot table's convention says.
#[unsafe(naked)]
pub unsafe extern "C" fn acquired() {
    naked_asm!(
        "9:",
        "push rax",
        "push rcx",
        "push rdx",
        "mov rax, fs:[0x10]",
        "cmp rax, gs:[{owner}]",
        "jne 5f",
        "cmp dword ptr gs:[{guard}], 0",
        "jne 5f",
        "mov rdx, [rsp+40]",
        find!(),
        "cmp [rax+{address}], rdx",
        "jne 5f",
        "lea rcx, [rsp+24]",
        "cmp [rax+{sp}], rcx",
        "jne 5f",
        "mov ecx, [rsp+32]",
        "cmp [rax+{site}], ecx",
        "jne 5f",
        "mov ecx, [rax+{caller_offset}]",
        "mov rcx, [rsp+rcx]",
        "cmp [rax+{caller}], rcx",
        "jne 5f",
        "mov rcx, [rax+{row}]",
        "cmp [rcx+{row_address}], rdx",
        "jne 5f",
        "cmp dword ptr [rcx+{row_gone}], 0",
        "jne 5f",
        "mov rcx, gs:[{calls_and_phase}]",
        "cmp [rax+{known_calls_and_phase}], rcx",
        "jne 5f",
        // With nothing held nothing new can be logged; with one lock held it must be the one of then.
        "mov rdx, gs:[{live}]",
        "mov ecx, [rdx+{hold_count}]",
        "test ecx, ecx",
        "jz 2f",
        "cmp ecx, 1",
        "jne 5f",
        "mov rcx, [rdx+{holds}]",
        "cmp [rax+{outer_lock}], rcx",
        "jne 5f",
        "mov ecx, [rdx+{holds}+8]",
        "cmp [rax+{outer_access}], ecx",
        "jne 5f",
        "2:",
        "mov rcx, [rax+{meter}]",
        "test rcx, rcx",
        "jz 3f",
        "cmp word ptr [rcx+{quiet}], 0",
        "je 5f",
        "mov rdx, [rcx+{meter_acquisitions}]",
        "inc rdx",
        "test edx, {contended_sample}",
        "jnz 4f",
        "test edx, {sample}",
        "jz 5f",
        "cmp dword ptr [rcx+{figures}], 0",
        "jne 5f",
        "4:",
        "mov [rcx+{meter_acquisitions}], rdx",
        "mov edx, [rax+{hold}+8]",
        "cmp [rcx+{meter_access}], edx",
        "je 3f",
        "mov [rcx+{meter_access}], edx",
        "3:",
        // What lies behind the last hold is often the same one, of the last time.
        "mov rdx, gs:[{live}]",
        "mov ecx, [rdx+{hold_count}]",
        "shl ecx, 4",
        "add rcx, rdx",
        "mov rdx, [rax+{hold}+8]",
        "cmp [rcx+{holds}+8], rdx",
        "je 4f",
        "mov [rcx+{holds}+8], rdx",
        "4:",
        "mov rdx, [rax+{hold}]",
        "cmp [rcx+{holds}], rdx",
        "je 4f",
        "mov [rcx+{holds}], rdx",
        "4:",
        "mov rcx, gs:[{live}]",
        "inc dword ptr [rcx+{hold_count}]",
        // Bit 32: shared.
        "bt rdx, 32",
        "jc 7f",
        "mov rcx, [rax+{row}]",
        "mov edx, gs:[{serial}]",
        "inc edx",
        "mov [rcx+{row_owner}], edx",
        "7:",
        "jmp {finish}",
        "5:",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "cmp esp, esp",
        "jmp {slow}",
        ".org 9b + {bytes}, 0xcc",
        owner = const OWNER_FS,
        guard = const GUARD,
        last = const REMEMBERED - 1,
        table = const TABLE,
        address = const offset_of!(Known, address),
        sp = const offset_of!(Known, sp),
        site = const offset_of!(Known, site),
        caller_offset = const offset_of!(Known, caller_offset),
        caller = const offset_of!(Known, caller),
        row = const offset_of!(Known, row),
        row_address = const offset_of!(LockRow, address),
        row_gone = const offset_of!(LockRow, gone),
        row_owner = const offset_of!(LockRow, owner),
        calls_and_phase = const CALL_COUNT,
        known_calls_and_phase = const offset_of!(Known, calls_and_phase),
        live = const LIVE,
        hold_count = const offset_of!(LiveRow, hold_count),
        holds = const offset_of!(LiveRow, holds),
        outer_lock = const offset_of!(Known, outer_lock),
        outer_access = const offset_of!(Known, outer_access),
        sample = const SAMPLE - 1,
        contended_sample = const CONTENDED_SAMPLE - 1,
        meter = const offset_of!(Known, meter),
        quiet = const contention::METER_QUIET,
        figures = const contention::METER_FIGURES,
        meter_acquisitions = const contention::METER_ACQUISITIONS,
        meter_access = const contention::METER_ACCESS,
        hold = const offset_of!(Known, hold),
        serial = const offset_of!(ThreadState, serial),
        bytes = const CODE_BYTES,
        finish = sym finish_acquired,
        slow = sym stubs::lock_acquired,
    )
}

/// The end of [`acquired`]. From its second instruction on signals come in as anywhere.
#[unsafe(naked)]
unsafe extern "C" fn finish_acquired() {
    naked_asm!(
        "cmp dword ptr gs:[{pending}], 0",
        "jne 6f",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "cmp esp, esp",
        "ret 16",
        "6:",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "cmp esp, esp",
        "jmp {deliver}",
        pending = const SIGNALS_PENDING,
        deliver = sym stubs::lock_nothing,
    )
}

macro_rules! save {
    () => {
        "push rax\npush rcx\npush rdx\nlahf\nseto al\npush rax\n"
    };
}

macro_rules! restore {
    () => {
        "pop rax\nadd al, 0x7f\nsahf\npop rdx\npop rcx\npop rax\n"
    };
}

/// `Entry::LockReleased`.
///
/// # Safety
/// As for [`acquired`].
#[unsafe(naked)]
pub unsafe extern "C" fn released() {
    naked_asm!(
        "9:",
        save!(),
        "mov rax, fs:[0x10]",
        "cmp rax, gs:[{owner}]",
        "jne 5f",
        "cmp dword ptr gs:[{guard}], 0",
        "jne 5f",
        "mov rdx, [rsp+48]",
        find!(),
        "cmp [rax+{address}], rdx",
        "jne 5f",
        "mov rcx, [rax+{row}]",
        "cmp [rcx+{row_address}], rdx",
        "jne 5f",
        // The latest hold must be of this lock.
        "mov rcx, gs:[{live}]",
        "mov edx, [rcx+{hold_count}]",
        "dec edx",
        "js 5f",
        "shl edx, 4",
        "mov rdx, [rcx+rdx+{holds}]",
        "cmp rdx, [rax+{hold}]",
        "jne 5f",
        "mov rcx, [rax+{meter}]",
        "test rcx, rcx",
        "jz 3f",
        "cmp word ptr [rcx+{quiet}], 0",
        "je 5f",
        "3:",
        "mov rcx, gs:[{live}]",
        "dec dword ptr [rcx+{hold_count}]",
        "cmp dword ptr [rax+{hold}+4], 0",
        "jne 7f",
        "mov rcx, [rax+{row}]",
        "mov dword ptr [rcx+{row_owner}], 0",
        "7:",
        "jmp {finish}",
        "5:",
        restore!(),
        "jmp {slow}",
        ".org 9b + {bytes}, 0xcc",
        owner = const OWNER_FS,
        guard = const GUARD,
        last = const REMEMBERED - 1,
        table = const TABLE,
        address = const offset_of!(Known, address),
        row = const offset_of!(Known, row),
        row_address = const offset_of!(LockRow, address),
        row_owner = const offset_of!(LockRow, owner),
        live = const LIVE,
        hold_count = const offset_of!(LiveRow, hold_count),
        holds = const offset_of!(LiveRow, holds),
        meter = const offset_of!(Known, meter),
        quiet = const contention::METER_QUIET,
        hold = const offset_of!(Known, hold),
        bytes = const CODE_BYTES,
        finish = sym finish_released,
        slow = sym stubs::lock_released,
    )
}

/// The end of [`released`]; see [`finish_acquired`].
#[unsafe(naked)]
unsafe extern "C" fn finish_released() {
    naked_asm!(
        "cmp dword ptr gs:[{pending}], 0",
        "jne 6f",
        restore!(),
        "ret 16",
        "6:",
        restore!(),
        "jmp {deliver}",
        pending = const SIGNALS_PENDING,
        deliver = sym stubs::lock_nothing,
    )
}

/// `Entry::LockMayRelease`: a thread that holds nothing gives nothing up.
///
/// # Safety
/// As for [`acquired`].
#[unsafe(naked)]
pub unsafe extern "C" fn may_release() {
    naked_asm!(
        save!(),
        "mov rax, fs:[0x10]",
        "cmp rax, gs:[{owner}]",
        "jne 5f",
        "mov rcx, gs:[{live}]",
        "test rcx, rcx",
        "jz 3f",
        "cmp dword ptr [rcx+{hold_count}], 0",
        "jne 5f",
        "3:",
        restore!(),
        "ret 16",
        "5:",
        restore!(),
        "jmp {released}",
        owner = const OWNER_FS,
        live = const LIVE,
        hold_count = const offset_of!(LiveRow, hold_count),
        released = sym released,
    )
}

const _: () = assert!(size_of::<Saved>() == 104, "ENTRY_BELOW_GUEST counts on what a stub's arguments take");
