//! Publishing waits: a thread that is about to block says so in its live row.

use super::{CALLS, contention, table};
use crate::check;
use crate::hook::real;
use crate::record;
use crate::thread::{self, ThreadState};
use conprof_wire::locks::{LiveRow, Operation, operation_of};
use conprof_wire::recording::NO_SITE;
use conprof_wire::waits::WaitKind;
use core::arch::naked_asm;
use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicU64, Ordering};

/// Futex operations that wait: `FUTEX_WAIT`, `FUTEX_LOCK_PI`, `FUTEX_WAIT_BITSET`, `FUTEX_WAIT_REQUEUE_PI`, `FUTEX_LOCK_PI2`.
const fn waits(operation: usize) -> bool {
    matches!(operation & 127, 0 | 6 | 9 | 11 | 13)
}

/// The futex may be woken by another process.
const fn is_shared(operation: usize) -> bool {
    operation & 128 == 0
}

/// The thread is about to block. `word` is what it waits on; `lock` the address of the lock or, for a condition
/// variable, of its mutex; `target` the serial of the thread awaited, plus 1.
pub fn wait(state: &mut ThreadState, kind: WaitKind, word: usize, lock: usize, target: u32, is_timed: bool) {
    let live = state.lock.live();
    if live.is_null() {
        return;
    }
    let access = check::place(state, NO_SITE);
    let now = record::time_ns();
    let index = if lock == 0 { 0 } else { table::find(lock).unwrap_or(0) };
    if index != 0 {
        table::note_user(index, state.serial);
    }
    // SAFETY: the row is in the recording's mapping; only this thread writes it.
    unsafe {
        addr_of_mut!((*live).wait_kind).write_volatile(kind as u32);
        addr_of_mut!((*live).wait_timed).write_volatile(u32::from(is_timed));
        addr_of_mut!((*live).wait_word).write_volatile(word as u64);
        addr_of_mut!((*live).wait_lock).write_volatile(index);
        addr_of_mut!((*live).wait_access).write_volatile(access);
        addr_of_mut!((*live).wait_target).write_volatile(target);
        addr_of_mut!((*live).wait_since_ns).write_volatile(now);
        addr_of_mut!((*live).wait_acquisitions).write_volatile(contention::acquisitions(index));
    }
    contention::wait(state, kind, index, access, now);
    advance(live, true);
}

/// The wait is over.
pub fn waited(state: &mut ThreadState) {
    let live = state.lock.live();
    if !live.is_null() {
        advance(live, false);
        contention::waited(state);
    }
}

fn advance(live: *mut LiveRow, waiting: bool) {
    // SAFETY: as in `wait`; the field is accessed atomically by both sides.
    unsafe {
        let before = addr_of!((*live).sequence).read();
        if (before & 1 == 0) == waiting {
            // Release: the host that sees an odd number sees what is waited for.
            AtomicU64::from_ptr(addr_of_mut!((*live).sequence)).store(before + 1, Ordering::Release);
        }
    }
}

/// The thread is about to wait on a futex: what for, the lock operation under way tells.
pub fn futex_wait(state: &mut ThreadState, word: usize, operation: usize, timeout: usize) {
    if !waits(operation) {
        return;
    }
    let is_timed = timeout != 0;
    if is_shared(operation) {
        return wait(state, WaitKind::Outside, word, 0, 0, is_timed);
    }
    let sp = state.guest_sp;
    let count = (state.lock.call_count as usize).min(CALLS);
    let mut under_way = state.lock.calls.iter().take(count).rev().filter(|call| call.sp > sp).copied();
    let Some(inner) = under_way.next() else {
        return match table::find(word) {
            Some(_) => wait(state, WaitKind::Lock, word, word, 0, is_timed),
            None => wait(state, WaitKind::Futex, word, 0, 0, is_timed),
        };
    };
    let address = inner.address as usize;
    let enclosing = under_way.next().and_then(|call| operation_of(call.packed));
    let inner_operation = operation_of(inner.packed);
    let kind = match (inner_operation, enclosing) {
        (Some(Operation::Park | Operation::WaitCondvar), Some(Operation::Receive)) => WaitKind::Receive,
        (Some(Operation::Park | Operation::WaitCondvar), Some(Operation::Send)) => WaitKind::Send,
        (Some(Operation::Park | Operation::WaitCondvar), Some(Operation::Barrier)) => WaitKind::Barrier,
        (Some(Operation::LockExclusive | Operation::UpgradeWait), _) => WaitKind::Lock,
        (Some(Operation::LockUpgradable), _) => WaitKind::Upgradable,
        (Some(Operation::LockShared), _) => WaitKind::Shared,
        (Some(Operation::WaitCondvar), _) => WaitKind::Condvar,
        (Some(Operation::Once), _) => WaitKind::Once,
        (Some(Operation::Park), _) => WaitKind::Park,
        (Some(Operation::Receive), _) => WaitKind::Receive,
        (Some(Operation::Send), _) => WaitKind::Send,
        (Some(Operation::Barrier), _) => WaitKind::Barrier,
        _ => WaitKind::Futex,
    };
    match kind {
        WaitKind::Lock | WaitKind::Shared | WaitKind::Upgradable => {
            wait(state, kind, address, address, 0, is_timed);
        }
        WaitKind::Condvar => wait(state, kind, address, inner.second as usize, 0, is_timed),
        WaitKind::Once => wait(state, kind, address, 0, 0, is_timed),
        _ => wait(state, kind, word, 0, 0, is_timed),
    }
}

/// The futex call is over.
pub fn futex_waited(state: &mut ThreadState) {
    waited(state);
}

extern "C" fn before_futex(word: usize, operation: usize, timeout: usize, guest_bp: u64) {
    thread::run(|state| {
        state.lock.guest_bp = guest_bp;
        futex_wait(state, word, operation, timeout);
    });
}

extern "C" fn after_futex() {
    thread::run(waited);
}

/// Interposes `syscall`, by which std and parking_lot wait on futexes. All but futex calls go straight through.
///
/// # Safety
/// As for the function interposed.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn syscall() {
    naked_asm!(
        "mov r11, [rip+{real}]",
        "test r11, r11",
        "jz 4f",
        "2:",
        "cmp rdi, {futex}",
        "jne 3f",
        "cmp byte ptr [rip+{ready}], 0",
        "je 3f",
        // FUTEX_WAIT is 0, FUTEX_WAIT_BITSET 9; a wake-up goes straight through.
        "mov eax, edx",
        "and eax, 127",
        "jz 5f",
        "cmp eax, 9",
        "je 5f",
        "3:",
        "jmp r11",
        "5:",
        "call {entry}",
        // Seven arguments: one is on the stack, at rsp+8.
        "push rbp",
        "mov rbp, rsp",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, r8",
        "mov rcx, [rbp]",
        "call {before}",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "sub rsp, 8",
        "push qword ptr [rbp+16]",
        "xor eax, eax",
        "call [rip+{real}]",
        "mov [rsp+8], rax",
        "call {after}",
        "mov rax, [rsp+8]",
        "leave",
        "ret",
        "4:",
        // Not resolved yet: ask for it, with all arguments kept.
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "push rax",
        "call {resolve}",
        "mov r11, rax",
        "pop rax",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp 2b",
        real = sym real::pointer::syscall,
        futex = const libc::SYS_futex,
        ready = sym crate::thread::READY,
        entry = sym crate::stubs::function_entry,
        before = sym before_futex,
        after = sym after_futex,
        resolve = sym resolve,
    )
}

extern "C" fn resolve() -> usize {
    real::address(&real::pointer::syscall, b"syscall\0") as usize
}
