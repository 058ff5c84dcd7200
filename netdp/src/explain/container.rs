//! `from_container`: a packet that a container sends.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    drop::DropReason,
    maps::{Endpoint, Flow, Owner, endpoint_flags, flow_kind},
    packet::Transport,
    rules::{self, Towards},
    tcp,
};

use super::{
    Explanation, KnownFlow, Mapping, Outcome, Question, Snapshot, WayBack, mapped,
    outside::{NOT_ALLOWED, TAKEN, taken},
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
            masqueraded(snapshot, question, told).is_some()
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

/// The answer to a client that the table of what isn't answered knows.
fn pending(
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

const UNPUBLISHED: &str = "an answer of a port that is no longer published";

/// Under the address and port that the client of a flow used, if that port is
/// still published.
fn answer(
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

/// Out of the host.
fn outside(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) {
    let to = question.destination.ip();
    let Some((way, external)) = way(snapshot, endpoint, to, told) else {
        return;
    };
    told.outcome = Outcome::Uplink(way);
    let mut closed = false;
    if rules::has_published_port(endpoint.flags, question.proto()) {
        match published(snapshot, question, endpoint, told) {
            Reply::None => {}
            Reply::Closed => closed = true,
            Reply::Known(flow) => return follow(snapshot, question, &flow, told),
            Reply::Done => return,
        }
    }
    let is_routed = is_routed(endpoint.flags.into(), question.source);
    if is_routed {
        if as_itself(snapshot, question, told) {
            return;
        }
    } else if let Some(flow) = mapped::outbound(snapshot, question, endpoint, told) {
        return follow(snapshot, question, &flow, told);
    } else if let Some(flow) = masqueraded(snapshot, question, told) {
        let ends =
            flow.ifindex != 0 && flow.ifindex != way && snapshot.beyond(flow.ifindex, to).is_none();
        if !ends {
            return follow(snapshot, question, &flow, told);
        }
        told.say("flow", "its uplink leads nowhere any more, and it ends");
        told.source = question.source;
        closed = false;
    }
    if closed {
        told.drop("mapping", DropReason::Unpublished, UNPUBLISHED);
        return;
    }
    open(snapshot, question, endpoint, external, told);
}

/// The uplink that the route names, and the address that a new flow gets there;
/// none where the packet is dropped for want of a way.
fn way(
    snapshot: &Snapshot<'_>,
    endpoint: &Endpoint,
    to: IpAddr,
    told: &mut Explanation,
) -> Option<(u32, IpAddr)> {
    let refused = if to.is_loopback() {
        "loopback never leaves a container's own network namespace: a program there reaches \
         itself by it, and a packet that came out would be dropped"
            .to_owned()
    } else if super::is_link_local(to) {
        "no router forwards to link-local addresses".to_owned()
    } else if super::is_martian(to) {
        "nobody has this address".to_owned()
    } else if let Some(network) = snapshot.network_of(to) {
        format!("no container of network {network} has this address")
    } else if let Some(way) = snapshot.way {
        let Some(external) = snapshot.external(&way, endpoint, to) else {
            told.drop(
                "route",
                DropReason::NoRoute,
                "it leads to an interface that is no uplink: name it with --uplink",
            );
            return None;
        };
        match way.gateway {
            Some(gateway) => told.say("route", format!("by the uplink, through {gateway}")),
            None => told.say("route", "by the uplink, on the link"),
        }
        return Some((way.ifindex, external));
    } else {
        "the host has none".to_owned()
    };
    told.drop("route", DropReason::NoRoute, refused);
    None
}

/// A conversation that the container begins.
fn open(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    external: IpAddr,
    told: &mut Explanation,
) {
    if let Err(reason) = rules::may_open(question.transport()) {
        told.drop("flow", reason, "such a packet begins none");
        return;
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
    let what = match question.transport() {
        Transport::EchoRequest => "identifier",
        _ => "port",
    };
    if mapped::keeps_port(snapshot, question, endpoint, told.source) {
        let unless = match question.transport() {
            Transport::EchoRequest => "",
            _ => " unless a socket of the host has it",
        };
        told.say("policy", format!("masqueraded; the {what} is kept{unless}"));
    } else {
        told.say(
            "policy",
            format!("masqueraded, under another {what}: this one is taken"),
        );
        told.source.set_port(0);
    }
}

/// By the uplink of the flow, where the route names another.
fn follow(
    snapshot: &Snapshot<'_>,
    question: &Question,
    flow: &Flow<IpAddr>,
    told: &mut Explanation,
) {
    let by_route = snapshot.way.map_or(0, |way| way.ifindex);
    if flow.ifindex == 0 || flow.ifindex == by_route || told.outcome != Outcome::Uplink(by_route) {
        return;
    }
    if let Some(next) = snapshot.beyond(flow.ifindex, question.destination.ip()) {
        told.say(
            "route",
            format!("by the uplink of the flow instead, through {next}"),
        );
        told.outcome = Outcome::Uplink(flow.ifindex);
    }
}

/// What answers a client of a published port.
enum Reply {
    None,
    /// The port was published until a while ago: only a conversation that the
    /// container has begun goes on.
    Closed,
    Known(Flow<IpAddr>),
    /// The way back that needs no flow, or a drop.
    Done,
}

/// An answer of a published port to the outside.
fn published(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> Reply {
    let (to, from) = (question.destination, question.source);
    if let Some(flow) = snapshot.conversation(to, from, question.proto())
        && rules::is_published(flow.kind)
    {
        match answer(snapshot, question, endpoint, &flow, told) {
            Reply::None => {}
            reply => return reply,
        }
    }
    // A connection that the container opens is its own; of UDP nobody can tell.
    if question.transport().is_syn() {
        return Reply::None;
    }
    match pending(snapshot, question, endpoint, told) {
        Reply::None => {}
        reply => return reply,
    }
    match snapshot.back(from, question.proto()) {
        Some(WayBack::By(back)) => {
            told.say(
                "mapping",
                format!("an answer of the port published as {back}"),
            );
            told.source = back;
            Reply::Done
        }
        Some(WayBack::Closed) => Reply::Closed,
        None => Reply::None,
    }
}

/// A flow that the container has begun under its own address.
fn as_itself(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) -> bool {
    let (to, from) = (question.destination, question.source);
    let known = snapshot.full_flow(to, from, question.proto());
    let is = known.is_some_and(|known| known.flow.kind == flow_kind::ROUTED);
    if is {
        told.say("flow", "a known one, which leaves as it is");
    }
    is
}

/// A flow that the container has begun, under an address of the host: found by
/// what the outside sees or, where its port was changed, by the sender's side,
/// which is worth nothing without the other.
fn masqueraded(
    snapshot: &Snapshot<'_>,
    question: &Question,
    told: &mut Explanation,
) -> Option<Flow<IpAddr>> {
    let (to, from) = (question.destination, question.source);
    let (tuple, proto) = (question.tuple(), question.proto());
    let outside = |port| snapshot.outside_flow(to, port, proto);
    let own = outside(from.port()).filter(|known| rules::is_owner(&known.flow, &tuple));
    let changed = || {
        let side = snapshot.full_flow(to, from, proto)?;
        let is_side = |side: &KnownFlow| side.flow.kind == flow_kind::MASQUERADE_OUT;
        let twin = outside(side.flow.port.get())?;
        (is_side(&side) && rules::is_owner(&twin.flow, &tuple)).then_some(side)
    };
    let known = own.or_else(changed)?;
    told.source = SocketAddr::new(known.flow.external, known.flow.port.get());
    told.say("flow", format!("masqueraded as {}", told.source));
    Some(known.flow)
}
