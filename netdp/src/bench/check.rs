//! `netdp bench check`: the load generator beside others that are known, from the
//! same client to the same host, in turn.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::BenchFormat;
use super::claim::{Busy, Claim};
use super::mode::Mode;
use super::plan::{Effort, chosen_cpu};
use super::report::{BRACKETS, Machine, compared_text, interval, rate, short, table};
use super::scenario::Scenario;
use super::site::{Site, Size};
use crate::load::{Comparison, Kind, Series, Unit, order, pin, wait_for_turns};
use crate::netns::Namespace;
use crate::printed;
use crate::progress::Progress;
use crate::world::load::{CONGESTION, Load};
use crate::world::process::{self, ProcessError};
use crate::world::{World, interrupt};

/// `netdp bench check`
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// How often each is measured, for a second
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rounds: u8,
    /// The CPU that client and server share [default: the last that may be used]
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<usize>,
    /// How to print the results
    #[arg(long, value_enum, default_value = "table")]
    pub format: BenchFormat,
}

/// A program that measures the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Iperf3,
    Sockperf,
    Wrk,
}

/// What is measured by whom.
const CHECKS: [(Kind, Tool); 6] = [
    (Kind::Rr, Tool::Sockperf),
    (Kind::UdpRr, Tool::Sockperf),
    (Kind::UdpPps, Tool::Iperf3),
    (Kind::Bulk, Tool::Iperf3),
    (Kind::BulkBack, Tool::Iperf3),
    (Kind::Http, Tool::Wrk),
];
/// Where the others' servers listen; wrk asks ours.
const IPERF3_UDP_PORT: u16 = 7101;
const SOCKPERF_PORT: u16 = 7102;
const IPERF3_BULK_PORT: u16 = 7103;
/// wrk and sockperf know whole seconds only.
const DURATION: Duration = Duration::from_secs(1);
const TOOL_TIMEOUT: Duration = Duration::from_secs(20);
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Self::Iperf3 => "iperf3",
            Self::Sockperf => "sockperf",
            Self::Wrk => "wrk",
        }
    }

    fn is_installed(self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(self.program()).is_file())
    }

    /// Words for its servers at `address`, and what each of them serves.
    fn servers(self, address: Ipv4Addr) -> Vec<(Kind, String)> {
        match self {
            Self::Iperf3 => vec![
                (Kind::UdpPps, format!("-s -p {IPERF3_UDP_PORT}")),
                (Kind::Bulk, format!("-s -p {IPERF3_BULK_PORT}")),
            ],
            Self::Sockperf => vec![
                (
                    Kind::UdpRr,
                    format!("server -i {address} -p {SOCKPERF_PORT}"),
                ),
                (
                    Kind::Rr,
                    format!("server --tcp -i {address} -p {SOCKPERF_PORT}"),
                ),
            ],
            Self::Wrk => Vec::new(),
        }
    }

    /// Words to measure `kind` with; `own` is where our server of it listens.
    fn client(self, kind: Kind, own: SocketAddr) -> String {
        let address = own.ip();
        match (self, kind) {
            (Self::Iperf3, Kind::UdpPps) => {
                format!("-c {address} -p {IPERF3_UDP_PORT} -t 1 -J -u -b 0 -l 64")
            }
            (Self::Iperf3, Kind::BulkBack) => {
                format!("-c {address} -p {IPERF3_BULK_PORT} -t 1 -J -C {CONGESTION} -R")
            }
            (Self::Iperf3, _) => {
                format!("-c {address} -p {IPERF3_BULK_PORT} -t 1 -J -C {CONGESTION}")
            }
            (Self::Sockperf, Kind::UdpRr) => {
                format!("ping-pong -i {address} -p {SOCKPERF_PORT} -t 1 -m 64 --full-rtt")
            }
            // It sends nothing shorter.
            (Self::Sockperf, _) => {
                format!("ping-pong --tcp -i {address} -p {SOCKPERF_PORT} -t 1 -m 14 --full-rtt")
            }
            (Self::Wrk, _) => format!("-t1 -c32 -d1s http://{own}/"),
        }
    }

    /// The rate that it printed.
    fn rate(self, kind: Kind, printed: &str) -> Option<f64> {
        match self {
            Self::Iperf3 => iperf3_rate(kind, printed),
            Self::Sockperf => {
                let (_, rest) = printed.split_once("Round trip is ")?;
                let microseconds: f64 = rest.split_whitespace().next()?.parse().ok()?;
                (microseconds > 0.0).then(|| 1e6 / microseconds)
            }
            Self::Wrk => {
                let (_, rest) = printed.split_once("Requests/sec:")?;
                rest.split_whitespace().next()?.parse().ok()
            }
        }
    }
}

