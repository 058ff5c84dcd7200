//! Endpoint-independent mappings, for whoever meets one.

use std::net::SocketAddr;

use netdp_common::{
    maps::{Endpoint, Flow},
    rules,
};

use super::{Explanation, KnownFlow, Outcome, Question, Snapshot};

/// Whether the container sends such packets by a mapping.
fn applies(endpoint: &Endpoint, question: &Question) -> bool {
    rules::is_mapped(endpoint.flags, question.proto())
}

/// The mapping that has the destination.
fn at(snapshot: &Snapshot<'_>, question: &Question) -> Option<KnownFlow> {
    snapshot
        .mapping_at(question.destination)
        .filter(|_| question.is_udp())
}

/// What the outside sees of a sender's mapping, and the entry.
struct Mine {
    seen: SocketAddr,
    entry: KnownFlow,
}

/// The sender's mapping: its own port, or the one that it was changed to.
fn of_sender(snapshot: &Snapshot<'_>, question: &Question) -> Option<Mine> {
    let from = question.tuple();
    let with = |port: u16| {
        let socket = SocketAddr::new(question.source.ip(), port);
        let entry = snapshot.mapping_with(socket)?;
        let seen = SocketAddr::new(entry.flow.external, port);
        rules::is_of(&entry.flow, &from).then_some(Mine { seen, entry })
    };
    with(question.source.port()).or_else(|| {
        let side = snapshot.mapping_side(question.source)?;
        with(side.flow.port.get())
    })
}

/// Out by the sender's mapping; none where it has none, or another flow has
/// its port towards this peer.
pub(super) fn outbound(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> Option<Flow<std::net::IpAddr>> {
    if !applies(endpoint, question) {
        return None;
    }
    let Mine { seen, entry } = of_sender(snapshot, question)?;
    if snapshot
        .outside_flow(question.destination, seen.port(), question.proto())
        .is_some()
    {
        return None;
    }
    told.say("flow", format!("its mapping, {seen}"));
    told.source = seen;
    Some(entry.flow)
}

/// Whether a new flow can't have a port for the sake of a mapping.
fn has(snapshot: &Snapshot<'_>, seen: SocketAddr, question: &Question) -> bool {
    question.is_udp() && snapshot.mapping_at(seen).is_some()
}

/// Whether a new flow of the sender becomes a mapping: then no flow towards a
/// single peer is in its way.
fn is_next(snapshot: &Snapshot<'_>, question: &Question, endpoint: &Endpoint) -> bool {
    applies(endpoint, question)
        && of_sender(snapshot, question).is_none()
        && snapshot.mapping_side(question.source).is_none()
}

/// Whether a new flow of the sender keeps its port as this address.
pub(super) fn keeps_port(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    seen: SocketAddr,
) -> bool {
    let proto = question.proto();
    let is_claimed = if is_next(snapshot, question, endpoint) {
        snapshot.mapping_with(seen).is_some()
    } else {
        let flow = snapshot.outside_flow(question.destination, seen.port(), proto);
        flow.is_some()
    };
    snapshot.published(seen, proto).is_none() && !has(snapshot, seen, question) && !is_claimed
}

/// Into the container whose mapping has the destination, from `told.source`.
/// False where there is none, or the source may not send there.
pub(super) fn enter(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) -> bool {
    let Some(mapping) = at(snapshot, question) else {
        return false;
    };
    let (peer, inner) = (told.source.ip(), mapping.inner());
    if rules::filters(mapping.flow.kind)
        && !snapshot.is_permitted(peer, question.destination.port())
    {
        told.say(
            "policy",
            format!("a mapping of {inner}, which has sent nothing to {peer}"),
        );
        return false;
    }
    told.say("flow", format!("a mapping of {inner}"));
    told.destination = inner;
    told.outcome = Outcome::Container(mapping.flow.to.ifindex);
    true
}

/// A container's packet for an address of the host. `known` tells of a flow
/// that the sender has already.
pub(super) fn meet(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
    known: impl Fn(&mut Explanation) -> bool,
) {
    use netdp_common::maps::endpoint_flags::MASQUERADE;
    if endpoint.flags & MASQUERADE == 0 {
        return;
    }
    if at(snapshot, question).is_none() {
        if applies(endpoint, question) {
            answer(snapshot, question, told);
        }
        return;
    }
    if outbound(snapshot, question, endpoint, told).is_none() && !known(told) {
        let seen = SocketAddr::new(question.destination.ip(), question.source.port());
        told.source = seen;
        if !keeps_port(snapshot, question, endpoint, seen) {
            told.source.set_port(0);
        }
    }
    if !enter(snapshot, question, told) {
        (told.source, told.destination) = (question.source, question.destination);
    }
}

/// The answer by a mapping to a container that has reached it without one.
fn answer(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    use netdp_common::maps::flow_kind::HOST;
    let Some(Mine { seen, .. }) = of_sender(snapshot, question) else {
        return;
    };
    let to = question.destination;
    let flow = snapshot
        .outside_flow(seen, to.port(), question.proto())
        .filter(|known| known.flow.external == to.ip() && known.flow.kind != HOST);
    if let Some(known) = flow {
        told.say("flow", format!("masqueraded, of {}", known.inner()));
        told.source = seen;
        told.destination = known.inner();
        told.outcome = Outcome::Container(known.flow.to.ifindex);
    }
}
