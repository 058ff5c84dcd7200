//! Interleaved rounds, medians, and when a difference may be claimed.
//!
//! A machine's speed drifts by several percent within seconds. Modes are
//! therefore measured in turn, round by round, each round in the opposite
//! order of the one before, so that drift meets all of them alike.

use serde::{Deserialize, Serialize};

/// One way to carry the same traffic, and how to measure it once.
pub struct Mode<'a, E> {
    pub name: String,
    pub measure: Box<dyn FnMut() -> Result<f64, E> + 'a>,
}

/// What one mode gave, one value a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub values: Vec<f64>,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Distance of the quartiles to the median: half of the rounds lie within.
    /// Unlike that of the extremes it does not grow with the rounds.
    pub spread: f64,
}

/// Whether two series differ by more than the rounds leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Faster,
    Slower,
    /// The interval holds 1: nothing can be said.
    WithinSpread,
}

/// A series against the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Median of the rounds' ratios. What slows a whole round down is in both
    /// sides of its ratio.
    pub ratio: f64,
    /// Where the median of more and more rounds would be, with a confidence of
    /// 95 %.
    pub interval: [f64; 2],
    pub verdict: Verdict,
}

/// Of fewer nothing is claimed: their extremes hold the median with less than the
/// confidence that is told.
pub const LEAST_ROUNDS: usize = 6;

impl Series {
    /// # Panics
    /// When `values` is empty.
    pub fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a series needs a value");
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let [_, median, _] = quartiles(&sorted);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let spread = spread(&sorted);
        Self {
            name: name.into(),
            values,
            median,
            min,
            max,
            spread,
        }
    }

    /// Compares with `reference`, round by round.
    ///
    /// # Panics
    /// When the two have not as many rounds.
    pub fn against(&self, reference: &Self) -> Comparison {
        assert_eq!(self.values.len(), reference.values.len(), "unequal rounds");
        let pairs = self.values.iter().zip(&reference.values);
        let mut ratios: Vec<f64> = pairs.map(|(own, theirs)| own / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        let [_, ratio, _] = quartiles(&ratios);
        let interval = interval(&ratios);
        let known = ratios.len() >= LEAST_ROUNDS && ratio.is_finite() && ratio > 0.0;
        let verdict = match interval {
            [low, _] if known && low > 1.0 => Verdict::Faster,
            [_, high] if known && high < 1.0 => Verdict::Slower,
            _ => Verdict::WithinSpread,
        };
        Comparison {
            ratio,
            interval,
            verdict,
        }
    }
}

/// First quartile, median and third quartile; between two values in proportion.
fn quartiles(sorted: &[f64]) -> [f64; 3] {
    [0.25, 0.5, 0.75].map(|part| {
        let at = (sorted.len() - 1) as f64 * part;
        let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        if below == above {
            return below;
        }
        below + (above - below) * at.fract()
    })
}

/// The interval that holds the median of what was sampled with a confidence of
/// 95 %, whatever its distribution: between two of the sampled values, as far from
/// the ends as so many tosses of a coin let one side come short (David and
/// Nagaraja, Order Statistics, section 7.1). Of fewer than nine values the extremes,
/// which hold it less surely where there are fewer than six.
fn interval(sorted: &[f64]) -> [f64; 2] {
    const LEFT_OUT: f64 = 0.05;
    let count = sorted.len();
    let mut rank = 0;
    // Of `rank` heads exactly, and of no more.
    let mut exactly = 0.5_f64.powf(count as f64);
    let mut at_most = exactly;
    while 2.0 * at_most <= LEFT_OUT {
        rank += 1;
        exactly *= (count - rank + 1) as f64 / rank as f64;
        at_most += exactly;
    }
    let cut = rank.saturating_sub(1);
    [sorted[cut], sorted[count - 1 - cut]]
}

/// What has no scale to measure a spread by has an infinite one, which keeps
/// anything from being claimed from it.
fn spread(sorted: &[f64]) -> f64 {
    let [first, median, third] = quartiles(sorted);
    let spread = (third - first) / median;
    if spread.is_finite() {
        spread
    } else {
        f64::INFINITY
    }
}

