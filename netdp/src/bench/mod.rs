//! `netdp bench`: the same traffic through host mode, through what Docker makes
//! and through netdp, in namespaces that are gone afterwards.
//!
//! [`site`] builds a host for each mode, [`traffic`] and [`sizes`] measure all
//! of them in turn, [`programs`] what netdp's programs take of it, [`drops`] what dropping takes, [`report`] shows
//! what came out. [`remote`] measures between
//! two machines, [`control`] the daemon; [`check`] compares the load generator with
//! others.

mod args;
mod attach;
mod check;
mod claim;
mod control;
mod drops;
mod frame;
mod growth;
mod html;
mod measure;
mod mode;
mod page;
mod plan;
mod programs;
mod remote;
mod report;
mod rps;
mod scenario;
mod site;
mod sizes;
mod traffic;

use std::process::ExitCode;

use anyhow::Context;

use crate::printed;
use crate::world::interrupt;
use args::{BenchCommand, CompareArgs};
use page::PageFile;
use report::Report;

pub use args::{BenchArgs, BenchFormat};
pub use growth::Growth;
pub use mode::Mode;
pub use scenario::Scenario;

/// Measures and prints what came out. Blocks; from async code, call it on a
/// thread that may. SIGINT, SIGTERM and SIGHUP end it early, with everything
/// removed, and status 128 plus the signal's number.
///
/// # Errors
/// When nothing could be set up or measured. A mode that can't be had here is no
/// error but left out, with the reason.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => compare(&args.compare),
        Some(BenchCommand::Server(args)) => remote::server(&args),
        Some(BenchCommand::Client(args)) => remote::client(&args),
        Some(BenchCommand::Control(args)) => control::run(&args),
        Some(BenchCommand::Check(args)) => check::run(&args),
    }
}

fn compare(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    interrupt::catch().context("cannot catch signals")?;
    let plan = args.plan()?;
    let page = args.report.as_deref().map(PageFile::open).transpose()?;
    let result = traffic::run(&plan);
    if let Some(code) = interrupt::exit_code("the measurement") {
        return Ok(code);
    }
    print(&result?, args.format, page)
}

fn print(report: &Report, format: BenchFormat, page: Option<PageFile>) -> anyhow::Result<ExitCode> {
    // Each is there whatever becomes of the other.
    let written = page.map_or(Ok(()), |page| page.write(&html::page(report)?));
    match format {
        BenchFormat::Table => printed::line(&report.table()),
        BenchFormat::Json => printed::json(report),
    }
    .and(written)?;
    Ok(if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
