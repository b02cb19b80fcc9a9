//! Scans and plans an image.

use super::Refusal;
use super::plan_cache::{AboutModule, Progress};
use crate::cli::exit;
use crate::plan::{Tactic, plan_module_for};
use crate::report::{DegradedCheck, ModuleCoverage};
use crate::scan::primitives::{self, Catalogue};
use crate::scan::{Debuginfo, scan_module};
use crate::wire::VERSION;
use crate::wire::plan::{MAGIC, PlanHeader, Section};
use crate::wire::recording::SiteRow;
use std::mem::offset_of;
use std::time::Instant;

/// The plan of an image, and what the report says of the module.
///
/// # Errors
/// A [`Refusal`] where the image is no program that can be planned.
pub(super) fn make_plan(
    image: &[u8],
    tactic: Tactic,
    catalogue: &Catalogue,
    progress: Progress<'_>,
) -> anyhow::Result<(Option<Vec<u8>>, AboutModule)> {
    let start = Instant::now();
    let scan = scan_module(image, &|done, total| progress(done, 2 * total))
        .map_err(|error| Refusal::new(exit::USAGE, error.to_string(), error.cure()))?;
    tracing::debug!("scanned {} functions in {:.0?}", scan.functions.len(), start.elapsed());
    let start = Instant::now();
    let marks = primitives::mark(&scan, image, catalogue);
    let plan = plan_module_for(&scan, image, tactic, &marks, &|done, total| progress(total + done, 2 * total))
        .map_err(|error| Refusal::new(exit::USAGE, error.to_string(), ""))?;
    tracing::debug!("planned {} bytes of code in {:.0?}", plan.tally.code_bytes, start.elapsed());
    let mut skipped_by_reason = scan.tally.skipped_by_reason.clone();
    for (reason, count) in &plan.tally.skipped_by_reason {
        *skipped_by_reason.entry(reason.clone()).or_default() += count;
    }
    let degraded = scan
        .degraded
        .iter()
        .map(|d| DegradedCheck { check: d.check.clone(), reason: d.reason.clone(), cure: d.cure.clone() })
        .collect();
    let coverage = ModuleCoverage {
        path: String::new(),
        build_id: scan.build_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        debuginfo: match scan.debuginfo {
            Debuginfo::Stripped => "stripped",
            Debuginfo::SymbolsOnly => "symbols-only",
            Debuginfo::LineTables => "line-tables",
            Debuginfo::Full => "full",
        }
        .to_string(),
        accesses_by_class: scan.tally.accesses_by_class.clone(),
        instrumented: plan.tally.checked(),
        skipped_by_reason,
    };
    Ok((Some(plan.to_bytes()), AboutModule { coverage, degraded, flags: plan.flags() }))
}

fn number(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

fn section(plan: &[u8], field: usize) -> Option<&[u8]> {
    let offset = number(plan, field + offset_of!(Section, offset))?;
    let len = number(plan, field + offset_of!(Section, len))?;
    plan.get(usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(len)?).ok()?)
}

/// Whether the bytes are a plan of this version with every section inside.
pub(super) fn is_whole(plan: &[u8]) -> bool {
    let version = plan.get(offset_of!(PlanHeader, version)..).and_then(|b| b.get(..4));
    number(plan, offset_of!(PlanHeader, magic)) == Some(MAGIC)
        && version == Some(&VERSION.to_le_bytes()[..])
        && [
            offset_of!(PlanHeader, code),
            offset_of!(PlanHeader, slots),
            offset_of!(PlanHeader, sites),
            offset_of!(PlanHeader, patches),
            offset_of!(PlanHeader, pc_map),
            offset_of!(PlanHeader, site_pcs),
            offset_of!(PlanHeader, unwind),
        ]
        .into_iter()
        .all(|field| section(plan, field).is_some())
}

/// The plan's sites by index, as rows of the recording.
pub(super) fn sites_of(plan: &[u8]) -> Vec<SiteRow> {
    let sites = section(plan, offset_of!(PlanHeader, sites)).unwrap_or_default();
    let pcs = section(plan, offset_of!(PlanHeader, site_pcs)).unwrap_or_default();
    sites
        .chunks_exact(8)
        .zip(pcs.chunks_exact(8))
        .map(|(site, pc)| SiteRow { pc: number(pc, 0).unwrap_or(0), packed: number(site, 0).unwrap_or(0) })
        .collect()
}
