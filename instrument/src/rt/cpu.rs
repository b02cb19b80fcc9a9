//! The segment bases, through which a thread finds its state.

use super::syscall;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// `AT_HWCAP2` bit that says user code may use `wrgsbase`.
const HWCAP2_FSGSBASE: u64 = 2;

const ARCH_SET_GS: usize = 0x1001;

static HAS_FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Learns from the value of `AT_HWCAP2` how the gs base can be set.
pub fn init(hwcap2: u64) {
    HAS_FSGSBASE.store(hwcap2 & HWCAP2_FSGSBASE != 0, Ordering::Relaxed);
}

/// The address of glibc's thread control block, which is its own first and third word.
#[inline(always)]
pub fn thread_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: glibc and musl keep the thread control block's own address in its first word.
    unsafe {
        asm!("mov {}, fs:[0x10]", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    pointer
}

/// The stack pointer, about.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Sets the calling thread's gs base; whether that worked.
pub fn set_gs_base(base: u64) -> bool {
    if HAS_FSGSBASE.load(Ordering::Relaxed) {
        // SAFETY: the kernel announced the instruction; no code of the target uses gs.
        unsafe { asm!("wrgsbase {}", in(reg) base, options(nostack, preserves_flags)) };
        return true;
    }
    // SAFETY: as above, through the kernel.
    unsafe { syscall::call3(libc::SYS_arch_prctl, ARCH_SET_GS, base as usize, 0) == 0 }
}

/// Reads the eight bytes at `offset` of the thread's state.
///
/// # Safety
/// The gs base points to a [`GsBlock`](conprof_wire::state::GsBlock).
#[inline(always)]
pub unsafe fn read_gs<const OFFSET: i32>() -> u64 {
    let value: u64;
    // SAFETY: promised by the caller.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) value, const OFFSET, options(nostack, readonly, preserves_flags));
    }
    value
}

/// The first eight bytes of the thread's state, which are its own address.
///
/// # Safety
/// The gs base points to a [`GsBlock`](conprof_wire::state::GsBlock).
#[inline(always)]
pub unsafe fn state_address() -> u64 {
    // SAFETY: promised by the caller.
    unsafe { read_gs::<0>() }
}
