//! Latencies of many operations, by their quantiles.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of a value that is told: 0.1 %.
const DIGITS: u8 = 3;

/// Longer ones count as this one.
const LONGEST: Duration = Duration::from_secs(3600);

/// Counts of values in nanoseconds, of fixed size whatever is recorded.
#[derive(Clone)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

/// The quantiles users ask for, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    /// Of each quantile the average. None of none.
    pub(super) fn of_average<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Option<Self> {
        let count = all.clone().count() as u64;
        let average = |of: fn(&Self) -> u64| {
            let sum: u64 = all.clone().map(of).sum();
            sum.checked_div(count)
        };
        Some(Self {
            p50: average(|it| it.p50)?,
            p99: average(|it| it.p99)?,
            p999: average(|it| it.p999)?,
            max: all.clone().map(|it| it.max).max()?,
        })
    }
}

impl Default for Histogram {
    fn default() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        Self(hdrhistogram::Histogram::new_with_max(longest, DIGITS).expect("bounds in order"))
    }
}

impl Histogram {
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// `None` when nothing was recorded.
    pub fn latency(&self) -> Option<Latency> {
        let quantile = |part| self.0.value_at_quantile(part);
        (!self.0.is_empty()).then(|| Latency {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: self.0.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                (got as f64 / exact - 1.0).abs() < 0.001,
                "{got} for {exact}"
            );
        }
        assert!((latency.max as f64 / 100_000.0 - 1.0).abs() < 0.001);
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
        assert!(latency.max >= 1_000_000_000, "{latency:?}");
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::default().latency(), None);
    }
}
