//! The state as answers show it.

use std::{net::IpAddr, process};

use netdp_common::{
    addr::{V4Addr, V6Addr},
    resolver,
};

use super::{
    block,
    host_sockets::HostSockets,
    listing,
    types::{
        DirectCounters, Drops, Endpoint, EndpointCounters, JoinedCounters, Member, Network, Port,
        Problem, Sandbox, Statistics, Status, Subnet, UplinkStatus,
    },
};
use crate::{
    accelerate::Shown,
    bpf::BpfError,
    daemon::{change::Core, owner::Owner},
    model::{self, Driver, Mode, State},
    plan::Hold,
    store::Damage,
    version,
};

pub fn networks(state: &State) -> Vec<Network> {
    let mut networks: Vec<_> = state
        .networks
        .values()
        .map(|found| network(state, found))
        .collect();
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    networks
}

pub fn network(state: &State, network: &model::Network) -> Network {
    let mut endpoints: Vec<_> = state
        .endpoints_in(network.id)
        .map(|endpoint| Member {
            endpoint: endpoint.id.to_string(),
            sandbox: endpoint.sandbox.to_string(),
            name: state.owner_name(endpoint),
            mac: endpoint.mac,
            addresses: addresses(endpoint),
        })
        .collect();
    endpoints.sort_by(|one, other| one.name.cmp(&other.name));
    Network {
        id: network.id.to_string(),
        name: network.name.to_string(),
        driver: network.driver,
        created: network.created,
        subnets: network
            .pools
            .iter()
            .map(|pool| Subnet {
                subnet: pool.subnet,
                gateway: pool.gateway,
                ip_range: pool.range,
            })
            .collect(),
        internal: network.internal,
        icc: network.icc,
        mtu: (network.driver == Driver::Bridge).then_some(network.mtu),
        options: {
            let mut options = network.defaults.clone();
            options.extend(network.options.clone());
            options
        },
        interface: network.bridge.as_ref().map(|bridge| bridge.ifname.clone()),
        endpoints,
    }
}

pub fn sandboxes(core: &Core) -> Vec<Sandbox> {
    let mut sandboxes: Vec<_> = core.state().sandboxes.values().collect();
    sandboxes.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    sandboxes
        .into_iter()
        .map(|found| sandbox(core, found))
        .collect()
}

pub fn sandbox(core: &Core, sandbox: &model::Sandbox) -> Sandbox {
    let state = core.state();
    let endpoints = state.endpoints_of(sandbox.id);
    Sandbox {
        id: sandbox.id.to_string(),
        name: sandbox.name.to_string(),
        created: sandbox.created,
        hostname: sandbox.hostname.clone(),
        netns: sandbox.netns.clone(),
        container: sandbox.container.as_ref().map(|it| it.id.clone()),
        pid: sandbox.process.map(|process| process.pid),
        command: sandbox.command.clone(),
        mode: mode(state, sandbox),
        log: sandbox.log.clone(),
        owner: sandbox.owner.clone(),
        expose: sandbox.expose.clone(),
        hosts: state.hosts(sandbox),
        environment: state.environment(sandbox),
        resolver: core
            .resolver()
            .listens(state.sharing(sandbox).id)
            .then(|| resolver::ADDRESS.bytes().into()),
        direct: core.direct().of(sandbox),
        endpoints: endpoints
            .into_iter()
            .map(|found| endpoint(core, found))
            .collect(),
    }
}

fn mode(state: &State, sandbox: &model::Sandbox) -> String {
    match sandbox.mode {
        Mode::Host => "host".to_owned(),
        Mode::None => "none".to_owned(),
        Mode::Container(other) => match state.sandboxes.get(&other) {
            Some(other) => format!("container:{}", other.name),
            None => format!("container:{}", other.short()),
        },
        Mode::Networks => "networks".to_owned(),
    }
}

fn endpoint(core: &Core, endpoint: &model::Endpoint) -> Endpoint {
    let state = core.state();
    let network = state.networks.get(&endpoint.network);
    let holds = &core.engine().target().holds;
    let sandbox = state.sandboxes.get(&endpoint.sandbox);
    let by_engine = sandbox.is_some_and(model::Sandbox::holds_ports);
    Endpoint {
        id: endpoint.id.to_string(),
        network: network.map_or_else(
            || endpoint.network.short(),
            |network| network.name.to_string(),
        ),
        interface: endpoint.ifname.clone(),
        host_interface: endpoint.host_ifname.clone(),
        mac: endpoint.mac,
        addresses: addresses(endpoint),
        gateways: endpoint
            .addresses
            .iter()
            .map(|address| address.gateway)
            .collect(),
        aliases: endpoint.aliases.iter().map(ToString::to_string).collect(),
        ports: endpoint
            .published
            .iter()
            .map(|port| Port {
                container_port: port.container_port,
                protocol: port.proto,
                host_ip: port.host_ip,
                host_port: port.host_port,
                count: port.count,
                allow: port.allow.clone(),
                direct: port.direct,
                held: by_engine || endpoint.is_at_itself(port) || holds.is_held(&Hold::from(port)),
            })
            .collect(),
    }
}

