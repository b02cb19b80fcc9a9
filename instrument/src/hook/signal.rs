//! Signals: handlers of the target run outside the runtime only, and see original program counters.
//!
//! Handlers are installed through a wrapper. A signal that arrives inside the runtime (the guard is set) is kept,
//! all signals are blocked by the mask that the interrupted code gets back, and when the runtime is left the signal
//! is sent to the thread once more and the mask restored, so that it arrives right there.
//!
//! A handler that interrupts generated code, or that is let in at the end of a stub, is shown the original
//! program counter and stack pointer. What it changes there is obeyed; where it changes nothing, the generated code goes on.
//!
//! A handler installed past the wrapper (an inlined system call) is safe as well: its entries find the guard
//! set and record nothing.

use super::{interpose, key, real};
use crate::apply::pc_map;
use crate::check;
use crate::lock;
use crate::record;
use crate::rt::{cpu, syscall};
use crate::stubs;
use crate::thread::{self, ThreadState};
use conprof_wire::recording::Counter;
use conprof_wire::state::OWNER_FS;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

/// Bytes of the kernel's `siginfo`.
const INFO_WORDS: usize = 16;

/// Signals that can wait at once: each number is blocked while its wrapper runs, so no more are ever taken in.
const CAPACITY: usize = 64;

/// Signals that wait until the thread leaves the runtime.
#[repr(C)]
pub struct Deferred {
    /// Signal mask of the interrupted code.
    pub mask: u64,
    /// Signals that wait.
    pub len: u32,
    /// Bytes of arguments that the interrupted stub pops; `u32::MAX` outside stubs.
    pub popped: u32,
    /// The kernel's `siginfo` of each.
    pub infos: [[u64; INFO_WORDS]; CAPACITY],
}

interpose! {
    sigaction => set_action;
    signal => set_handler;
    __sysv_signal => set_handler_sysv;
    kill => send;
    pthread_kill => send_to_thread;
    sigqueue => queue;
    pthread_sigqueue => queue_to_thread;
    timer_settime => set_timer;
    setitimer => set_interval;
    alarm => set_alarm;
    sigwait => wait;
    sigwaitinfo => wait_info;
    sigtimedwait => wait_timed;
}

const SIGNALS: usize = 65;

/// The target's handlers: address, with [`WITH_INFO`] where it takes three arguments. 0 and 1 are the
/// default action and to ignore.
static HANDLERS: [AtomicU64; SIGNALS] = [const { AtomicU64::new(0) }; SIGNALS];

const WITH_INFO: u64 = 1 << 63;

/// Signals that are raised by the instruction that runs, if the kernel says so.
const SYNCHRONOUS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

/// Notes the actions that the process was started with.
pub fn init() {}

fn bit(signal: c_int) -> u64 {
    1u64.wrapping_shl((signal - 1) as u32)
}

fn synchronous_mask() -> u64 {
    SYNCHRONOUS.iter().fold(0, |mask, signal| mask | bit(*signal))
}

/// A signal that the thread's own instruction raises: std handles these to tell stack overflows apart.
fn is_fault(signal: c_int) -> bool {
    matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP | libc::SIGABRT)
}

fn is_wrapper(handler: usize) -> bool {
    handler == wrapper as *const () as usize
}

unsafe extern "C" fn set_action(signal: c_int, action: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    let Some(place) = HANDLERS.get(signal as usize) else {
        // SAFETY: forwarded.
        return unsafe { real::sigaction(signal, action, old) };
    };
    let before = place.load(Ordering::Relaxed);
    // SAFETY: the target promises valid pointers, as to the real function.
    unsafe {
        let result = if action.is_null() {
            real::sigaction(signal, action, old)
        } else {
            let mut wrapped = *action;
            let handler = wrapped.sa_sigaction;
            if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
                let with_info = if wrapped.sa_flags & libc::SA_SIGINFO != 0 { WITH_INFO } else { 0 };
                // Before the kernel knows: the wrapper must find it.
                place.store(handler as u64 | with_info, Ordering::Release);
                wrapped.sa_sigaction = wrapper as *const () as usize;
                wrapped.sa_flags |= libc::SA_SIGINFO;
            }
            let mut copy = wrapped;
            copy.sa_mask = (*action).sa_mask;
            let result = real::sigaction(signal, &raw const copy, old);
            if result != 0 {
                place.store(before, Ordering::Release);
            } else if handler != libc::SIG_DFL && handler != libc::SIG_IGN && !is_fault(signal) {
                crate::record::count(conprof_wire::recording::Counter::SignalHandlers);
            }
            result
        };
        if result == 0 && !old.is_null() && is_wrapper((*old).sa_sigaction) {
            (*old).sa_sigaction = (before & !WITH_INFO) as usize;
            if before & WITH_INFO == 0 {
                (*old).sa_flags &= !libc::SA_SIGINFO;
            }
        }
        result
    }
}

