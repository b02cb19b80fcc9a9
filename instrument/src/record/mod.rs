//! Writes the recording (see `wire::recording` for the format and the publish protocol).
//!
//! The file is mapped shared, so it survives the process; a forked child does not inherit the mapping
//! and every entry asks [`process_is_ours`] before it writes.

pub mod context;
pub mod event;
pub mod table;

use crate::rt::syscall;
use conprof_wire::recording::{Counter, Degraded, FindingRow, Header, ModuleRow, Phase, Table, ThreadRow};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

static HEADER: AtomicPtr<Header> = AtomicPtr::new(core::ptr::null_mut());
static LEN: AtomicU64 = AtomicU64::new(0);
static START_NS: AtomicU64 = AtomicU64::new(0);
static PROCESS_ID: AtomicU32 = AtomicU32::new(0);

/// Reads 1 here and 0 in a forked child (`MADV_WIPEONFORK`).
static CANARY: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// Maps the recording. `false` where the file is not one of this version; nothing is recorded then.
pub fn init(fd: i32) -> bool {
    // SAFETY: an all-zero `stat` is valid.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `stat` is valid for the write.
    let result = unsafe { syscall::call3(libc::SYS_fstat, fd as usize, &raw mut stat as usize, 0) };
    let len = stat.st_size as usize;
    if result != 0 || len < size_of::<Header>() {
        return false;
    }
    let Some(memory) = syscall::map(0, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) else {
        return false;
    };
    let header = memory as *mut Header;
    // SAFETY: the mapping is at least a header long.
    let valid =
        unsafe { (*header).magic == conprof_wire::recording::MAGIC && (*header).version == conprof_wire::VERSION };
    let canary = syscall::map_anonymous(4096);
    let (true, Some(canary)) = (valid, canary) else {
        syscall::unmap(memory, len);
        return false;
    };
    syscall::advise(memory as usize, len, libc::MADV_DONTFORK);
    syscall::advise(memory as usize, len, libc::MADV_DONTDUMP);
    if !syscall::advise(canary as usize, 4096, libc::MADV_WIPEONFORK) {
        syscall::unmap(memory, len);
        return false;
    }
    let canary = canary as *mut AtomicU32;
    // SAFETY: the page is fresh; nobody else runs yet.
    unsafe { (*canary).store(1, Ordering::Relaxed) };
    CANARY.store(canary, Ordering::Relaxed);
    LEN.store(len as u64, Ordering::Relaxed);
    START_NS.store(syscall::monotonic_ns(), Ordering::Relaxed);
    let pid = syscall::process_id();
    PROCESS_ID.store(pid, Ordering::Relaxed);
    // SAFETY: the header is in the mapping; nobody else writes it yet.
    unsafe { (*header).start_ns = START_NS.load(Ordering::Relaxed) };
    HEADER.store(header, Ordering::Relaxed);
    if let Some(header) = self::header() {
        header.pid.store(pid, Ordering::Relaxed);
    }
    table::init(memory, len)
}

/// The header's fields that both sides use while the program runs.
pub struct HeaderView {
    pid: &'static AtomicU32,
    phase: &'static AtomicU32,
    main_bias: &'static AtomicU64,
    degraded: &'static AtomicU64,
    code_start: &'static AtomicU64,
    code_end: &'static AtomicU64,
    threads_peak: &'static AtomicU64,
    counters: *mut u64,
    config: u32,
}

#[inline]
fn header() -> Option<HeaderView> {
    let header = HEADER.load(Ordering::Relaxed);
    if header.is_null() {
        return None;
    }
    // SAFETY: the mapping stays until the process ends; the fields are aligned and accessed atomically by both sides.
    unsafe {
        Some(HeaderView {
            pid: AtomicU32::from_ptr(&raw mut (*header).pid),
            phase: AtomicU32::from_ptr(&raw mut (*header).phase),
            main_bias: AtomicU64::from_ptr(&raw mut (*header).main_bias),
            degraded: AtomicU64::from_ptr(&raw mut (*header).degraded),
            code_start: AtomicU64::from_ptr(&raw mut (*header).code_start),
            code_end: AtomicU64::from_ptr(&raw mut (*header).code_end),
            threads_peak: AtomicU64::from_ptr(&raw mut (*header).threads_peak),
            counters: &raw mut (*header).counters as *mut u64,
            config: (*header).config,
        })
    }
}

