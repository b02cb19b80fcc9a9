//! Maps a plan next to the main program and writes its patches.

use super::modules::MainModule;
use crate::rt::syscall;
use crate::stubs;
use conprof_wire::entry::{HOOK_BASE, SLOT_COUNT};
use conprof_wire::plan::{MAGIC, PcMapRow, PlanHeader, PlanPatch, QuietRow, Section, UnwindRow};
use conprof_wire::recording::Degraded;
use conprof_wire::site::{Class, Order, PackedSite, SiteFlags};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

const PAGE: usize = 4096;

static SITES: AtomicPtr<PackedSite> = AtomicPtr::new(core::ptr::null_mut());
static SITE_COUNT: AtomicUsize = AtomicUsize::new(0);
static FLAGS: AtomicU64 = AtomicU64::new(0);
static QUIET: AtomicPtr<QuietRow> = AtomicPtr::new(core::ptr::null_mut());
static QUIET_COUNT: AtomicUsize = AtomicUsize::new(0);
static SITE_PCS: AtomicPtr<u64> = AtomicPtr::new(core::ptr::null_mut());
static BIAS: AtomicU64 = AtomicU64::new(0);
static UNWIND: AtomicPtr<UnwindRow> = AtomicPtr::new(core::ptr::null_mut());
static UNWIND_COUNT: AtomicUsize = AtomicUsize::new(0);

/// First run-time address of the checked module's text; with [`TEXT_LEN`] the test that thunks make for
/// whether their caller is checked.
pub static TEXT_START: AtomicU64 = AtomicU64::new(0);
/// Length of the checked module's text in bytes; 0 while nothing is checked.
pub static TEXT_LEN: AtomicU64 = AtomicU64::new(0);

/// [`TEXT_LEN`] where memory accesses are checked, else 0: who is told of what interposed functions read and write.
pub static CHECKED_LEN: AtomicU64 = AtomicU64::new(0);

/// A plan in memory.
pub struct Plan {
    /// Run-time address of the generated code.
    pub code_start: u64,
    /// End of the generated code.
    pub code_end: u64,
    bias: u64,
    text: core::ops::Range<u64>,
    patches: &'static [PlanPatch],
}

/// The row of a site; for an index that the plan does not have, one that checks nothing.
#[inline(always)]
pub fn site(index: u32) -> PackedSite {
    if (index as usize) < SITE_COUNT.load(Ordering::Relaxed) {
        // SAFETY: the table has that many rows and stays mapped.
        return unsafe { *SITES.load(Ordering::Relaxed).add(index as usize) };
    }
    PackedSite::new(Class::UnknownLoad, Order::Unknown, SiteFlags(0), 1)
}

/// Run-time address of a site's instruction; 0 for an index that the plan does not have.
pub fn site_pc(index: u32) -> u64 {
    if (index as usize) < SITE_COUNT.load(Ordering::Relaxed) {
        // SAFETY: the table has as many rows as there are sites and stays mapped.
        return unsafe { *SITE_PCS.load(Ordering::Relaxed).add(index as usize) }
            .wrapping_add(BIAS.load(Ordering::Relaxed));
    }
    0
}

/// Rows by which stacks of the checked module are walked; none where entered functions leave frames.
pub fn unwind_rows() -> &'static [UnwindRow] {
    let rows = UNWIND.load(Ordering::Relaxed);
    if rows.is_null() {
        return &[];
    }
    // SAFETY: the table has that many rows and stays mapped.
    unsafe { core::slice::from_raw_parts(rows, UNWIND_COUNT.load(Ordering::Relaxed)) }
}

/// `PlanHeader::flags` of the applied plan.
pub fn flags() -> u64 {
    FLAGS.load(Ordering::Relaxed)
}

/// Whether `address` is in the text of the checked module, outside of its quiet functions.
#[inline(always)]
pub fn is_checked_text(address: u64) -> bool {
    let offset = address.wrapping_sub(TEXT_START.load(Ordering::Relaxed));
    offset < TEXT_LEN.load(Ordering::Relaxed) && !is_quiet(offset as u32)
}

/// Whether `address` is in a quiet function of the checked module.
#[inline(always)]
pub fn is_quiet_text(address: u64) -> bool {
    let offset = address.wrapping_sub(TEXT_START.load(Ordering::Relaxed));
    offset < TEXT_LEN.load(Ordering::Relaxed) && is_quiet(offset as u32)
}

