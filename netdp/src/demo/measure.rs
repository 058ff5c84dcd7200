//! The same traffic through host mode, through Docker's bridge and through
//! netdp: from the one client, over the same kind of wire, in turn.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::docker_bridge::DockerBridge;
use super::process::{self, ProcessError};
use super::progress::Progress;
use super::world::{HOST_ADDRESS, Host, World, WorldError};
use crate::load::{Comparison, Kind, Measurement, Mode, Series, compare, last_allowed_cpu};

/// What is measured, and the port its server listens on in every mode.
const METRICS: [(Kind, &str, &str, u16); 3] = [
    (Kind::Rr, "TCP round trips", "echo", 7001),
    (Kind::Crr, "TCP connections", "crr", 7002),
    (Kind::Bulk, "TCP bulk", "sink", 7003),
];
/// The machine's default may be another, and bulk depends on it.
const CONGESTION: &str = "cubic";

/// Rounds, and how long each measures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) rounds: usize,
    pub(super) duration: Duration,
}

/// One kind of traffic in every mode; host mode is the first.
#[derive(Clone, Debug, Serialize)]
pub struct Metric {
    pub name: String,
    pub unit: crate::load::Unit,
    pub modes: Vec<ModeResult>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ModeResult {
    #[serde(flatten)]
    pub series: Series,
    /// Against host mode; absent for host mode itself.
    pub against_host: Option<Comparison>,
    pub errors: u64,
    pub rounds: Vec<Measurement>,
}

/// The modes that can be measured here, their servers running.
pub(super) struct Stage {
    modes: Vec<(String, Ipv4Addr)>,
    cpu: usize,
    // Before the hosts they run in.
    _servers: Vec<Server>,
    _hosts: (Host, Option<DockerBridge>),
}

impl Stage {
    /// Prepares host mode and Docker's bridge, each on a host of its own. A
    /// bridge that can't be had here is left out, with a note.
    pub(super) fn new(world: &mut World, progress: &Progress) -> anyhow::Result<Self> {
        // Client and server share a CPU: the rate then shows what the whole
        // path costs, not how fast another CPU wakes up.
        let cpu = last_allowed_cpu().context("cannot choose a CPU")?;
        let plain = world.add_host()?;
        let mut modes = vec![("host mode".to_owned(), plain.address)];
        let netdp = world.netdp_path().to_owned();
        let mut servers = vec![Server::start(world.within(&plain.namespace, &netdp), cpu)?];
        let ports = METRICS.map(|(.., port)| port);
        let docker = match DockerBridge::create(world, &ports) {
            Ok(docker) => {
                servers.push(Server::start(world.within(&docker.container, &netdp), cpu)?);
                modes.push(("bridge, Docker's rules".into(), docker.host.address));
                Some(docker)
            }
            Err(WorldError::Process(ProcessError::Interrupted)) => {
                return Err(ProcessError::Interrupted.into());
            }
            Err(why) => {
                progress.note(&format!(
                    "measuring without a bridge and Docker's rules: {why}"
                ));
                None
            }
        };
        Ok(Self {
            modes,
            cpu,
            _servers: servers,
            _hosts: (plain, docker),
        })
    }

    /// Adds netdp itself: one more container, with the ports published.
    pub(super) fn add_netdp(&mut self, world: &World) -> anyhow::Result<()> {
        let exe = world.netdp_path().display().to_string();
        let mut args = vec!["run", "-d", "--name", "load"];
        let published = METRICS.map(|(.., port)| format!("{port}:{port}"));
        for spec in &published {
            args.extend(["-p", spec]);
        }
        let server = server_args(self.cpu);
        args.extend(["--", &exe]);
        args.extend(server.iter().map(String::as_str));
        world
            .netdp_ok(&args)
            .context("cannot start the server to measure")?;
        wait_for_port(world, (HOST_ADDRESS, METRICS[0].3).into())?;
        self.modes.push(("netdp".into(), HOST_ADDRESS));
        Ok(())
    }

