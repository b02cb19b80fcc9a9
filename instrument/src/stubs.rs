//! The entries of the slot table: assembly between generated code and the detector.
//!
//! A data stub saves the nine caller-saved general registers and the flags in a [`Saved`] block on the
//! guest's stack (88 bytes), sets the guard, calls its handler on the runtime stack, and restores. The
//! flags go through `lahf`/`seto` and `sahf`, as `popfq` costs ten times as much. Vector registers are not
//! saved: no code that runs here uses one, which a test of the built library asserts.
//!
//! # Signals
//! A handler of the target that interrupts a stub before the guard is set, or after it is cleared, runs
//! as anywhere else. Between the two it is deferred (`hook::signal`) and delivered by [`deliver`], at whose end the
//! interrupted state is exactly that of the generated code, so the handler can be shown the original registers.

use crate::check;
use crate::covered;
use crate::hook::syscall as system_call;
use crate::lock;
use crate::record;
use crate::thread::{self, ThreadState, stacks};
use conprof_wire::entry::{Entry, HOOK_BASE};
use conprof_wire::recording::Counter;
use conprof_wire::state::{FRAMES_LIMIT, FRAMES_TOP, Frame, GUARD, OWNER_FS, RED_ZONE, STACK_LEN, STACK_LOW};
use core::arch::naked_asm;

/// What a stub saves on the guest's stack, and what generated code pushed before.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Saved {
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    /// `ah` from `lahf`, `al` the overflow flag.
    pub flags: u64,
    pub rax: u64,
    /// Into generated code.
    pub return_address: u64,
    /// Site index; absent for [`Entry::FunctionEntry`].
    pub site: u64,
    /// Effective address; absent where the entry has none.
    pub address: u64,
}

const _: () = assert!(core::mem::offset_of!(Saved, return_address) == 80);

/// ZF in [`Saved::flags`], whose second byte is what `lahf` gives (Intel SDM, volume 2, LAHF).
const SAVED_ZF: u64 = 1 << (8 + 6);

/// Offset of `guard`-independent constants for the assembly.
const DEFERRED_MASK: usize =
    core::mem::offset_of!(ThreadState, deferred) + core::mem::offset_of!(crate::hook::signal::Deferred, mask);

