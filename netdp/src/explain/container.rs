//! `from_container`: a packet that a container sends.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    drop::DropReason,
    maps::{Endpoint, Flow, Owner, endpoint_flags},
    packet::Transport,
    rules::{self, Towards},
    tcp,
};

use super::{
    Explanation, Mapping, Outcome, Question, Snapshot, mapped,
    outside::{NOT_ALLOWED, TAKEN, taken},
    outward,
};

pub(super) fn explain(
    snapshot: &Snapshot<'_>,
    question: &Question,
    owner: &Owner,
    told: &mut Explanation,
) {
    let Some(endpoint) = snapshot.endpoint(owner.to.ifindex) else {
        told.drop(
            "source",
            DropReason::NoEndpoint,
            "its interface is not in the tables",
        );
        return;
    };
    let to = question.destination.ip();
    if let Some(neighbour) = snapshot.owner(to) {
        self::neighbour(snapshot, question, &endpoint, &neighbour, told);
    } else if snapshot.is_local(to) {
        host(snapshot, question, &endpoint, told);
    } else if to.is_multicast() || to == IpAddr::from([255; 4]) {
        told.drop("route", DropReason::Multicast, "multicast is not carried");
    } else {
        outward::explain(snapshot, question, &endpoint, told);
    }
}

/// To another container.
fn neighbour(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    neighbour: &Owner,
    told: &mut Explanation,
) {
    let to = question.destination;
    if hairpin_reply(snapshot, question, endpoint, told) {
        return;
    }
    let towards = rules::towards(endpoint, neighbour, routed_flag(to));
    let mapping = match towards {
        Towards::Neighbour => return directly(snapshot, question, endpoint, neighbour, told),
        Towards::PublishedPorts => snapshot.exact(to, question.proto()),
        Towards::Nobody => None,
    };
    match mapping {
        Some(mapping) => hairpin(snapshot, question, endpoint, &mapping, told),
        None => told.drop(
            "policy",
            DropReason::OtherNetwork,
            "the two are on different networks",
        ),
    }
}

/// To one of the same network.
fn directly(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    neighbour: &Owner,
    told: &mut Explanation,
) {
    let opens = question.transport().is_syn();
    let is_linked = || {
        let (tuple, proto) = (question.tuple(), question.proto());
        rules::is_linked(&tuple, proto, opens, |key| snapshot.has_link(key))
    };
    if !rules::is_open(endpoint.flags, is_linked) {
        let opened = match question.transport() {
            Transport::EchoRequest => "links open ports of TCP and UDP alone",
            _ => "no link opens this port",
        };
        let why = format!("the network has icc=false, and {opened}");
        told.drop("policy", DropReason::NoIcc, why);
        return;
    }
    let why = if endpoint.flags & endpoint_flags::ICC != 0 {
        "containers of one network may reach each other"
    } else {
        "the network has icc=false, but a link opens this port"
    };
    told.say("policy", why);
    if let Some(place) = snapshot.instead(question) {
        told.take(place, question.destination.ip());
        return;
    }
    told.outcome = Outcome::Container(neighbour.to.ifindex);
}

/// The flag of a container that the outside knows by its own address.
pub(super) fn routed_flag(address: SocketAddr) -> u16 {
    match address {
        SocketAddr::V4(_) => endpoint_flags::ROUTED4,
        SocketAddr::V6(_) => endpoint_flags::ROUTED6,
    }
}

/// Whether the outside knows the container with these flags by this address.
pub(super) fn is_routed(flags: u32, address: SocketAddr) -> bool {
    flags & u32::from(routed_flag(address)) != 0
}

fn gateway(endpoint: &Endpoint, question: &Question) -> IpAddr {
    match question.source {
        SocketAddr::V4(_) => std::net::Ipv4Addr::from(endpoint.gateway4).into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::from(endpoint.gateway6).into(),
    }
}

/// To an address of the host.
fn host(snapshot: &Snapshot<'_>, question: &Question, endpoint: &Endpoint, told: &mut Explanation) {
    if question.destination.ip() == gateway(endpoint, question)
        && hairpin_reply(snapshot, question, endpoint, told)
    {
        return;
    }
    let Some(mapping) = snapshot.published(question.destination, question.proto()) else {
        told.say("mapping", question.not_published());
        mapped::meet(snapshot, question, endpoint, told, |told| {
            outward::masqueraded(snapshot, question, told).is_some()
        });
        if told.outcome == Outcome::Stack {
            told.say("flow", "none: the host's own stack has the packet");
        }
        return;
    };
    if endpoint.flags & endpoint_flags::INTERNAL != 0 {
        told.say("mapping", mapping.to_string());
        told.drop("policy", DropReason::Internal, "the network is internal");
        return;
    }
    hairpin(snapshot, question, endpoint, &mapping, told);
}

