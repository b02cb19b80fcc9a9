//! From incidents to findings: starvation, livelock, locks held across blocking calls, blocked async workers, misuse.
//!
//! Incidents come as the shim recorded them ([`crate::wire::incident`]), one row for each thread, lock and place; here they
//! are joined by lines of the program, measured against [`Thresholds`], and explained. Direction of error: what a busy
//! machine alone could cause is below the thresholds or only "possible".

use super::finding::{self, at, thread_name};
use super::{Describe, Hold, LockId, Mode, Place};
use crate::report::{Confidence, Finding, Frame, Kind, LockRef, WaitsFor};
use crate::wire::incident::{IncidentKind, IncidentRow, Misuse};
use crate::wire::locks::{LockRow, Type};
use crate::wire::waits::WaitKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long something must last, or how much it must cost, to be a finding; in nanoseconds but for shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// A blocking call with a lock held, or in a task.
    pub blocking_ns: u64,
    /// A poll of a task without a break, time blocked not counted.
    pub poll_ns: u64,
    /// A wait for a lock that others take meanwhile.
    pub starvation_ns: u64,
    /// Attempts that fail.
    pub livelock_ns: u64,
    /// Share of the threads' time that waiting for one lock must cost, in percent.
    pub hot_lock_percent: u32,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            blocking_ns: 20_000_000,
            poll_ns: 200_000_000,
            starvation_ns: 200_000_000,
            livelock_ns: 200_000_000,
            hot_lock_percent: 20,
        }
    }
}

/// Acquisitions by others during one wait below which no wait is out of proportion.
const FEW_OVERTAKES: u64 = 16;
/// The same for each thread that uses the lock: in a fair queue each comes first once.
const OVERTAKES_PER_USER: u64 = 4;
/// Failures in a row below which nobody is thought to spin.
const FEW_FAILURES: u64 = 100;

/// A wait for a lock that lasts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// Who waits.
    pub thread: u32,
    /// For which lock.
    pub lock: LockId,
    /// How.
    pub mode: Mode,
    /// Where.
    pub place: Place,
    /// How long so far.
    pub duration_ns: u64,
    /// Acquisitions by others meanwhile.
    pub overtakes: u64,
}

/// What holds of a lock cost others, by holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who held it.
    pub thread: u32,
    /// Which lock.
    pub lock: LockId,
    /// Where it was taken.
    pub place: Place,
    /// Holds that made others wait.
    pub count: u64,
    /// The waiting that they caused.
    pub caused_ns: u64,
}

/// What the findings are made of.
#[derive(Debug, Default)]
pub struct Incidents {
    /// As recorded.
    pub rows: Vec<IncidentRow>,
    /// Waits that were not over at the end.
    pub lasting: Vec<Lasting>,
    /// Who held the locks that others waited for.
    pub holders: Vec<Holder>,
    /// Locks by id.
    pub locks: Vec<LockRow>,
}

/// A duration as a person says it.
pub fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} µs", ns / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

pub(super) fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        count => format!("{count} times"),
    }
}

/// What a blocking call waits for, as the object of "waits for".
fn awaited(kind: WaitKind) -> &'static str {
    match kind {
        WaitKind::Lock | WaitKind::Shared | WaitKind::Upgradable => "a lock",
        WaitKind::Condvar => "a condition variable",
        WaitKind::Receive => "a message",
        WaitKind::Send => "room in a channel",
        WaitKind::Join => "the end of a thread",
        WaitKind::Park => "an unpark",
        WaitKind::Barrier => "a barrier",
        WaitKind::Semaphore => "a semaphore",
        WaitKind::Once => "a one-time initialisation",
        WaitKind::Sleep => "time to pass",
        WaitKind::Outside => "input, output or a process",
        WaitKind::Futex => "another thread",
        WaitKind::Signal => "a signal",
    }
}

/// What it does, as a verb.
pub(super) fn blocks(kind: WaitKind) -> String {
    match kind {
        WaitKind::Sleep => "sleeps".to_owned(),
        WaitKind::Outside => "does blocking input or output".to_owned(),
        WaitKind::Join => "joins a thread".to_owned(),
        kind => format!("waits for {}", awaited(kind)),
    }
}

/// Rows that are one finding, and their sums.
pub(super) struct Group {
    rows: Vec<IncidentRow>,
}

