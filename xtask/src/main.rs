//! The one way to build, run, test and check netdp: `cargo xtask COMMAND`.

mod apt;
mod compile;
mod doctor;
mod engines;
mod install;
mod lint;
mod privilege;
mod process;
mod test;
mod tools;
mod vm;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "build, run, test and check netdp"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the netdp command, BPF programs included
    Build {
        /// Optimise; without it the command lies in target/debug
        #[arg(long)]
        release: bool,
    },
    /// Build with --release and run `netdp ARGS` as root; without ARGS the daemon
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run unit and integration tests as root, and print a sum
    Test {
        /// Only tests whose name holds this; `engines`: those that run real
        /// container engines, which are fetched first
        filter: Option<String>,
        /// Also those that take long, which are marked `#[ignore]`
        #[arg(long)]
        long: bool,
        /// Option that networks of these tests have unless they say otherwise,
        /// as sockmap=on
        #[arg(long = "network-opt", value_name = "KEY=VALUE")]
        network_opts: Vec<String>,
        /// Arguments for the test programs, such as --test-threads=1
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Check formatting, and let clippy and the compiler deny warnings
    Lint,
    /// Build with --release and try netdp on other kernels, in virtual machines
    Vm {
        /// Debian's kernels of this series
        #[arg(long, value_enum, default_value = "all")]
        kernel: vm::Series,
        /// This netdp instead of one built for it
        #[arg(long)]
        netdp: Option<PathBuf>,
        /// All tests of this file of tests/tests, such as `restart`, or `all`, in
        /// place of chosen ones
        #[arg(long = "test", value_name = "PROGRAM")]
        tests: Vec<String>,
        /// Option that networks of these tests have unless they say otherwise,
        /// in place of device=netkit
        #[arg(long = "network-opt", value_name = "KEY=VALUE")]
        network_opts: Vec<String>,
        /// Run `netdp bench ARGS` in place of checks and tests, and print what it
        /// prints. The machine's clock counts instructions: what takes 30 µs there
        /// took 30,000 of them
        #[arg(long, value_name = "ARGS", allow_hyphen_values = true, conflicts_with_all = ["tests", "network_opts"])]
        bench: Option<String>,
    },
    /// Measure: build with --release and run `netdp bench ARGS` as root
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Show what the build and the tests need, what is there, and what to do
    Doctor,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::here();
    match command {
        Command::Build { release } => {
            let netdp = compile::netdp(&workspace, release)?;
            eprintln!("xtask: built {}", netdp.display());
        }
        Command::Run { args } => return run(&workspace, args),
        Command::Test {
            filter,
            long,
            network_opts,
            args,
        } => {
            let chosen = test::Chosen {
                filter: filter.as_deref(),
                long,
                network_opts: &network_opts,
            };
            test::run(&workspace, &chosen, &args)?;
        }
        Command::Vm {
            kernel,
            netdp,
            tests,
            network_opts,
            bench,
        } => {
            if let Some(args) = bench {
                vm::bench(&workspace, kernel, netdp, &args)?;
                return Ok(ExitCode::SUCCESS);
            }
            let wanted = vm::Wanted {
                programs: tests,
                network_opts,
            };
            vm::run(&workspace, kernel, netdp, &wanted)?;
        }
        Command::Lint => lint::run(&workspace)?,
        Command::Bench { args } => {
            let all = [OsString::from("bench")].into_iter().chain(args);
            return run(&workspace, all.collect());
        }
        Command::Doctor => return Ok(doctor::run(&workspace)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns only if netdp could not be started: it takes this process's place,
/// so that signals and the exit status are its own.
fn run(workspace: &Workspace, mut args: Vec<OsString>) -> Result<ExitCode> {
    if args.is_empty() {
        args.push("daemon".into());
    }
    if args
        .first()
        .is_some_and(|first| first == "demo" || first == "bench")
    {
        tools::provide();
    }
    let netdp = compile::netdp(workspace, true)?;
    privilege::exec_as_root(&netdp, &args)
}
