//! `netdp bench control`: how long the daemon takes for what it is asked, and
//! what it holds on to.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::BenchFormat;
use super::attach::{Requests, Wanted};
use super::report::{Machine, table};
use crate::netns::Namespace;
use crate::progress::Progress;
use crate::world::process::ProcessError;
use crate::world::{World, interrupt};

/// `netdp bench control`
#[derive(Clone, Debug, clap::Args)]
pub struct ControlArgs {
    /// Endpoints that the daemon has in the end
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub endpoints: u16,
    /// How many are attached at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub at_once: u16,
    /// Ports that are published in one request
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=40_000))]
    pub ports: u16,
    /// How often an endpoint comes and goes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub cycles: u32,
    /// A hundred endpoints, fifty at once, two hundred cycles
    #[arg(long, conflicts_with_all = ["endpoints", "at_once", "cycles"])]
    pub quick: bool,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub format: BenchFormat,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    machine: Machine,
    figures: Vec<Figure>,
}

/// One thing that was measured.
#[derive(Clone, Debug, Serialize)]
struct Figure {
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
    fn time(name: impl Into<String>, time: Duration, at_most: Option<f64>) -> Self {
        Self {
            name: name.into(),
            value: time.as_secs_f64(),
            unit: Unit::Seconds,
            at_most,
        }
    }

    fn bytes(name: impl Into<String>, bytes: f64, at_most: Option<f64>) -> Self {
        Self {
            name: name.into(),
            value: bytes,
            unit: Unit::Bytes,
            at_most,
        }
    }

    fn count(name: impl Into<String>, number: f64) -> Self {
        Self {
            name: name.into(),
            value: number,
            unit: Unit::Count,
            at_most: Some(0.0),
        }
    }

