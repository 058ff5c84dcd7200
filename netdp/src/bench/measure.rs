//! One workload on several ways, in turn, and what came out of it.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Context;
use serde::Serialize;

use super::plan::Effort;
use crate::load::{Comparison, Kind, Latency, Measurement, Series, Unit, order};
use crate::printed::one_line;
use crate::progress::Progress;
use crate::world::interrupt;
use crate::world::load::Load;
use crate::world::process::ProcessError;

/// A server, and the CPU that it shares with its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) target: SocketAddr,
    pub(super) cpu: usize,
}

/// A way to a server, or to several that are asked at once.
pub(super) struct Lane<'a> {
    /// As the command line and JSON call it.
    pub(super) name: String,
    /// As people call it.
    pub(super) title: String,
    /// `netdp` where the client runs.
    pub(super) client: Box<dyn Fn() -> Command + 'a>,
    pub(super) pairs: Vec<Pair>,
    /// Adds to each round's result what its clients can't know.
    pub(super) judge: Option<Judge<'a>>,
}

pub(super) type Judge<'a> = Box<dyn Fn(&mut Measurement) -> anyhow::Result<()> + 'a>;

impl Lane<'_> {
    /// Of several pairs the average one's rate, and what all of them did.
    fn measure(&self, kind: Kind, effort: &Effort) -> anyhow::Result<Measurement> {
        let loads = self.pairs.iter().map(|pair| {
            let load = Load {
                kind,
                target: pair.target,
                duration: effort.duration,
                warm_up: effort.warm_up,
                cpu: pair.cpu,
            };
            (load, (self.client)())
        });
        let measured = Load::run_at_once(loads.collect())?;
        let measured = Measurement::of_average(&measured);
        let mut measured = measured.context("nothing was to be measured")?;
        if let Some(judge) = &self.judge {
            judge(&mut measured)?;
        }
        Ok(measured)
    }
}

/// What one lane gave.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LaneResult {
    pub(super) mode: String,
    pub(super) title: String,
    /// None where not every round could be measured.
    pub(super) series: Option<Series>,
    /// Against the first lane; none for that itself.
    pub(super) against_reference: Option<Comparison>,
    /// Of each quantile the median of the rounds, in nanoseconds.
    pub(super) latency: Option<Latency>,
    /// CPU time of the shared CPU, in seconds: for an operation, or for a Gbit of
    /// bulk.
    pub(super) cpu_per_operation: Option<f64>,
    /// What was not answered, or refused.
    pub(super) errors: u64,
    /// Datagrams that never arrived.
    pub(super) lost: u64,
    pub(super) first_error: Option<String>,
    pub(super) rounds: Vec<Measurement>,
}

/// One kind of traffic on all lanes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Workload {
    pub(super) workload: Kind,
    pub(super) unit: Unit,
    pub(super) modes: Vec<LaneResult>,
}

