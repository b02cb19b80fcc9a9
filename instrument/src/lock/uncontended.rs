//! The short way of an acquisition or release that nobody waits for, where only locks are watched.
//!
//! ```text
//! generated code --> acquired, released (assembly) --all of it is known--> hold pushed or popped, owner, counts
//!                         `-- anything else --> stubs::lock_acquired ... --> lock::site_acquired --> remember
//! ```
//!
//! An acquisition takes the short way if its lock has a row, which the thread has used, and its place is known: the same site,
//! stack pointer and two callers have an access row. With a lock held already, or of a lock with readers alone, the pair must
//! have been logged too, in the thread's present phase. All there is to do then is what the live row and the figures show.
//! A release finds its lock by the thread's latest hold.
//!
//! # Invariants
//! - [`ROWS`] and the places stay empty where races are checked: an acquisition orders threads there.
//! - The row of a lock that is gone says so, or names another address.
//! - Nothing comes in between: a signal that interrupts the code is deferred as if the guard were set ([`is_inside`]), and
//!   let in at the end ([`finish_acquired`]). A guard would cost two stores, and locked instructions wait for all stores before them.
//! - A compare-exchange that succeeded leaves the flags of equal operands, so [`acquired`] makes them instead of keeping them.
//!
//! Direction of error: the callers above the second one are those of the first time. Locks that are not the first of their slot take the long way.

use super::{ThreadLock, contention, incident, order, stack_cache, table};
use crate::apply::plan;
use crate::check;
use crate::stubs::{self, Saved};
use crate::thread::ThreadState;
use conprof_wire::locks::{HoldRow, LiveRow, LockRow, Operation, SAMPLE_FACTOR, operation_of, type_of};
use conprof_wire::state::{GUARD, OWNER_FS, RED_ZONE, SIGNALS_PENDING};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Places that a thread remembers; a power of two.
pub(super) const PLACES: usize = 128;
/// Pairs that a thread remembers; a power of two.
pub(super) const PAIRS: usize = 128;
/// Bytes that the code of [`acquired`] and of [`released`] takes, padding included.
const CODE_BYTES: u64 = 640;

/// The rows of locks; 0 where the short way is closed.
static ROWS: AtomicU64 = AtomicU64::new(0);
/// 1 where waits are measured.
static MEASURES: AtomicU32 = AtomicU32::new(0);
/// What addresses are hashed with, for the assembly.
static HASH_FACTOR: u64 = table::HASH_FACTOR;

/// Once, after the tables of locks and the meters are made.
pub(super) fn init() {
    if check::is_checking() {
        return;
    }
    MEASURES.store(u32::from(contention::is_on()), Ordering::Relaxed);
    ROWS.store(table::row(0).map_or(0, |row| row as u64), Ordering::Relaxed);
}

/// The hold that a place makes is shared.
const SHARES: u32 = 1;
/// Its pair must be known even where nothing is held.
const IS_LOGGED_ALONE: u32 = 2;

/// An acquisition's site and its callers, with their access row. All-zero bytes match none.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Place {
    /// Stack pointer when the stub is entered.
    sp: u64,
    /// The innermost return addresses above the site.
    callers: [u64; 2],
    /// Where they lie, above [`Place::sp`] less what the stub pushes.
    caller_offsets: [u32; 2],
    site: u32,
    /// [`SHARES`], [`IS_LOGGED_ALONE`].
    flags: u32,
    /// [`HoldRow::shared`], in its place beside the lock's index.
    shared: u64,
    /// This and the next as in a [`HoldRow`].
    access: u32,
    /// 1 for attempts.
    reserved: u32,
    padding: u64,
}

/// A pair of the order log. All-zero bytes match none, as no row lies at 0.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Pair {
    /// Address of the row of the lock taken.
    row: u64,
    /// What was held then; its lock is 0 for nothing.
    outer_lock: u64,
    outer_access: u32,
    access: u32,
    phase: u32,
    unused: u32,
}

const _: () = assert!(size_of::<Place>() == 64 && PLACES.is_power_of_two());
const _: () = assert!(size_of::<Pair>() == 32 && PAIRS.is_power_of_two());
const _: () = assert!(size_of::<LockRow>() == 64 && size_of::<HoldRow>() == 16);

