//! Networks of another engine that are carried, as requests and answers, and
//! their containers as sandboxes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::types::{Endpoint, Port, Sandbox};
use crate::{
    accelerate::{self, Called, Carried, Member, Shown},
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
}

/// A network that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcceleratedNetwork {
    pub id: String,
    pub name: String,
    /// Its bridge.
    pub interface: String,
    pub accelerated: bool,
    /// Why it is left as it is.
    pub reason: Option<String>,
    pub containers: Vec<AcceleratedContainer>,
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
}

/// What an engine's networks are shown as.
pub fn acceleration(shown: Shown) -> Acceleration {
    let networks = shown.told.networks;
    Acceleration {
        engine: ENGINE.to_owned(),
        socket: shown.told.socket,
        all: networks.all,
        except: networks.except.into_iter().collect(),
        named: networks.named.into_iter().collect(),
        skip_rules: shown.told.skip_rules,
        problem: shown.problem,
        networks: shown.networks.iter().map(network).collect(),
    }
}

fn network(carried: &Carried) -> AcceleratedNetwork {
    AcceleratedNetwork {
        id: carried.network.id.clone(),
        name: carried.network.name.clone(),
        interface: carried.network.bridge(),
        accelerated: carried.left.is_none(),
        reason: carried.left.clone(),
        containers: carried
            .members
            .iter()
            .map(|member| AcceleratedContainer {
                id: member.container.id.clone(),
                name: member.container.name.clone(),
                accelerated: carried.left.is_none() && member.left.is_none(),
                reason: member.left.clone(),
                ports: member.published.len(),
            })
            .collect(),
    }
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
        held: true,
    }
}
