//! The demo's results, for people and for programs.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::checks::Check;
use super::measure::{Metric, ModeResult};
use crate::load::{Unit, Verdict};

/// All that the demo found. Its JSON fields are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether every check passed.
    pub passed: bool,
    pub checks: Vec<Check>,
    /// Empty when a check failed, for a path that does not work has no speed,
    /// and when no rounds were asked for.
    pub metrics: Vec<Metric>,
}

impl Report {
    /// Traffic that was lost or refused while measured is a failed check.
    pub(super) fn new(mut checks: Vec<Check>, metrics: Vec<Metric>) -> Self {
        for metric in &metrics {
            for mode in &metric.modes {
                checks.extend(without_errors(metric, mode));
            }
        }
        Self {
            passed: checks.iter().all(|check| check.passed),
            checks,
            metrics,
        }
    }

    pub(super) fn table(&self) -> String {
        let mut checks = Table::new();
        checks
            .load_preset(UTF8_FULL_CONDENSED)
            .set_header(["check", "", "seen"]);
        for check in &self.checks {
            let mark = if check.passed { "ok" } else { "FAILED" };
            checks.add_row([&check.name, mark, &check.detail]);
        }
        if self.metrics.is_empty() {
            return checks.to_string();
        }
        let mut rates = Table::new();
        rates.load_preset(UTF8_FULL_CONDENSED).set_header([
            "traffic",
            "mode",
            "median",
            "spread",
            "to host mode",
            "p50",
            "p99",
            "errors",
        ]);
        for column in rates.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for metric in &self.metrics {
            for (index, mode) in metric.modes.iter().enumerate() {
                rates.add_row([
                    if index == 0 {
                        metric.name.clone()
                    } else {
                        String::new()
                    },
                    mode.series.name.clone(),
                    rate(mode.series.median, metric.unit),
                    format!("{:.0} %", mode.series.spread * 100.0),
                    ratio(mode),
                    median_latency(mode, |latency| latency.p50),
                    median_latency(mode, |latency| latency.p99),
                    mode.errors.to_string(),
                ]);
            }
        }
        format!(
            "{checks}\n{rates}\n\
             Client and server on one CPU, modes in turn. In brackets: so many rounds leave open whether there is a difference."
        )
    }
}

fn without_errors(metric: &Metric, mode: &ModeResult) -> Option<Check> {
    (mode.errors > 0).then(|| {
        let first = mode
            .rounds
            .iter()
            .find_map(|round| round.first_error.clone());
        Check::new(
            format!("{} in {} without an error", metric.name, mode.series.name),
            Err(format!(
                "{} errors; {}",
                mode.errors,
                first.unwrap_or_default()
            )),
        )
    })
}

fn rate(value: f64, unit: Unit) -> String {
    match unit {
        Unit::BitsPerSecond => format!("{:.2} Gbit/s", value / 1e9),
        Unit::PerSecond if value >= 1e4 => format!("{:.1} k/s", value / 1e3),
        Unit::PerSecond => format!("{value:.0} /s"),
    }
}

fn ratio(mode: &ModeResult) -> String {
    match mode.against_host {
        None => "1".into(),
        Some(comparison) if comparison.verdict == Verdict::WithinSpread => {
            format!("({:.2})", comparison.ratio)
        }
        Some(comparison) => format!("{:.2}", comparison.ratio),
    }
}

fn median_latency(mode: &ModeResult, of: impl Fn(&crate::load::Latency) -> u64) -> String {
    let mut values: Vec<u64> = mode
        .rounds
        .iter()
        .filter_map(|round| round.latency.as_ref().map(&of))
        .collect();
    values.sort_unstable();
    match values.get(values.len() / 2) {
        Some(&nanoseconds) => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Kind, Measurement, Series};

    fn mode(name: &str, values: &[f64], errors: u64) -> ModeResult {
        let series = Series::new(name, values.repeat(2));
        let host = Series::new("host mode", [100.0, 101.0, 99.0].repeat(2));
        let round = Measurement {
            kind: Kind::Rr,
            target: "198.18.0.2:7001".parse().unwrap(),
            operations: 1,
            seconds: 1.0,
            rate: values[0],
            unit: Unit::PerSecond,
            latency: None,
            bytes: 2,
            lost: 0,
            errors,
            first_error: (errors > 0).then(|| "connect: refused".into()),
            cpu_seconds: 0.5,
            machine_cpu_seconds: None,
            pinned_cpu_seconds: None,
        };
        ModeResult {
            against_host: Some(series.against(&host)),
            series,
            errors,
            rounds: vec![round],
        }
    }

    fn report(errors: u64) -> Report {
        let metric = Metric {
            name: "TCP round trips".into(),
            unit: Unit::PerSecond,
            modes: vec![
                mode("slow", &[67.0, 66.0, 68.0], 0),
                mode("near", &[99.0, 98.0, 100.0], errors),
            ],
        };
        Report::new(vec![Check::new("fine", Ok("yes".into()))], vec![metric])
    }

    #[test]
    fn a_difference_below_the_spread_is_in_brackets() {
        let table = report(0).table();
        assert!(
            table.contains(" 0.67 ") && table.contains("(0.99)"),
            "{table}"
        );
    }

    #[test]
    fn an_error_under_load_fails_the_demo() {
        assert!(report(0).passed);
        let failed = report(3);
        assert!(!failed.passed);
        assert!(
            failed.table().contains("connect: refused"),
            "{}",
            failed.table()
        );
    }
}
