//! `from_container`: a packet that a container sends.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    drop::DropReason,
    maps::{Endpoint, Owner, endpoint_flags, flow_kind},
    tcp,
};

use super::{
    Explanation, KnownFlow, Mapping, Outcome, Protocol, Question, Snapshot, WayBack, mapped,
    outside::{NOT_ALLOWED, TAKEN, is_link_local, taken},
};

/// Flags of an opening segment.
const SYN: u8 = netdp_common::packet::tcp_flags::SYN;

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
        outside(snapshot, question, &endpoint, told);
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
    if hairpin_reply(snapshot, question, endpoint, told) {
        return;
    }
    if neighbour.network != endpoint.network {
        let internal = endpoint.flags & endpoint_flags::INTERNAL != 0;
        let mapping = snapshot
            .mapping(
                question.destination.ip(),
                question.destination.port(),
                question.protocol,
            )
            .filter(|_| !internal && is_routed(neighbour.flags, question.destination));
        if let Some(mapping) = mapping {
            hairpin(snapshot, question, endpoint, &mapping, told);
            return;
        }
        told.drop(
            "policy",
            DropReason::OtherNetwork,
            "the two are on different networks",
        );
    } else if endpoint.flags & endpoint_flags::ICC != 0 {
        told.say("policy", "containers of one network may reach each other");
        told.outcome = Outcome::Container(neighbour.to.ifindex);
    } else if !is_linked(snapshot, question, endpoint) {
        told.drop(
            "policy",
            DropReason::NoIcc,
            "the network has icc=false, and no link opens this port",
        );
    } else {
        told.say(
            "policy",
            "the network has icc=false, but a link opens this port",
        );
        told.outcome = Outcome::Container(neighbour.to.ifindex);
    }
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

/// Of TCP, what opens a connection is no answer.
fn is_linked(snapshot: &Snapshot<'_>, question: &Question, endpoint: &Endpoint) -> bool {
    let (from, to) = (question.source, question.destination);
    endpoint.flags & endpoint_flags::LINKED != 0
        && (snapshot.link(from.ip(), to, question.protocol)
            || question.protocol == Protocol::Udp
                && snapshot.link(to.ip(), from, question.protocol))
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
    let Some(mapping) = snapshot.published(question.destination, question.protocol) else {
        told.say("mapping", "the port is not published");
        mapped::meet(snapshot, question, endpoint, told, |told| {
            known(snapshot, question, told).is_some()
        });
        if told.outcome == Outcome::Stack {
            told.say("flow", "none: the host's own stack has the packet");
        }
        return;
    };
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
    if endpoint.flags & endpoint_flags::INTERNAL != 0 {
        told.drop("policy", DropReason::Internal, "the network is internal");
        return;
    }
    let from = question.source;
    if mapping.container.ip() != from.ip() && !snapshot.allows(mapping, from.ip()) {
        told.drop("policy", DropReason::NotAllowed, NOT_ALLOWED);
        return;
    }
    // A container that reaches itself sees its gateway as the client.
    let client = if mapping.container.ip() == from.ip() {
        SocketAddr::new(gateway(endpoint, question), from.port())
    } else {
        from
    };
    if taken(snapshot, question, mapping, client) {
        told.drop("flow", DropReason::TupleTaken, TAKEN);
        return;
    }
    told.source = client;
    told.destination = mapping.container;
    told.outcome = Outcome::Container(mapping.ifindex);
}

