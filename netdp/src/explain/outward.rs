//! A packet that a container sends out of the host.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    drop::DropReason,
    maps::{Endpoint, Flow, endpoint_flags, flow_kind},
    packet::Transport,
    rules,
};

use super::{
    Explanation, KnownFlow, Outcome, Question, Snapshot, WayBack,
    container::{Reply, UNPUBLISHED, answer, is_routed, pending},
    mapped,
};

/// Out of the host.
pub(super) fn explain(
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
        if no_room(snapshot, told) {
            return;
        }
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
    if no_room(snapshot, told) {
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

/// Refused where the flow tables take no other flow of the container.
pub(super) fn no_room(snapshot: &Snapshot<'_>, told: &mut Explanation) -> bool {
    let Some(reason) = snapshot.want_of_room else {
        return false;
    };
    let why = match reason {
        DropReason::TableFull => "the flow table has just been found full",
        _ => "the container has all the flows that one may have",
    };
    told.drop("flow", reason, why);
    true
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
pub(super) fn masqueraded(
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