unsafe fn set_simple(signal: c_int, handler: usize, flags: c_int, masked: bool) -> usize {
    // SAFETY: all-zero actions are valid.
    let (mut action, mut old): (libc::sigaction, libc::sigaction) = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the actions are valid; an invalid signal number makes the real function fail and set errno.
    unsafe {
        if masked && (1..SIGNALS as c_int).contains(&signal) {
            *(&raw mut action.sa_mask as *mut u64) = bit(signal);
        }
        if set_action(signal, &raw const action, &raw mut old) != 0 {
            return libc::SIG_ERR;
        }
    }
    old.sa_sigaction
}

/// `signal` of BSD, which is glibc's default.
unsafe extern "C" fn set_handler(signal: c_int, handler: usize) -> usize {
    if handler == libc::SIG_ERR {
        // SAFETY: forwarded, to fail as it does.
        return unsafe { real::signal(signal, handler) };
    }
    // SAFETY: as for the function interposed.
    unsafe { set_simple(signal, handler, libc::SA_RESTART, true) }
}

/// `signal` of System V: one shot.
unsafe extern "C" fn set_handler_sysv(signal: c_int, handler: usize) -> usize {
    if handler == libc::SIG_ERR {
        // SAFETY: forwarded, to fail as it does.
        return unsafe { real::__sysv_signal(signal, handler) };
    }
    // SAFETY: as for the function interposed.
    unsafe { set_simple(signal, handler, libc::SA_RESETHAND | libc::SA_NODEFER, false) }
}

/// The calling thread's state, if it has one of its own.
fn own_state() -> Option<*mut ThreadState> {
    // SAFETY: the runtime is ready, so the gs base points to some state.
    unsafe {
        (thread::ready() && cpu::read_gs::<OWNER_FS>() == cpu::thread_pointer())
            .then(|| cpu::state_address() as *mut ThreadState)
    }
}

unsafe extern "C" fn wrapper(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes valid pointers.
    unsafe {
        let synchronous = SYNCHRONOUS.contains(&signal) && (*info).si_code > 0;
        if let Some(state) = own_state() {
            let pc = (&raw const (*context).uc_mcontext.gregs[RIP]).read() as u64;
            let inside = (&raw const (*state).gs.guard).read_volatile() != 0 || lock::uncontended::is_inside(pc);
            if inside && !synchronous && record::process_is_ours() && defer(state, info, context) {
                return;
            }
        }
        handle(signal, info, context, synchronous);
    }
}

/// Keeps the signal and blocks all others until the runtime is left. `false` where there is no room.
///
/// The kernel may have taken in several signals at once, one frame on top of the other. The wrapper of the last
/// runs first and that of the first last, so the mask that counts is the one seen last.
unsafe fn defer(state: *mut ThreadState, info: *const libc::siginfo_t, context: *mut libc::ucontext_t) -> bool {
    // SAFETY: the state is this thread's, and signals are what touches these fields.
    unsafe {
        let deferred = &raw mut (*state).deferred;
        let index = (*deferred).len as usize;
        if index >= CAPACITY {
            return false;
        }
        record::count(Counter::DeferredSignals);
        let place = &raw mut (*deferred).infos as *mut [u64; INFO_WORDS];
        *place.add(index) = *(info as *const [u64; INFO_WORDS]);
        (*deferred).len = index as u32 + 1;
        let mask = &raw mut (*context).uc_sigmask as *mut u64;
        (*deferred).mask = *mask;
        *mask = !synchronous_mask();
        (&raw mut (*state).gs.signals_pending).write_volatile(1);
    }
    true
}

