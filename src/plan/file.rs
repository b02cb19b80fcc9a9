//! The finished plan and its file format.

use super::INDEPENDENT;
use super::emit::Emitter;
use crate::scan::{Debuginfo, ModuleScan, Policy, Site};
use crate::wire::VERSION;
use crate::wire::entry::SLOT_COUNT;
use crate::wire::plan::{
    FLAG_NO_RACES, FLAG_SYNC_SITE_LOST, MAGIC, PcMapRow, PlanHeader, PlanPatch, QuietRow, Section, UnwindRow,
};
use crate::wire::site::{Class, PackedSite};
use std::collections::BTreeMap;

/// What planning counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanTally {
    /// Sites checked or tracked, by class name.
    pub checked_by_class: BTreeMap<String, u64>,
    /// Sites lost, by reason.
    pub skipped_by_reason: BTreeMap<String, u64>,
    /// Synchronising sites lost; not 0 means that races of the module are "possible" only.
    pub sync_sites_lost: u64,
    /// Checks that repeat an earlier one and were left out.
    pub elided: u64,
    /// Calls into libraries that are not understood, wrapped as opaque.
    pub opaque_calls: u64,
    /// Points patched with a near jump.
    pub patches_near: u64,
    /// Points patched with a short jump to dead bytes.
    pub patches_short: u64,
    /// Points that could not be patched.
    pub points_native: u64,
    /// Bytes of generated code.
    pub code_bytes: u64,
}

impl PlanTally {
    pub(super) fn site(&mut self, site: &Site) {
        *self.checked_by_class.entry(format!("{:?}", site.class)).or_default() += 1;
    }

    pub(super) fn lost(&mut self, site: &Site, reason: &str) {
        *self.skipped_by_reason.entry(reason.to_owned()).or_default() += 1;
        if let Some(count) = self.checked_by_class.get_mut(&format!("{:?}", site.class)) {
            *count = count.saturating_sub(1);
        }
        if synchronises(site.class) {
            self.sync_sites_lost += 1;
        }
    }

    /// Sites checked or tracked.
    pub fn checked(&self) -> u64 {
        self.checked_by_class.values().sum()
    }
}

/// Whether losing a site of the class could lose an order that the program relies on.
pub(super) fn synchronises(class: Class) -> bool {
    matches!(class, Class::AtomicLoad | Class::AtomicStore | Class::AtomicRmw | Class::Syscall)
}

/// A patch plan in memory.
pub struct Plan {
    /// What planning counted.
    pub tally: PlanTally,
    build_id: Vec<u8>,
    code_delta: i64,
    text: (u64, u64),
    flags: u64,
    code: Vec<u8>,
    sites: Vec<(PackedSite, u64)>,
    patches: Vec<PlanPatch>,
    pc_map: Vec<PcMapRow>,
    quiet: Vec<QuietRow>,
    unwind: Vec<UnwindRow>,
}

const PAGE: usize = 4096;

impl Plan {
    pub(super) fn new(
        scan: &ModuleScan,
        code_delta: i64,
        em: Emitter,
        patches: Vec<PlanPatch>,
        unwind: Vec<UnwindRow>,
        tally: PlanTally,
    ) -> Plan {
        let mut tally = tally;
        tally.code_bytes = em.len() as u64;
        let mut flags = 0;
        if tally.sync_sites_lost > 0 {
            flags |= FLAG_SYNC_SITE_LOST;
        }
        if scan.debuginfo < Debuginfo::LineTables {
            flags |= FLAG_NO_RACES;
        }
        Plan {
            tally,
            build_id: scan.build_id.clone(),
            code_delta,
            text: (scan.text.0.0, scan.text.1.0),
            flags,
            pc_map: em.pc_map_rows(scan.text.0.0),
            code: em.code_padded(),
            sites: em.sites,
            quiet: quiet_functions(scan),
            patches,
            unwind,
        }
    }

    /// Site rows with the static address of each, by site index.
    pub fn sites(&self) -> &[(PackedSite, u64)] {
        &self.sites
    }

    /// The patches, ascending.
    pub fn patches(&self) -> &[PlanPatch] {
        &self.patches
    }

    /// The generated code, padded to whole pages.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// Rows that map generated code back to the original.
    pub fn pc_map(&self) -> &[PcMapRow] {
        &self.pc_map
    }

    /// Where the code goes, relative to the module's load bias.
    pub fn code_delta(&self) -> i64 {
        self.code_delta
    }