/// The answer to a container that came in by a published port.
fn hairpin_reply(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> bool {
    if endpoint.flags & endpoint_flags::PUBLISHED == 0 {
        return false;
    }
    let flow = snapshot
        .full_flow(question.destination, question.source, question.protocol)
        .filter(is_published);
    match flow {
        Some(flow)
            if flow.pending
                || question.protocol == Protocol::Udp
                || !tcp::is_of_another(flow.state, SYN) =>
        {
            if is_current(snapshot, question, endpoint, &flow) {
                reply(&flow, told);
            } else {
                told.drop("mapping", DropReason::Unpublished, UNPUBLISHED);
            }
            true
        }
        _ => false,
    }
}

const UNPUBLISHED: &str = "an answer of a port that is no longer published";

/// Whether the port by which the client came is still published.
fn is_current(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    flow: &KnownFlow,
) -> bool {
    let leads_here = |mapping: Mapping| mapping.container == question.source;
    let mapping = if flow.inner.ip() == question.source.ip() {
        snapshot.mapping(flow.inner.ip(), flow.inner.port(), question.protocol)
    } else {
        snapshot.published(flow.inner, question.protocol)
    };
    flow.generation == endpoint.generation || mapping.is_some_and(leads_here)
}

fn is_published(flow: &KnownFlow) -> bool {
    matches!(flow.kind, flow_kind::PUBLISHED | flow_kind::HAIRPIN)
}

/// Under the address and port that the client used.
fn reply(flow: &KnownFlow, told: &mut Explanation) {
    told.say(
        "flow",
        format!("an answer of the port published as {}", flow.inner),
    );
    told.source = flow.inner;
    if flow.kind == flow_kind::HAIRPIN {
        told.destination.set_ip(flow.external);
    }
    told.outcome = match (flow.ifindex, told.outcome) {
        (0, Outcome::Uplink(_)) => told.outcome,
        (0, _) => Outcome::Stack,
        (ifindex, _) => Outcome::Container(ifindex),
    };
}

/// Out of the host.
fn outside(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) {
    if is_link_local(question.destination.ip()) {
        told.drop(
            "route",
            DropReason::NoRoute,
            "no router forwards to link-local addresses",
        );
        return;
    }
    let Some(way) = snapshot.way else {
        told.drop("route", DropReason::NoRoute, "the host has none");
        return;
    };
    let Some(external) = snapshot.external(&way, endpoint, question.destination.ip()) else {
        told.drop(
            "route",
            DropReason::NoRoute,
            "it leads to an interface that is no uplink: name it with --uplink",
        );
        return;
    };
    match way.gateway {
        Some(gateway) => told.say("route", format!("by the uplink, through {gateway}")),
        None => told.say("route", "by the uplink, on the link"),
    }
    told.outcome = Outcome::Uplink(way.ifindex);
    if endpoint.flags & endpoint_flags::PUBLISHED != 0 {
        match published(snapshot, question, endpoint, told) {
            Reply::None => {}
            Reply::Known(flow) => return follow(snapshot, question, &flow, told),
            Reply::Done => return,
        }
    }
    let mapping = mapped::outbound(snapshot, question, endpoint, told);
    if let Some(flow) = mapping {
        return follow(snapshot, question, &flow, told);
    }
    if let Some(flow) = known(snapshot, question, told) {
        let ends = flow.uplink != 0
            && flow.uplink != way.ifindex
            && snapshot
                .beyond(flow.uplink, question.destination.ip())
                .is_none();
        if !ends {
            return follow(snapshot, question, &flow, told);
        }
        told.say("flow", "its uplink leads nowhere any more, and it ends");
        told.source = question.source;
    }
    if is_routed(endpoint.flags.into(), question.source) {
        told.say("flow", "a new one");
        told.say("policy", "routed: it leaves as it is");
        return;
    }
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 {
        told.drop(
            "policy",
            DropReason::Internal,
            "the network is internal, or not masqueraded",
        );
        return;
    }
    if external.is_unspecified() {
        told.drop(
            "route",
            DropReason::NoUplinkAddress,
            "the uplink has no address of this family",
        );
        return;
    }
    told.say("flow", "a new one");
    told.source.set_ip(external);
    let port = question.source.port();
    let kept = snapshot.published(told.source, question.protocol).is_none()
        && !mapped::has(snapshot, told.source, question.protocol)
        && (mapped::is_next(snapshot, question, endpoint)
            || snapshot
                .outside_flow(question.destination, port, question.protocol)
                .is_none());
    if kept {
        told.say(
            "policy",
            "masqueraded; the port is kept unless a socket of the host has it",
        );
    } else {
        told.say(
            "policy",
            "masqueraded, under another port: this one is taken",
        );
        told.source.set_port(0);
    }
}

/// By the uplink of the flow, where the route names another.
fn follow(snapshot: &Snapshot<'_>, question: &Question, flow: &KnownFlow, told: &mut Explanation) {
    let by_route = snapshot.way.map_or(0, |way| way.ifindex);
    if flow.uplink == 0 || flow.uplink == by_route || told.outcome != Outcome::Uplink(by_route) {
        return;
    }
    if let Some(next) = snapshot.beyond(flow.uplink, question.destination.ip()) {
        told.say(
            "route",
            format!("by the uplink of the flow instead, through {next}"),
        );
        told.outcome = Outcome::Uplink(flow.uplink);
    }
}

/// What answers a client of a published port.
enum Reply {
    None,
    Known(KnownFlow),
    /// The way back that needs no flow, or a drop.
    Done,
}

/// An answer of a published port.
fn published(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> Reply {
    let flow = snapshot
        .full_flow(question.destination, question.source, question.protocol)
        .filter(is_published);
    match flow {
        Some(flow) if !flow.pending || question.protocol == Protocol::Udp => {
            if is_current(snapshot, question, endpoint, &flow) {
                reply(&flow, told);
                return Reply::Known(flow);
            }
            if question.protocol == Protocol::Tcp || flow.ifindex != 0 {
                told.drop("mapping", DropReason::Unpublished, UNPUBLISHED);
                return Reply::Done;
            }
        }
        _ => {}
    }
    // A connection that the container opens is its own; of UDP nobody can tell.
    if question.protocol == Protocol::Tcp {
        return Reply::None;
    }
    let back = match snapshot.back(question.source, question.protocol) {
        Some(WayBack::By(back)) => back,
        Some(WayBack::Closed) => {
            return match known(snapshot, question, told) {
                Some(flow) => Reply::Known(flow),
                None => {
                    told.drop("mapping", DropReason::Unpublished, UNPUBLISHED);
                    Reply::Done
                }
            };
        }
        None => return Reply::None,
    };
    told.say(
        "mapping",
        format!("an answer of the port published as {back}"),
    );
    told.source = back;
    Reply::Done
}

/// A flow that the container has begun.
fn known(
    snapshot: &Snapshot<'_>,
    question: &Question,
    told: &mut Explanation,
) -> Option<KnownFlow> {
    let as_itself = snapshot
        .full_flow(question.destination, question.source, question.protocol)
        .filter(|flow| flow.kind == flow_kind::ROUTED);
    if as_itself.is_some() {
        told.say("flow", "a known one, which leaves as it is");
        return as_itself;
    }
    let own = snapshot
        .outside_flow(
            question.destination,
            question.source.port(),
            question.protocol,
        )
        .filter(|flow| flow.kind == flow_kind::MASQUERADE && flow.inner == question.source);
    let changed = snapshot
        .full_flow(question.destination, question.source, question.protocol)
        .filter(|flow| flow.kind == flow_kind::MASQUERADE_OUT);
    let flow = own.or(changed)?;
    told.source = SocketAddr::new(flow.external, flow.inner.port());
    told.say("flow", format!("masqueraded as {}", told.source));
    Some(flow)
}