/// Sends the deferred signals to this thread again; they are blocked until the mask is restored. The guard is set.
///
/// # Safety
/// `state` is the calling thread's, and a signal is deferred.
pub unsafe extern "C" fn requeue(state: *mut ThreadState, popped: u32) {
    // SAFETY: the state is this thread's; all signals are blocked.
    unsafe {
        let deferred = &raw mut (*state).deferred;
        let len = ((*deferred).len as usize).min(CAPACITY);
        (*deferred).popped = popped;
        (*deferred).len = 0;
        (&raw mut (*state).gs.signals_pending).write_volatile(0);
        for index in 0..len {
            let info = (&raw const (*deferred).infos as *const [u64; INFO_WORDS]).add(index);
            syscall::call6(
                libc::SYS_rt_tgsigqueueinfo,
                record::process_id() as usize,
                (*state).tid as usize,
                // `si_signo`
                (*info)[0] as u32 as usize,
                info as usize,
                0,
                0,
            );
        }
    }
}

/// Lets the deferred signal in, outside stubs. The guard is not set.
#[cold]
pub fn deliver_slow(state: &mut ThreadState) {
    let address: *mut ThreadState = state;
    // SAFETY: the state is this thread's.
    unsafe {
        (&raw mut (*address).gs.guard).write_volatile(1);
        requeue(address, u32::MAX);
        let mask = (*address).deferred.mask;
        (&raw mut (*address).gs.guard).write_volatile(0);
        syscall::set_signal_mask(mask);
    }
}

type Registers = [libc::greg_t; 23];

const RIP: usize = libc::REG_RIP as usize;
const RSP: usize = libc::REG_RSP as usize;

/// Shows the original registers in `context`; the generated ones, where there was something to translate.
unsafe fn translate(context: *mut libc::ucontext_t) -> Option<Registers> {
    // SAFETY: the kernel's context.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let before = *registers;
    let (mut pc, mut sp) = (before[RIP] as u64, before[RSP] as u64);
    let mut at_stub_end = None;
    if let (Some(saved), Some(state)) = (stubs::delivering(pc, sp), own_state()) {
        // SAFETY: interrupted at the end of `deliver`, the stack holds the saved block.
        let (saved, popped) = unsafe { (&*saved, (*state).deferred.popped) };
        pc = saved.return_address;
        sp = &raw const saved.site as u64 + u64::from(popped);
        at_stub_end = Some(saved);
    }
    let original = pc_map::original(pc)?;
    if let Some(saved) = at_stub_end {
        let moved = [
            (libc::REG_RAX, saved.rax),
            (libc::REG_RCX, saved.rcx),
            (libc::REG_RDX, saved.rdx),
            (libc::REG_RSI, saved.rsi),
            (libc::REG_RDI, saved.rdi),
            (libc::REG_R8, saved.r8),
            (libc::REG_R9, saved.r9),
            (libc::REG_R10, saved.r10),
            (libc::REG_R11, saved.r11),
        ];
        for (register, value) in moved {
            if let Some(place) = registers.get_mut(register as usize) {
                *place = value as i64;
            }
        }
        const OVERFLOW: i64 = 1 << 11;
        let flags = registers[libc::REG_EFL as usize] & !(0xd5 | OVERFLOW);
        registers[libc::REG_EFL as usize] =
            flags | (saved.flags >> 8) as i64 & 0xd5 | if saved.flags & 1 != 0 { OVERFLOW } else { 0 };
    }
    sp = sp.wrapping_add(original.rsp_offset);
    registers[RIP] = original.pc as i64;
    registers[RSP] = sp as i64;
    Some(before)
}