/// Whether the text at `offset` belongs to a function that [`QuietRow`] names.
fn is_quiet(offset: u32) -> bool {
    let (mut low, mut high) = (0, QUIET_COUNT.load(Ordering::Relaxed));
    let rows = QUIET.load(Ordering::Relaxed);
    while low < high {
        let middle = low + (high - low) / 2;
        // SAFETY: `middle` is below the number of rows, which stay mapped.
        let row = unsafe { *rows.add(middle) };
        if offset < row.start {
            high = middle;
        } else if offset >= row.end {
            low = middle + 1;
        } else {
            return true;
        }
    }
    false
}

fn rows<T>(file: *mut u8, file_len: usize, section: &Section) -> Option<&'static [T]> {
    let (offset, len) = (section.offset as usize, section.len as usize);
    if offset.checked_add(len)? > file_len || offset % align_of::<T>() != 0 {
        return None;
    }
    // SAFETY: the section is inside the mapping, which stays; every bit pattern is a valid row.
    Some(unsafe { core::slice::from_raw_parts(file.add(offset) as *const T, len / size_of::<T>()) })
}

/// Maps the plan file and the generated code; changes nothing of the program.
pub fn map(fd: i32, main: &MainModule) -> Result<Plan, Degraded> {
    // SAFETY: an all-zero `stat` is valid.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `stat` is valid for the write.
    let result = unsafe { syscall::call3(libc::SYS_fstat, fd as usize, &raw mut stat as usize, 0) };
    let len = stat.st_size as usize;
    if result != 0 || len < size_of::<PlanHeader>() {
        return Err(Degraded::WrongProgram);
    }
    let file = syscall::map(0, len, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0).ok_or(Degraded::NoRoomForCode)?;
    // SAFETY: the file is at least a header long.
    let header = unsafe { &*(file as *const PlanHeader) };
    if header.magic != MAGIC || header.version != conprof_wire::VERSION {
        return Err(Degraded::WrongProgram);
    }
    // A module without build id is identified by the host, which hashed its file.
    let same = main.build_id.iter().zip(&header.build_id).fold(0, |different, (a, b)| different | (a ^ b)) == 0;
    if main.build_id_len != 0 && !(main.build_id_len == header.build_id_len as usize && same) {
        return Err(Degraded::WrongProgram);
    }
    let sites = rows::<PackedSite>(file, len, &header.sites).ok_or(Degraded::WrongProgram)?;
    let patches = rows::<PlanPatch>(file, len, &header.patches).ok_or(Degraded::WrongProgram)?;
    let pc_map = rows::<PcMapRow>(file, len, &header.pc_map).ok_or(Degraded::WrongProgram)?;
    let site_pcs = rows::<u64>(file, len, &header.site_pcs).ok_or(Degraded::WrongProgram)?;
    let unwind = rows::<UnwindRow>(file, len, &header.unwind).ok_or(Degraded::WrongProgram)?;
    if site_pcs.len() < sites.len() {
        return Err(Degraded::WrongProgram);
    }
    let code = rows::<u8>(file, len, &header.code).ok_or(Degraded::WrongProgram)?;
    if code.len() % PAGE != 0
        || header.slots.len as usize != PAGE
        || !(header.code.offset as usize).is_multiple_of(PAGE)
    {
        return Err(Degraded::WrongProgram);
    }
    let start = main.bias.wrapping_add(header.code_delta as u64);
    map_code(fd, header, code, start as usize).ok_or(Degraded::NoRoomForCode)?;
    let end = start + code.len() as u64;
    SITES.store(sites.as_ptr() as *mut PackedSite, Ordering::Relaxed);
    SITE_COUNT.store(sites.len(), Ordering::Relaxed);
    FLAGS.store(header.flags, Ordering::Relaxed);
    let quiet = rows::<QuietRow>(file, len, &header.quiet).ok_or(Degraded::WrongProgram)?;
    QUIET.store(quiet.as_ptr() as *mut QuietRow, Ordering::Relaxed);
    QUIET_COUNT.store(quiet.len(), Ordering::Relaxed);
    SITE_PCS.store(site_pcs.as_ptr() as *mut u64, Ordering::Relaxed);
    BIAS.store(main.bias, Ordering::Relaxed);
    if !unwind.is_empty() {
        UNWIND_COUNT.store(unwind.len(), Ordering::Relaxed);
        UNWIND.store(unwind.as_ptr() as *mut UnwindRow, Ordering::Relaxed);
    }
    super::pc_map::init(start..end, main.bias.wrapping_add(header.text_start), pc_map);
    let text = main.bias.wrapping_add(header.text_start)..main.bias.wrapping_add(header.text_end);
    Ok(Plan { code_start: start, code_end: end, bias: main.bias, text, patches })
}

