//! What was measured, for people and for programs.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::claim::Busy;
use super::measure::{LaneResult, Workload, unit};
use super::plan::Effort;
use super::programs::ProgramsResult;
use super::sizes::GrowthResult;
use crate::load::{Comparison, Kind, Latency, Unit, Verdict};
use crate::version;

/// All that was measured. Its JSON fields are stable.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    #[serde(flatten)]
    pub(super) effort: EffortResult,
    #[serde(flatten)]
    pub(super) busy: Option<Busy>,
    pub(super) left_out: Vec<LeftOut>,
    /// Parts that ended early; what they had measured before is there.
    pub(super) failed: Vec<Failed>,
    pub(super) scenarios: Vec<ScenarioResult>,
    pub(super) growth: Vec<GrowthResult>,
    pub(super) programs: Vec<ProgramsResult>,
}

/// What it was measured on, and how.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    /// Its version.
    pub(super) netdp: String,
    /// What it was built of, where that is known.
    pub(super) commit: Option<String>,
    pub(super) kernel: String,
    pub(super) cpus: usize,
    /// As the kernel calls them; not all do.
    pub(super) cpu_model: Option<String>,
    /// The words that measured it.
    pub(super) command: String,
    pub(super) method: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct EffortResult {
    pub(super) cpu: usize,
    pub(super) rounds: usize,
    pub(super) milliseconds: u128,
}

impl From<Effort> for EffortResult {
    fn from(effort: Effort) -> Self {
        Self {
            cpu: effort.cpu,
            rounds: effort.rounds,
            milliseconds: effort.duration.as_millis(),
        }
    }
}

impl Effort {
    /// In words; `who` runs on the CPU.
    pub(super) fn text(&self, who: &str) -> String {
        format!(
            "{who} on CPU {}, median of {} of {} ms, modes in turn",
            self.cpu,
            counted(self.rounds as u64, "round"),
            self.duration.as_millis()
        )
    }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) mode: String,
    #[serde(skip)]
    pub(super) title: String,
    pub(super) why: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Failed {
    pub(super) part: String,
    pub(super) why: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ScenarioResult {
    pub(super) scenario: String,
    pub(super) title: String,
    pub(super) workloads: Vec<Workload>,
}

impl Machine {
    pub(super) fn here(method: String) -> Self {
        let mut words: Vec<String> = std::env::args().collect();
        if let Some(program) = words.first_mut() {
            *program = "netdp".into();
        }
        Self {
            netdp: version::VERSION.into(),
            commit: version::commit().map(str::to_owned),
            kernel: nix::sys::utsname::uname()
                .map(|names| names.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: cpu_model(),
            command: words.join(" "),
            method,
        }
    }

    pub(super) fn conditions(&self) -> String {
        let Self {
            netdp,
            kernel,
            cpus,
            method,
            ..
        } = self;
        let brackets = |text: &Option<String>| match text {
            Some(text) => format!(" ({text})"),
            None => String::new(),
        };
        let (commit, model) = (brackets(&self.commit), brackets(&self.cpu_model));
        format!("netdp {netdp}{commit}, Linux {kernel}, {cpus} CPUs{model}; {method}")
    }

    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.command, self.conditions())
    }
}

/// Of the first CPU.
fn cpu_model() -> Option<String> {
    let known = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut lines = known.lines().filter_map(|line| line.split_once(':'));
    let (_, model) = lines.find(|(name, _)| name.trim() == "model name")?;
    Some(model.trim().to_owned())
}

impl Report {
    /// Whether all that could be measured was, without an error.
    pub(super) fn is_complete(&self) -> bool {
        let points = self.growth.iter().flat_map(|growth| &growth.modes);
        let points = points.flat_map(|mode| &mode.points);
        let mut points = points.filter_map(|point| point.result.as_ref());
        let workloads = self
            .scenarios
            .iter()
            .flat_map(|scenario| &scenario.workloads);
        let mut modes = workloads.flat_map(|workload| &workload.modes);
        let is_complete = |mode: &LaneResult| mode.series.is_some() && mode.errors == 0;
        self.failed.is_empty() && modes.all(is_complete) && points.all(is_complete)
    }

    /// Whether nothing at all was measured.
    pub(super) fn is_empty(&self) -> bool {
        !self.compares() && self.programs.is_empty()
    }

    /// Whether there is anything that is compared with something.
    pub(super) fn compares(&self) -> bool {
        !self.scenarios.is_empty() || !self.growth.is_empty()
    }

