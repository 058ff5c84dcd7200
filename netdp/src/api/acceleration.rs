//! Networks of another engine that are carried, as requests and answers, and
//! their containers as sandboxes.

use std::path::PathBuf;

use netdp_common::share;
use serde::{Deserialize, Serialize};

use super::types::{
    DirectCounters, Drops, Endpoint, EndpointCounters, JoinedCounters, Port, Sandbox, Statistics,
};
use crate::{
    accelerate::{self, Called, Carried, Member, Shown},
    bpf::{BpfError, Counters},
    docker::ENGINE,
    model::Publication,
};

/// `POST /v1/accelerations/docker`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccelerationRequest {
    /// Names or ids; empty: all.
    pub networks: Vec<String>,
    /// Also where the host has rules of its own that packets would skip.
    pub skip_rules: bool,
    /// Where Docker listens; none: where it does by default.
    pub socket: Option<PathBuf>,
}

/// `DELETE /v1/accelerations/docker`: the networks, separated by commas; none:
/// all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccelerationEnd {
    pub networks: Option<String>,
}

/// What is carried. `GET /v1/accelerations` answers with an array of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acceleration {
    /// `docker`.
    pub engine: String,
    pub socket: PathBuf,
    /// What was asked for, and is again of a daemon that starts later: all
    /// networks, but for some, or those of these names.
    pub all: bool,
    pub except: Vec<String>,
    pub named: Vec<String>,
    /// Also where the host has rules of its own that packets would skip.
    pub skip_rules: bool,
    /// Why it is as the engine said before, and not as it may say now.
    pub problem: Option<String>,
    pub networks: Vec<AcceleratedNetwork>,
    /// Packets that containers sent, or that were sent to published ports, and
    /// that were left to the engine's own way, by reason.
    pub left: Vec<Drops>,
}

/// What the programs have carried, as a container sees it, and the flows that
/// they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Entries of the flow tables, without what clients have asked and nobody
    /// has answered.
    pub flows: u64,
}

impl Traffic {
    fn and(self, other: Self) -> Self {
        Self {
            rx_packets: self.rx_packets + other.rx_packets,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            tx_packets: self.tx_packets + other.tx_packets,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            flows: self.flows + other.flows,
        }
    }
}

/// A network that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcceleratedNetwork {
    pub id: String,
    pub name: String,
    /// Its bridge; none of other drivers.
    pub interface: Option<String>,
    pub accelerated: bool,
    /// Why it is left as it is.
    pub reason: Option<String>,
    pub containers: Vec<AcceleratedContainer>,
    /// Of all its containers.
    pub traffic: Traffic,
}

/// A container on one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcceleratedContainer {
    pub id: String,
    pub name: String,
    pub accelerated: bool,
    /// Why it is left as it is.
    pub reason: Option<String>,
    /// How many ports it publishes by this network.
    pub ports: usize,
    pub traffic: Traffic,
}

/// What an engine's networks are shown as.
///
/// # Errors
/// Its counters can't be read.
pub fn acceleration(shown: Shown) -> Result<Acceleration, BpfError> {
    let counters = shown.seen.as_ref().map(|seen| &seen.counters);
    let left = match counters {
        Some(counters) => left(counters)?,
        None => Vec::new(),
    };
    let networks = shown.told.networks;
    let carried = shown.networks.iter().map(|it| network(it, counters));
    Ok(Acceleration {
        networks: carried.collect::<Result<_, _>>()?,
        left,
        engine: ENGINE.to_owned(),
        socket: shown.told.socket,
        all: networks.all,
        except: networks.except.into_iter().collect(),
        named: networks.named.into_iter().collect(),
        skip_rules: shown.told.skip_rules,
        problem: shown.problem,
    })
}

fn network(carried: &Carried, counters: Option<&Counters>) -> Result<AcceleratedNetwork, BpfError> {
    let members = carried.members.iter();
    let containers = members.map(|member| {
        Ok(AcceleratedContainer {
            id: member.container.id.clone(),
            name: member.container.name.clone(),
            accelerated: carried.left.is_none() && member.left.is_none(),
            reason: member.left.clone(),
            ports: member.published.len(),
            traffic: traffic(member, counters)?,
        })
    });
    let containers: Vec<_> = containers.collect::<Result<_, BpfError>>()?;
    let traffic = containers.iter().map(|it| it.traffic);
    Ok(AcceleratedNetwork {
        id: carried.network.id.clone(),
        name: carried.network.name.clone(),
        interface: (carried.network.driver == "bridge").then(|| carried.network.bridge()),
        accelerated: carried.left.is_none(),
        reason: carried.left.clone(),
        traffic: traffic.fold(Traffic::default(), Traffic::and),
        containers,
    })
}

fn traffic(member: &Member, counters: Option<&Counters>) -> Result<Traffic, BpfError> {
    let (Some(slot), Some(counters)) = (member.slot, counters) else {
        return Ok(Traffic::default());
    };
    let (stats, has) = (counters.stats(slot)?, counters.share(slot)?);
    Ok(Traffic {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        flows: [has.flows, has.pending, has.published]
            .into_iter()
            .map(share::counted)
            .sum(),
    })
}

