//! System calls that the target makes by inlined instructions, with the policies of the interposers.

use super::{io, key, mapping};
use crate::check;
use crate::lock;
use crate::record;
use crate::stubs::Saved;
use crate::thread::{SystemCall, ThreadState};
use conprof_wire::recording::{Counter, Phase};
use core::ffi::c_int;

fn argument(call: &SystemCall, index: usize) -> usize {
    call.registers.get(index + 1).map_or(0, |value| *value as usize)
}

/// Before the instruction: keeps the registers for [`after`] and does what comes before.
pub fn before(state: &mut ThreadState, saved: &Saved) {
    let call = SystemCall { registers: [saved.rax, saved.rdi, saved.rsi, saved.rdx, saved.r10, saved.r8, saved.r9] };
    state.system_call = call;
    let (first, second, third) = (argument(&call, 0), argument(&call, 1), argument(&call, 2));
    match saved.rax as i64 {
        libc::SYS_futex => lock::futex_wait(state, first, second, argument(&call, 3)),
        libc::SYS_munmap => mapping::unmapping(state, first, second, true),
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_sendto => {
            io::reading(state, second, third);
            io::sending(state, first as c_int);
        }
        libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
            // SAFETY: the target promises the kernel the same.
            unsafe {
                io::for_each_part(second as *const libc::iovec, third, usize::MAX, |start, len| {
                    io::reading(state, start, len);
                });
            }
            io::sending(state, first as c_int);
        }
        libc::SYS_sendmsg | libc::SYS_connect => io::sending(state, first as c_int),
        libc::SYS_epoll_ctl => io::registering(state),
        libc::SYS_kill | libc::SYS_tgkill | libc::SYS_tkill | libc::SYS_rt_sigqueueinfo => {
            check::release(state, key::signals());
        }
        libc::SYS_fork | libc::SYS_vfork => record::count(Counter::Children),
        libc::SYS_clone if first & libc::CLONE_VM as usize == 0 => record::count(Counter::Children),
        libc::SYS_exit_group => {
            check::exiting(state);
            record::set_phase(Phase::Exiting);
        }
        _ => {}
    }
}

/// After the instruction, with its result.
pub fn after(state: &mut ThreadState, result: i64) {
    let call = state.system_call;
    let (first, second, third) = (argument(&call, 0), argument(&call, 1), argument(&call, 2));
    if call.registers[0] as i64 == libc::SYS_futex {
        return lock::futex_waited(state);
    }
    if (-4095..0).contains(&result) {
        return;
    }
    match call.registers[0] as i64 {
        libc::SYS_mmap => mapping::mapped(state, result as usize, second),
        libc::SYS_mremap => mapping::mapped(state, result as usize, third),
        libc::SYS_madvise if mapping::drops(third as c_int) => check::clean(state, first, second),
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_recvfrom => {
            io::written(state, second, (result as isize).min(third as isize));
            io::received(state, first as c_int);
        }
        libc::SYS_readv | libc::SYS_preadv | libc::SYS_preadv2 => {
            // SAFETY: the kernel has read the parts.
            unsafe {
                io::for_each_part(second as *const libc::iovec, third, result as usize, |start, len| {
                    io::written(state, start, len as isize);
                });
            }
            io::received(state, first as c_int);
        }
        libc::SYS_getrandom => io::written(state, first, result as isize),
        libc::SYS_recvmsg | libc::SYS_accept | libc::SYS_accept4 => io::received(state, first as c_int),
        libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_poll
        | libc::SYS_ppoll
        | libc::SYS_select
        | libc::SYS_pselect6 => io::waited(state),
        libc::SYS_rt_sigtimedwait => check::acquire(state, key::signals()),
        _ => {}
    }
}