    pub(super) fn table(&self) -> String {
        let mut text = vec![self.machine.text()];
        for scenario in &self.scenarios {
            let names = scenario
                .workloads
                .iter()
                .map(|workload| short(workload.workload));
            let header: Vec<&str> = [scenario.title.as_str()].into_iter().chain(names).collect();
            text.push(String::new());
            text.push(table(&header, 1, ratio_rows(scenario)));
            text.push(table(&DETAILS, 2, detail_rows(scenario)));
        }
        for growth in &self.growth {
            text.push(String::new());
            let header = growth_header(growth);
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            text.push(table(&header, 1, growth_rows(growth)));
        }
        for programs in &self.programs {
            text.push(String::new());
            for figures in programs.tables() {
                let header: Vec<&str> = figures.header.iter().map(String::as_str).collect();
                text.push(table(&header, figures.words, figures.rows));
            }
            text.push(programs.remark());
        }
        if self.compares() {
            text.push(format!("{RATIOS}, {BRACKETS} {SPREAD}"));
        }
        text.extend(self.remarks());
        text.join("\n")
    }

    /// What was left out, and what went wrong.
    pub(super) fn remarks(&self) -> Vec<String> {
        let left_out = self.left_out.iter();
        let mut lines: Vec<String> = left_out
            .map(|LeftOut { title, why, .. }| format!("Left out: {title}: {why}"))
            .collect();
        let failed = self.failed.iter();
        lines.extend(self.busy.and_then(|busy| busy.text()));
        lines.extend(failed.map(|Failed { part, why }| format!("Left out: {part}: {why}")));
        for scenario in &self.scenarios {
            for workload in &scenario.workloads {
                for mode in workload.modes.iter().filter(|mode| mode.errors > 0) {
                    lines.push(format!(
                        "{}: {}, {}, {}: {}",
                        counted(mode.errors, "error"),
                        scenario.title,
                        short(workload.workload),
                        mode.title,
                        mode.first_error.as_deref().unwrap_or_default()
                    ));
                }
            }
        }
        for growth in &self.growth {
            for mode in &growth.modes {
                for point in &mode.points {
                    let place = format!("{}, {}, {}", growth.title, mode.title, point.size);
                    if let Some(why) = &point.left_out {
                        lines.push(format!("Left out: {place}: {why}"));
                    }
                    let failed = point.result.as_ref().filter(|result| result.errors > 0);
                    if let Some(result) = failed {
                        let first = result.first_error.as_deref().unwrap_or_default();
                        let errors = counted(result.errors, "error");
                        lines.push(format!("{errors}: {place}: {first}"));
                    }
                }
            }
        }
        lines
    }
}

const RATIOS: &str = "Ratios are to the first mode (by size: to the first size)";
/// How a ratio comes out of rounds: goes on after what it is a ratio of.
pub(super) const BRACKETS: &str = "of the rounds' ratios the median, and beside it where that \
                                   would be of more and more rounds, with a confidence of 95 %: \
                                   in brackets where this holds 1 or there are fewer than six \
                                   rounds, and nothing is claimed.";
const SPREAD: &str = "Spread: between the quartiles, to the median.";

/// The head of [`growth_rows`].
pub(super) fn growth_header(growth: &GrowthResult) -> Vec<String> {
    let sizes = growth.modes.first().map(|mode| &mode.points[..]);
    let sizes = sizes.unwrap_or_default().iter();
    let sizes = sizes.map(|point| point.size.to_string());
    [growth.title.clone()].into_iter().chain(sizes).collect()
}

/// A row for each mode: a rate of the first size, ratios to it of the others, and
/// where they are.
pub(super) fn growth_rows(growth: &GrowthResult) -> Vec<Vec<String>> {
    let rows = growth.modes.iter().map(|mode| {
        let cells = mode.points.iter().map(|point| {
            let Some(result) = &point.result else {
                return "none".to_owned();
            };
            match (&result.against_reference, &result.series) {
                (Some(compared), _) => {
                    format!("{}, {}", compared_text(compared), interval(compared))
                }
                (None, Some(series)) => rate(series.median, unit(growth.workload)),
                (None, None) => "none".into(),
            }
        });
        [mode.title.clone()].into_iter().chain(cells).collect()
    });
    rows.collect()
}

/// The first `names` columns are words, the others figures.
pub(super) fn table(header: &[&str], names: usize, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.add_rows(rows);
    table.to_string()
}