    /// Bits of `FLAG_*`.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// The plan in the format of [`crate::wire::plan`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = vec![0; PAGE];
        let code = append(&mut file, &self.code);
        let slots = append(&mut file, &vec![0; (SLOT_COUNT * 8).next_multiple_of(PAGE)]);
        let sites = append(&mut file, &self.sites.iter().flat_map(|s| s.0.0.to_le_bytes()).collect::<Vec<u8>>());
        let mut rows = Vec::with_capacity(self.patches.len() * 32);
        for patch in &self.patches {
            rows.extend_from_slice(&patch.svma.to_le_bytes());
            rows.push(patch.len);
            rows.extend_from_slice(&patch.old);
            rows.extend_from_slice(&patch.new);
        }
        let patches = append(&mut file, &rows);
        let mut rows = Vec::with_capacity(self.pc_map.len() * 12);
        for row in &self.pc_map {
            rows.extend_from_slice(&row.code_offset.to_le_bytes());
            rows.extend_from_slice(&row.original.to_le_bytes());
            rows.extend_from_slice(&row.rsp_offset.to_le_bytes());
        }
        let pc_map = append(&mut file, &rows);
        let site_pcs = append(&mut file, &self.sites.iter().flat_map(|s| s.1.to_le_bytes()).collect::<Vec<u8>>());
        let rows: Vec<u8> =
            self.quiet.iter().flat_map(|row| [row.start.to_le_bytes(), row.end.to_le_bytes()].concat()).collect();
        let quiet = append(&mut file, &rows);
        let mut rows = Vec::with_capacity(self.unwind.len() * 12);
        for row in &self.unwind {
            rows.extend_from_slice(&row.start.to_le_bytes());
            rows.extend_from_slice(&row.base.to_le_bytes());
            rows.extend_from_slice(&row.rbp_offset.to_le_bytes());
            rows.extend_from_slice(&row.frame_offset.to_le_bytes());
        }
        let unwind = append(&mut file, &rows);
        let mut build_id = [0; 32];
        let build_id_len = self.build_id.len().min(32);
        build_id[..build_id_len].copy_from_slice(&self.build_id[..build_id_len]);
        let header = PlanHeader {
            magic: MAGIC,
            version: VERSION,
            build_id_len: build_id_len as u32,
            build_id,
            code_delta: self.code_delta,
            text_start: self.text.0,
            text_end: self.text.1,
            code,
            slots,
            sites,
            patches,
            pc_map,
            site_pcs,
            unwind,
            flags: self.flags,
            quiet,
        };
        write_header(&mut file, &header);
        file
    }
}

fn quiet_functions(scan: &ModuleScan) -> Vec<QuietRow> {
    let text = scan.text.0.0;
    let row =
        |start: u64, end: u64| QuietRow { start: start.wrapping_sub(text) as u32, end: end.wrapping_sub(text) as u32 };
    let mut rows = Vec::new();
    for function in &scan.functions {
        if matches!(function.policy, Policy::Native(why) if INDEPENDENT.contains(&why)) {
            rows.push(row(function.start.0, function.end.0));
        } else {
            // Inside the function: one that never returns may be called last.
            let inside = function.quiet_returns.iter().filter(|at| **at < function.end);
            rows.extend(inside.map(|at| row(at.0, at.0 + 1)));
        }
    }
    rows
}

fn append(file: &mut Vec<u8>, bytes: &[u8]) -> Section {
    let offset = file.len() as u64;
    file.extend_from_slice(bytes);
    file.resize(file.len().next_multiple_of(PAGE), 0);
    Section { offset, len: bytes.len() as u64 }
}

/// Writes the header field by field in its `repr(C)` layout.
fn write_header(file: &mut [u8], header: &PlanHeader) {
    let mut bytes = Vec::with_capacity(size_of::<PlanHeader>());
    bytes.extend_from_slice(&header.magic.to_le_bytes());
    bytes.extend_from_slice(&header.version.to_le_bytes());
    bytes.extend_from_slice(&header.build_id_len.to_le_bytes());
    bytes.extend_from_slice(&header.build_id);
    bytes.extend_from_slice(&header.code_delta.to_le_bytes());
    bytes.extend_from_slice(&header.text_start.to_le_bytes());
    bytes.extend_from_slice(&header.text_end.to_le_bytes());
    for section in
        [header.code, header.slots, header.sites, header.patches, header.pc_map, header.site_pcs, header.unwind]
    {
        bytes.extend_from_slice(&section.offset.to_le_bytes());
        bytes.extend_from_slice(&section.len.to_le_bytes());
    }
    bytes.extend_from_slice(&header.flags.to_le_bytes());
    bytes.extend_from_slice(&header.quiet.offset.to_le_bytes());
    bytes.extend_from_slice(&header.quiet.len.to_le_bytes());
    assert_eq!(bytes.len(), size_of::<PlanHeader>(), "the header's fields and its layout agree");
    file[..bytes.len()].copy_from_slice(&bytes);
}