fn left(counters: &Counters) -> Result<Vec<Drops>, BpfError> {
    let left = counters.left()?.into_iter();
    let left = left.map(|(reason, packets)| Drops {
        reason: reason.name().to_owned(),
        packets,
    });
    Ok(left.collect())
}

/// Adds the containers on networks that are carried, and what was left to the
/// stack.
///
/// # Errors
/// The counters can't be read.
pub fn count(statistics: &mut Statistics, shown: Option<&Shown>) -> Result<(), BpfError> {
    let Some((shown, seen)) = shown.and_then(|it| Some((it, it.seen.as_ref()?))) else {
        return Ok(());
    };
    for (carried, member) in shown.carried() {
        let traffic = traffic(member, Some(&seen.counters))?;
        let interface = member.interface.as_ref();
        statistics.endpoints.push(EndpointCounters {
            sandbox: member.container.id.clone(),
            name: member.container.name.clone(),
            network: carried.network.name.clone(),
            interface: interface.map_or_else(String::new, |it| it.ifname.clone()),
            rx_packets: traffic.rx_packets,
            rx_bytes: traffic.rx_bytes,
            tx_packets: traffic.tx_packets,
            tx_bytes: traffic.tx_bytes,
            drops: 0,
            accelerated: true,
            joined: JoinedCounters::default(),
            direct: DirectCounters::default(),
        });
    }
    statistics.left = left(&seen.counters)?;
    Ok(())
}

/// Whether it is a container of Docker's on a network of netdp's.
pub fn is_dockers(sandbox: &Sandbox) -> bool {
    sandbox.owner.as_deref() == Some(ENGINE)
}

/// Calls a container as Docker does, if Docker says how.
pub fn name(sandbox: &mut Sandbox, called: &[Called]) {
    if is_dockers(sandbox)
        && let Some(container) = accelerate::at(called, &sandbox.netns)
    {
        sandbox.name.clone_from(&container.name);
        sandbox.container = Some(container.id.clone());
    }
}

/// The containers on networks that are carried, each once.
pub fn sandboxes(shown: Option<Shown>) -> Vec<Sandbox> {
    let mut sandboxes: Vec<Sandbox> = Vec::new();
    let shown = shown.unwrap_or_default();
    for carried in shown.networks.iter().filter(|it| it.left.is_none()) {
        for member in &carried.members {
            let endpoint = endpoint(carried, member);
            let id = &member.container.id;
            match sandboxes.iter_mut().find(|sandbox| sandbox.id == *id) {
                Some(sandbox) => sandbox.endpoints.extend(endpoint),
                None => sandboxes.push(sandbox(member, endpoint)),
            }
        }
    }
    sandboxes
}

/// The one that has this name or id, or whose id alone begins like this.
pub fn sandbox_called(shown: Option<Shown>, reference: &str) -> Option<Sandbox> {
    let mut all = sandboxes(shown);
    if let Some(exact) = all
        .iter()
        .position(|it| it.name == reference || it.id == reference)
    {
        return Some(all.swap_remove(exact));
    }
    all.retain(|it| !reference.is_empty() && it.id.starts_with(reference));
    if all.len() == 1 { all.pop() } else { None }
}

fn sandbox(member: &Member, endpoint: Option<Endpoint>) -> Sandbox {
    let container = &member.container;
    Sandbox {
        id: container.id.clone(),
        name: container.name.clone(),
        created: container.started,
        hostname: container.hostname.clone(),
        netns: member.netns(),
        pid: Some(container.pid),
        command: container.command.clone(),
        mode: "networks".to_owned(),
        log: None,
        owner: Some(ENGINE.to_owned()),
        container: Some(container.id.clone()),
        expose: Vec::new(),
        endpoints: endpoint.into_iter().collect(),
        hosts: Vec::new(),
        environment: Default::default(),
        resolver: None,
        direct: None,
    }
}

/// None where its interface isn't known.
fn endpoint(carried: &Carried, member: &Member) -> Option<Endpoint> {
    let interface = member.interface.as_ref()?;
    let addresses = &member.endpoint.addresses;
    Some(Endpoint {
        id: member.endpoint.id.clone(),
        network: carried.network.name.clone(),
        interface: interface.ifname.clone(),
        host_interface: member.host_ifname.clone(),
        mac: interface.mac,
        addresses: addresses.iter().map(|address| address.net).collect(),
        gateways: addresses.iter().map(|address| address.gateway).collect(),
        aliases: Vec::new(),
        ports: member.published.iter().map(port).collect(),
    })
}

fn port(publication: &Publication) -> Port {
    Port {
        container_port: publication.container_port,
        protocol: publication.proto,
        host_ip: publication.host_ip,
        host_port: publication.host_port,
        count: publication.count,
        allow: Vec::new(),
        // By Docker.
        direct: false,
        held: true,
    }
}
