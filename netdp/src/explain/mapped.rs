//! Endpoint-independent mappings, for whoever meets one.

use std::net::SocketAddr;

use netdp_common::maps::{Endpoint, endpoint_flags, flow_kind};

use super::{Explanation, KnownFlow, Outcome, Protocol, Question, Snapshot};

/// Whether the container sends such packets by a mapping.
fn applies(endpoint: &Endpoint, question: &Question) -> bool {
    endpoint.flags & endpoint_flags::MAPPED != 0 && question.protocol == Protocol::Udp
}

/// The mapping that has the destination.
fn at(snapshot: &Snapshot<'_>, question: &Question) -> Option<KnownFlow> {
    snapshot
        .mapping_at(question.destination)
        .filter(|_| question.protocol == Protocol::Udp)
}

/// The sender's mapping, or its own side of it: `inner` has the port outside in
/// either.
fn of_sender(snapshot: &Snapshot<'_>, question: &Question) -> Option<KnownFlow> {
    let own = snapshot
        .mapping_with(question.source)
        .filter(|mapping| mapping.inner == question.source);
    let side = || snapshot.mapping_side(question.source);
    own.or_else(side)
}

/// As whom the sender is seen outside.
fn seen(mapping: &KnownFlow) -> SocketAddr {
    SocketAddr::new(mapping.external, mapping.inner.port())
}

/// Out by the sender's mapping; none where it has none, or another flow has
/// its port towards this peer.
pub(super) fn outbound(
    snapshot: &Snapshot<'_>,
    question: &Question,
    endpoint: &Endpoint,
    told: &mut Explanation,
) -> Option<KnownFlow> {
    if !applies(endpoint, question) {
        return None;
    }
    let mapping = of_sender(snapshot, question)?;
    let seen = seen(&mapping);
    let to = question.destination;
    if snapshot
        .outside_flow(to, seen.port(), question.protocol)
        .is_some()
    {
        return None;
    }
    told.say("flow", format!("its mapping, {seen}"));
    told.source = seen;
    Some(mapping)
}

/// Whether a new flow can't keep its port for the sake of a mapping.
pub(super) fn has(snapshot: &Snapshot<'_>, seen: SocketAddr, protocol: Protocol) -> bool {
    protocol == Protocol::Udp && snapshot.mapping_at(seen).is_some()
}

/// Whether a new flow of the sender becomes a mapping: then no flow towards a
/// single peer is in its way.
pub(super) fn is_next(snapshot: &Snapshot<'_>, question: &Question, endpoint: &Endpoint) -> bool {
    applies(endpoint, question) && of_sender(snapshot, question).is_none()
}

/// Into the container whose mapping has the destination, from `told.source`.
/// False where there is none, or the source may not send there.
pub(super) fn enter(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) -> bool {
    let Some(mapping) = at(snapshot, question) else {
        return false;
    };
    let peer = told.source.ip();
    if mapping.kind == flow_kind::MAPPING
        && !snapshot.is_permitted(peer, question.destination.port())
    {
        told.say(
            "policy",
            format!(
                "a mapping of {}, which has sent nothing to {peer}",
                mapping.inner
            ),
        );
        return false;
    }
    told.say("flow", format!("a mapping of {}", mapping.inner));
    told.destination = mapping.inner;
    told.outcome = Outcome::Container(mapping.ifindex);
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
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 {
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
        let taken = snapshot.published(seen, question.protocol).is_some()
            || has(snapshot, seen, question.protocol)
            || !is_next(snapshot, question, endpoint)
                && snapshot
                    .outside_flow(question.destination, seen.port(), question.protocol)
                    .is_some();
        if taken {
            told.source.set_port(0);
        }
    }
    if !enter(snapshot, question, told) {
        (told.source, told.destination) = (question.source, question.destination);
    }
}

/// The answer by a mapping to a container that has reached it without one.
fn answer(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let Some(mapping) = of_sender(snapshot, question) else {
        return;
    };
    let seen = seen(&mapping);
    let to = question.destination;
    let flow = snapshot
        .outside_flow(seen, to.port(), question.protocol)
        .filter(|flow| flow.external == to.ip() && flow.kind != flow_kind::HOST);
    if let Some(flow) = flow {
        told.say("flow", format!("masqueraded, of {}", flow.inner));
        told.source = seen;
        told.destination = flow.inner;
        told.outcome = Outcome::Container(flow.ifindex);
    }
}
