//! `netdp bench control`: how long the daemon takes for what it is asked, and
//! what it holds on to.

mod beside;
mod figure;
mod held;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::BenchFormat;
use super::attach::{Requests, Wanted};
use super::report::{Machine, table};
use crate::netns::Namespace;
use crate::printed;
use crate::progress::Progress;
use crate::world::process::ProcessError;
use crate::world::{World, interrupt};
use beside::Newcomer;
use figure::{Figure, quantiles};
use held::Held;

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
        BenchFormat::Json => printed::json(&report)?,
        BenchFormat::Table => {
            let rows = report.figures.iter().map(Figure::row).collect();
            printed::line(&report.machine.text())?;
            let figures = table(&["daemon", "measured", "at most"], 1, rows);
            printed::line(&figures.to_string())?;
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
/// Between none and all, beside which one more is measured.
const SOME: usize = 100;
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
    let newcomer = Newcomer::new(&world)?;
    let requests = Requests::new(&world)?;

    progress.step("attaching endpoints");
    figures.extend(newcomer.beside(0, &requests)?);
    let at_once_from = counts.endpoints - counts.at_once;
    let one_by_one = ONE_BY_ONE.min(at_once_from);
    let mut times = Vec::new();
    for wanted in &wanted[..one_by_one] {
        going_on()?;
        times.push(requests.attach(wanted)?);
    }
    figures.extend(quantiles("attach, one port published", times, Some(15e-3)));
    figures.extend(commands(&world, COMMANDS)?);
    let some = SOME.min(at_once_from).max(one_by_one);
    requests.attach_all(&wanted[one_by_one..some], 50)?;
    if some == SOME {
        figures.extend(newcomer.beside(some, &requests)?);
    }
    let parallel = requests.attach_all(&wanted[at_once_from..], counts.at_once)?;
    figures.push(Figure::time(
        format!("attach {} at once", counts.at_once),
        parallel,
        (counts.at_once == 200).then_some(2.0),
    ));
    for others in wanted[some..at_once_from].chunks(50) {
        going_on()?;
        requests.attach_all(others, 50)?;
    }
    figures.extend(newcomer.beside(counts.endpoints, &requests)?);
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
