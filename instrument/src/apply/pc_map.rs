//! From an address in generated code back to the original.

use conprof_wire::plan::PcMapRow;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

static CODE_START: AtomicU64 = AtomicU64::new(0);
static CODE_LEN: AtomicU64 = AtomicU64::new(0);
static TEXT_START: AtomicU64 = AtomicU64::new(0);
static ROWS: AtomicPtr<PcMapRow> = AtomicPtr::new(core::ptr::null_mut());
static ROW_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Where an instruction of generated code comes from.
#[derive(Clone, Copy, Debug)]
pub struct Original {
    /// Run-time address of the original instruction.
    pub pc: u64,
    /// What to add to `rsp` to get the original's.
    pub rsp_offset: u64,
}

pub(super) fn init(code: core::ops::Range<u64>, text_start: u64, rows: &'static [PcMapRow]) {
    TEXT_START.store(text_start, Ordering::Relaxed);
    ROWS.store(rows.as_ptr() as *mut PcMapRow, Ordering::Relaxed);
    ROW_COUNT.store(rows.len(), Ordering::Relaxed);
    CODE_START.store(code.start, Ordering::Relaxed);
    CODE_LEN.store(code.end - code.start, Ordering::Relaxed);
}

/// Whether `pc` is in generated code.
pub fn is_generated(pc: u64) -> bool {
    pc.wrapping_sub(CODE_START.load(Ordering::Relaxed)) < CODE_LEN.load(Ordering::Relaxed)
}

/// The original of `pc`; `None` outside generated code. Callable in a signal handler.
pub fn original(pc: u64) -> Option<Original> {
    if !is_generated(pc) {
        return None;
    }
    let rows = ROWS.load(Ordering::Relaxed);
    if rows.is_null() {
        return None;
    }
    // SAFETY: the table has that many rows and stays mapped.
    let rows = unsafe { core::slice::from_raw_parts(rows, ROW_COUNT.load(Ordering::Relaxed)) };
    let offset = pc.wrapping_sub(CODE_START.load(Ordering::Relaxed)) as u32;
    let after = rows.partition_point(|row| row.code_offset <= offset);
    let row = rows.get(after.checked_sub(1)?)?;
    Some(Original {
        pc: TEXT_START.load(Ordering::Relaxed).wrapping_add(u64::from(row.original)),
        rsp_offset: u64::from(row.rsp_offset),
    })
}