    pub(super) fn measure(
        &self,
        world: &World,
        effort: Effort,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Metric>> {
        METRICS
            .iter()
            .map(|&(kind, name, _, port)| {
                progress.step(&format!(
                    "measuring {name}: {} modes, {} rounds of {} s",
                    self.modes.len(),
                    effort.rounds,
                    effort.duration.as_secs_f32()
                ));
                self.measure_kind(world, effort, kind, port)
                    .with_context(|| format!("cannot measure {name}"))
                    .map(|(unit, modes)| Metric {
                        name: name.into(),
                        unit,
                        modes,
                    })
            })
            .collect()
    }

    fn measure_kind(
        &self,
        world: &World,
        effort: Effort,
        kind: Kind,
        port: u16,
    ) -> anyhow::Result<(crate::load::Unit, Vec<ModeResult>)> {
        let rounds: Vec<RefCell<Vec<Measurement>>> = vec![RefCell::default(); self.modes.len()];
        let mut modes: Vec<Mode<'_, anyhow::Error>> = self
            .modes
            .iter()
            .zip(&rounds)
            .map(|((name, address), kept)| Mode {
                name: name.clone(),
                measure: Box::new(move || {
                    let target = SocketAddr::from((*address, port));
                    let measurement = load(world, kind, target, effort.duration, self.cpu)
                        .with_context(|| name.clone())?;
                    let rate = measurement.rate;
                    kept.borrow_mut().push(measurement);
                    Ok(rate)
                }),
            })
            .collect();
        let series = compare(&mut modes, effort.rounds)?;
        drop(modes);
        let host = series[0].clone();
        let results: Vec<ModeResult> = series
            .into_iter()
            .zip(rounds)
            .enumerate()
            .map(|(index, (series, rounds))| {
                let rounds = rounds.into_inner();
                ModeResult {
                    against_host: (index > 0).then(|| series.against(&host)),
                    errors: rounds.iter().map(|round| round.errors + round.lost).sum(),
                    series,
                    rounds,
                }
            })
            .collect();
        let unit = results[0].rounds[0].unit;
        Ok((unit, results))
    }
}

fn load(
    world: &World,
    kind: Kind,
    target: SocketAddr,
    duration: Duration,
    cpu: usize,
) -> anyhow::Result<Measurement> {
    let mut command = world.on_client(world.netdp_path());
    command.arg("__load-client");
    command.arg("--kind").arg(kind.to_string());
    command.arg("--target").arg(target.to_string());
    command
        .arg("--seconds")
        .arg(duration.as_secs_f64().to_string());
    command.arg("--cpu").arg(cpu.to_string());
    command.args(["--congestion", CONGESTION]);
    let output = process::output(command, duration + Duration::from_secs(15))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the load client printed no result")
}

fn server_args(cpu: usize) -> Vec<String> {
    let mut args = vec!["__load-server".to_owned()];
    for (.., service, port) in METRICS {
        args.extend(["--listen".into(), format!("{service}=0.0.0.0:{port}")]);
    }
    args.extend(["--cpu".into(), cpu.to_string()]);
    args.extend(["--congestion".into(), CONGESTION.into()]);
    args
}

/// Waits without sending anything through a mode that others are measured
/// against: a connection to the round-trip server and no more.
fn wait_for_port(world: &World, target: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let connect = || std::net::TcpStream::connect_timeout(&target, Duration::from_secs(1));
    loop {
        match world.client.run(connect)? {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("no server came up at {target}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A load server of ours, ended with this value.
struct Server(Child);

impl Server {
    /// Returns once it listens.
    fn start(mut command: Command, cpu: usize) -> anyhow::Result<Self> {
        command.args(server_args(cpu)).stdout(Stdio::piped());
        let mut server = Self(process::spawn(command)?);
        let mut line = String::new();
        if let Some(stdout) = server.0.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("cannot read from the load server")?;
        }
        // It said why on standard error, which is ours.
        anyhow::ensure!(!line.is_empty(), "the load server did not start");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        process::kill(&mut self.0);
    }
}
