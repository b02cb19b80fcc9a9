//! Start-up: reads what the host handed over, prepares the process, applies the plan.
//!
//! The constructor runs before those of all other modules (`-z initfirst`) and single-threaded. It either
//! succeeds as a whole or leaves the program native: nothing patched, interposers forwarding, and the
//! reason in the recording's header.

pub mod environment;
pub mod maps;
pub mod modules;
pub mod pc_map;
pub mod plan;
pub mod shadow;

use crate::rt::{cpu, print::Message, syscall};
use crate::{check, hook, record, thread};
use conprof_wire::recording::{Degraded, Phase};
use core::sync::atomic::Ordering;

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: unsafe extern "C" fn(i32, *mut *mut u8, *mut *mut u8) = construct;

unsafe extern "C" fn construct(_argc: i32, _argv: *mut *mut u8, environment: *mut *mut u8) {
    hook::real::resolve_all();
    if let Some(clock) = hook::real::clock() {
        crate::rt::syscall::set_clock(clock);
    }
    // SAFETY: the loader passes the process's environment.
    let Some(handed) = (unsafe { environment::take(environment) }) else { return };
    if handed.recording < 0 || !record::init(handed.recording) {
        Message::start().text("the recording cannot be mapped; the program runs unobserved").send();
        close(&handed);
        return;
    }
    record::set_phase(Phase::Started);
    if start(&handed) {
        // Relaxed: no second thread exists.
        thread::READY.store(1, Ordering::Relaxed);
        record::set_phase(Phase::Running);
    }
    close(&handed);
}

fn close(handed: &environment::Handed) {
    for fd in [handed.plan, handed.recording, handed.library] {
        if fd >= 0 {
            syscall::close(fd);
        }
    }
}

fn start(handed: &environment::Handed) -> bool {
    // SAFETY: a pure function of the loader.
    let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    cpu::init(hwcap2);
    modules::snapshot();
    let main = modules::main_module();
    record::set_layout(main.bias, 0..0);
    let plan = match handed.plan {
        fd if fd >= 0 => match plan::map(fd, &main) {
            Ok(plan) => Some(plan),
            Err(reason) => return refuse(reason),
        },
        _ => None,
    };
    if !shadow::reserve() {
        return refuse(Degraded::NoShadow);
    }
    check::init();
    crate::lock::init();
    if !thread::install_main() {
        return refuse(Degraded::NoGs);
    }
    hook::signal::init();
    if let Some(plan) = plan {
        record::set_layout(main.bias, plan.code_start..plan.code_end);
        if let Err(reason) = plan::patch(&plan) {
            return refuse(reason);
        }
    }
    true
}

fn refuse(reason: Degraded) -> bool {
    record::degrade(reason);
    false
}
