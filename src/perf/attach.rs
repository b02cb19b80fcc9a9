//! Opening the events, or saying what forbids it.

use super::record::SAMPLE_REGISTERS;
use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};
use std::io;

/// Samples per second of CPU time, by default. A prime, so as not to march in step with the program's own timers.
pub const DEFAULT_RATE_HZ: u32 = 97;

/// Bytes of stack copied with each sample, so the deepest stack that is followed to its bottom. A multiple of 8
/// below 65,536, the limit of a record.
const STACK_BYTES: u32 = 32 << 10;

/// Sizes of a CPU's ring that are tried, largest first: locked memory is rationed.
const RING_BYTES: [usize; 5] = [4 << 20, 2 << 20, 1 << 20, 512 << 10, 256 << 10];
/// Size of the ring of the page-fault samples, which are short.
const COUNTER_RING_BYTES: usize = 64 << 10;
/// Page faults that a sample stands for. Counts that the kernel keeps per thread (`inherit_stat`) get mixed up with
/// those of other events when contexts are swapped, so they are sampled.
pub(super) const FAULTS_PER_SAMPLE: u64 = 8;

/// How to sample.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Samples per second of CPU time.
    pub rate_hz: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { rate_hz: DEFAULT_RATE_HZ }
    }
}

/// Why perf can't be used, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why not.
    pub reason: String,
    /// What the user can do.
    pub cure: String,
}

/// Open events that wait for the program to start.
pub struct Sampling {
    pub(super) clocks: Vec<Sampler>,
    /// Page faults; empty where they could not be counted.
    pub(super) faults: Vec<Sampler>,
    pub(super) period_ns: u64,
    pub(super) kernel: bool,
}

impl std::fmt::Debug for Sampling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampling")
            .field("cpus", &self.clocks.len())
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl Sampling {
    /// Opens the events for whatever this thread starts next. Must be called on the thread that forks, before it does.
    pub fn prepare(options: Options) -> Result<Sampling, Denied> {
        let period_ns = 1_000_000_000 / u64::from(options.rate_hz.clamp(1, 10_000));
        let cpus = online_cpus();
        let mut kernel = true;
        let mut clocks = Vec::with_capacity(cpus.len());
        let mut ring = 0;
        for &cpu in &cpus {
            let sampler = loop {
                let built = clock(cpu, period_ns, kernel).and_then(|builder| builder.build());
                match built.and_then(|counter| counter.sampled(RING_BYTES[ring])) {
                    Ok(sampler) => break Some(sampler),
                    // Kernel time is allowed to the privileged only.
                    Err(error) if kernel && is_permission(&error) && !allows(cpu, period_ns, true) => kernel = false,
                    Err(error)
                        if ring + 1 < RING_BYTES.len() && is_permission(&error) && allows(cpu, period_ns, kernel) =>
                    {
                        ring += 1;
                    }
                    // A CPU that went offline since.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => break None,
                    Err(error) => return Err(denied(&error, allows(cpu, period_ns, kernel))),
                }
            };
            clocks.extend(sampler);
        }
        if clocks.is_empty() {
            return Err(denied(&io::Error::from_raw_os_error(libc::ENODEV), false));
        }
        let faults: io::Result<Vec<Sampler>> = cpus.iter().map(|&cpu| page_faults(cpu)).collect();
        Ok(Sampling { clocks, faults: faults.unwrap_or_default(), period_ns, kernel })
    }

    /// Whether samples include time spent in the kernel.
    pub fn includes_kernel(&self) -> bool {
        self.kernel
    }
}

/// Whether the event alone can be opened, so that it is the ring that is refused.
fn allows(cpu: usize, period_ns: u64, kernel: bool) -> bool {
    clock(cpu, period_ns, kernel).and_then(|builder| builder.build()).is_ok()
}

fn clock(cpu: usize, period_ns: u64, kernel: bool) -> io::Result<Builder<'static>> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder
        .observe_self()
        .one_cpu(cpu)
        .inherit(true)
        .enabled(false)
        .enable_on_exec(true)
        .exclude_kernel(!kernel)
        .exclude_hv(true)
        .sample_period(period_ns)
        .sample(SampleFlag::IP)
        .sample(SampleFlag::TID)
        .sample(SampleFlag::TIME)
        .sample(SampleFlag::CPU)
        .sample(SampleFlag::REGS_USER)
        .sample(SampleFlag::STACK_USER)
        .sample_regs_user(SAMPLE_REGISTERS)
        .sample_stack_user(STACK_BYTES)
        .sample_id_all(true)
        .mmap2(true)
        .mmap(true)
        .task(true)
        .context_switch(true)
        .clockid(Clock::MONOTONIC);
    Ok(builder)
}