/// A row for each mode: its title, and a ratio for each workload. Of the first
/// mode rates.
pub(super) fn ratio_rows(scenario: &ScenarioResult) -> Vec<Vec<String>> {
    let Some(first) = scenario.workloads.first() else {
        return Vec::new();
    };
    let rows = first.modes.iter().enumerate().map(|(row, lane)| {
        let cells = scenario.workloads.iter().map(|workload| {
            let mode = &workload.modes[row];
            match (&mode.series, row) {
                (Some(series), 0) => rate(series.median, workload.unit),
                _ => ratio(mode),
            }
        });
        [lane.title.clone()].into_iter().chain(cells).collect()
    });
    rows.collect()
}

/// The head of [`detail_rows`].
pub(super) const DETAILS: [&str; 12] = [
    "workload", "mode", "ratio", "95 %", "rate", "spread", "p50", "p99", "p99.9", "CPU", "lost",
    "errors",
];

/// A row for each workload and mode.
pub(super) fn detail_rows(scenario: &ScenarioResult) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for workload in &scenario.workloads {
        for (row, mode) in workload.modes.iter().enumerate() {
            let is_first = row == 0;
            let name = if is_first {
                short(workload.workload)
            } else {
                ""
            };
            let quantile = |of: fn(&Latency) -> u64| {
                let latency = mode.latency.as_ref().map(of);
                latency.map_or(String::new(), |time| microseconds(time as f64 / 1e9))
            };
            let compared = mode.against_reference;
            let series = mode.series.as_ref();
            rows.push(vec![
                name.to_owned(),
                mode.title.clone(),
                if is_first { "1".into() } else { ratio(mode) },
                compared.map_or(String::new(), |compared| interval(&compared)),
                series.map_or("none".into(), |series| rate(series.median, workload.unit)),
                series.map_or(String::new(), |series| percent(series.spread)),
                quantile(|latency| latency.p50),
                quantile(|latency| latency.p99),
                quantile(|latency| latency.p999),
                mode.cpu_per_operation
                    .map_or(String::new(), |time| cpu(time, workload.unit)),
                count(mode.lost),
                count(mode.errors),
            ]);
        }
    }
    rows
}

/// For the head of a column.
pub(super) fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Rr => "TCP RR",
        Kind::Crr => "TCP CRR",
        Kind::Bulk => "bulk",
        Kind::BulkBack => "bulk back",
        Kind::UdpRr => "UDP RR",
        Kind::UdpPps => "UDP pps",
        Kind::UdpDropped => "UDP dropped",
        Kind::Http => "HTTP",
    }
}

pub(super) fn rate(value: f64, unit: Unit) -> String {
    match unit {
        Unit::BitsPerSecond => format!("{:.1} Gbit/s", value / 1e9),
        Unit::PerSecond if value >= 1e4 => format!("{:.1} k/s", value / 1e3),
        Unit::PerSecond => format!("{value:.0} /s"),
    }
}

/// Empty where there is nothing to compare.
pub(super) fn ratio(mode: &LaneResult) -> String {
    mode.against_reference
        .map_or(String::new(), |compared| compared_text(&compared))
}

pub(super) fn compared_text(compared: &Comparison) -> String {
    match compared.verdict {
        Verdict::WithinSpread => format!("({:.2})", compared.ratio),
        _ => format!("{:.2}", compared.ratio),
    }
}

/// Where the ratio is, with a confidence of 95 %. A bound that is not 1 is never
/// rounded to it.
pub(super) fn interval(compared: &Comparison) -> String {
    let [low, high] = compared.interval.map(|bound| {
        let mut texts = (2..).map(|digits| format!("{bound:.digits$}"));
        let text = texts.find(|text| bound == 1.0 || text.parse() != Ok(1.0));
        text.unwrap_or_default()
    });
    format!("{low} to {high}")
}

pub(super) fn percent(part: f64) -> String {
    if part.is_finite() {
        format!("{:.0} %", part * 100.0)
    } else {
        "unknown".into()
    }
}

pub(super) fn microseconds(seconds: f64) -> String {
    format!("{:.1} µs", seconds * 1e6)
}

fn cpu(seconds: f64, unit: Unit) -> String {
    match unit {
        Unit::BitsPerSecond => format!("{:.1} ms/Gbit", seconds * 1e3),
        Unit::PerSecond => microseconds(seconds),
    }
}

/// With an s where there isn't one alone.
fn counted(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

fn count(number: u64) -> String {
    match number {
        0 => String::new(),
        number => number.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests;
