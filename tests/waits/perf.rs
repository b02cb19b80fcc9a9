//! CPU samples of a release program, and life without them.

use crate::program::{Run, fixture, time_in};

#[test]
fn a_release_program_gives_whole_stacks() {
    // Often, as a busy machine leaves the program little of the processor.
    let run = Run::new(&["--sample-rate", "797"], &fixture("hog"));
    let report = run.report();
    if !report.coverage.perf.available {
        eprintln!("SKIPPED: no perf here: {}; {}", report.coverage.perf.reason, report.coverage.perf.cure);
        return;
    }
    let cpu = run.folded("cpu");
    let samples = report.counters["cpu samples"];
    let cut_off = report.counters.get("cpu samples with a stack cut off").copied().unwrap_or(0);
    assert!(samples >= 20, "{samples} samples");
    assert!(cut_off * 10 <= samples, "{cut_off} of {samples} stacks are cut off");
    // `work` is called by the hog, in a thread that was created after the start, whole down to the thread's start.
    let whole = cpu.iter().any(|(stack, _)| {
        stack.starts_with("holder;") && stack.contains("thread_start") && stack.contains("hog::hog;contention::work")
    });
    assert!(whole, "{}", cpu.to_text());
    assert!(time_in(&cpu, "elapsed") > 0, "no inlined frame in {}", cpu.to_text());
    let on_cpu = run.report().thread_times.iter().map(|t| t.voluntary_switches + t.preemptions).sum::<u64>();
    assert!(on_cpu > 0);
}

/// Makes `perf_event_open` fail with `EPERM` from here on, as Docker's default profile does.
fn refuse_perf() -> std::io::Result<()> {
    const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let filter = [
        LOAD_NUMBER,
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_perf_event_open as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its filter are live locals, which the kernel copies.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn refused_perf_costs_one_line_and_cpu_svg() {
    use std::os::unix::process::CommandExt;
    let run = Run::with(&[], &fixture("hog"), |command| {
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(refuse_perf) };
    });
    let stderr = run.stderr();
    let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("cpu.svg")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].contains("seccomp") && lines[0].contains("--cap-add PERFMON"), "{stderr}");
    let perf = run.report().coverage.perf;
    assert!(!perf.available && !perf.reason.is_empty() && perf.cure.contains("PERFMON"), "{perf:?}");
    assert!(!run.file("cpu.svg").exists());
    for name in ["contention", "blame", "idle", "offcpu"] {
        assert!(run.file(&format!("{name}.svg")).exists(), "{name}");
    }
    assert!(run.text("report.html").contains("PERFMON"));
    assert!(run.folded("contention").total() > 0);
}
