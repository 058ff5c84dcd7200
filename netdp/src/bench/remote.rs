//! Two machines with real interfaces: a server on one, clients on the other.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::claim::Claim;
use super::measure::{Lane, Pair, Workload, measure};
use super::page::PageFile;
use super::plan::{Effort, answered, chosen_cpu, without_repetition};
use super::report::{Machine, Report, ScenarioResult};
use super::site::{FIRST_PORT, port, services};
use super::{BenchFormat, print};
use crate::load::{Kind, Listen, ServerConfig, WARM_UP, serve};
use crate::progress::Progress;
use crate::world::interrupt;
use crate::world::load::CONGESTION;

/// `netdp bench server`
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Address to serve at
    #[arg(long, default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED), value_name = "ADDRESS")]
    pub bind: IpAddr,
    /// The first of seven ports, one for each workload
    #[arg(long, default_value_t = FIRST_PORT, value_parser = clap::value_parser!(u16).range(1..=65_529))]
    pub port: u16,
    /// The CPU to run on [default: the last that may be used]
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<usize>,
}

/// `netdp bench client`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
                  netdp bench client 192.0.2.7:7001\n  \
                  netdp bench client host=192.0.2.7:7001 netdp=192.0.2.7:8001\n\n\
                  Several servers are measured in turn and compared with the first, such as one \
                  on the other machine's own network and one in a container that publishes \
                  8001-8007:7001-7007, of TCP and of UDP.")]
pub struct ClientArgs {
    /// Servers with their first ports
    #[arg(required = true, value_name = "[NAME=]HOST:PORT")]
    pub servers: Vec<Server>,
    /// What is measured [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOAD")]
    pub workload: Vec<Kind>,
    /// How often each server is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rounds: u8,
    /// How long each measurement takes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub milliseconds: u64,
    /// The CPU to run on [default: the last that may be used]
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<usize>,
    /// Also write a page with charts to this file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub format: BenchFormat,
}

/// A server to measure, with what to call it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    name: String,
    /// Host and first port.
    place: String,
}

impl FromStr for Server {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (name, place),
            None => (text, text),
        };
        let port = place
            .rsplit_once(':')
            .map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
        match port {
            Some((false, Ok(1..=65_529))) if !name.is_empty() => Ok(Self {
                name: name.into(),
                place: place.into(),
            }),
            _ => Err(
                "expected [NAME=]HOST:PORT with the first of the server's ports, such as \
                 192.0.2.7:7001, [2001:db8::7]:7001 or host=server7:7001",
            ),
        }
    }
}

impl Server {
    fn resolved(&self) -> anyhow::Result<SocketAddr> {
        let mut addresses = self
            .place
            .to_socket_addrs()
            .with_context(|| format!("cannot find {}", self.place))?;
        addresses
            .next()
            .with_context(|| format!("{} has no address", self.place))
    }
}

