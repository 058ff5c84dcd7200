//! What was measured of the daemon, a line each.

use std::time::Duration;

use serde::Serialize;

/// One thing that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    name: String,
    value: f64,
    unit: Unit,
    /// What netdp sets out to stay below, for the usual number of each.
    at_most: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
enum Unit {
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "1")]
    Count,
}

impl Figure {
    pub(super) fn time(name: impl Into<String>, time: Duration, at_most: Option<f64>) -> Self {
        Self {
            name: name.into(),
            value: time.as_secs_f64(),
            unit: Unit::Seconds,
            at_most,
        }
    }

    pub(super) fn bytes(name: impl Into<String>, bytes: f64, at_most: Option<f64>) -> Self {
        Self {
            name: name.into(),
            value: bytes,
            unit: Unit::Bytes,
            at_most,
        }
    }

    pub(super) fn count(name: impl Into<String>, number: f64) -> Self {
        Self {
            name: name.into(),
            value: number,
            unit: Unit::Count,
            at_most: Some(0.0),
        }
    }

    pub(super) fn row(&self) -> Vec<String> {
        let text = |value| match self.unit {
            Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Bytes => format!("{:.1} MB", value / 1e6),
            Unit::Count => format!("{value:.0}"),
        };
        let at_most = self.at_most.map_or(String::new(), text);
        vec![self.name.clone(), text(self.value), at_most]
    }
}

/// The middle and the slowest of several times.
pub(super) fn quantiles(name: &str, mut times: Vec<Duration>, at_most: Option<f64>) -> Vec<Figure> {
    times.sort_unstable();
    let Some(last) = times.last().copied() else {
        return Vec::new();
    };
    vec![
        Figure::time(format!("{name}: median"), times[times.len() / 2], at_most),
        Figure::time(format!("{name}: slowest of {}", times.len()), last, None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_median_and_a_slowest() {
        let times = [3, 1, 2].map(Duration::from_millis).to_vec();
        let figures = quantiles("attach", times, Some(15e-3));
        assert_eq!(figures[0].row(), ["attach: median", "2.0 ms", "15.0 ms"]);
        assert_eq!(figures[1].row(), ["attach: slowest of 3", "3.0 ms", ""]);
        assert!(quantiles("attach", Vec::new(), None).is_empty());
    }
}