/// Stack pointer at a stub's entry, from the guest's as the handler knows it.
const ENTRY_BELOW_GUEST: u64 = (RED_ZONE + 24) as u64;
/// Bytes that [`acquired`] pushes.
const PUSHED: u64 = 32;

fn place_slot(sp: u64, site: u32) -> usize {
    ((sp >> 4) as u32 ^ site) as usize & (PLACES - 1)
}

fn pair_slot(row: u64, outer_lock: u64) -> usize {
    ((row >> 6) as u32 ^ outer_lock as u32) as usize & (PAIRS - 1)
}

/// The access row of an acquisition by a site, which may take the short way the next time.
pub(super) fn place(state: &mut ThreadState, site: u32) -> u32 {
    let sp = state.guest_sp.wrapping_sub(ENTRY_BELOW_GUEST);
    let slot = place_slot(sp, site);
    let pushed = sp.wrapping_sub(PUSHED);
    if let Some(known) = state.lock.places.get(slot)
        && known.site == site
        && known.sp == sp
        && known.access != 0
        && known.caller_offsets.iter().zip(known.callers).all(|(offset, caller)| {
            // SAFETY: innermost first, the slots lie in frames of functions that have not returned, as they did when this was noted.
            unsafe { (pushed.wrapping_add(u64::from(*offset)) as *const u64).read() == caller }
        })
    {
        return known.access;
    }
    let (access, frames) = stack_cache::place_with_callers(state, site);
    let packed = plan::site(site).0;
    let is_short = |operation: &Operation| !operation.is_upgradable() && ROWS.load(Ordering::Relaxed) != 0;
    let Some(operation) = operation_of(packed).filter(is_short) else { return access };
    let Some([first, second]) = frames else { return access };
    let offset = |slot: u64| u32::try_from(slot.wrapping_sub(pushed));
    let (Ok(first_offset), Ok(second_offset)) = (offset(first.0), offset(second.0)) else { return access };
    let mut flags = if operation.shares() { SHARES } else { 0 };
    if order::is_logged_alone(type_of(packed), operation.shares()) {
        flags |= IS_LOGGED_ALONE;
    }
    let new = Place {
        sp,
        callers: [first.1, second.1],
        caller_offsets: [first_offset, second_offset],
        site,
        flags,
        shared: u64::from(operation.hold()) << 32,
        access,
        reserved: u32::from(operation.is_try()),
        padding: 0,
    };
    if let Some(known) = state.lock.places.get_mut(slot) {
        *known = new;
    }
    access
}