/// Maps the code and, behind it, the slot table, and fills that. `None` where there is no room or no permission.
fn map_code(fd: i32, header: &PlanHeader, code: &[u8], start: usize) -> Option<()> {
    let (read_write, read_execute) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let total = code.len() + PAGE;
    let place = syscall::map(start, total, read_write, anonymous, -1, 0)?;
    if place as usize != start {
        syscall::unmap(place, total);
        return None;
    }
    let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let offset = header.code.offset as usize;
    if !code.is_empty() && syscall::map(start, code.len(), read_execute, fixed, fd, offset).is_none() {
        // The file lies on a file system that forbids execution: a copy will do.
        // SAFETY: the place is ours, writable, and as long as the code.
        unsafe { crate::rt::memory::copy(place, code.as_ptr(), code.len()) };
        if !syscall::protect(start, code.len(), read_execute) {
            syscall::unmap(place, total);
            return None;
        }
    }
    let slots = (start + code.len()) as *mut u64;
    for (index, entry) in stubs::table().iter().enumerate().take(SLOT_COUNT) {
        // SAFETY: the page behind the code is ours and holds SLOT_COUNT words.
        unsafe { slots.add(index).write(*entry) };
    }
    for (index, hook) in crate::hook::alloc::table().iter().enumerate().take(SLOT_COUNT - HOOK_BASE) {
        // SAFETY: as above.
        unsafe { slots.add(HOOK_BASE + index).write(*hook) };
    }
    syscall::protect(slots as usize, PAGE, libc::PROT_READ);
    Some(())
}

/// Writes all patches, or none.
pub fn patch(plan: &Plan) -> Result<(), Degraded> {
    for patch in plan.patches {
        let address = plan.bias.wrapping_add(patch.svma);
        let len = patch.len as usize;
        let inside = address >= plan.text.start && address.wrapping_add(len as u64) <= plan.text.end;
        if !inside || len == 0 || len > patch.old.len() {
            return Err(Degraded::WrongProgram);
        }
        // SAFETY: the address is in the module's text, which is readable.
        let here = unsafe { core::slice::from_raw_parts(address as *const u8, len) };
        if !here.iter().zip(&patch.old).all(|(here, old)| here == old) {
            return Err(Degraded::WrongProgram);
        }
    }
    if !plan.patches.is_empty() {
        // The whole text at once: one change of protection cannot fail halfway through the patches.
        let start = plan.text.start as usize & !(PAGE - 1);
        let len = (plan.text.end as usize).next_multiple_of(PAGE) - start;
        if !syscall::protect(start, len, libc::PROT_READ | libc::PROT_WRITE) {
            // A range of several mappings may have been changed up to the one that refused.
            syscall::protect(start, len, libc::PROT_READ | libc::PROT_EXEC);
            return Err(Degraded::TextProtected);
        }
        write(plan, |patch| &patch.new);
        if !syscall::protect(start, len, libc::PROT_READ | libc::PROT_EXEC) {
            write(plan, |patch| &patch.old);
            return Err(Degraded::TextProtected);
        }
    }
    TEXT_START.store(plan.text.start, Ordering::Relaxed);
    TEXT_LEN.store(plan.text.end - plan.text.start, Ordering::Relaxed);
    if crate::check::is_checking() {
        CHECKED_LEN.store(plan.text.end - plan.text.start, Ordering::Relaxed);
    }
    Ok(())
}

fn write(plan: &Plan, bytes: impl Fn(&PlanPatch) -> &[u8]) {
    for patch in plan.patches {
        let address = plan.bias.wrapping_add(patch.svma) as *mut u8;
        for (offset, byte) in bytes(patch).iter().enumerate().take(patch.len as usize) {
            // SAFETY: the patch was found to lie in the text, which is writable now.
            unsafe { address.add(offset).write(*byte) };
        }
    }
}