/// A data stub. `first` is code that runs once `rax`, the flags, `rcx` and `rdx` are saved, with its operands.
macro_rules! stub {
    ($(#[$doc:meta])* $name:ident, $handler:path, pops $pops:literal, sp $sp:expr) => {
        stub!($(#[$doc])* $name, $handler, pops $pops, sp $sp, first []);
    };
    (
        $(#[$doc:meta])* $name:ident, $handler:path, pops $pops:literal, sp $sp:expr,
        first [$($first:expr),*] $(, $operand:ident = const $value:expr)*
    ) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "push rax",
                "lahf",
                "seto al",
                "push rax",
                "push rcx",
                "push rdx",
                $($first,)*
                "push rsi",
                "push rdi",
                "push r8",
                "push r9",
                "push r10",
                "push r11",
                "mov rax, fs:[0x10]",
                "cmp rax, gs:[{owner}]",
                "jne 5f",
                "2:",
                "cmp dword ptr gs:[{guard}], 0",
                "jne 6f",
                "mov dword ptr gs:[{guard}], 1",
                "mov rdi, gs:[0]",
                "mov rsi, rsp",
                "lea rdx, [rsp+{sp}]",
                "mov rsp, gs:[{stack}]",
                // For walking the target's stack: its rbp is the first word of the runtime's stack.
                "push rbp",
                "push rsi",
                "call {handler}",
                "mov rsp, [rsp]",
                "cmp dword ptr gs:[{pending}], 0",
                "jne 7f",
                "mov dword ptr gs:[{guard}], 0",
                // A signal that was deferred between the two lines above.
                "cmp dword ptr gs:[{pending}], 0",
                "jne 7f",
                "4:",
                "pop r11",
                "pop r10",
                "pop r9",
                "pop r8",
                "pop rdi",
                "pop rsi",
                "pop rdx",
                "pop rcx",
                "pop rax",
                "add al, 0x7f",
                "sahf",
                "pop rax",
                concat!("ret ", $pops),
                "5:",
                "call {adopt}",
                "test rax, rax",
                "jnz 2b",
                "jmp 4b",
                "6:",
                "call {nested}",
                "jmp 4b",
                "7:",
                concat!("mov esi, ", $pops),
                "call {deliver}",
                "jmp 4b",
                owner = const conprof_wire::state::OWNER_FS,
                guard = const conprof_wire::state::GUARD,
                stack = const conprof_wire::state::RUNTIME_STACK_TOP,
                pending = const conprof_wire::state::SIGNALS_PENDING,
                sp = const $sp,
                handler = sym $handler,
                adopt = sym $crate::stubs::adopt_on_guest_stack,
                nested = sym $crate::stubs::nested_on_guest_stack,
                deliver = sym $crate::stubs::deliver,
                $($operand = const $value,)*
            )
        }
    };
}
pub(crate) use stub;

/// Guest stack pointer above a stub's arguments, from the start of [`Saved`].
pub(crate) const SP_WITH_ADDRESS: usize = size_of::<Saved>() + RED_ZONE;
const SP_WITHOUT_ADDRESS: usize = size_of::<Saved>() - 8 + RED_ZONE;
/// The slot of the function's own return address.
const SP_OF_ENTRY: usize = size_of::<Saved>() - 16;

stub!(access, handle_access, pops 16, sp SP_WITH_ADDRESS);
stub!(atomic_before, handle_atomic_before, pops 16, sp SP_WITH_ADDRESS);
stub!(atomic_after, handle_atomic_after, pops 16, sp SP_WITH_ADDRESS);
stub!(lock_acquired, handle_lock_acquired, pops 16, sp SP_WITH_ADDRESS);
stub!(lock_tried, handle_lock_tried, pops 16, sp SP_WITH_ADDRESS);
stub!(lock_failed, handle_lock_failed, pops 16, sp SP_WITH_ADDRESS);
stub!(lock_released, handle_lock_released, pops 16, sp SP_WITH_ADDRESS);
stub!(system_call_before, handle_system_call_before, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(system_call_after, handle_system_call_after, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(opaque, handle_opaque, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(lock_call, handle_lock_call, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(lock_return, handle_lock_return, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(lock_nothing, handle_nothing, pops 16, sp SP_WITH_ADDRESS);
stub!(string_up, handle_string_up, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(string_down_inner, handle_string_down, pops 8, sp SP_WITHOUT_ADDRESS);
stub!(function_entry_slow, handle_function_entry, pops 0, sp SP_OF_ENTRY);

/// Calls `$target` with the guest's stack aligned; the result is in `rax`. All caller-saved registers are lost.
macro_rules! on_guest_stack {
    ($name:ident, $target:path) => {
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name() {
            naked_asm!(
                "push rbx",
                "mov rbx, rsp",
                "and rsp, -16",
                "call {target}",
                "mov rsp, rbx",
                "pop rbx",
                "ret",
                target = sym $target,
            )
        }
    };
}

on_guest_stack!(adopt_on_guest_stack, thread::adopt);
on_guest_stack!(nested_on_guest_stack, handle_nested);

/// Lets a deferred signal in, at the end of a stub: `[rsp]` is the return into the stub, `[rsp+8]` the [`Saved`]
/// block, `esi` the bytes of arguments that the stub pops.
///
/// The guard stays set, or is set again, until the signal waits in the kernel, blocked; then the mask of the
/// interrupted code is restored by a system call, and the handler runs with all callee-saved registers of the guest.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn deliver() {
    naked_asm!(
        "mov dword ptr gs:[{guard}], 1",
        "push rbx",
        "mov rbx, rsp",
        "and rsp, -16",
        "mov rdi, gs:[0]",
        "call {requeue}",
        "mov rsp, rbx",
        "pop rbx",
        "mov dword ptr gs:[{guard}], 0",
        "mov rsi, gs:[0]",
        "add rsi, {mask}",
        "mov edi, 2",
        "xor edx, edx",
        "mov r10d, 8",
        "mov eax, 14",
        "syscall",
        "ret",
        guard = const GUARD,
        mask = const DEFERRED_MASK,
        requeue = sym crate::hook::signal::requeue,
    )
}

/// Bytes of code of [`deliver`], at most.
const DELIVER_BYTES: u64 = 96;

/// The saved block, if `pc` and `sp` were interrupted at the end of [`deliver`].
pub fn delivering(pc: u64, sp: u64) -> Option<*const Saved> {
    (pc.wrapping_sub(deliver as *const () as u64) < DELIVER_BYTES).then_some((sp + 8) as *const Saved)
}

/// `Entry::FunctionEntry`: pops the frames that are dead at this stack pointer and pushes the function's.
///
/// The new top is published before the frame is written, so a handler that interrupts in between may see an
/// older frame there, but what it pushes and leaves behind is overwritten when this goes on.
///
/// # Safety
/// Called by generated code or a thunk, as the slot table's convention says.
#[unsafe(naked)]
pub unsafe extern "C" fn function_entry() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "mov rax, fs:[0x10]",
        "cmp rax, gs:[{owner}]",
        "jne 5f",
        "lea rcx, [rsp+32]",
        "mov rax, rcx",
        "sub rax, gs:[{low}]",
        "cmp rax, gs:[{len}]",
        "jae 5f",
        "mov rax, gs:[{top}]",
        "cmp [rax], rcx",
        "jbe 4f",
        "2:",
        "cmp rax, gs:[{limit}]",
        "jae 6f",
        "add rax, {frame}",
        "mov rdx, [rcx]",
        "mov gs:[{top}], rax",
        "mov [rax], rcx",
        "mov [rax+8], rdx",
        "mov dword ptr [rax+16], 0",
        "3:",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "ret",
        "4:",
        "sub rax, {frame}",
        "cmp [rax], rcx",
        "jbe 4b",
        "jmp 2b",
        "6:",
        "call {lost}",
        "jmp 3b",
        "5:",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "jmp {slow}",
        owner = const OWNER_FS,
        low = const STACK_LOW,
        len = const STACK_LEN,
        top = const FRAMES_TOP,
        limit = const FRAMES_LIMIT,
        frame = const size_of::<Frame>(),
        slow = sym function_entry_slow,
        lost = sym frame_lost,
    )
}

/// Counts a frame that found no room. Preserves all registers but rax, rcx, rdx.
#[unsafe(naked)]
unsafe extern "C" fn frame_lost() {
    naked_asm!(
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "call {target}",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "ret",
        target = sym frame_lost_on_guest_stack,
    )
}

on_guest_stack!(frame_lost_on_guest_stack, count_frame_lost);

extern "C" fn count_frame_lost() {
    record::count(Counter::FramesLost);
}

extern "C" fn handle_nested() {
    record::count(Counter::NestedEntries);
}

/// `Entry::StringOperation`: looks at the direction flag first. Runtime code does not depend on it, but the ABI
/// wants it clear at calls.
#[unsafe(naked)]
unsafe extern "C" fn string_operation() {
    naked_asm!(
        // The flags must survive the test: they are saved and put back through rax, on the guest's stack.
        "push rax",
        "lahf",
        "seto al",
        "push rax",
        "pushfq",
        "pop rax",
        "bt eax, 10",
        "jc 2f",
        "pop rax",
        "add al, 0x7f",
        "sahf",
        "pop rax",
        "jmp {up}",
        "2:",
        "pop rax",
        "add al, 0x7f",
        "sahf",
        "pop rax",
        "cld",
        // The stub pops the site; so that control comes back here, it gets a copy of its arguments.
        "push qword ptr [rsp+8]",
        "call {down}",
        "std",
        "ret 8",
        up = sym string_up,
        down = sym string_down_inner,
    )
}

/// Makes the state ready for a handler; `None` in a forked child, which is detached here.
#[inline(always)]
unsafe fn begin<'a>(state: *mut ThreadState, sp: u64) -> Option<&'a mut ThreadState> {
    if !record::process_is_ours() {
        // SAFETY: the state is this thread's.
        unsafe { thread::detach_slow(state) };
        return None;
    }
    // SAFETY: the guard is set, so this is the only reference to the state of this thread.
    let state = unsafe { &mut *state };
    state.guest_sp = sp;
    if sp.wrapping_sub(state.gs.stack_low) >= state.gs.stack_len {
        stacks::switch_slow(state, sp);
    }
    Some(state)
}

macro_rules! handler {
    ($name:ident, |$state:ident, $saved:ident| $body:expr) => {
        unsafe extern "C" fn $name(state: *mut ThreadState, saved: *const Saved, sp: u64) {
            // SAFETY: called by a stub, with this thread's state and the block that the stub saved.
            unsafe {
                if let Some($state) = begin(state, sp) {
                    let $saved = &*saved;
                    $body
                }
            }
        }
    };
}

handler!(handle_access, |state, saved| check::access(state, saved.address as usize, saved.site as u32));
/// A plain access of `SIZE` bytes: the common cases here, the others as any access.
pub(crate) unsafe extern "C" fn handle_small<const SIZE: usize, const WRITES: bool>(
    state: *mut ThreadState,
    saved: *const Saved,
    sp: u64,
) {
    // SAFETY: called by a stub, with this thread's state and the block that the stub saved; the guard is set.
    unsafe {
        if record::process_is_ours() {
            let state = &mut *state;
            state.guest_sp = sp;
            if sp.wrapping_sub(state.gs.stack_low) < state.gs.stack_len
                && check::access_common::<SIZE, WRITES>(state, (*saved).address as usize, (*saved).site as u32)
            {
                return;
            }
        }
        handle_access(state, saved, sp);
    }
}

handler!(handle_atomic_before, |state, saved| {
    lock::atomic_before(state, saved.address as usize, saved.site as u32);
    check::atomic_before(state, saved.address as usize, saved.site as u32);
});
handler!(handle_atomic_after, |state, saved| check::atomic_after(state, saved.address as usize, saved.site as u32));
handler!(handle_lock_acquired, |state, saved| lock::site_acquired(state, saved.address as usize, saved.site as u32));
handler!(handle_lock_tried, |state, saved| {
    check::atomic_after(state, saved.address as usize, saved.site as u32);
    if saved.flags & SAVED_ZF != 0 {
        lock::site_acquired(state, saved.address as usize, saved.site as u32);
    } else {
        lock::site_failed(state, saved.address as usize, saved.site as u32);
    }
});
handler!(handle_lock_failed, |state, saved| lock::site_failed(state, saved.address as usize, saved.site as u32));
handler!(handle_lock_released, |state, saved| lock::site_released(state, saved.address as usize, saved.site as u32));
// Lets a deferred signal in, at its end.
handler!(handle_nothing, |_state, _saved| {});
// These have no address: what the block names so is below it.
handler!(handle_lock_call, |state, saved| lock::call(state, saved.site as u32, saved.rdi as usize, saved.rsi as usize));
handler!(handle_lock_return, |state, saved| lock::called(state, saved.site as u32, saved.rax));
handler!(handle_opaque, |state, saved| check::opaque(state, saved.site as u32));
handler!(handle_string_up, |state, saved| check::string_operation(
    state,
    saved.site as u32,
    saved.rcx,
    saved.rsi as usize,
    saved.rdi as usize,
    false
));
handler!(handle_string_down, |state, saved| check::string_operation(
    state,
    saved.site as u32,
    saved.rcx,
    saved.rsi as usize,
    saved.rdi as usize,
    true
));
handler!(handle_system_call_before, |state, saved| system_call::before(state, saved));
handler!(handle_system_call_after, |state, saved| system_call::after(state, saved.rax as i64));

/// The entry of a function on another guest stack than before, or by a thread that was just adopted.
unsafe extern "C" fn handle_function_entry(state: *mut ThreadState, _saved: *const Saved, sp: u64) {
    // SAFETY: called by a stub, with this thread's state; `sp` points to the function's return address.
    unsafe {
        let Some(state) = begin(state, sp) else { return };
        let mut top = state.gs.frames_top as *mut Frame;
        while (*top).sp <= sp {
            top = top.sub(1);
        }
        if (top as u64) < state.gs.frames_limit {
            top = top.add(1);
            *top = Frame { sp, return_address: *(sp as *const u64), node: 0, reserved: 0 };
        } else {
            record::count(Counter::FramesLost);
        }
        state.gs.frames_top = top as u64;
    }
}

/// The slot table's first part, by [`Entry`]; unused slots are entries that check nothing.
pub fn table() -> [u64; HOOK_BASE] {
    let mut table = [access as *const () as u64; HOOK_BASE];
    let entries: [(Entry, unsafe extern "C" fn()); 22] = [
        (Entry::Read1, covered::read_1),
        (Entry::Read2, covered::read_2),
        (Entry::Read4, covered::read_4),
        (Entry::Read8, covered::read_8),
        (Entry::Write1, covered::write_1),
        (Entry::Write2, covered::write_2),
        (Entry::Write4, covered::write_4),
        (Entry::Write8, covered::write_8),
        (Entry::FunctionEntry, function_entry),
        (Entry::AtomicBefore, atomic_before),
        (Entry::AtomicAfter, atomic_after),
        (Entry::StringOperation, string_operation),
        (Entry::SyscallBefore, system_call_before),
        (Entry::SyscallAfter, system_call_after),
        (Entry::Opaque, opaque),
        (Entry::LockAcquired, lock::uncontended::acquired),
        (Entry::LockReleased, lock::uncontended::released),
        (Entry::LockTried, lock_tried),
        (Entry::LockFailed, lock_failed),
        (Entry::LockMayRelease, lock::uncontended::may_release),
        (Entry::LockCall, lock_call),
        (Entry::LockReturn, lock_return),
    ];
    for (entry, stub) in entries {
        if let Some(slot) = table.get_mut(entry as usize) {
            *slot = stub as *const () as u64;
        }
    }
    table
}