/// Notes the pair of an acquisition that has just been made and logged, as the thread's latest hold.
pub(super) fn remember(state: &mut ThreadState, hold: &HoldRow) {
    let rows = ROWS.load(Ordering::Relaxed);
    if rows == 0 {
        return;
    }
    let live = state.lock.live();
    // SAFETY: the row is in the recording's mapping; the hold was pushed, so there is one.
    let count = unsafe { addr_of!((*live).hold_count).read() };
    let outer = match count {
        1 => HoldRow::default(),
        // SAFETY: as above.
        2 => unsafe { (addr_of!((*live).holds) as *const HoldRow).read() },
        _ => return,
    };
    let row = rows.wrapping_add(u64::from(hold.lock) * size_of::<LockRow>() as u64);
    let outer_lock = u64::from(outer.lock) | u64::from(outer.shared) << 32;
    let pair =
        Pair { row, outer_lock, outer_access: outer.access, access: hold.access, phase: state.lock.phase, unused: 0 };
    if let Some(known) = state.lock.pairs.get_mut(pair_slot(row, outer_lock)) {
        *known = pair;
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
        "push rsi",
        "mov rax, fs:[0x10]",
        "cmp rax, gs:[{owner}]",
        "jne 5f",
        "mov eax, gs:[{guard}]",
        "or eax, gs:[{taking}]",
        "jne 5f",
        // rdx: the place.
        "mov ecx, [rsp+40]",
        "lea rax, [rsp+32]",
        "mov rdx, rax",
        "shr rdx, 4",
        "xor edx, ecx",
        "and edx, {last_place}",
        "shl edx, 6",
        "add rdx, gs:[0]",
        "add rdx, {places}",
        "cmp [rdx+{sp}], rax",
        "jne 5f",
        "cmp [rdx+{site}], ecx",
        "jne 5f",
        "mov eax, [rdx+{caller_offsets}]",
        "mov rax, [rsp+rax]",
        "cmp [rdx+{callers}], rax",
        "jne 5f",
        "mov eax, [rdx+{caller_offsets}+4]",
        "mov rax, [rsp+rax]",
        "cmp [rdx+{callers}+8], rax",
        "jne 5f",
        // rcx: the row of the lock, whose address is in rax.
        "mov rax, [rsp+48]",
        "mov rcx, rax",
        "shr rcx, 12",
        "imul rcx, [rip+{factor}]",
        "shr rcx, {hash_shift}",
        "shl rcx, 9",
        "mov rsi, rax",
        "shr rsi, 3",
        "and esi, 511",
        "or rcx, rsi",
        "and rcx, [rip+{mask}]",
        "mov rsi, [rip+{slots}]",
        "mov ecx, [rsi+rcx*4]",
        "shl rcx, 6",
        "add rcx, [rip+{rows}]",
        "cmp [rcx+{row_address}], rax",
        "jne 5f",
        "cmp dword ptr [rcx+{row_gone}], 0",
        "jne 5f",
        "cmp gs:[{first_failure}], rax",
        "je 5f",
        "cmp gs:[{second_failure}], rax",
        "je 5f",
        "mov rax, gs:[{user}]",
        "test [rcx+{row_users}], rax",
        "jz 5f",
        // With nothing held nothing new can be logged of most locks.
        "mov rax, gs:[{live}]",
        "test rax, rax",
        "jz 5f",
        "mov esi, [rdx+{flags}]",
        "and esi, {is_logged_alone}",
        "or esi, [rax+{hold_count}]",
        "jnz 6f",
        "2:",
        "cmp dword ptr [rip+{measures}], 0",
        "je 3f",
        "cmp dword ptr [rcx+{row_quiet}], 0",
        "je 5f",
        // Of one in so many, the rest of the way decides whether the hold is measured.
        "mov eax, [rcx+{row_acquisitions}]",
        "inc eax",
        "imul eax, eax, {sample_factor}",
        "cmp eax, [rcx+{row_sample_below}]",
        "jb 5f",
        "inc qword ptr [rcx+{row_acquisitions}]",
        "3:",
        // What lies behind the last hold is often the same one, of the last time.
        "mov rax, gs:[{live}]",
        "mov esi, [rax+{hold_count}]",
        "shl esi, 4",
        "add rsi, rax",
        "mov rax, [rdx+{access}]",
        "cmp [rsi+{holds}+8], rax",
        "je 4f",
        "mov [rsi+{holds}+8], rax",
        "4:",
        "mov rax, rcx",
        "sub rax, [rip+{rows}]",
        "shr rax, 6",
        "or rax, [rdx+{shared}]",
        "cmp [rsi+{holds}], rax",
        "je 4f",
        "mov [rsi+{holds}], rax",
        "4:",
        "mov rax, gs:[{live}]",
        "inc dword ptr [rax+{hold_count}]",
        "test dword ptr [rdx+{flags}], {shares}",
        "jnz 7f",
        "mov eax, gs:[{serial}]",
        "inc eax",
        "mov [rcx+{row_owner}], eax",
        "7:",
        "jmp {finish}",
        // The pair must be known; rax is the live row.
        "6:",
        "push rdi",
        "mov edi, [rax+{hold_count}]",
        "cmp edi, 1",
        "ja 8f",
        "jb 4f",
        "mov rdi, [rax+{holds}]",
        "mov eax, [rax+{holds}+8]",
        "jmp 7f",
        "4:",
        "xor eax, eax",
        "7:",
        "mov rsi, rcx",
        "shr rsi, 6",
        "xor esi, edi",
        "and esi, {last_pair}",
        "shl esi, 5",
        "add rsi, gs:[0]",
        "cmp [rsi+{pairs}+{pair_row}], rcx",
        "jne 8f",
        "cmp [rsi+{pairs}+{outer_lock}], rdi",
        "jne 8f",
        "cmp [rsi+{pairs}+{outer_access}], eax",
        "jne 8f",
        "mov eax, [rdx+{access}]",
        "cmp [rsi+{pairs}+{pair_access}], eax",
        "jne 8f",
        "mov eax, gs:[{phase}]",
        "cmp [rsi+{pairs}+{pair_phase}], eax",
        "jne 8f",
        "pop rdi",
        "jmp 2b",
        "8:",
        "pop rdi",
        "5:",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "cmp esp, esp",
        "jmp {slow}",
        ".org 9b + {bytes}, 0xcc",
        owner = const OWNER_FS,
        guard = const GUARD,
        taking = const LOCK + offset_of!(ThreadLock, taking),
        last_place = const PLACES - 1,
        places = const LOCK + offset_of!(ThreadLock, places),
        sp = const offset_of!(Place, sp),
        site = const offset_of!(Place, site),
        callers = const offset_of!(Place, callers),
        caller_offsets = const offset_of!(Place, caller_offsets),
        flags = const offset_of!(Place, flags),
        shared = const offset_of!(Place, shared),
        access = const offset_of!(Place, access),
        shares = const SHARES,
        is_logged_alone = const IS_LOGGED_ALONE,
        factor = sym HASH_FACTOR,
        hash_shift = const table::HASH_SHIFT,
        mask = sym table::MASK,
        slots = sym table::SLOTS,
        rows = sym ROWS,
        row_address = const offset_of!(LockRow, address),
        row_gone = const offset_of!(LockRow, gone),
        row_users = const offset_of!(LockRow, users),
        row_owner = const offset_of!(LockRow, owner),
        first_failure = const LOCK + offset_of!(ThreadLock, failures) + incident::FAILURE_ADDRESS,
        second_failure = const LOCK + offset_of!(ThreadLock, failures) + incident::FAILURE_BYTES + incident::FAILURE_ADDRESS,
        user = const LOCK + offset_of!(ThreadLock, user),
        live = const LIVE,
        phase = const LOCK + offset_of!(ThreadLock, phase),
        hold_count = const offset_of!(LiveRow, hold_count),
        holds = const offset_of!(LiveRow, holds),
        last_pair = const PAIRS - 1,
        pairs = const LOCK + offset_of!(ThreadLock, pairs),
        pair_row = const offset_of!(Pair, row),
        outer_lock = const offset_of!(Pair, outer_lock),
        outer_access = const offset_of!(Pair, outer_access),
        pair_access = const offset_of!(Pair, access),
        pair_phase = const offset_of!(Pair, phase),
        measures = sym MEASURES,
        row_quiet = const offset_of!(LockRow, quiet),
        row_acquisitions = const offset_of!(LockRow, acquisitions),
        row_sample_below = const offset_of!(LockRow, sample_below),
        sample_factor = const SAMPLE_FACTOR as i32,
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
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "cmp esp, esp",
        "ret 16",
        "6:",
        "pop rsi",
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
        // rcx: the live row from the latest hold on, if there is one; rax: its lock's row, if that is the one given up.
        "mov rcx, gs:[{live}]",
        "mov rax, [rip+{rows}]",
        "test rcx, rcx",
        "jz 5f",
        "test rax, rax",
        "jz 5f",
        "mov edx, [rcx+{hold_count}]",
        "dec edx",
        "js 5f",
        "shl edx, 4",
        "add rcx, rdx",
        "mov edx, [rcx+{holds}]",
        "shl rdx, 6",
        "add rax, rdx",
        "mov rdx, [rsp+48]",
        "cmp [rax+{row_address}], rdx",
        "jne 5f",
        "cmp dword ptr [rax+{row_gone}], 0",
        "jne 5f",
        "cmp dword ptr [rip+{measures}], 0",
        "je 3f",
        "cmp dword ptr [rax+{row_quiet}], 0",
        "je 5f",
        "3:",
        "mov rdx, gs:[{live}]",
        "dec dword ptr [rdx+{hold_count}]",
        "cmp dword ptr [rcx+{holds}+{hold_shared}], 0",
        "jne 7f",
        "mov dword ptr [rax+{row_owner}], 0",
        "7:",
        "jmp {finish}",
        "5:",
        restore!(),
        "jmp {slow}",
        ".org 9b + {bytes}, 0xcc",
        owner = const OWNER_FS,
        guard = const GUARD,
        rows = sym ROWS,
        row_address = const offset_of!(LockRow, address),
        row_gone = const offset_of!(LockRow, gone),
        row_owner = const offset_of!(LockRow, owner),
        live = const LIVE,
        hold_count = const offset_of!(LiveRow, hold_count),
        holds = const offset_of!(LiveRow, holds),
        hold_shared = const offset_of!(HoldRow, shared),
        measures = sym MEASURES,
        row_quiet = const offset_of!(LockRow, quiet),
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