unsafe fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t, synchronous: bool) {
    let Some(place) = HANDLERS.get(signal as usize) else { return };
    let handler = place.load(Ordering::Acquire);
    if own_state().is_some() {
        // A thread that has no state of its own yet gets one when it enters by itself.
        thread::run(|state| check::acquire(state, key::signals()));
    }
    // SAFETY: the kernel's pointers; the handler is the target's, called as the kernel would.
    unsafe {
        let before = translate(context);
        let shown = (*context).uc_mcontext.gregs;
        if let (Some(before), true) = (before, synchronous) {
            // These carry the instruction's address.
            if matches!(signal, libc::SIGILL | libc::SIGFPE | libc::SIGTRAP) {
                let address = (info as *mut u64).add(2);
                if *address == before[RIP] as u64 {
                    *address = shown[RIP] as u64;
                }
            }
        }
        let address = (handler & !WITH_INFO) as usize;
        if address > libc::SIG_IGN {
            if handler & WITH_INFO != 0 {
                let function: unsafe extern "C" fn(c_int, Ptr, Ptr) = core::mem::transmute(address);
                function(signal, info as Ptr, context as Ptr);
            } else {
                let function: unsafe extern "C" fn(c_int) = core::mem::transmute(address);
                function(signal);
            }
        }
        let Some(before) = before else { return };
        let registers = &mut (*context).uc_mcontext.gregs;
        let moved = registers[RIP] != shown[RIP] || registers[RSP] != shown[RSP];
        if moved || (synchronous && !is_caught(signal)) {
            // The handler goes elsewhere, or the fault is about to end the process at its original place.
            return;
        }
        if stubs::delivering(before[RIP] as u64, before[RSP] as u64).is_some() {
            *registers = before;
        } else {
            registers[RIP] = before[RIP];
            registers[RSP] = before[RSP];
        }
    }
}

/// Whether the wrapper is the signal's action now.
fn is_caught(signal: c_int) -> bool {
    // SAFETY: an all-zero action is valid, and valid for the write.
    unsafe {
        let mut action: [u64; 4] = [0; 4];
        let result = syscall::call6(
            libc::SYS_rt_sigaction,
            signal as usize,
            0,
            &raw mut action as usize,
            syscall::SIGSET_BYTES,
            0,
            0,
        );
        result == 0 && is_wrapper(action[0] as usize)
    }
}

/// Whatever was done before a signal is sent is ordered before its handler.
fn sending() {
    thread::run(|state| check::release(state, key::signals()));
}

unsafe extern "C" fn send(pid: c_int, signal: c_int) -> c_int {
    sending();
    // SAFETY: forwarded.
    unsafe { real::kill(pid, signal) }
}

unsafe extern "C" fn send_to_thread(thread: u64, signal: c_int) -> c_int {
    sending();
    // SAFETY: forwarded.
    unsafe { real::pthread_kill(thread, signal) }
}

unsafe extern "C" fn queue(pid: c_int, signal: c_int, value: Ptr) -> c_int {
    sending();
    // SAFETY: forwarded.
    unsafe { real::sigqueue(pid, signal, value) }
}

unsafe extern "C" fn queue_to_thread(thread: u64, signal: c_int, value: Ptr) -> c_int {
    sending();
    // SAFETY: forwarded.
    unsafe { real::pthread_sigqueue(thread, signal, value) }
}

unsafe extern "C" fn set_timer(timer: Ptr, flags: c_int, value: Ptr, old: Ptr) -> c_int {
    sending();
    // SAFETY: forwarded.
    unsafe { real::timer_settime(timer, flags, value, old) }
}

unsafe extern "C" fn set_interval(which: c_int, value: Ptr, old: Ptr) -> c_int {
    sending();
    // SAFETY: forwarded.
    unsafe { real::setitimer(which, value, old) }
}

unsafe extern "C" fn set_alarm(seconds: u32) -> u32 {
    sending();
    // SAFETY: forwarded.
    unsafe { real::alarm(seconds) }
}

fn waited() {
    thread::run(|state| check::acquire(state, key::signals()));
}

unsafe extern "C" fn wait(set: Ptr, signal: *mut c_int) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::sigwait(set, signal) };
    waited();
    result
}

unsafe extern "C" fn wait_info(set: Ptr, info: Ptr) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::sigwaitinfo(set, info) };
    waited();
    result
}

unsafe extern "C" fn wait_timed(set: Ptr, info: Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::sigtimedwait(set, info, time) };
    waited();
    result
}