/// In which order `count` modes are measured in a round: each the reverse of the
/// one before.
pub fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Measures every mode once a round, in alternating order.
///
/// # Errors
/// The first error of any measurement ends the comparison.
///
/// # Panics
/// When `rounds` is zero.
pub fn compare<E>(modes: &mut [Mode<'_, E>], rounds: usize) -> Result<Vec<Series>, E> {
    assert!(rounds > 0, "a comparison needs a round");
    let mut values = vec![Vec::with_capacity(rounds); modes.len()];
    for round in 0..rounds {
        for index in order(modes.len(), round) {
            values[index].push((modes[index].measure)()?);
        }
    }
    Ok(modes
        .iter()
        .zip(values)
        .map(|(mode, values)| Series::new(mode.name.clone(), values))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::convert::Infallible;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(Series::new("a", vec![9.0, 1.0, 5.0]).median, 5.0);
        assert_eq!(Series::new("a", vec![9.0, 1.0, 5.0, 6.0]).median, 5.5);
    }

    #[test]
    fn spread_is_relative_to_the_median() {
        let series = Series::new("a", vec![90.0, 60.0, 110.0, 200.0, 100.0]);
        assert_eq!((series.min, series.max), (60.0, 200.0));
        assert!((series.spread - 0.2).abs() < 1e-12);
    }

    #[test]
    fn one_round_that_went_wrong_does_not_make_a_spread() {
        let reference = Series::new("host", vec![100.0, 101.0, 99.0, 100.0, 100.0, 100.0]);
        let series = Series::new("a", vec![80.0, 81.0, 30.0, 80.0, 80.0, 80.0]);
        assert_eq!(series.against(&reference).verdict, Verdict::Slower);
    }

    #[test]
    fn a_round_that_is_slow_for_both_says_nothing_against_either() {
        let reference = Series::new("host", vec![100.0, 50.0, 100.0, 70.0, 90.0, 80.0]);
        let series = Series::new("a", vec![80.0, 40.0, 80.0, 56.0, 72.0, 64.0]);
        let comparison = series.against(&reference);
        let [low, high] = comparison.interval;
        assert!(high - low < 1e-9, "{comparison:?}");
        assert_eq!(comparison.verdict, Verdict::Slower);
    }

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Hollander and Wolfe, Nonparametric Statistical Methods, for the sign
        // test: so many values of each end are cut off.
        for (count, cut) in [
            (5, 0),
            (8, 0),
            (9, 1),
            (15, 3),
            (50, 17),
            (100, 39),
            (1000, 468),
        ] {
            let values: Vec<f64> = (0..count).map(f64::from).collect();
            let expected = [f64::from(cut), f64::from(count - 1 - cut)];
            assert_eq!(interval(&values), expected, "{count}");
        }
    }

    #[test]
    fn many_rounds_tell_what_few_leave_open() {
        let rounds = |count: usize, level: f64| {
            let values = (0..count).map(|round| level + [-9.0, 0.0, 9.0][round % 3]);
            values.collect::<Vec<f64>>()
        };
        let verdict = |count: usize| {
            let reference = Series::new("host", vec![100.0; count]);
            Series::new("a", rounds(count, 99.0))
                .against(&reference)
                .verdict
        };
        assert_eq!(verdict(9), Verdict::WithinSpread);
        assert_eq!(verdict(600), Verdict::Slower);
    }

    #[test]
    fn a_difference_below_the_spread_is_not_claimed() {
        let reference = Series::new("host", [100.0, 95.0, 105.0].repeat(2));
        let close = Series::new("a", [96.0, 98.0, 95.0].repeat(2));
        let far = Series::new("b", [67.0, 66.0, 68.0].repeat(2));
        let faster = Series::new("c", [150.0, 149.0, 151.0].repeat(2));
        assert_eq!(close.against(&reference).verdict, Verdict::WithinSpread);
        assert_eq!(far.against(&reference).verdict, Verdict::Slower);
        assert_eq!(faster.against(&reference).verdict, Verdict::Faster);
        assert!((far.against(&reference).ratio - 0.67).abs() < 1e-12);
    }

    #[test]
    fn the_noisier_of_the_two_decides() {
        let steady = Series::new("host", vec![100.0; 6]);
        let noisy = Series::new("a", [80.0, 60.0, 100.0].repeat(2));
        assert_eq!(noisy.against(&steady).verdict, Verdict::WithinSpread);
        assert_eq!(steady.against(&noisy).verdict, Verdict::WithinSpread);
    }

    #[test]
    fn nothing_is_claimed_from_few_rounds_or_from_zeroes() {
        let [half, one] = [50.0, 100.0].map(|value| Series::new("a", vec![value; 5]));
        let many = Series::new("b", vec![100.0; 6]);
        let zero = Series::new("c", vec![0.0; 6]);
        assert_eq!(half.against(&one).verdict, Verdict::WithinSpread);
        assert_eq!(zero.against(&many).verdict, Verdict::WithinSpread);
        assert_eq!(many.against(&zero).verdict, Verdict::WithinSpread);
    }

    fn recording<'a>(name: &'static str, log: &'a RefCell<Vec<&'static str>>) -> Mode<'a, String> {
        Mode {
            name: name.into(),
            measure: Box::new(move || {
                log.borrow_mut().push(name);
                Ok(log.borrow().len() as f64)
            }),
        }
    }

    #[test]
    fn rounds_alternate_their_order() {
        let log = RefCell::new(Vec::new());
        let mut modes = ["a", "b", "c"].map(|name| recording(name, &log));
        let series = compare(&mut modes, 3).unwrap();
        assert_eq!(*log.borrow(), ["a", "b", "c", "c", "b", "a", "a", "b", "c"]);
        assert_eq!(series[0].values, [1.0, 6.0, 7.0]);
        assert_eq!(series[2].values, [3.0, 4.0, 9.0]);
    }

    #[test]
    fn a_drift_common_to_both_modes_cancels() {
        let clock = RefCell::new(0.0);
        let drifting = |speed: f64| Mode::<Infallible> {
            name: String::new(),
            measure: Box::new({
                let clock = &clock;
                move || {
                    *clock.borrow_mut() += 1.0;
                    Ok(speed * (1.0 - 0.01 * *clock.borrow()))
                }
            }),
        };
        let series = compare(&mut [drifting(100.0), drifting(100.0)], 4).unwrap();
        let comparison = series[1].against(&series[0]);
        assert!((comparison.ratio - 1.0).abs() < 1e-3, "{comparison:?}");
    }

    #[test]
    fn the_first_error_ends_it() {
        let log = RefCell::new(Vec::new());
        let mut modes = [
            recording("a", &log),
            Mode {
                name: "broken".into(),
                measure: Box::new(|| Err("no route".to_owned())),
            },
        ];
        assert_eq!(compare(&mut modes, 3).unwrap_err(), "no route");
        assert_eq!(*log.borrow(), ["a"]);
    }
}
