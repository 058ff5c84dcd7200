//! The command line of `netdp bench`.

use std::path::PathBuf;

use clap::{ValueEnum, builder::PossibleValue};

use super::{Growth, Mode, Scenario};
use crate::load::Kind;

/// `netdp bench`
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    #[command(flatten)]
    pub compare: CompareArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Serve measurements of another machine
    Server(super::remote::ServerArgs),
    /// Measure servers on another machine
    Client(super::remote::ClientArgs),
    /// Measure how long the daemon takes for what it is asked, and what it holds
    /// on to
    Control(super::control::ControlArgs),
    /// Measure the same by iperf3, sockperf and wrk, where they are installed
    Check(super::check::CheckArgs),
}

/// What is compared with what.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
                  netdp bench --quick                       the comparison in a minute\n  \
                  netdp bench                               all of it\n  \
                  netdp bench --scenario published --workload rr,crr --rounds 15\n  \
                  netdp bench --mode host,netdp             only these; the first is compared with\n  \
                  netdp bench --scenario ports              what ten thousand published ports cost\n  \
                  netdp bench --scenario programs           what netdp's programs take of a packet\n  \
                  netdp bench --scenario drops              what a packet that is dropped costs\n  \
                  netdp bench control                       the daemon")]
pub struct CompareArgs {
    /// About a minute: fewer modes, scenarios with the
    /// two workloads that tell most, shorter rounds
    #[arg(long)]
    pub quick: bool,
    /// Who speaks to whom, or what there is more and more of [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SCENARIO")]
    pub scenario: Vec<Subject>,
    /// What carries it: host, host-rules, host-seccomp, docker-nft, docker-legacy, dockerd,
    /// docker-accelerated, nft, netavark, floor, floor-uplink, floor-direct, netdp,
    /// netdp-direct, or netdp with options of its network, such as netdp:KEY=VALUE; the
    /// first is what the others are compared with [default: all but host-seccomp and
    /// floor-direct]
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    pub mode: Vec<Mode>,
    /// What is measured; of what there is more and more of, cores alone can be
    /// measured by another than crr [default: all, by cores crr]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOAD")]
    pub workload: Vec<Kind>,
    /// How much there is of what there is more and more of; the first size is
    /// what the others are compared with [default: up to 10000 ports, 1000000
    /// flows, 1000 endpoints, all CPUs; at least 7 ports, 2 endpoints]
    #[arg(long, value_delimiter = ',', value_name = "NUMBER",
          value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub sizes: Vec<u32>,
    /// How often each mode is measured [default: 11, with --quick 13]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// How long each measurement takes [default: 100, with --quick 40]
    #[arg(long, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub milliseconds: Option<u64>,
    /// By cores: the host spreads what it receives over the CPUs (RPS)
    #[arg(long)]
    pub rps: bool,
    /// The CPU that client and server share [default: the last that may be used]
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<usize>,
    /// Also write a page with charts to this file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub format: BenchFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Table,
    Json,
}

/// What a measurement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Traffic(Scenario),
    Growth(Growth),
    /// What netdp's programs cost.
    Programs,
    /// What dropping packets costs.
    Drops,
}

impl ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Traffic(Scenario::Published),
            Self::Traffic(Scenario::Egress),
            Self::Traffic(Scenario::Containers),
            Self::Traffic(Scenario::Local),
            Self::Growth(Growth::Ports),
            Self::Growth(Growth::Flows),
            Self::Growth(Growth::Endpoints),
            Self::Growth(Growth::Cores),
            Self::Programs,
            Self::Drops,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Traffic(scenario) => scenario.to_possible_value(),
            Self::Growth(growth) => growth.to_possible_value(),
            Self::Programs => Some(
                PossibleValue::new("programs")
                    .help("What netdp's programs take of a packet and a connection"),
            ),
            Self::Drops => Some(
                PossibleValue::new("drops")
                    .help("What it takes to drop a packet: nftables, netdp, and its XDP program"),
            ),
        }
    }
}
