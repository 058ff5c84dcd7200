//! The same traffic through host mode, through Docker's bridge and through
//! netdp: from the one client, over the same kind of wire, in turn.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::load::{
    Comparison, Kind, Measurement, Mode, Series, WARM_UP, compare, last_allowed_cpu,
};
use crate::progress::Progress;
use crate::world::direct::{NotDirect, expect_direct};
use crate::world::docker_bridge::{DockerBridge, Iptables, PublishedPort};
use crate::world::load::{Load, LoadServer, Served, server_args};
use crate::world::process::ProcessError;
use crate::world::{HOST_ADDRESS, Host, World, WorldError};

/// What is measured, and the port its server listens on in every mode.
const METRICS: [(Kind, &str, u16); 3] = [
    (Kind::Rr, "TCP round trips", 7001),
    (Kind::Crr, "TCP connections", 7002),
    (Kind::Bulk, "TCP bulk", 7003),
];

/// Between those ports and the ones that they are published at as direct ports.
const DIRECT: u16 = 100;

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

/// Where the servers of a mode are reached.
struct Place {
    mode: String,
    address: Ipv4Addr,
    /// Added to their ports.
    offset: u16,
}

impl Place {
    fn new(mode: &str, address: Ipv4Addr) -> Self {
        Self {
            mode: mode.to_owned(),
            address,
            offset: 0,
        }
    }
}

/// The modes that can be measured here, their servers running.
pub(super) struct Stage {
    modes: Vec<Place>,
    cpu: usize,
    // Before the hosts they run in.
    servers: Vec<LoadServer>,
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
        let mut modes = vec![Place::new("host mode", plain.address)];
        let netdp = world.netdp_path().to_owned();
        let mut servers = vec![LoadServer::start(
            world.within(&plain.namespace, &netdp),
            &served(cpu),
        )?];
        let docker = match DockerBridge::create(world, Iptables::Default, &published(0)) {
            Ok(docker) => {
                servers.push(LoadServer::start(
                    world.within(&docker.container, &netdp),
                    &served(cpu),
                )?);
                modes.push(Place::new("bridge, Docker's rules", docker.host.address));
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
            servers,
            _hosts: (plain, docker),
        })
    }

    /// Adds netdp itself: one more container with the ports published, and one
    /// that has them as direct ports. Where the kernel has none, that is left out,
    /// with a note.
    pub(super) fn add_netdp(&mut self, world: &World, progress: &Progress) -> anyhow::Result<()> {
        self.servers
            .push(start_server(world, "load", 0, "", self.cpu)?);
        self.modes.push(Place::new("netdp", HOST_ADDRESS));
        self.servers.push(start_server(
            world,
            "load-direct",
            DIRECT,
            ",direct",
            self.cpu,
        )?);
        match expect_direct(&world.host, &published(DIRECT)) {
            Ok(()) => self.modes.push(Place {
                offset: DIRECT,
                ..Place::new("netdp, direct ports", HOST_ADDRESS)
            }),
            Err(why @ NotDirect::Unlisted(_)) => {
                progress.note(&format!("measuring without direct ports: {why}"));
            }
            Err(why) => return Err(why.into()),
        }
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
            .map(|&(kind, name, port)| {
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
            .map(|(place, kept)| Mode {
                name: place.mode.clone(),
                measure: Box::new(move || {
                    let load = Load {
                        kind,
                        target: (place.address, port + place.offset).into(),
                        duration: effort.duration,
                        warm_up: WARM_UP.min(effort.duration),
                        cpu: self.cpu,
                    };
                    let measurement = load
                        .run(world.on_client(world.netdp_path()))
                        .with_context(|| place.mode.clone())?;
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

/// A container of netdp's whose ports are published `offset` above, with this
/// option; returns once it listens. Of this session, as the servers of the other
/// modes and their client are: the kernel shares a CPU out by sessions
/// (autogroups, sched(7)).
fn start_server(
    world: &World,
    name: &str,
    offset: u16,
    option: &str,
    cpu: usize,
) -> anyhow::Result<LoadServer> {
    let mut netdp = world.on_host(world.netdp_path());
    netdp.args(["run", "--name", name]);
    for (.., port) in METRICS {
        netdp.arg("-p");
        netdp.arg(format!("{}:{port}{option}", port + offset));
    }
    netdp.arg("--").arg(world.netdp_path());
    netdp.args(server_args(&served(cpu)));
    LoadServer::wait_for(netdp).context("cannot start the server to measure")
}

/// Where the servers are published, `offset` above their own ports.
fn published(offset: u16) -> [PublishedPort; METRICS.len()] {
    METRICS.map(|(.., port)| PublishedPort {
        protocol: "tcp",
        port: port + offset,
    })
}

/// Services and the ports they listen on.
fn served(cpu: usize) -> [Served; 1] {
    let listen = METRICS.map(|(kind, _, port)| (kind.service(), port));
    [Served {
        cpu,
        listen: listen.into(),
    }]
}