/// Measures every lane once a round, in alternating order. A lane that can't be
/// measured keeps the others from nothing.
///
/// # Errors
/// On an interrupt.
pub(super) fn measure(
    lanes: &[Lane<'_>],
    kind: Kind,
    effort: &Effort,
    progress: &Progress,
) -> Result<Workload, ProcessError> {
    let mut rounds = vec![Vec::with_capacity(effort.rounds); lanes.len()];
    let mut failures: Vec<Option<String>> = vec![None; lanes.len()];
    for round in 0..effort.rounds {
        for index in order(lanes.len(), round) {
            if interrupt::received().is_some() {
                return Err(ProcessError::Interrupted);
            }
            // Once is enough: each further round would wait in vain again.
            if failures[index].is_none() {
                match lanes[index].measure(kind, effort) {
                    Ok(measurement) => rounds[index].push(measurement),
                    Err(_) if interrupt::received().is_some() => {
                        return Err(ProcessError::Interrupted);
                    }
                    Err(why) => failures[index] = Some(one_line(&why)),
                }
            }
            progress.advance(1);
        }
    }
    let measured = lanes.iter().zip(rounds.into_iter().zip(failures));
    let mut modes: Vec<LaneResult> = measured
        .map(|(lane, (rounds, failure))| LaneResult::new(lane, rounds, failure))
        .collect();
    if let Some(reference) = modes[0].series.clone() {
        for mode in &mut modes[1..] {
            let series = mode.series.as_ref();
            mode.against_reference = series.map(|series| series.against(&reference));
        }
    }
    Ok(Workload {
        workload: kind,
        unit: unit(kind),
        modes,
    })
}

pub(super) fn unit(kind: Kind) -> Unit {
    match kind {
        Kind::Bulk | Kind::BulkBack => Unit::BitsPerSecond,
        _ => Unit::PerSecond,
    }
}

impl LaneResult {
    pub(super) fn new(lane: &Lane<'_>, rounds: Vec<Measurement>, failure: Option<String>) -> Self {
        let complete = failure.is_none() && !rounds.is_empty();
        let rates = rounds.iter().map(|round| round.rate).collect();
        let first_error = rounds.iter().find_map(|round| round.first_error.clone());
        Self {
            mode: lane.name.clone(),
            title: lane.title.clone(),
            series: complete.then(|| Series::new(lane.name.clone(), rates)),
            against_reference: None,
            latency: latency(&rounds),
            cpu_per_operation: cpu_per_operation(&rounds),
            errors: rounds.iter().map(|round| round.errors).sum::<u64>()
                + u64::from(failure.is_some()),
            lost: rounds.iter().map(|round| round.lost).sum(),
            first_error: failure.or(first_error),
            rounds,
        }
    }
}

fn latency(rounds: &[Measurement]) -> Option<Latency> {
    let median = |of: fn(&Latency) -> u64| {
        let mut values: Vec<u64> = rounds
            .iter()
            .filter_map(|round| round.latency.as_ref().map(of))
            .collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Some(Latency {
        p50: median(|latency| latency.p50)?,
        p99: median(|latency| latency.p99)?,
        p999: median(|latency| latency.p999)?,
        max: median(|latency| latency.max)?,
    })
}

/// Over all rounds together, for the kernel counts CPU time in ticks of 10 ms.
fn cpu_per_operation(rounds: &[Measurement]) -> Option<f64> {
    let used = rounds.iter().map(|round| round.pinned_cpu_seconds);
    let used: f64 = used.collect::<Option<Vec<f64>>>()?.iter().sum();
    let done = |round: &Measurement| match round.unit {
        Unit::BitsPerSecond => round.bytes as f64 * 8.0 / 1e9,
        Unit::PerSecond => round.operations as f64,
    };
    let done: f64 = rounds.iter().map(done).sum();
    (done > 0.0).then_some(used / done)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bench) fn measurement(rate: f64, p50: u64) -> Measurement {
        Measurement {
            kind: Kind::Rr,
            target: "198.18.0.2:7001".parse().unwrap(),
            operations: rate as u64,
            seconds: 1.0,
            rate,
            unit: Unit::PerSecond,
            latency: Some(Latency {
                p50,
                p99: 2 * p50,
                p999: 3 * p50,
                max: 9 * p50,
            }),
            bytes: 2,
            lost: 0,
            errors: 0,
            first_error: None,
            cpu_seconds: 0.5,
            machine_cpu_seconds: None,
            pinned_cpu_seconds: Some(1.0),
        }
    }

    pub(in crate::bench) fn lane(name: &str) -> Lane<'static> {
        Lane {
            name: name.into(),
            title: name.into(),
            client: Box::new(|| Command::new("false")),
            pairs: vec![Pair {
                target: "198.18.0.2:7001".parse().unwrap(),
                cpu: 0,
            }],
            judge: None,
        }
    }

    #[test]
    fn a_lane_has_the_median_of_its_rounds() {
        let rounds = [(100.0, 9), (300.0, 1), (200.0, 5)];
        let rounds = rounds.map(|(rate, p50)| measurement(rate, p50)).to_vec();
        let result = LaneResult::new(&lane("netdp"), rounds, None);
        assert_eq!(result.series.unwrap().median, 200.0);
        assert_eq!(result.latency.unwrap().p99, 10);
        // Three seconds for six hundred operations.
        assert_eq!(result.cpu_per_operation, Some(0.005));
        assert_eq!(result.errors, 0);
    }

    #[test]
    fn a_lane_that_failed_in_a_round_has_no_rate() {
        let rounds = vec![measurement(100.0, 9)];
        let result = LaneResult::new(&lane("nft"), rounds, Some("no route".into()));
        assert_eq!(result.series, None);
        assert_eq!(result.errors, 1);
        assert_eq!(result.first_error.as_deref(), Some("no route"));
    }

    #[test]
    fn what_can_not_be_measured_holds_nobody_up() {
        let effort = Effort {
            rounds: 3,
            duration: std::time::Duration::from_millis(20),
            warm_up: std::time::Duration::from_millis(5),
            cpu: 0,
        };
        let lanes = [lane("host"), lane("netdp")];
        let workload = measure(&lanes, Kind::Rr, &effort, &Progress::new()).unwrap();
        assert!(workload.modes.iter().all(|mode| mode.errors == 1));
        assert!(workload.modes.iter().all(|mode| mode.series.is_none()));
    }
}