fn iperf3_rate(kind: Kind, printed: &str) -> Option<f64> {
    let json: Value = serde_json::from_str(printed).ok()?;
    let end = &json["end"];
    if kind != Kind::UdpPps {
        return end["sum_received"]["bits_per_second"].as_f64();
    }
    let sum = &end["sum"];
    let arrived = sum["packets"].as_f64()? - sum["lost_packets"].as_f64()?;
    Some(arrived / sum["seconds"].as_f64()?)
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    machine: Machine,
    checks: Vec<Check>,
    left_out: Vec<String>,
    #[serde(flatten)]
    busy: Option<Busy>,
}

#[derive(Clone, Debug, Serialize)]
struct Check {
    workload: Kind,
    program: &'static str,
    own: Series,
    theirs: Series,
    /// Ours to theirs.
    compared: Comparison,
}

/// # Errors
/// When none of the others is installed, or something can't be measured.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    interrupt::catch().context("cannot catch signals")?;
    let effort = Effort {
        rounds: args.rounds.into(),
        duration: DURATION,
        warm_up: DURATION / 10,
        cpu: chosen_cpu(args.cpu)?,
    };
    let result = measure(&effort);
    if let Some(code) = interrupt::exit_code("the measurement") {
        return Ok(code);
    }
    let report = result?;
    if args.format == BenchFormat::Json {
        printed::json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = report.checks.iter().map(|check| {
        let unit = unit(check.workload);
        vec![
            short(check.workload).to_owned(),
            check.program.to_owned(),
            compared_text(&check.compared),
            interval(&check.compared),
            rate(check.own.median, unit),
            rate(check.theirs.median, unit),
        ]
    });
    let header = [
        "workload",
        "other",
        "ratio",
        "95 %",
        "netdp bench",
        "the other",
    ];
    printed::line(&report.machine.text())?;
    printed::line(&table(&header, 2, rows.collect()).to_string())?;
    printed::line(&format!(
        "Ratios are of netdp bench to the other, {BRACKETS}"
    ))?;
    let busy = report.busy.and_then(|busy| busy.text());
    for line in report.left_out.iter().chain(&busy) {
        printed::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unit(kind: Kind) -> Unit {
    match kind {
        Kind::Bulk | Kind::BulkBack => Unit::BitsPerSecond,
        _ => Unit::PerSecond,
    }
}

fn measure(effort: &Effort) -> anyhow::Result<Report> {
    let tools = [Tool::Iperf3, Tool::Sockperf, Tool::Wrk];
    let (installed, missing): (Vec<Tool>, Vec<Tool>) =
        tools.into_iter().partition(|tool| tool.is_installed());
    ensure!(
        !installed.is_empty(),
        "nothing to compare with: install iperf3, sockperf or wrk"
    );
    let progress = Progress::new();
    let claim = Claim::of(&[effort.cpu], &progress)?;
    progress.step("making a client and a host");
    let mut world = World::new("bench")?;
    let site = Site::build(&mut world, &Mode::Host, &Size::on(&[effort.cpu]))?;
    let mut servers = Vec::new();
    for tool in &installed {
        servers.extend(start(&world, &site, *tool, effort.cpu)?);
    }
    let mut report = Report {
        machine: Machine::here(effort.text("client and server")),
        checks: Vec::new(),
        left_out: Vec::new(),
        busy: claim.busy,
    };
    for tool in missing {
        let program = tool.program();
        report
            .left_out
            .push(format!("Left out: {program} is not installed"));
    }
    let checks: Vec<(Kind, Tool)> = CHECKS
        .into_iter()
        .filter(|(_, tool)| installed.contains(tool))
        .collect();
    progress.expect((checks.len() * effort.rounds) as u64);
    for (kind, tool) in checks {
        progress.step(&format!("{kind}, ours and {}", tool.program()));
        match compare(&world, &site, kind, tool, effort, &progress) {
            Ok(check) => report.checks.push(check),
            Err(_) if interrupt::received().is_some() => {
                return Err(ProcessError::Interrupted.into());
            }
            Err(why) => {
                let why = printed::one_line(&why);
                report.left_out.push(format!("Left out: {kind}: {why}"));
            }
        }
    }
    drop(servers);
    Ok(report)
}

/// One of the others' servers, ended with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        process::kill(&mut self.0);
    }
}

