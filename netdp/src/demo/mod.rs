//! `netdp demo`: the main job on real traffic, in namespaces of its own.

mod checks;
mod direct;
mod ipv6;
mod measure;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;

use checks::Check;
use measure::{Effort, Stage};
use report::Report;

use crate::printed;
use crate::progress::Progress;
pub use crate::world;
use crate::world::{World, interrupt};

/// `netdp demo`
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub format: DemoFormat,
    /// How often each mode is measured; 0 leaves it at the checks
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub rounds: u8,
    /// How long each measurement takes, in milliseconds
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub milliseconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoFormat {
    Table,
    Json,
}

/// Runs the demo and prints what it found. Blocks; from async code, call it on
/// a thread that may. SIGINT, SIGTERM and SIGHUP end it early, with everything
/// removed, and status 128 plus the signal's number.
///
/// # Errors
/// When something could not be set up or measured at all. A check that failed
/// is no error but exit status 1.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    interrupt::catch().context("cannot catch signals")?;
    let effort = Effort {
        rounds: args.rounds.into(),
        duration: Duration::from_millis(args.milliseconds),
    };
    let result = perform(effort);
    if let Some(code) = interrupt::exit_code("the demo") {
        return Ok(code);
    }
    let report = result?;
    match args.format {
        DemoFormat::Table => printed::line(&report.table().to_string())?,
        DemoFormat::Json => printed::json(&report)?,
    }
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything it makes is gone when it returns, whichever way it does.
fn perform(effort: Effort) -> anyhow::Result<Report> {
    let progress = Progress::new();
    progress.step("making a client, a host and an outside");
    let mut world = World::new("demo")?;
    progress.step("starting the daemon");
    world.start_daemon::<&str>(&[])?;
    let mut checks = checks::run(&world, &progress)?;
    checks.extend(direct::run(&world, &progress)?);
    checks.extend(ipv6::run(&world, &progress)?);
    if effort.rounds == 0 || !checks.iter().all(|check: &Check| check.passed) {
        return Ok(Report::new(checks, Vec::new()));
    }
    progress.step("making the hosts to compare with");
    let mut stage = Stage::new(&mut world, &progress)?;
    stage.add_netdp(&world, &progress)?;
    let metrics = stage.measure(&world, effort, &progress)?;
    drop(stage);
    progress.step("removing everything");
    drop(world);
    Ok(Report::new(checks, metrics))
}