impl Group {
    pub(super) fn longest(&self) -> &IncidentRow {
        let longest = self.rows.iter().max_by_key(|row| row.max_ns);
        longest.unwrap_or_else(|| unreachable!("a group has a row"))
    }

    pub(super) fn sum(&self, of: impl Fn(&IncidentRow) -> u64) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(of(row)))
    }

    pub(super) fn most(&self) -> u64 {
        self.rows.iter().map(|row| row.most).max().unwrap_or(0)
    }
}

impl Incidents {
    /// Rows of a kind, joined where they are about the same lock and the same lines.
    pub(super) fn groups(&self, kind: IncidentKind, describe: &dyn Describe) -> Vec<Group> {
        let line = |access: u32| {
            let frames = describe.frames(Place(access));
            finding::user_frame(&frames).map(|f| (f.file.clone(), f.line, f.function.clone()))
        };
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| IncidentKind::from_u32(row.kind) == Some(kind)) {
            let key = (row.lock, row.detail, line(row.access), line(row.other_access));
            groups.entry(key).or_insert_with(|| Group { rows: Vec::new() }).rows.push(*row);
        }
        groups.into_values().collect()
    }

    fn users(&self, lock: u32) -> u64 {
        self.locks.get(lock as usize).map_or(1, |row| u64::from(row.users.count_ones()).max(1))
    }

    fn lock_type(&self, lock: u32) -> Type {
        self.locks.get(lock as usize).map_or(Type::Unknown, |row| Type::from_u8(row.lock_type as u8))
    }

    fn is_out_of_proportion(&self, lock: u32, overtakes: u64) -> bool {
        overtakes >= FEW_OVERTAKES.max(OVERTAKES_PER_USER * self.users(lock))
    }

    /// Every finding, of all kinds.
    pub fn findings(&self, thresholds: &Thresholds, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = self.held_across_calls(thresholds, describe);
        findings.extend(self.blocked_polls(thresholds, describe));
        findings.extend(self.held_across_await(describe));
        findings.extend(self.starvation(thresholds, describe));
        findings.extend(self.livelocks(thresholds, describe));
        findings.extend(self.misuses(describe));
        // Other instances of the same lock, or other threads.
        let mut merged: Vec<Finding> = Vec::new();
        for finding in findings {
            match merged.iter_mut().find(|known| known.id == finding.id) {
                Some(known) => known.count += finding.count,
                None => merged.push(finding),
            }
        }
        merged
    }

    fn held_across_calls(&self, thresholds: &Thresholds, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = Vec::new();
        for group in self.groups(IncidentKind::BlockedHold, describe) {
            let longest = group.longest();
            let kind = WaitKind::from_u32(longest.detail);
            let lost = group.sum(|row| row.lost_ns);
            let held = describe.frames(Place(longest.other_access));
            if longest.max_ns < thresholds.blocking_ns
                || self.is_queue_at_receiver(longest, kind, describe)
                || kind == WaitKind::Outside && locks_standard_stream(&held)
            {
                continue;
            }
            let confidence = if lost >= thresholds.blocking_ns / 4 {
                Confidence::Confirmed
            } else if self.users(longest.lock) > 1 {
                Confidence::Possible
            } else {
                continue;
            };
            let hold = self.hold(longest.lock, longest.other_access);
            let lock = finding::lock_ref(describe, &hold);
            let name = lock.name.clone();
            let thread = thread_name(&describe.thread(longest.thread));
            let frames = describe.frames(Place(longest.access));
            let title = format!("{thread} {} while it holds `{name}`", blocks(kind));
            let fix = format!(
                "Give `{name}` (taken at {}) up before the call at {}, and take it again after it if need be.",
                at(&describe.frames(hold.place)),
                at(&frames)
            );
            let stacks = vec![
                finding::stack(describe, "waiting", longest.thread, Place(longest.access), None, &[hold]),
                finding::stack(describe, "held", longest.thread, hold.place, Some(lock), &[]),
            ];
            let mut finding = finding::finding(Kind::LockHeldAcrossBlockingCall, confidence, title, fix, stacks);
            finding.count = group.sum(|row| row.count);
            finding.notes.push(format!(
                "It did so {}, for {} in total, {} at most; meanwhile others waited {} for the lock.",
                times(finding.count),
                duration(group.sum(|row| row.total_ns)),
                duration(longest.max_ns),
                duration(lost)
            ));
            if confidence == Confidence::Possible {
                finding.notes.push("Nobody waited for the lock meanwhile, this time.".to_owned());
            }
            findings.push(finding);
        }
        findings
    }

    /// A lock that only makes receivers queue for messages: all who wait for it are where the holder is.
    fn is_queue_at_receiver(&self, row: &IncidentRow, kind: WaitKind, describe: &dyn Describe) -> bool {
        let line = |access: u32| {
            let frames = describe.frames(Place(access));
            finding::user_frame(&frames).map(|f| (f.file.clone(), f.line))
        };
        let here = line(row.other_access);
        let waiters = self.rows.iter().filter(|other| {
            matches!(IncidentKind::from_u32(other.kind), Some(IncidentKind::LongWait | IncidentKind::BlockedPoll))
                && other.lock == row.lock
        });
        matches!(kind, WaitKind::Receive | WaitKind::Condvar | WaitKind::Park)
            && here == line(row.access)
            && waiters.into_iter().all(|other| line(other.access) == here)
            && self.lasting.iter().filter(|wait| wait.lock.0 == row.lock).all(|wait| line(wait.place.0) == here)
    }

    pub(super) fn hold(&self, lock: u32, access: u32) -> Hold {
        Hold { lock: LockId(lock), mode: Mode::Exclusive, place: Place(access) }
    }

    /// The hold of the lock that cost others the most; of the given thread (its serial plus 1) where it has one.
    pub(super) fn holder(&self, lock: u32, thread: u32) -> Option<&Holder> {
        let of_lock = || self.holders.iter().filter(|holder| lock != 0 && holder.lock.0 == lock);
        let of_thread = of_lock().filter(|holder| holder.thread + 1 == thread).max_by_key(|holder| holder.caused_ns);
        of_thread.or_else(|| of_lock().max_by_key(|holder| holder.caused_ns))
    }

    fn starvation(&self, thresholds: &Thresholds, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = Vec::new();
        for group in self.groups(IncidentKind::LongWait, describe) {
            let longest = group.longest();
            let most = group.most();
            if longest.max_ns >= thresholds.starvation_ns && self.is_out_of_proportion(longest.lock, most) {
                let mode = if longest.detail == WaitKind::Shared as u32 { Mode::Shared } else { Mode::Exclusive };
                let wait = Lasting {
                    thread: longest.thread,
                    lock: LockId(longest.lock),
                    mode,
                    place: Place(longest.access),
                    duration_ns: longest.max_ns,
                    overtakes: most,
                };
                findings.push(self.starving(&wait, group.sum(|row| row.count), describe));
            }
        }
        for wait in &self.lasting {
            if wait.duration_ns >= thresholds.starvation_ns && self.is_out_of_proportion(wait.lock.0, wait.overtakes) {
                findings.push(self.starving(wait, 1, describe));
            }
        }
        for group in self.groups(IncidentKind::Failing, describe) {
            let longest = group.longest();
            let overtakes = longest.lost_ns;
            let is_livelock = self.partner(longest, thresholds).is_some();
            if longest.detail == 1
                && !is_livelock
                && longest.max_ns >= thresholds.starvation_ns
                && longest.most >= FEW_OVERTAKES
                && self.is_out_of_proportion(longest.lock, overtakes)
            {
                let thread = thread_name(&describe.thread(longest.thread));
                let lock = describe.lock(LockId(longest.lock));
                let title = format!(
                    "{thread} tries for `{}` {} in vain while others take it {}",
                    lock.name,
                    times(longest.most),
                    times(overtakes)
                );
                let fix = format!(
                    "Wait for `{}` at {} instead of trying, or let those who take it leave it free for longer.",
                    lock.name,
                    at(&describe.frames(Place(longest.access)))
                );
                let mut finding =
                    self.starving_finding(longest.thread, Place(longest.access), lock, (title, fix), describe);
                finding.notes.push(format!("It went on for {}.", duration(longest.max_ns)));
                findings.push(finding);
            }
        }
        findings
    }

    fn starving(&self, wait: &Lasting, count: u64, describe: &dyn Describe) -> Finding {
        let thread = thread_name(&describe.thread(wait.thread));
        let lock = LockRef { mode: wait.mode.word().to_owned(), ..describe.lock(wait.lock) };
        let verb = match wait.mode {
            Mode::Shared => "to read",
            _ if self.lock_type(wait.lock.0).readers_wait_behind_writers()
                || matches!(self.lock_type(wait.lock.0), Type::PthreadRwLock | Type::SpinRwLock) =>
            {
                "to write"
            }
            _ => "for",
        };
        let title = format!(
            "{thread} waits {} {verb} `{}` while others take it {}",
            duration(wait.duration_ns),
            lock.name,
            times(wait.overtakes)
        );
        let fix = match verb {
            "to write" => format!(
                "Let readers of `{}` leave gaps, read for shorter, or use a lock whose readers wait behind writers.",
                lock.name
            ),
            _ => format!(
                "Let those who take `{0}` again and again leave it free in between, or hand it over fairly \
                 (`parking_lot::MutexGuard::unlock_fair`).",
                lock.name
            ),
        };
        let mut finding = self.starving_finding(wait.thread, wait.place, lock, (title, fix), describe);
        finding.count = count;
        finding
    }

    fn starving_finding(
        &self,
        thread: u32,
        place: Place,
        lock: LockRef,
        (title, fix): (String, String),
        describe: &dyn Describe,
    ) -> Finding {
        let mut holders: Vec<&Holder> = self
            .holders
            .iter()
            .filter(|h| describe.lock(h.lock).address == lock.address && h.thread != thread)
            .collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.caused_ns));
        let mut stacks = vec![finding::stack(describe, "waiting", thread, place, Some(lock.clone()), &[])];
        for holder in holders.iter().take(2) {
            stacks.push(finding::stack(describe, "held", holder.thread, holder.place, Some(lock.clone()), &[]));
        }
        let mut by_thread: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for holder in &holders {
            let sums = by_thread.entry(holder.thread).or_default();
            *sums = (sums.0 + holder.count, sums.1.saturating_add(holder.caused_ns));
        }
        let mut finding = finding::finding(Kind::Starvation, Confidence::Likely, title, fix, stacks);
        if !by_thread.is_empty() {
            let mut shares: Vec<(u32, (u64, u64))> = by_thread.into_iter().collect();
            shares.sort_by_key(|(_, (_, caused))| std::cmp::Reverse(*caused));
            let shares: Vec<String> = shares
                .iter()
                .take(6)
                .map(|(thread, (count, caused))| {
                    format!(
                        "{} {} ({} of waiting)",
                        thread_name(&describe.thread(*thread)),
                        times(*count),
                        duration(*caused)
                    )
                })
                .collect();
            finding.notes.push(format!("Held while others waited: {}.", shares.join(", ")));
        }
        finding
    }

    fn livelocks(&self, thresholds: &Thresholds, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = Vec::new();
        let failing: Vec<&IncidentRow> = self.rows.iter().filter(|row| keeps_failing(row, thresholds)).collect();
        for a in &failing {
            if let Some(b) = self.partner(a, thresholds).filter(|b| a.thread < b.thread) {
                findings.push(self.mutual(a, b, describe));
            }
        }
        // The holder blocks while others burn time on the processor for its lock.
        for row in &failing {
            let sleeps = |other: &&IncidentRow| {
                IncidentKind::from_u32(other.kind) == Some(IncidentKind::BlockedHold)
                    && other.lock == row.lock
                    && other.thread != row.thread
                    && other.max_ns >= thresholds.livelock_ns / 2
            };
            if let Some(holder) = self.rows.iter().filter(sleeps).max_by_key(|other| other.max_ns) {
                findings.push(self.burning(row, holder, describe));
            }
        }
        findings
    }

    /// Who holds what `row` fails to take, and fails to take what it holds.
    fn partner(&self, row: &IncidentRow, thresholds: &Thresholds) -> Option<&IncidentRow> {
        self.rows.iter().find(|other| {
            keeps_failing(row, thresholds)
                && keeps_failing(other, thresholds)
                && row.thread != other.thread
                && row.other != 0
                && row.lock == other.other
                && other.lock == row.other
        })
    }

    fn mutual(&self, a: &IncidentRow, b: &IncidentRow, describe: &dyn Describe) -> Finding {
        let mut stacks = Vec::new();
        for row in [a, b] {
            let held = self.hold(row.other, row.other_access);
            let wanted = describe.lock(LockId(row.lock));
            stacks.push(finding::stack(describe, "waiting", row.thread, Place(row.access), Some(wanted), &[held]));
            let lock = finding::lock_ref(describe, &held);
            stacks.push(finding::stack(describe, "held", row.thread, held.place, Some(lock), &[]));
        }
        let name = |row: &IncidentRow| thread_name(&describe.thread(row.thread));
        let lock = |row: &IncidentRow| describe.lock(LockId(row.lock)).name;
        let title = format!(
            "{} and {} keep trying for `{}` and `{}`, each holding what the other wants",
            name(a),
            name(b),
            lock(a),
            lock(b)
        );
        let fix = format!(
            "Take `{}` and `{}` in one order everywhere, or wait a different time in each thread before trying again.",
            lock(a),
            lock(b)
        );
        let mut finding = finding::finding(Kind::Livelock, Confidence::Likely, title, fix, stacks);
        finding.waits_for = [(a, b), (b, a)]
            .iter()
            .map(|(from, to)| WaitsFor { thread: name(from), lock: lock(from), holder: name(to) })
            .collect();
        finding.notes.push(format!(
            "They failed {} and {} in a row, for {} and {}.",
            times(a.most),
            times(b.most),
            duration(a.max_ns),
            duration(b.max_ns)
        ));
        finding
    }

    fn burning(&self, row: &IncidentRow, holder: &IncidentRow, describe: &dyn Describe) -> Finding {
        let lock = describe.lock(LockId(row.lock));
        let held = self.hold(holder.lock, holder.other_access);
        let kind = WaitKind::from_u32(holder.detail);
        let (thread, other) = (thread_name(&describe.thread(row.thread)), thread_name(&describe.thread(holder.thread)));
        let title = format!("{thread} spins for `{}` while {other}, which holds it, {}", lock.name, blocks(kind));
        let fix = format!(
            "Give `{}` up before the call at {}, or use a lock that lets its waiters sleep.",
            lock.name,
            at(&describe.frames(Place(holder.access)))
        );
        let stacks = vec![
            finding::stack(describe, "waiting", row.thread, Place(row.access), Some(lock.clone()), &[]),
            finding::stack(describe, "held", holder.thread, held.place, Some(lock), &[]),
            finding::stack(describe, "blocked", holder.thread, Place(holder.access), None, &[held]),
        ];
        let mut finding = finding::finding(Kind::Livelock, Confidence::Likely, title, fix, stacks);
        finding.notes.push(format!("It spun for {} at most.", duration(row.max_ns)));
        finding
    }

    fn misuses(&self, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = Vec::new();
        for group in self.groups(IncidentKind::Misuse, describe) {
            let row = group.longest();
            let Some(how) = Misuse::from_u32(row.detail) else { continue };
            let lock = describe.lock(LockId(row.lock));
            let thread = thread_name(&describe.thread(row.thread));
            let holder = row.other.checked_sub(1).map(|serial| thread_name(&describe.thread(serial)));
            let name = &lock.name;
            let (title, fix) = match how {
                Misuse::UnlockOfUnlocked => (
                    format!("{thread} unlocks `{name}`, which nobody holds"),
                    "Unlock once for each lock, on every way out.".to_owned(),
                ),
                Misuse::UnlockByOther => {
                    let holder = holder.unwrap_or_else(|| "another thread".to_owned());
                    (
                        format!("{thread} unlocks `{name}`, which {holder} holds"),
                        "Unlock in the thread that locked, or use a semaphore.".to_owned(),
                    )
                }
                Misuse::DestroyOfHeld => (
                    format!("{thread} destroys `{name}` while it is held"),
                    "Destroy it only when no thread can hold it: join the threads first.".to_owned(),
                ),
                Misuse::DoubleLock => (
                    format!("{thread} locks `{name}`, which it holds already"),
                    "Lock once, or make the mutex recursive.".to_owned(),
                ),
            };
            let stack = finding::stack(describe, "misuse", row.thread, Place(row.access), Some(lock), &[]);
            let mut finding = finding::finding(Kind::LockMisuse, Confidence::Confirmed, title, fix, vec![stack]);
            finding.count = group.sum(|row| row.count);
            findings.push(finding);
        }
        findings
    }
}

/// A row of failures that is long enough for a livelock.
fn keeps_failing(row: &IncidentRow, thresholds: &Thresholds) -> bool {
    IncidentKind::from_u32(row.kind) == Some(IncidentKind::Failing)
        && row.max_ns >= thresholds.livelock_ns
        // Who spins fails once and then looks until the lock seems free.
        && (row.detail == 0 || row.most >= FEW_FAILURES)
}

/// std's lock of stdin, stdout or stderr, which is there to be held during input and output.
fn locks_standard_stream(held: &[Frame]) -> bool {
    held.iter().any(|frame| frame.file.ends_with("library/std/src/io/stdio.rs"))
}
