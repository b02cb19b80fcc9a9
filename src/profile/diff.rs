//! What changed between two runs, lock by lock, and whether it is more than noise.
//!
//! A run's total wait on a lock is a sum of `n` waits whose number and size vary from run to run. Taking them as
//! independent (a compound Poisson process), its standard deviation is the root of the sum of their squares, which
//! [`LockSummary::wait_deviation_ns`] has. Waits that come in bursts are not independent, so the estimate is too
//! small for them; it is therefore never taken below a tenth of the total, and where the runs were repeated the spread
//! between the repetitions is the better witness.

use crate::report::LockSummary;
use std::collections::BTreeMap;

/// Least noise assumed, as a share of the total.
const LEAST_NOISE: f64 = 0.1;
/// Standard deviations that a change must exceed.
const SIGNIFICANT: f64 = 2.0;

/// What to say of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Less waiting, beyond noise.
    Better,
    /// More waiting, beyond noise.
    Worse,
    /// No change beyond noise.
    Same,
    /// Nobody waited for it before.
    New,
    /// Nobody waits for it any more.
    Gone,
}

/// A lock in both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The lock's name and kind.
    pub name: String,
    /// Total wait before, in nanoseconds.
    pub before_ns: u64,
    /// Total wait after.
    pub after_ns: u64,
    /// Standard deviation of the difference.
    pub noise_ns: u64,
    /// Waits before.
    pub contended_before: u64,
    /// Waits after.
    pub contended_after: u64,
    /// What to say of it.
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Default)]
struct Total {
    wait_ns: u64,
    variance: f64,
    contended: u64,
}

/// Locks of one name and kind count as one: addresses differ between runs.
fn totals(locks: &[LockSummary]) -> BTreeMap<String, Total> {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    for lock in locks.iter().filter(|l| l.wait_ns > 0) {
        let name = if lock.kind.is_empty() { lock.name.clone() } else { format!("{} ({})", lock.name, lock.kind) };
        let total = totals.entry(name).or_default();
        total.wait_ns += lock.wait_ns;
        total.contended += lock.contended;
        total.variance += (lock.wait_deviation_ns as f64).powi(2);
    }
    totals
}

/// Compares two lock tables. `scale` multiplies the first, for runs of different length (1.0 for none). The
/// largest change comes first.
pub fn compare(before: &[LockSummary], after: &[LockSummary], scale: f64) -> Vec<Change> {
    let before = totals(before);
    let after = totals(after);
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut changes: Vec<Change> = names
        .into_iter()
        .map(|name| {
            let b = before.get(name).copied().unwrap_or_default();
            let a = after.get(name).copied().unwrap_or_default();
            let (b_ns, a_ns) = (b.wait_ns as f64 * scale, a.wait_ns as f64);
            let floor = |ns: f64| (ns * LEAST_NOISE).powi(2);
            let noise = (f64::max(b.variance * scale * scale, floor(b_ns)) + f64::max(a.variance, floor(a_ns))).sqrt();
            let significant = (a_ns - b_ns).abs() > SIGNIFICANT * noise;
            let verdict = match (b.wait_ns, a.wait_ns) {
                _ if !significant => Verdict::Same,
                (0, _) => Verdict::New,
                (_, 0) => Verdict::Gone,
                _ if a_ns > b_ns => Verdict::Worse,
                _ => Verdict::Better,
            };
            Change {
                name: name.clone(),
                before_ns: b_ns as u64,
                after_ns: a.wait_ns,
                noise_ns: noise as u64,
                contended_before: b.contended,
                contended_after: a.contended,
                verdict,
            }
        })
        .collect();
    changes.sort_by(|x, y| {
        let size = |c: &Change| c.after_ns.abs_diff(c.before_ns);
        size(y).cmp(&size(x)).then_with(|| x.name.cmp(&y.name))
    });
    changes
}

/// The comparison as text.
pub fn render(changes: &[Change]) -> String {
    use super::table::duration;
    if changes.is_empty() {
        return "Nobody waited for a lock in either run.\n".to_owned();
    }
    let mut text = String::new();
    for change in changes {
        let verdict = match change.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Same => "same",
            Verdict::New => "NEW",
            Verdict::Gone => "gone",
        };
        let (sign, size) = if change.after_ns >= change.before_ns {
            ("+", change.after_ns - change.before_ns)
        } else {
            ("-", change.before_ns - change.after_ns)
        };
        text.push_str(&format!(
            "{verdict:>6}  {:>9} -> {:>9}  {sign}{} (noise {})  waits {} -> {}  {}\n",
            duration(change.before_ns),
            duration(change.after_ns),
            duration(size),
            duration(change.noise_ns),
            change.contended_before,
            change.contended_after,
            change.name,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, wait_ns: u64, deviation: u64) -> LockSummary {
        LockSummary {
            name: name.into(),
            wait_ns,
            contended: 10,
            wait_deviation_ns: deviation,
            ..LockSummary::default()
        }
    }

    #[test]
    fn changes_within_the_noise_are_none() {
        let before =
            [lock("steady", 1000, 100), lock("fixed", 9000, 300), lock("bursty", 1000, 900), lock("gone", 500, 10)];
        let after =
            [lock("steady", 1100, 100), lock("fixed", 900, 30), lock("bursty", 2500, 1500), lock("new", 700, 10)];
        let changes = compare(&before, &after, 1.0);
        let verdict = |name: &str| changes.iter().find(|c| c.name == name).map(|c| c.verdict);
        assert_eq!(verdict("steady"), Some(Verdict::Same));
        assert_eq!(verdict("fixed"), Some(Verdict::Better));
        assert_eq!(verdict("bursty"), Some(Verdict::Same));
        assert_eq!(verdict("gone"), Some(Verdict::Gone));
        assert_eq!(verdict("new"), Some(Verdict::New));
        assert_eq!(changes[0].name, "fixed");
    }

    #[test]
    fn equal_names_are_one_lock_and_runs_may_be_scaled() {
        let changes = compare(&[lock("shard", 500, 5), lock("shard", 500, 5)], &[lock("shard", 2000, 20)], 2.0);
        assert_eq!((changes.len(), changes[0].before_ns, changes[0].verdict), (1, 2000, Verdict::Same));
    }
}