fn page_faults(cpu: usize) -> io::Result<Sampler> {
    let mut builder = Builder::new(Software::PAGE_FAULTS);
    builder
        .observe_self()
        .one_cpu(cpu)
        .inherit(true)
        .enabled(false)
        .enable_on_exec(true)
        .exclude_kernel(true)
        .sample_period(FAULTS_PER_SAMPLE)
        .sample(SampleFlag::TID)
        .sample(SampleFlag::TIME)
        .sample(SampleFlag::CPU)
        .sample_id_all(true)
        .clockid(Clock::MONOTONIC);
    builder.build()?.sampled(COUNTER_RING_BYTES)
}

fn is_permission(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::ENOMEM))
}

/// CPUs that are online, by number.
fn online_cpus() -> Vec<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let listed = parse_cpu_list(text.trim());
    if !listed.is_empty() {
        return listed;
    }
    (0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).collect()
}

/// `0-3,8` and the like.
fn parse_cpu_list(text: &str) -> Vec<usize> {
    const MOST_CPUS: usize = 8192;
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
            && first <= last
            && last < MOST_CPUS
        {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// Puts a refusal into words. `opens` says that the event itself is allowed and only its ring is not.
fn denied(error: &io::Error, opens: bool) -> Denied {
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    let filtered = std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"));
    explain(error, opens, paranoid, filtered)
}

fn explain(error: &io::Error, opens: bool, paranoid: Option<i32>, filtered: bool) -> Denied {
    let code = error.raw_os_error().unwrap_or(0);
    let (reason, cure) = match (code, paranoid) {
        _ if opens && matches!(code, libc::EPERM | libc::ENOMEM) => (
            "the kernel allows too little locked memory for perf's buffers".to_owned(),
            "sudo sysctl kernel.perf_event_mlock_kb=2048, or raise `ulimit -l`".to_owned(),
        ),
        (libc::EACCES | libc::EPERM, Some(level)) if level > 2 => (
            format!("kernel.perf_event_paranoid is {level}"),
            "sudo sysctl kernel.perf_event_paranoid=2, or sudo setcap cap_perfmon+ep on the conprof program".to_owned(),
        ),
        (libc::EACCES | libc::EPERM, _) if filtered => (
            "a seccomp filter (as in a container) refuses perf_event_open".to_owned(),
            "start the container with --cap-add PERFMON, or with a seccomp profile that allows perf_event_open"
                .to_owned(),
        ),
        (libc::EACCES | libc::EPERM, _) => (
            format!("perf_event_open is refused ({error})"),
            "sudo setcap cap_perfmon+ep on the conprof program, or ask who set this system's security policy"
                .to_owned(),
        ),
        (libc::ENOSYS | libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV, _) => (
            format!("the kernel has no perf events ({error})"),
            "run on a kernel built with CONFIG_PERF_EVENTS, outside of sandboxes such as gVisor".to_owned(),
        ),
        (libc::EMFILE | libc::ENFILE, _) => {
            ("too few file descriptors are allowed for one event per CPU".to_owned(), "raise `ulimit -n`".to_owned())
        }
        _ => (format!("perf_event_open fails: {error}"), "see `man perf_event_open` for this error".to_owned()),
    };
    Denied { reason, cure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read() {
        assert_eq!(parse_cpu_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("0"), [0]);
        assert_eq!(parse_cpu_list("3-1,x,0-99999999999"), [] as [usize; 0]);
    }

    #[test]
    fn each_refusal_has_its_cure() {
        let refused = |code, opens, paranoid, filtered| {
            explain(&io::Error::from_raw_os_error(code), opens, paranoid, filtered).cure
        };
        assert!(refused(libc::EACCES, false, Some(4), false).contains("sysctl kernel.perf_event_paranoid=2"));
        assert!(refused(libc::EPERM, false, Some(2), true).contains("--cap-add PERFMON"));
        assert!(refused(libc::EPERM, true, Some(2), false).contains("perf_event_mlock_kb"));
        assert!(refused(libc::ENOSYS, false, None, false).contains("CONFIG_PERF_EVENTS"));
        assert!(refused(libc::EMFILE, false, Some(2), false).contains("ulimit -n"));
    }
}