/// Whether this process is the one that was started, not a forked child of it.
#[inline(always)]
pub fn process_is_ours() -> bool {
    let canary = CANARY.load(Ordering::Relaxed);
    // SAFETY: the page is mapped for good.
    !canary.is_null() && unsafe { (*canary).load(Ordering::Relaxed) } != 0
}

/// The process that is recorded.
pub fn process_id() -> u32 {
    PROCESS_ID.load(Ordering::Relaxed)
}

/// The host's configuration: `CONFIG_*` bits; 0 without a recording.
pub fn config() -> u32 {
    header().map_or(0, |header| header.config)
}

/// Nanoseconds since the shim started.
pub fn time_ns() -> u64 {
    syscall::monotonic_ns().wrapping_sub(START_NS.load(Ordering::Relaxed))
}

/// Raises a counter by one.
#[inline]
pub fn count(counter: Counter) {
    add(counter, 1);
}

/// Raises a counter.
#[inline]
pub fn add(counter: Counter, amount: u64) {
    if let Some(cell) = counter_cell(counter) {
        cell.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Raises a counter to at least `value`.
pub fn raise(counter: Counter, value: u64) {
    if let Some(cell) = counter_cell(counter) {
        cell.fetch_max(value, Ordering::Relaxed);
    }
}

#[inline]
fn counter_cell(counter: Counter) -> Option<&'static AtomicU64> {
    if !process_is_ours() {
        return None;
    }
    // SAFETY: every counter's number is below `COUNTER_COUNT`; the mapping is there in this process.
    header().map(|header| unsafe { AtomicU64::from_ptr(header.counters.add(counter as usize)) })
}

/// Raises the highest number of threads alive at once.
pub fn raise_threads_peak(threads: u64) {
    if let Some(header) = header() {
        header.threads_peak.fetch_max(threads, Ordering::Relaxed);
    }
}

/// Says how far the shim got.
pub fn set_phase(phase: Phase) {
    if let Some(header) = header() {
        // Release: what was recorded before is seen by a host that sees the phase.
        header.phase.store(phase as u32, Ordering::Release);
    }
}

/// Says what could not be done.
pub fn degrade(what: Degraded) {
    if let Some(header) = header() {
        header.degraded.fetch_or(what as u64, Ordering::Release);
    }
}

/// Says where the main program and the generated code are.
pub fn set_layout(main_bias: u64, code: core::ops::Range<u64>) {
    if let Some(header) = header() {
        header.main_bias.store(main_bias, Ordering::Relaxed);
        header.code_start.store(code.start, Ordering::Relaxed);
        header.code_end.store(code.end, Ordering::Release);
    }
}

/// Publishes a thread's row; its serial. `u32::MAX` where there is no room.
pub fn thread(row: &ThreadRow) -> u32 {
    table::append(Table::Threads, row).unwrap_or(u32::MAX)
}

/// Completes a thread's row when the thread has started.
pub fn thread_started(serial: u32, tid: u32, stack_low: u64, stack_high: u64) {
    if let Some(row) = table::row::<ThreadRow>(Table::Threads, serial) {
        // SAFETY: the row is in the mapping; the reader takes any value of these fields.
        unsafe {
            (&raw mut (*row).stack_low).write_volatile(stack_low);
            (&raw mut (*row).stack_high).write_volatile(stack_high);
            (&raw mut (*row).tid).write_volatile(tid);
        }
    }
}

/// Notes a thread's name.
pub fn thread_name(serial: u32, name: &[u8; 16]) {
    if let Some(row) = table::row::<ThreadRow>(Table::Threads, serial) {
        // SAFETY: the row is in the mapping; the reader takes any value of the field.
        unsafe { (&raw mut (*row).name).write_volatile(*name) };
    }
}

/// Notes that a thread is gone.
pub fn thread_finished(serial: u32) {
    if let Some(row) = table::row::<ThreadRow>(Table::Threads, serial) {
        // SAFETY: the row is in the mapping; the field is read atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*row).finished).store(1, Ordering::Release) };
    }
}

/// Publishes a finding; its row, for [`finding_again`].
pub fn finding(row: &FindingRow) -> Option<u32> {
    table::append(Table::Findings, row)
}

/// Counts a further occurrence of a finding.
pub fn finding_again(index: u32) {
    if let Some(row) = table::row::<FindingRow>(Table::Findings, index) {
        // SAFETY: the row is in the mapping; the field is accessed atomically by both sides.
        unsafe { AtomicU64::from_ptr(&raw mut (*row).count).fetch_add(1, Ordering::Relaxed) };
    }
}

/// Publishes a module.
pub fn module(row: &ModuleRow) {
    table::append(Table::Modules, row);
}
