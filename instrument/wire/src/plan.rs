//! The patch plan: generated code and what the shim must change so that it runs.
//!
//! A plan is one file, position-independent with respect to its module: the code section is mapped at
//! `module base + code_delta`, and every reference inside it is relative. Sections are page-aligned:
//!
//! ```text
//! PlanHeader | code | slots (SLOT_COUNT u64, one page, writable) | sites | patches | pc map
//! ```
//!
//! The slots page directly follows the code section both in the file and in memory.

/// `CONPLAN\x01` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CONPLAN\x01");

/// A part of the plan file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Section {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// First bytes of a plan file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PlanHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`](super::VERSION).
    pub version: u32,
    /// Bytes used in `build_id`; 0 where the module has none.
    pub build_id_len: u32,
    /// The module's build id (`NT_GNU_BUILD_ID`), or a 20-byte hash of its file where it has none.
    pub build_id: [u8; 32],
    /// Where the code section goes, relative to the module's load bias (0 for non-PIE), in bytes.
    pub code_delta: i64,
    /// Static address range of the module's text that patches may lie in.
    pub text_start: u64,
    /// End of that range.
    pub text_end: u64,
    /// Generated code, mapped read-execute.
    pub code: Section,
    /// Slot table, mapped read-write directly after `code`: the shim fills it with entry addresses.
    pub slots: Section,
    /// [`PackedSite`](super::site::PackedSite) rows, by site index.
    pub sites: Section,
    /// [`PlanPatch`] rows, ascending, not overlapping.
    pub patches: Section,
    /// [`PcMapRow`] rows, ascending by `code_offset`.
    pub pc_map: Section,
    /// `u64` static program counters, by site index: what the site's instruction is in the original.
    pub site_pcs: Section,
    /// [`UnwindRow`] rows, ascending by `start`; empty where entered functions leave frames instead.
    pub unwind: Section,
    /// Bit 0: a synchronising site could not be covered, so races of this module are "possible" only.
    /// Bit 1: the module's debuginfo does not suffice for races.
    pub flags: u64,
    /// [`QuietRow`] rows, ascending, not overlapping.
    pub quiet: Section,
}

/// A native function, or the return site of a call in any other, whose calls of interposed functions (`memcpy`, `free` ...) are not
/// checked either, because what it works on is reached by such code alone. Addresses are relative to [`PlanHeader::text_start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct QuietRow {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

const _: () = assert!(size_of::<QuietRow>() == 8);

/// Bit of [`PlanHeader::flags`]: a synchronising site stays native.
pub const FLAG_SYNC_SITE_LOST: u64 = 1;
/// Bit of [`PlanHeader::flags`]: no usable debuginfo, so no race is reported in this module.
pub const FLAG_NO_RACES: u64 = 2;

/// One change to the module's text: `old` bytes are verified, then replaced by `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PlanPatch {
    /// Static address of the first byte.
    pub svma: u64,
    /// Bytes used in `old` and `new`, 1 to 8.
    pub len: u8,
    /// What must stand there.
    pub old: [u8; 11],
    /// What will stand there.
    pub new: [u8; 12],
}

const _: () = assert!(size_of::<PlanPatch>() == 32);

/// Maps an address in generated code, from `code_offset` up to the next row's, back to the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PcMapRow {
    /// Offset in the code section, in bytes.
    pub code_offset: u32,
    /// Static address of the original instruction, relative to [`PlanHeader::text_start`].
    pub original: u32,
    /// `rsp` in the original is `rsp` here plus this, in bytes.
    pub rsp_offset: u32,
}

const _: () = assert!(size_of::<PcMapRow>() == 12);

/// How to get from a frame of the original code to its caller's, from `start` up to the next row's.
///
/// The return address lies directly below the caller's frame (the CFA of DWARF), as the x86-64 ABI has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UnwindRow {
    /// Static address, relative to [`PlanHeader::text_start`].
    pub start: u32,
    /// What the caller's frame is counted from: 0 unknown, 1 `rsp`, 2 `rbp`.
    pub base: u16,
    /// The caller's `rbp` is at its frame plus this, in bytes; 0 where it is unchanged.
    pub rbp_offset: i16,
    /// The caller's frame is the base plus this, in bytes.
    pub frame_offset: i32,
}

const _: () = assert!(size_of::<UnwindRow>() == 12);

/// [`UnwindRow::base`]: there is no way on.
pub const UNWIND_STOP: u16 = 0;
/// [`UnwindRow::base`]: `rsp`.
pub const UNWIND_RSP: u16 = 1;
/// [`UnwindRow::base`]: `rbp`.
pub const UNWIND_RBP: u16 = 2;
