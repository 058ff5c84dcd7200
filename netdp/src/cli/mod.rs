//! The command `netdp`.

mod accelerate;
pub mod args;
mod block;
mod columns;
mod doctor;
mod etc;
mod explain;
mod flows;
mod install;
mod limit;
mod logs;
mod network;
mod output;
mod parse;
mod run;
mod sandbox;
mod stats;

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{bench, daemon, demo, load};

use args::{Command, Options};

/// Reads the command line and does what it says. The exit status is 0 when it
/// is done, 1 when it was refused or failed, 2 for wrong usage; `run` gives
/// that of its program.
pub fn main() -> ExitCode {
    let options = Options::parse();
    match dispatch(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netdp: {}", output::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(options: Options) -> anyhow::Result<ExitCode> {
    let run_dir = options.run_dir;
    let done = match options.command {
        Command::Daemon(args) => {
            log_to_stderr();
            let cleanup = args.cleanup;
            let options = args.resolve(run_dir)?;
            if cleanup {
                daemon::clean_up(&options)
            } else {
                daemon::run(options)
            }
        }
        Command::Network { command } => network::run(&run_dir, command),
        Command::Run(args) => return run::run(&run_dir, args),
        Command::Attach(args) => sandbox::attach(&run_dir, args),
        Command::Connect(args) => sandbox::connect(&run_dir, args),
        Command::Disconnect(args) => sandbox::disconnect(&run_dir, args),
        Command::Publish(args) => sandbox::publish(&run_dir, args),
        Command::Unpublish(args) => sandbox::unpublish(&run_dir, args),
        Command::Ps(args) => sandbox::list(&run_dir, args),
        Command::Inspect(args) => sandbox::inspect(&run_dir, args),
        Command::Port(args) => sandbox::port(&run_dir, args),
        Command::Rm(args) => sandbox::remove(&run_dir, args),
        Command::Logs(args) => logs::show(&run_dir, args),
        Command::Flows(args) => flows::list(&run_dir, args),
        Command::Stats(args) => stats::counters(&run_dir, args),
        Command::Block(args) => block::block(&run_dir, args),
        Command::Unblock(args) => block::unblock(&run_dir, args),
        Command::Limit(args) => limit::limit(&run_dir, args),
        Command::Accelerate(args) => accelerate::run(&run_dir, args),
        Command::Explain(args) => explain::run(&run_dir, &args),
        Command::Install { command } => install::run(&run_dir, command),
        Command::Doctor(args) => return doctor::run(&run_dir, args),
        Command::Demo(args) => return demo::run(args),
        Command::Bench(args) => return bench::run(args),
        Command::LoadServer(args) => return Ok(load::server_main(args)?),
        Command::LoadClient(args) => return Ok(load::client_main(args)?),
        Command::LoadFetch(args) => return Ok(load::fetch_main(args)?),
        Command::LoadFill(args) => return Ok(load::fill_main(&args)?),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// `RUST_LOG` says what is told, by level or by `TARGET=LEVEL` with commas between.
fn log_to_stderr() {
    let asked = env::var("RUST_LOG").unwrap_or_default();
    let usual = || Targets::new().with_default(LevelFilter::INFO);
    let (filter, wrong) = match asked.parse::<Targets>() {
        Ok(filter) if !asked.is_empty() => (filter, None),
        Ok(_) => (usual(), None),
        Err(error) => (usual(), Some(error)),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    if let Some(error) = wrong {
        tracing::warn!(
            "RUST_LOG={asked} is left out, it can't be read: {error}; give a level, as debug, or \
             TARGET=LEVEL, as netdp::daemon=debug"
        );
    }
}

/// Runs the requests of one command.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
}