fn addresses(endpoint: &model::Endpoint) -> Vec<ipnet::IpNet> {
    endpoint
        .addresses
        .iter()
        .map(|address| address.net)
        .collect()
}

/// With those of other engines' networks that are carried.
pub fn flow_tables(core: &Core, shown: Option<Shown>) -> listing::Tables {
    let datapath = &core.engine().target().datapath;
    listing::Tables {
        v4: datapath.flow_tables::<V4Addr>().clone(),
        v6: datapath.flow_tables::<V6Addr>().clone(),
        accelerated: shown.and_then(listing::Accelerated::of),
        direct: HostSockets::of(core),
    }
}

pub fn statistics(core: &Core) -> Result<Statistics, BpfError> {
    let datapath = &core.engine().target().datapath;
    let state = core.state();
    let mut endpoints = Vec::new();
    for endpoint in state.endpoints.values() {
        let stats = datapath.stats(endpoint.slot)?;
        let short = datapath.short(endpoint.slot)?;
        let network = state.networks.get(&endpoint.network);
        endpoints.push(EndpointCounters {
            sandbox: endpoint.sandbox.to_string(),
            name: state.owner_name(endpoint),
            network: network.map_or_else(String::new, |network| network.name.to_string()),
            interface: endpoint.ifname.clone(),
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            drops: stats.drops,
            accelerated: false,
            joined: JoinedCounters {
                connections: short.connections,
                messages: short.messages,
                bytes: short.bytes,
            },
            direct: DirectCounters::default(),
        });
    }
    endpoints
        .sort_by(|one, other| (&one.name, &one.interface).cmp(&(&other.name, &other.interface)));
    let drops = datapath
        .drops()?
        .into_iter()
        .map(|(reason, packets)| Drops {
            reason: reason.name().to_owned(),
            packets,
        })
        .collect();
    Ok(Statistics {
        endpoints,
        drops,
        left: Vec::new(),
    })
}

pub fn status(core: &Core, owner: &Owner) -> Status {
    let engine = core.engine();
    let facts = engine.facts();
    let mut uplinks: Vec<UplinkStatus> = facts
        .uplinks
        .iter()
        .map(|uplink| block::uplink(core, uplink))
        .collect();
    for name in engine.asked_uplinks() {
        if !uplinks.iter().any(|uplink| uplink.interface == *name) {
            uplinks.push(UplinkStatus {
                interface: name.clone(),
                present: false,
                addresses: Vec::<IpAddr>::new(),
                drops_by: None,
                without_xdp: None,
            });
        }
    }
    let mut problems: Vec<Problem> = engine
        .problems()
        .iter()
        .map(|(what, why)| Problem {
            what: format!("cannot {what}"),
            advice: why.clone(),
        })
        .collect();
    problems.extend(owner.damage().map(damaged));
    problems.extend(core.store_trouble().map(|what| {
        Problem {
            what,
            advice: "see that this disk has room and can be written: until then changes may be \
                 refused; it is tried again every few seconds"
                .to_owned(),
        }
    }));
    let unheard = owner.resolver().problems();
    problems.extend(unheard.into_iter().map(|(sandbox, why)| Problem {
        what: format!("cannot answer names in sandbox {}: {why}", sandbox.short()),
        advice: format!(
            "let no program of it listen at port {}; it is tried again every few seconds",
            resolver::HELD_PORT
        ),
    }));
    let unheard = core.direct().unheard(core.state());
    problems.extend(unheard.into_iter().map(|id| Problem {
        what: format!(
            "the supervisor of the direct ports of {} has died: what its programs bind fails \
                 with ENOSYS, what they have goes on",
            core.state().sandboxes[&id].name
        ),
        advice: "start its program again".to_owned(),
    }));
    let untold = core.direct().untold().iter();
    let untold = untold.filter_map(|(id, why)| Some((core.state().sandboxes.get(id)?, why)));
    problems.extend(untold.map(|(sandbox, why)| Problem {
        what: format!(
            "cannot say which ports of {} are direct: {why}",
            sandbox.name
        ),
        advice: format!(
            "see that {} has room and can be written: until then what its programs bind is \
                 published by the datapath; it is tried again every few seconds",
            core.direct().site().ports.display()
        ),
    }));
    Status {
        version: version::text().to_owned(),
        pid: process::id(),
        log_dir: owner.settings().log_dir.clone(),
        bpffs: Some(owner.settings().bpffs.clone()),
        mechanism: engine.target().datapath.mechanism().to_string(),
        uplinks,
        blocked: core.state().blocked.len(),
        limit: core.state().limit.map(|limit| limit.rate),
        problems,
    }
}

fn damaged(damage: &Damage) -> Problem {
    let why = &damage.why;
    let kept = match &damage.kept_as {
        Some(kept) => format!("what it held is kept as {}", kept.display()),
        None => "nothing is left of it".to_owned(),
    };
    match &damage.restored_from {
        Some(copy) => Problem {
            what: format!(
                "the store was damaged ({why}) and restored from {}",
                copy.display()
            ),
            advice: format!("check the disk; {kept}"),
        },
        None => Problem {
            what: format!("the store was damaged ({why}) and nothing could be restored"),
            advice: format!("make the networks and sandboxes again; {kept}"),
        },
    }
}