    fn row(&self) -> Vec<String> {
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

/// # Errors
/// When something could not be set up or was refused.
pub(super) fn run(args: &ControlArgs) -> anyhow::Result<ExitCode> {
    interrupt::catch().context("cannot catch signals")?;
    let mut counts = Counts {
        endpoints: args.endpoints.into(),
        at_once: args.at_once.into(),
        ports: args.ports,
        cycles: args.cycles,
    };
    if args.quick {
        (counts.endpoints, counts.at_once, counts.cycles) = (100, 50, 200);
    }
    ensure!(
        counts.at_once <= counts.endpoints,
        "--at-once {} is more than --endpoints {}",
        counts.at_once,
        counts.endpoints
    );
    let figures = measure(&counts);
    if let Some(code) = interrupt::exit_code("the measurement") {
        return Ok(code);
    }
    let report = Report {
        machine: Machine::here("requests to the daemon's socket".into()),
        figures: figures?,
    };
    match args.format {
        BenchFormat::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        BenchFormat::Table => {
            let rows = report.figures.iter().map(Figure::row).collect();
            println!("{}", report.machine.text());
            println!("{}", table(&["daemon", "measured", "at most"], 1, rows));
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Counts {
    endpoints: usize,
    at_once: usize,
    ports: u16,
    cycles: u32,
}

/// Endpoints that are attached one by one.
const ONE_BY_ONE: usize = 50;
const COMMANDS: usize = 10;
/// Where each endpoint's published port is, and further up those of one request.
const FIRST_PORT: u16 = 10_001;
const FIRST_OF_MANY: u16 = 20_001;
/// A daemon at rest: what it began by itself is over.
const REST: Duration = Duration::from_secs(1);

fn measure(counts: &Counts) -> anyhow::Result<Vec<Figure>> {
    let progress = Progress::new();
    let mut figures = Vec::new();
    progress.step("starting the daemon");
    let mut world = World::new("bench")?;
    let began = Instant::now();
    world.start_daemon::<&str>(&[])?;
    figures.push(Figure::time("start", began.elapsed(), None));
    std::thread::sleep(REST);
    let held = Held::by(&world)?;
    figures.push(Figure::bytes(
        "memory at rest (resident)",
        held.resident,
        Some(30e6),
    ));
    figures.push(Figure::bytes(
        "of it its own (anonymous)",
        held.anonymous,
        None,
    ));

    progress.step("making namespaces");
    let mut namespaces = Vec::new();
    let mut wanted = Vec::new();
    for number in 0..counts.endpoints {
        going_on()?;
        let name = format!("e{number}");
        let namespace = world.add_namespace(&name)?;
        let port = FIRST_PORT + number as u16;
        wanted.push(Wanted::new(
            &name,
            &namespace,
            None,
            &[format!("{port}:80")],
        )?);
        namespaces.push(namespace);
    }
    let requests = Requests::new(&world)?;

    progress.step("attaching endpoints");
    let at_once_from = counts.endpoints - counts.at_once;
    let one_by_one = ONE_BY_ONE.min(at_once_from);
    let mut times = Vec::new();
    for wanted in &wanted[..one_by_one] {
        going_on()?;
        times.push(requests.attach(wanted)?);
    }
    figures.extend(quantiles("attach, one port published", times, Some(15e-3)));
    figures.extend(commands(&world, COMMANDS)?);
    let parallel = requests.attach_all(&wanted[at_once_from..], counts.at_once)?;
    figures.push(Figure::time(
        format!("attach {} at once", counts.at_once),
        parallel,
        (counts.at_once == 200).then_some(2.0),
    ));
    for some in wanted[one_by_one..at_once_from].chunks(50) {
        going_on()?;
        requests.attach_all(some, 50)?;
    }
    let held = Held::by(&world)?;
    figures.push(Figure::bytes(
        format!("memory with {} endpoints", counts.endpoints),
        held.resident,
        None,
    ));

    progress.step("publishing ports");
    figures.extend(publish(&requests, &wanted[0].name, counts.ports)?);

    progress.step("starting the daemon again");
    going_on()?;
    world.stop_daemon()?;
    let began = Instant::now();
    world.start_daemon::<&str>(&[])?;
    figures.push(Figure::time(
        format!("start with {} endpoints", counts.endpoints),
        began.elapsed(),
        (counts.endpoints == 1000).then_some(2.0),
    ));

    progress.step("removing endpoints");
    going_on()?;
    let removed = requests.detach_all(&wanted, 50)?;
    figures.push(Figure::time(
        format!("remove {} endpoints, fifty at once", counts.endpoints),
        removed,
        None,
    ));
    if counts.cycles > 0 {
        figures.extend(cycles(
            &world,
            &requests,
            &wanted[0],
            counts.cycles,
            &progress,
        )?);
    }
    progress.step("removing everything");
    drop::<Vec<Namespace>>(namespaces);
    Ok(figures)
}

fn going_on() -> Result<(), ProcessError> {
    match interrupt::received() {
        None => Ok(()),
        Some(_) => Err(ProcessError::Interrupted),
    }
}

fn quantiles(name: &str, mut times: Vec<Duration>, at_most: Option<f64>) -> Vec<Figure> {
    times.sort_unstable();
    let Some(last) = times.last().copied() else {
        return Vec::new();
    };
    vec![
        Figure::time(format!("{name}: median"), times[times.len() / 2], at_most),
        Figure::time(format!("{name}: slowest of {}", times.len()), last, None),
    ]
}

/// By the command, as people and scripts do it.
fn commands(world: &World, count: usize) -> anyhow::Result<Vec<Figure>> {
    let mut times = Vec::new();
    for number in 0..count {
        going_on()?;
        let name = format!("c{number}");
        let namespace = world.add_namespace(&name)?;
        let path = namespace.path().display().to_string();
        let began = Instant::now();
        world.netdp_ok(&["attach", "--netns", &path, "--name", &name])?;
        times.push(began.elapsed());
        world.netdp_ok(&["rm", "-f", &name])?;
    }
    Ok(quantiles("attach, by the command", times, None))
}

fn publish(requests: &Requests, name: &str, count: u16) -> anyhow::Result<Vec<Figure>> {
    let last = FIRST_OF_MANY + (count - 1);
    let singles: Vec<String> = (FIRST_OF_MANY..=last)
        .map(|port| format!("{port}:{port}"))
        .collect();
    let range = [format!("{FIRST_OF_MANY}-{last}:{FIRST_OF_MANY}-{last}")];
    let at_most = (count == 10_000).then_some(1.0);
    let mut figures = Vec::new();
    for (what, ports) in [
        ("ports, each by itself", &singles[..]),
        ("ports as a range", &range),
    ] {
        going_on()?;
        let published = requests.publish(name, ports)?;
        figures.push(Figure::time(
            format!("publish {count} {what}"),
            published,
            at_most,
        ));
        let taken_back = requests.unpublish(name, ports)?;
        figures.push(Figure::time(
            format!("unpublish {count} {what}"),
            taken_back,
            None,
        ));
    }
    Ok(figures)
}

/// What an endpoint that comes and goes leaves behind. The first tenth is not
/// counted: tables and pools of memory grow to the size that they need.
fn cycles(
    world: &World,
    requests: &Requests,
    wanted: &Wanted,
    count: u32,
    progress: &Progress,
) -> anyhow::Result<Vec<Figure>> {
    progress.expect(count.into());
    progress.step("attaching and detaching");
    let first = count / 10;
    let mut before = Held::by(world)?;
    let began = Instant::now();
    for number in 0..count {
        going_on()?;
        if number == first {
            before = Held::by(world)?;
        }
        requests.attach(wanted)?;
        requests.detach(&wanted.name)?;
        progress.advance(1);
    }
    let took = began.elapsed();
    std::thread::sleep(REST);
    let after = Held::by(world)?;
    let counted = count - first;
    Ok(vec![
        Figure::time(
            format!("attach and detach, of {count} in a row"),
            took / count,
            None,
        ),
        Figure::bytes(
            format!("memory (anonymous) that {counted} left"),
            after.anonymous - before.anonymous,
            None,
        ),
        Figure::count(
            format!("file descriptors that {counted} left"),
            after.descriptors - before.descriptors,
        ),
        Figure::count(
            format!("threads that {counted} left"),
            after.threads - before.threads,
        ),
        Figure::count(
            format!("interfaces that {counted} left"),
            after.interfaces - before.interfaces,
        ),
    ])
}

/// What the daemon has.
struct Held {
    resident: f64,
    anonymous: f64,
    threads: f64,
    descriptors: f64,
    /// On its host.
    interfaces: f64,
}

impl Held {
    fn by(world: &World) -> anyhow::Result<Self> {
        let Some(pid) = world.daemon_pid() else {
            bail!("the daemon has ended");
        };
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            field(&status, name).with_context(|| format!("{path} does not tell {name}"))
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let interfaces = world.host.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev")?;
            std::io::Result::Ok(text.lines().count())
        })??;
        Ok(Self {
            resident: field("VmRSS")? * 1024.0,
            anonymous: field("RssAnon")? * 1024.0,
            threads: field("Threads")?,
            descriptors: descriptors as f64,
            interfaces: interfaces as f64,
        })
    }
}

/// The number of a line such as `VmRSS:     1234 kB`.
fn field(status: &str, name: &str) -> Option<f64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_process_are_read() {
        let status = "Name:\tnetdp\nVmRSS:\t   27648 kB\nThreads:\t5\n";
        assert_eq!(field(status, "VmRSS"), Some(27648.0));
        assert_eq!(field(status, "Threads"), Some(5.0));
        assert_eq!(field(status, "Name"), None);
        assert_eq!(field(status, "RssAnon"), None);
    }

    #[test]
    fn times_have_a_median_and_a_slowest() {
        let times = [3, 1, 2].map(Duration::from_millis).to_vec();
        let figures = quantiles("attach", times, Some(15e-3));
        assert_eq!(figures[0].row(), ["attach: median", "2.0 ms", "15.0 ms"]);
        assert_eq!(figures[1].row(), ["attach: slowest of 3", "3.0 ms", ""]);
        assert!(quantiles("attach", Vec::new(), None).is_empty());
    }
}
