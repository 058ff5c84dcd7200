//! `netdp explain`: the tables, the flows and the route of this moment, put to
//! [`crate::explain`].

use std::net::{IpAddr, SocketAddr};

use netdp_common::addr::{V4Addr, V6Addr};
use nix::libc;

use super::types::{Explained, Fate};
use crate::{
    accelerate::{Member, Shown},
    bpf::clock,
    bpf::tells_preferred_sources,
    daemon::{change::Core, owner::OwnerError},
    explain::{self, Explanation, Outcome, Protocol, Question, Snapshot, Step, Subnet, Way},
    model::{Endpoint, Proto, Publication, Refusal, State},
    netlink::{Forwarded, Sockets},
};

/// What would become of the packet.
///
/// # Errors
/// Refused where the two addresses are of different families.
pub async fn explain(
    core: &Core,
    shown: Option<&Shown>,
    question: &Question,
) -> Result<Explained, OwnerError> {
    if question.source.is_ipv4() != question.destination.is_ipv4() {
        return Err(Refusal::invalid(format!(
            "{} and {} are of different families: ask about two addresses of one",
            question.source, question.destination
        ))
        .into());
    }
    if let Some(carried) = shown.and_then(|shown| accelerated(core, shown, question)) {
        return Ok(carried);
    }
    let target = core.engine().target();
    let tables = target.datapath.tables()?;
    let subnets = subnets(core);
    let mut snapshot = Snapshot {
        tables: &tables,
        flows4: &target.datapath.flows::<V4Addr>()?,
        flows6: &target.datapath.flows::<V6Addr>()?,
        way: None,
        now: clock::now(),
        want_of_room: None,
        subnets: &subnets,
        is_over_limit: target.datapath.is_over_limit(
            question.proto(),
            question.source,
            question.destination,
        )?,
        has_socket: &has_socket,
    };
    // The host's own packets, and those from outside, take no way that the
    // programs ask for.
    if let Some(owner) = snapshot.owner(question.source.ip()) {
        let packet = Forwarded {
            from: question.source.ip(),
            to: question.destination.ip(),
            iif: owner.to.ifindex,
        };
        if let Some(endpoint) = snapshot.endpoint(owner.to.ifindex) {
            let source = question.source.ip();
            snapshot.want_of_room = target.datapath.want_of_room(endpoint.slot, source)?;
        }
        let route = target.netlink.way_of(&packet).await?;
        snapshot.way = route.and_then(|route| {
            Some(Way {
                ifindex: route.oif?,
                gateway: route.gateway,
                source: route.src.filter(|_| tells_preferred_sources()),
            })
        });
    }
    let own = explain::own(&snapshot, question);
    let told = own.unwrap_or_else(|| explain::explain(&snapshot, question));
    Ok(explained(core, question, told))
}

/// A packet from outside for a published port of another engine's network that
/// is carried: its programs see it before netdp's own. None of any other packet.
fn accelerated(core: &Core, shown: &Shown, question: &Question) -> Option<Explained> {
    let proto = match question.protocol {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
        Protocol::Icmp => return None,
    };
    let (from, to) = (question.source.ip(), question.destination);
    let mut addresses = core.engine().facts().addresses.iter();
    let has = |member: &Member, address: IpAddr| {
        let mut own = member.endpoint.addresses.iter();
        own.any(|own| own.net.addr() == address)
    };
    let sends = shown.carried().any(|(_, member)| has(member, from));
    if sends || to.ip().is_loopback() || !addresses.any(|it| it.address == to.ip()) {
        return None;
    }
    let is_asked = |port: &&Publication| {
        let any = port.host_ip.is_unspecified() && port.host_ip.is_ipv4() == to.is_ipv4();
        port.proto == proto && port.host_port == to.port() && (any || port.host_ip == to.ip())
    };
    let (network, member, port) = shown.carried().find_map(|(network, member)| {
        let port = member.published.iter().find(is_asked)?;
        Some((network, member, port))
    })?;
    let mut own = member.endpoint.addresses.iter();
    let own = own.find(|own| own.net.addr().is_ipv4() == to.is_ipv4())?;
    let destination = SocketAddr::new(own.net.addr(), port.container_port);
    let (container, network) = (&member.container.name, &network.network.name);
    Some(Explained {
        question: *question,
        steps: vec![Step {
            asked: "mapping".to_owned(),
            answer: format!(
                "port {} of container {container} on Docker's network {network}, which is \
                 accelerated: past Docker's rules",
                port.container_port
            ),
        }],
        source: question.source,
        destination,
        fate: Fate::Delivered,
        reason: None,
        sandbox: Some(container.clone()),
        interface: Some(member.host_ifname.clone()),
    })
}

/// Of all networks that have containers.
fn subnets(core: &Core) -> Vec<Subnet> {
    let networks = core.state().networks.values();
    networks
        .flat_map(|network| {
            network.pools.iter().map(|pool| Subnet {
                net: pool.subnet,
                network: network.name.to_string(),
            })
        })
        .collect()
}

fn explained(core: &Core, question: &Question, told: Explanation) -> Explained {
    let uplinks = &core.engine().facts().uplinks;
    let mut explained = Explained {
        question: *question,
        steps: told.steps,
        source: told.source,
        destination: told.destination,
        fate: Fate::Host,
        reason: None,
        sandbox: None,
        interface: None,
    };
    match told.outcome {
        Outcome::Stack => {}
        Outcome::Dropped(reason) => {
            explained.fate = Fate::Dropped;
            explained.reason = Some(reason.name().to_owned());
        }
        Outcome::Uplink(ifindex) => {
            explained.fate = Fate::Sent;
            let uplink = uplinks.iter().find(|uplink| uplink.ifindex == ifindex);
            explained.interface = uplink.map(|uplink| uplink.ifname.clone());
        }
        Outcome::Socket(container) => {
            let endpoint = endpoint_at(core.state(), container);
            explained.sandbox = endpoint.and_then(|it| owner(core.state(), it));
        }
        Outcome::Container(_) => {
            explained.fate = Fate::Delivered;
            if let Some(endpoint) = endpoint_at(core.state(), told.destination.ip()) {
                let stays_inside = question.source.ip() == question.destination.ip()
                    && question.destination == told.destination;
                explained.interface = (!stays_inside).then(|| endpoint.host_ifname.clone());
                explained.sandbox = owner(core.state(), endpoint);
            }
        }
    }
    explained
}

fn endpoint_at(state: &State, address: IpAddr) -> Option<&Endpoint> {
    state.endpoints.values().find(|endpoint| {
        let mut addresses = endpoint.addresses.iter();
        addresses.any(|own| own.net.addr() == address)
    })
}

/// The name of its sandbox.
fn owner(state: &State, endpoint: &Endpoint) -> Option<String> {
    let sandbox = state.sandboxes.get(&endpoint.sandbox)?;
    Some(sandbox.name.to_string())
}

/// Whether the host's stack has a socket for a packet from `peer` to `own`.
fn has_socket(protocol: Protocol, own: SocketAddr, peer: SocketAddr) -> bool {
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Icmp => return false,
    };
    let asked = Sockets::open().and_then(|sockets| sockets.has(number, own, peer));
    asked.unwrap_or_else(|error| {
        tracing::warn!("cannot ask whether the host has a socket at {own}: {error}");
        false
    })
}