/// To a published port of this host.
fn hairpin(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    mapping: &Mapping,
    told: &mut Explanation,
) {
    told.say("mapping", mapping.to_string());
    let from = question.source;
    let is_allowed = || snapshot.allows(mapping, from.ip());
    if !rules::may_use(&mapping.published, from.ip(), is_allowed) {
        told.drop("policy", DropReason::NotAllowed, NOT_ALLOWED);
        return;
    }
    if snapshot.is_hosts(mapping, question) {
        told.take(question.destination, mapping.container().ip());
        return;
    }
    // A container that reaches itself sees its gateway as the client.
    let client = if mapping.published.addr == from.ip() {
        SocketAddr::new(gateway(endpoint, question), from.port())
    } else {
        from
    };
    if taken(snapshot, question, mapping, client) {
        told.drop("flow", DropReason::TupleTaken, TAKEN);
        return;
    }
    let (seen, proto) = (mapping.container(), question.proto());
    let known = snapshot.full_flow(client, seen, proto).is_some();
    if !known && outward::no_room(snapshot, told) {
        return;
    }
    told.source = client;
    told.destination = mapping.container();
    told.outcome = Outcome::Container(mapping.published.to.ifindex);
}

/// The answer to a container that came in by a published port.
fn hairpin_reply(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> bool {
    if !rules::has_published_port(endpoint.flags, question.proto()) {
        return false;
    }
    let (to, from) = (question.destination, question.source);
    if let Some(flow) = snapshot.conversation(to, from, question.proto()) {
        let over = match question.transport() {
            Transport::Tcp(flags) => tcp::is_of_another(flow.state, flags),
            _ => false,
        };
        if !over {
            return !matches!(
                answer(snapshot, question, endpoint, &flow, told),
                Reply::None
            );
        }
    }
    !matches!(pending(snapshot, question, endpoint, told), Reply::None)
}

/// What answers a client of a published port.
pub(super) enum Reply {
    None,
    /// The port was published until a while ago: only a conversation that the
    /// container has begun goes on.
    Closed,
    Known(Flow<IpAddr>),
    /// The way back that needs no flow, or a drop.
    Done,
}

/// The answer to a client that the table of what isn't answered knows.
pub(super) fn pending(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> Reply {
    let (to, from) = (question.destination, question.source);
    match snapshot.pending(to, from, question.proto()) {
        Some(flow) if rules::is_published(flow.kind) => {
            answer(snapshot, question, endpoint, &flow, told)
        }
        _ => Reply::None,
    }
}

pub(super) const UNPUBLISHED: &str = "an answer of a port that is no longer published";

/// Under the address and port that the client of a flow used, if that port is
/// still published.
pub(super) fn answer(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    flow: &Flow<IpAddr>,
    told: &mut Explanation,
) -> Reply {
    let proto = question.proto();
    if flow.generation == endpoint.generation || leads_to(snapshot, flow, question.source, proto) {
        reply(question, flow, told);
        return Reply::Known(*flow);
    }
    if rules::ends_with_its_port(proto, flow.to.ifindex) {
        return Reply::None;
    }
    told.drop("mapping", DropReason::Unpublished, UNPUBLISHED);
    Reply::Done
}

/// Whether the port by which a flow's client came leads to this container port;
/// of a flow of another kind, always.
pub(super) fn leads_to(
    snapshot: &Snapshot<'_>,
    flow: &Flow<IpAddr>,
    container: SocketAddr,
    proto: u8,
) -> bool {
    if !rules::is_published(flow.kind) {
        return true;
    }
    let asked = SocketAddr::new(flow.addr, flow.port.get());
    // What is published at the container's own address is nobody else's.
    let mapping = if flow.addr == container.ip() {
        snapshot.exact(asked, proto)
    } else {
        snapshot.published(asked, proto)
    };
    mapping.is_some_and(|mapping| {
        let port = netdp_common::addr::Be16::new(container.port());
        rules::leads_to(&mapping.published, flow.port, container.ip(), port)
    })
}

/// Under the address and port that the client used.
fn reply(question: &Question, flow: &Flow<IpAddr>, told: &mut Explanation) {
    let mut to = question.tuple();
    rules::answer(flow, &mut to);
    told.source = SocketAddr::new(to.saddr, to.sport.get());
    told.destination = SocketAddr::new(to.daddr, to.dport.get());
    told.say(
        "flow",
        format!("an answer of the port published as {}", told.source),
    );
    told.outcome = match (flow.to.ifindex, told.outcome) {
        (0, Outcome::Uplink(_)) => told.outcome,
        (0, _) => Outcome::Stack,
        (ifindex, _) => Outcome::Container(ifindex),
    };
}
