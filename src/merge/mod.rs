//! Merging: many reports in, one out. For `--repeat`, test runs of many processes, and sharded CI.
//!
//! Findings with one fingerprint become one. Thread serials mean nothing across processes, so the list of threads
//! is left out; each stack keeps its own thread.

use crate::analyze::join;
use crate::gate::settle;
use crate::report::place::rebase_to_root;
use crate::report::{Coverage, Finding, LockOrder, LockSummary, Report, SCHEMA, SeenIn, SuppressionUse, Verdict};

/// How the reports relate to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same thing run again: a finding says in how many of them it was seen.
    Repeats,
    /// Parts of one whole: tests, shards, programs.
    Parts,
}

/// Merges reports. One report stays as it is; none gives an empty one.
pub fn merge(mut reports: Vec<Report>, relation: Relation) -> Report {
    if relation == Relation::Parts {
        reports.iter_mut().for_each(rebase_to_root);
    }
    if reports.len() == 1 {
        return reports.pop().unwrap_or_default();
    }
    let mut merged =
        Report { schema: SCHEMA, conprof_version: env!("CARGO_PKG_VERSION").to_owned(), ..Report::default() };
    let runs: u32 = reports.iter().map(runs_of).sum();
    let gone_in_all = gone_in_all(&reports);
    for (number, report) in reports.into_iter().enumerate() {
        if number == 0 {
            merged.command.clone_from(&report.command);
            merged.source_folder.clone_from(&report.source_folder);
        } else if merged.command != report.command {
            merged.command = None;
        }
        merged.verdict = worse(merged.verdict, report.verdict);
        merged.processes.extend(report.processes);
        merge_coverage(&mut merged.coverage, report.coverage);
        for finding in report.findings {
            merge_finding(&mut merged.findings, finding, relation);
        }
        for lock in report.locks {
            merge_lock(&mut merged.locks, lock);
        }
        for edge in report.lock_order {
            merge_order(&mut merged.lock_order, edge);
        }
        for used in report.suppressions {
            merge_use(&mut merged.suppressions, used);
        }
        for (name, value) in report.counters {
            *merged.counters.entry(name).or_default() += value;
        }
        merged.tests.extend(report.tests);
    }
    merged.tests.sort();
    merged.tests.dedup();
    merged.locks.sort_by(|a, b| b.wait_ns.cmp(&a.wait_ns).then_with(|| a.name.cmp(&b.name)));
    let found = |line: &String| {
        let id = line.split(' ').next().unwrap_or_default();
        merged.findings.iter().any(|finding| finding.id == id)
    };
    merged.baseline_gone = gone_in_all.into_iter().filter(|line| !found(line)).collect();
    if relation == Relation::Repeats {
        for finding in &mut merged.findings {
            finding.seen_in.n = runs;
        }
    }
    settle(&mut merged);
    merged
}

/// Runs that a report stands for: more than one where it is merged from repeats already.
fn runs_of(report: &Report) -> u32 {
    report.findings.iter().map(|finding| finding.seen_in.n).max().unwrap_or(1).max(1)
}

fn gone_in_all(reports: &[Report]) -> Vec<String> {
    let Some((first, rest)) = reports.split_first() else { return Vec::new() };
    let in_all = |line: &&String| rest.iter().all(|report| report.baseline_gone.contains(line));
    first.baseline_gone.iter().filter(in_all).cloned().collect()
}

fn worse(a: Verdict, b: Verdict) -> Verdict {
    let rank = |verdict| match verdict {
        Verdict::Clean => 0,
        Verdict::Incomplete => 1,
        Verdict::Findings => 2,
        Verdict::InternalError => 3,
    };
    if rank(b) > rank(a) { b } else { a }
}

fn merge_coverage(into: &mut Coverage, from: Coverage) {
    for module in from.modules {
        let same = |m: &crate::report::ModuleCoverage| m.path == module.path && m.build_id == module.build_id;
        if !into.modules.iter().any(same) {
            into.modules.push(module);
        }
    }
    for check in from.degraded {
        if !into.degraded.contains(&check) {
            into.degraded.push(check);
        }
    }
    into.dropped_events += from.dropped_events;
    if from.perf.available || into.perf == Default::default() {
        into.perf = from.perf;
    }
}

fn merge_finding(into: &mut Vec<Finding>, from: Finding, relation: Relation) {
    join(into, from, |known, from| {
        let lost = |finding: &Finding| finding.stacks.iter().filter(|stack| stack.frames.is_empty()).count();
        let mut tests = known.tests.clone();
        tests.extend(from.tests.iter().cloned());
        tests.sort();
        tests.dedup();
        let (a, b) = (known.seen_in, from.seen_in);
        let better =
            from.confidence > known.confidence || (from.confidence == known.confidence && lost(&from) < lost(&known));
        Finding {
            count: known.count + from.count,
            seen_in: match relation {
                Relation::Repeats => SeenIn { k: a.k + b.k, n: a.n },
                Relation::Parts => SeenIn { k: a.k.max(b.k), n: a.n.max(b.n) },
            },
            gating: known.gating || from.gating,
            suppressed: known.suppressed && from.suppressed,
            baseline: known.baseline && from.baseline,
            confidence: known.confidence.max(from.confidence),
            tests,
            ..if better { from } else { known }
        }
    });
}

fn merge_lock(into: &mut Vec<LockSummary>, from: LockSummary) {
    match into.iter_mut().find(|known| known.name == from.name && known.kind == from.kind) {
        None => into.push(from),
        Some(known) => {
            // Weighted by what each share is a share of, before the sums change.
            let fairness =
                known.hand_off_fairness * known.contended as f64 + from.hand_off_fairness * from.contended as f64;
            known.acquisitions += from.acquisitions;
            known.shared_acquisitions += from.shared_acquisitions;
            known.contended += from.contended;
            known.contended_share = share(known.contended as f64, known.acquisitions).min(1.0);
            known.hand_off_fairness = share(fairness, known.contended);
            known.wait_ns += from.wait_ns;
            let variance = (known.wait_deviation_ns as f64).powi(2) + (from.wait_deviation_ns as f64).powi(2);
            known.wait_deviation_ns = variance.sqrt() as u64;
            known.hold_ns += from.hold_ns;
            known.hold_samples += from.hold_samples;
            known.overtakes += from.overtakes;
            // Percentiles can't be joined without their histograms: the worst one is told.
            for (known, from) in [
                (&mut known.max_wait_ns, from.max_wait_ns),
                (&mut known.p50_wait_ns, from.p50_wait_ns),
                (&mut known.p99_wait_ns, from.p99_wait_ns),
                (&mut known.max_hold_ns, from.max_hold_ns),
                (&mut known.p99_hold_ns, from.p99_hold_ns),
            ] {
                *known = from.max(*known);
            }
            known.waiters_peak = known.waiters_peak.max(from.waiters_peak);
            known.readers_peak = known.readers_peak.max(from.readers_peak);
        }
    }
}

fn share(part: f64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part / whole as f64 }
}

fn merge_order(into: &mut Vec<LockOrder>, from: LockOrder) {
    match into.iter_mut().find(|known| known.from == from.from && known.to == from.to) {
        None => into.push(from),
        Some(known) => known.count += from.count,
    }
}

fn merge_use(into: &mut Vec<SuppressionUse>, from: SuppressionUse) {
    match into.iter_mut().find(|known| known.line == from.line) {
        None => into.push(from),
        Some(known) => known.hits += from.hits,
    }
}
