//! Figures from histograms of durations.

use crate::wire::waits::{HISTOGRAM_BUCKETS, Histogram, histogram_start_ns};

/// Where a bucket ends. The last one has no end: the caller bounds it by the longest duration.
fn bucket_end(bucket: usize) -> u64 {
    if bucket + 1 < HISTOGRAM_BUCKETS { histogram_start_ns(bucket + 1) } else { u64::MAX }
}

/// The duration that a share `q` (0 to 1) of all durations do not exceed, interpolated inside its bucket, so at
/// most 25 % off; `longest_ns` bounds it. 0 for an empty histogram.
pub fn quantile_ns(histogram: &Histogram, q: f64, longest_ns: u64) -> u64 {
    let total: u64 = histogram.iter().map(|&n| u64::from(n)).sum();
    if total == 0 {
        return 0;
    }
    let rank = (q.clamp(0.0, 1.0) * total as f64).max(1.0);
    let mut below = 0.0;
    for (bucket, &count) in histogram.iter().enumerate() {
        let count = f64::from(count);
        if count > 0.0 && below + count >= rank {
            let start = histogram_start_ns(bucket);
            let end = bucket_end(bucket).min(longest_ns.max(start));
            let inside = (rank - below) / count;
            return (start + ((end - start) as f64 * inside) as u64).min(longest_ns.max(start));
        }
        below += count;
    }
    longest_ns
}

/// Mean of the squares, in ns², of the durations of a histogram, each taken at the middle of its bucket.
pub fn mean_square(histogram: &Histogram, longest_ns: u64) -> f64 {
    let mut total = 0.0;
    let mut sum = 0.0;
    for (bucket, &count) in histogram.iter().enumerate() {
        if count == 0 {
            continue;
        }
        let start = histogram_start_ns(bucket);
        let end = bucket_end(bucket).min(longest_ns.max(start));
        let middle = start as f64 + (end - start) as f64 / 2.0;
        total += f64::from(count);
        sum += f64::from(count) * middle * middle;
    }
    if total == 0.0 { 0.0 } else { sum / total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::waits::histogram_bucket;

    fn histogram(durations: impl Iterator<Item = u64>) -> (Histogram, u64) {
        let mut histogram = [0; HISTOGRAM_BUCKETS];
        let mut longest = 0;
        for d in durations {
            histogram[histogram_bucket(d)] += 1;
            longest = longest.max(d);
        }
        (histogram, longest)
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let (h, longest) = histogram((1..=10_000u64).map(|n| n * 1000));
        for (q, truth) in [(0.5, 5_000_000.0), (0.9, 9_000_000.0), (0.99, 9_900_000.0), (1.0, 10_000_000.0)] {
            let found = quantile_ns(&h, q, longest) as f64;
            assert!((found / truth - 1.0).abs() < 0.05, "{q}: {found} for {truth}");
        }
        assert_eq!(quantile_ns(&[0; HISTOGRAM_BUCKETS], 0.5, 0), 0);
    }

    #[test]
    fn one_duration_is_its_own_quantile() {
        let (h, longest) = histogram(std::iter::once(1_234_567));
        assert_eq!(quantile_ns(&h, 0.99, longest), 1_234_567);
    }

    #[test]
    fn mean_square_of_equal_durations_is_their_square() {
        let (h, longest) = histogram(std::iter::repeat_n(1 << 20, 50));
        let root = mean_square(&h, longest).sqrt();
        assert!((root / f64::from(1 << 20) - 1.0).abs() < 0.13, "{root}");
    }
}
