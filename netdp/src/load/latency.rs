//! Latencies as a log-linear histogram.

use serde::{Deserialize, Serialize};

/// Values below `1 << LINEAR_BITS` nanoseconds are kept exactly; above, each
/// power of two has half as many steps, so that a value is off by 1.6 % at most.
const LINEAR_BITS: u32 = 7;
const STEPS: usize = 1 << (LINEAR_BITS - 1);
const BUCKETS: usize = (64 - LINEAR_BITS as usize) * STEPS + 2 * STEPS;

/// Counts of values in nanoseconds, of fixed size whatever is recorded.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// The quantiles users ask for, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

impl Histogram {
    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// The smallest recorded value that `quantile` (0 to 1) of all values do
    /// not exceed, rounded up to its bucket's end. `None` when empty.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(bucket_end(index).min(self.max));
            }
        }
        Some(self.max)
    }

    /// `None` when nothing was recorded.
    pub fn latency(&self) -> Option<Latency> {
        Some(Latency {
            p50: self.quantile(0.5)?,
            p99: self.quantile(0.99)?,
            p999: self.quantile(0.999)?,
            max: self.max,
        })
    }
}

fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(LINEAR_BITS);
    shift as usize * STEPS + (value >> shift) as usize
}

fn bucket_end(index: usize) -> u64 {
    let shift = (index / STEPS).saturating_sub(1);
    let start = ((index - shift * STEPS) as u64) << shift;
    start + ((1_u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_a_uniform_range() {
        let mut histogram = Histogram::default();
        for value in 1..=100_000 {
            histogram.record(value);
        }
        let latency = histogram.latency().unwrap();
        for (got, exact) in [
            (latency.p50, 50_000.0),
            (latency.p99, 99_000.0),
            (latency.p999, 99_900.0),
        ] {
            assert!(
                (got as f64 / exact - 1.0).abs() < 0.016,
                "{got} for {exact}"
            );
        }
        assert_eq!(latency.max, 100_000);
    }

    #[test]
    fn one_slow_answer_in_a_thousand_shows_only_above_p999() {
        let mut histogram = Histogram::default();
        for _ in 0..9_999 {
            histogram.record(5_000);
        }
        histogram.record(1_000_000_000);
        let latency = histogram.latency().unwrap();
        assert!(latency.p999 < 5_100, "{latency:?}");
        assert_eq!(latency.max, 1_000_000_000);
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::default().latency(), None);
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_value_within_its_step(value in any::<u64>()) {
            let end = bucket_end(bucket(value));
            prop_assert!(end >= value);
            prop_assert!((end - value) as f64 <= value as f64 / STEPS as f64);
        }

        #[test]
        fn buckets_keep_the_order(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(bucket(a.min(b)) <= bucket(a.max(b)), true);
        }
    }

    #[test]
    fn the_last_bucket_is_the_largest_value() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_end(BUCKETS - 1), u64::MAX);
    }
}