/// Returns once they listen.
fn start(world: &World, site: &Site, tool: Tool, cpu: usize) -> anyhow::Result<Vec<Server>> {
    let route = site.route(world, Scenario::Published);
    let (address, _) = route.target(Kind::Rr);
    let mut servers = Vec::new();
    for (kind, words) in tool.servers(address) {
        let mut command = scheduled(world.within(site.host(), tool.program()), cpu, kind);
        command.args(words.split_whitespace());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        process::end_with_this_thread(&mut command);
        servers.push(Server(process::spawn(command)?));
    }
    let ports: &[u16] = match tool {
        Tool::Iperf3 => &[IPERF3_UDP_PORT, IPERF3_BULK_PORT],
        Tool::Sockperf => &[SOCKPERF_PORT],
        Tool::Wrk => &[],
    };
    for port in ports {
        wait_for_port(&world.client, (address, *port).into())
            .with_context(|| format!("{} does not listen", tool.program()))?;
    }
    Ok(servers)
}

fn wait_for_port(client: &Namespace, target: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + SERVER_TIMEOUT;
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(1)).map(drop);
    loop {
        match client.run(connect)? {
            Err(_) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            connected => return Ok(connected?),
        }
    }
}

/// The command on one CPU, where it waits for its turn if we do.
fn scheduled(mut command: Command, cpu: usize, kind: Kind) -> Command {
    let in_turn = matches!(kind, Kind::Bulk | Kind::BulkBack);
    // SAFETY: setting the affinity and the policy are a system call each; nothing
    // allocates or locks between fork and exec where they succeed, and the CPU was
    // tried before.
    unsafe {
        command.pre_exec(move || {
            pin(cpu).map_err(|_| std::io::ErrorKind::InvalidInput)?;
            if in_turn {
                wait_for_turns();
            }
            Ok(())
        });
    }
    command
}

fn compare(
    world: &World,
    site: &Site,
    kind: Kind,
    tool: Tool,
    effort: &Effort,
    progress: &Progress,
) -> anyhow::Result<Check> {
    let route = site.route(world, Scenario::Published);
    let target = route.target(kind).into();
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        for which in order(2, round) {
            if which == 0 {
                let load = Load {
                    kind,
                    target,
                    duration: effort.duration,
                    warm_up: effort.warm_up,
                    cpu: effort.cpu,
                };
                own.push(load.run(route.client())?.rate);
            } else {
                let mut command = scheduled(world.on_client(tool.program()), effort.cpu, kind);
                command.args(tool.client(kind, target).split_whitespace());
                theirs.push(their_rate(command, tool, kind)?);
            }
        }
        progress.advance(1);
    }
    let own = Series::new("netdp bench", own);
    let theirs = Series::new(tool.program(), theirs);
    Ok(Check {
        workload: kind,
        program: tool.program(),
        compared: own.against(&theirs),
        own,
        theirs,
    })
}

fn their_rate(command: Command, tool: Tool, kind: Kind) -> anyhow::Result<f64> {
    let output = process::output(command, TOOL_TIMEOUT)?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let Some(rate) = tool.rate(kind, &printed).filter(|rate| *rate > 0.0) else {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ({}) printed no rate: {}",
            tool.program(),
            output.status,
            said.lines().next().unwrap_or_default()
        );
    };
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LEAST_ROUNDS;

    #[test]
    fn rates_are_read_from_what_the_others_print() {
        let printed = "sockperf: Summary: Round trip is 25.000 usec\n";
        assert_eq!(Tool::Sockperf.rate(Kind::Rr, printed), Some(40_000.0));
        let printed = "Running 1s test\nRequests/sec:  12345.50\nTransfer/sec: 1MB\n";
        assert_eq!(Tool::Wrk.rate(Kind::Http, printed), Some(12_345.5));
        let printed = r#"{"end": {"sum_received": {"bits_per_second": 9.5e9},
            "sum": {"seconds": 2.0, "packets": 1000, "lost_packets": 400}}}"#;
        assert_eq!(Tool::Iperf3.rate(Kind::Bulk, printed), Some(9.5e9));
        assert_eq!(Tool::Iperf3.rate(Kind::UdpPps, printed), Some(300.0));
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    #[test]
    fn differences_can_be_told_unless_fewer_rounds_are_asked_for() {
        let line = <Line as clap::Parser>::try_parse_from(["check"]).unwrap();
        assert!(usize::from(line.args.rounds) >= LEAST_ROUNDS);
    }

    #[test]
    fn what_is_no_result_has_no_rate() {
        for tool in [Tool::Iperf3, Tool::Sockperf, Tool::Wrk] {
            assert_eq!(tool.rate(Kind::Rr, "unable to connect\n"), None, "{tool:?}");
        }
        let refused = r#"{"end": {}, "error": "unable to connect"}"#;
        assert_eq!(Tool::Iperf3.rate(Kind::Bulk, refused), None);
    }
}