/// Serves until it is ended.
///
/// # Errors
/// When a port is taken or the CPU can't be used.
pub(super) fn server(args: &ServerArgs) -> anyhow::Result<ExitCode> {
    let listen = services(args.port)
        .into_iter()
        .map(|(service, port)| Listen {
            service,
            bind: (args.bind, port).into(),
        });
    let server = serve(ServerConfig {
        listen: listen.collect(),
        cpu: Some(chosen_cpu(args.cpu)?),
        congestion: Some(CONGESTION.into()),
        stoppable: false,
        ..ServerConfig::new("bench")
    })?;
    let last = server.addresses().last().map_or(0, SocketAddr::port);
    // Whoever started this may not read it, and is served all the same.
    drop(writeln!(
        std::io::stdout(),
        "serving at {}, ports {} to {last} of TCP and UDP, until interrupted; on the other \
         machine: netdp bench client HOST:{}",
        args.bind,
        args.port,
        args.port
    ));
    server.wait();
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// When a server can't be found, or nothing can be measured.
pub(super) fn client(args: &ClientArgs) -> anyhow::Result<ExitCode> {
    interrupt::catch().context("cannot catch signals")?;
    let page = args.report.as_deref().map(PageFile::open).transpose()?;
    let result = compare(args);
    if let Some(code) = interrupt::exit_code("the measurement") {
        return Ok(code);
    }
    print(&result?, args.format, page)
}

fn compare(args: &ClientArgs) -> anyhow::Result<Report> {
    let duration = Duration::from_millis(args.milliseconds);
    let effort = Effort {
        rounds: args.rounds.into(),
        duration,
        warm_up: WARM_UP.min(duration / 3),
        cpu: chosen_cpu(args.cpu)?,
    };
    answered(&args.workload)?;
    let servers: Vec<(&Server, SocketAddr)> = args
        .servers
        .iter()
        .map(|server| Ok((server, server.resolved()?)))
        .collect::<anyhow::Result<_>>()?;
    let workloads = match &args.workload[..] {
        [] => Kind::ALL.to_vec(),
        chosen => without_repetition(chosen),
    };
    let netdp = std::env::current_exe().context("cannot find this program")?;
    let progress = Progress::new();
    progress.expect((servers.len() * workloads.len() * effort.rounds) as u64);
    let claim = Claim::of(&[effort.cpu], &progress)?;
    let mut results: Vec<Workload> = Vec::new();
    for kind in workloads {
        progress.step(&format!("measuring {kind}"));
        let lanes: Vec<Lane<'_>> = servers
            .iter()
            .map(|(server, address)| Lane {
                name: server.name.clone(),
                title: server.name.clone(),
                client: Box::new(|| Command::new(&netdp)),
                pairs: vec![Pair {
                    target: SocketAddr::new(address.ip(), port(address.port(), kind)),
                    cpu: effort.cpu,
                }],
                judge: None,
            })
            .collect();
        let measured = measure(&lanes, kind, &effort, &progress)?;
        // Other workloads would wait for nobody as well.
        if results.is_empty() {
            somebody_answered(&measured)?;
        }
        results.push(measured);
    }
    let answered = results.iter().flat_map(|workload| &workload.modes);
    let first_error = answered.clone().find_map(|mode| mode.first_error.clone());
    ensure!(
        answered.clone().any(|mode| mode.series.is_some()),
        "nothing could be measured: {}",
        first_error.unwrap_or_default()
    );
    Ok(Report {
        machine: Machine::here(effort.text("client")),
        effort: effort.into(),
        busy: claim.busy,
        left_out: Vec::new(),
        failed: Vec::new(),
        scenarios: vec![ScenarioResult {
            scenario: "remote".into(),
            title: "client to server".into(),
            workloads: results,
        }],
        growth: Vec::new(),
        programs: Vec::new(),
    })
}

/// # Errors
/// Where no server did anything.
fn somebody_answered(measured: &Workload) -> anyhow::Result<()> {
    let rounds = measured.modes.iter().flat_map(|mode| &mode.rounds);
    let operations: u64 = rounds.map(|round| round.operations).sum();
    let mut said = measured.modes.iter();
    let why = said.find_map(|mode| mode.first_error.as_deref());
    ensure!(
        operations > 0,
        "nobody answers: {}",
        why.unwrap_or("nothing came back")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LEAST_ROUNDS;

    #[test]
    fn a_server_is_read_with_and_without_a_name() {
        let named: Server = "host=192.0.2.7:7001".parse().unwrap();
        assert_eq!(
            (named.name.as_str(), named.place.as_str()),
            ("host", "192.0.2.7:7001")
        );
        let server: Server = "[::1]:7001".parse().unwrap();
        assert_eq!(server.name, "[::1]:7001");
        assert_eq!(server.resolved().unwrap(), "[::1]:7001".parse().unwrap());
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ClientArgs,
    }

    #[test]
    fn differences_can_be_told_unless_fewer_rounds_are_asked_for() {
        let words = ["client", "192.0.2.7:7001"];
        let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
        assert!(usize::from(line.args.rounds) >= LEAST_ROUNDS);
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for wrong in [
            "",
            "192.0.2.7",
            "192.0.2.7:",
            "host:70000",
            "host:65530",
            "=h:7001",
            ":1",
            "h:0",
        ] {
            assert!(wrong.parse::<Server>().is_err(), "{wrong}");
        }
    }
}
