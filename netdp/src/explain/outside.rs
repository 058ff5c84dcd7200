//! `from_netdev`: a packet from outside.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    addr::{V4Addr, V6Addr},
    drop::DropReason,
    maps::flow_kind,
    rules,
};

use super::{
    Explanation, KnownFlow, Mapping, Outcome, Question, Snapshot,
    container::{is_routed, leads_to},
    mapped,
};

pub(super) fn explain(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    if let Some(source) = snapshot.blocked(question.source.ip()) {
        told.drop(
            "source",
            DropReason::BlockedSource,
            format!("{source} is blocked: see `netdp block`"),
        );
        return;
    }
    let to = question.destination;
    let mapping = snapshot.published(to, question.proto());
    let is_host = mapping.is_some_and(|mapping| rules::is_way_back(&mapping.published, to.ip()))
        || snapshot.is_local(to.ip());
    if !is_host {
        match snapshot.owner(to.ip()) {
            Some(owner) if is_routed(owner.flags, to) => routed(snapshot, question, told),
            Some(_) => told.drop(
                "policy",
                DropReason::NotPublished,
                "a container is reached from outside by its published ports only",
            ),
            None if super::is_link_local(to.ip())
                && mapping.is_some_and(|mapping| mapping.published.is_direct()) =>
            {
                told.drop(
                    "policy",
                    DropReason::NotPublished,
                    "nothing is published at link-local addresses",
                );
            }
            None => told.say("route", nobody(snapshot, to.ip())),
        }
        return;
    }
    match mapping {
        Some(mapping) => {
            if let Some(flow) = older_flow(snapshot, question) {
                told.say("flow", "older than the publication of its port");
                go_on(&flow, told);
            } else {
                published(snapshot, question, &mapping, told);
            }
        }
        None => {
            told.say("mapping", question.not_published());
            answer(snapshot, question, told);
        }
    }
}

/// Why netdp leaves a packet alone whose destination nobody has here.
fn nobody(snapshot: &Snapshot<'_>, to: IpAddr) -> String {
    if to.is_loopback() {
        return "loopback addresses are not reached from outside: the host's own stack drops \
                such a packet"
            .to_owned();
    }
    match snapshot.network_of(to) {
        Some(network) => format!("no container of network {network} has this address"),
        None => "the destination is no address of this host".to_owned(),
    }
}

pub(super) const NOT_ALLOWED: &str = "the port is published to other sources alone (--allow)";

/// To a published port.
fn published(
    snapshot: &Snapshot<'_>,
    question: &Question,
    mapping: &Mapping,
    told: &mut Explanation,
) {
    told.say("mapping", mapping.to_string());
    let from = question.source.ip();
    if is_refused(snapshot, from, told) {
        return;
    }
    if !snapshot.allows(mapping, from) {
        told.drop("policy", DropReason::NotAllowed, NOT_ALLOWED);
        return;
    }
    if snapshot.is_over_limit {
        told.drop(
            "limit",
            DropReason::SourceLimit,
            "its source has begun as many conversations as it may for now: see `netdp limit`",
        );
        return;
    }
    if snapshot.is_hosts(mapping, question) {
        told.take(question.destination, mapping.container().ip());
        return;
    }
    if taken(snapshot, question, mapping, question.source) {
        told.drop("flow", DropReason::TupleTaken, TAKEN);
        return;
    }
    told.destination = mapping.container();
    told.outcome = Outcome::Container(mapping.published.to.ifindex);
}

/// Drops what has a source that nobody has who could be answered.
fn is_refused(snapshot: &Snapshot<'_>, from: IpAddr, told: &mut Explanation) -> bool {
    let has_no_place = match from {
        IpAddr::V4(from) => rules::has_no_place_outside(V4Addr::from(from)),
        IpAddr::V6(from) => rules::has_no_place_outside(V6Addr::from(from)),
    };
    let why = if has_no_place {
        "nobody outside has this address who could be answered"
    } else if snapshot.is_inside(from) {
        "nobody outside has this address: it is of a container network's subnet, or broadcast"
    } else {
        return false;
    };
    told.drop("source", DropReason::SpoofedSource, why);
    true
}

/// To a container's own address, by which the outside knows it.
fn routed(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let to = question.destination;
    if is_refused(snapshot, question.source.ip(), told) {
        return;
    }
    if let Some(mapping) = snapshot.exact(to, question.proto()) {
        published(snapshot, question, &mapping, told);
        return;
    }
    let flow = snapshot
        .full_flow(question.source, to, question.proto())
        .filter(|known| known.flow.kind == flow_kind::ROUTED);
    match flow {
        Some(known) => {
            told.say("flow", "an answer to the container");
            told.outcome = Outcome::Container(known.flow.to.ifindex);
        }
        None => told.drop(
            "policy",
            DropReason::NotPublished,
            "neither published, nor an answer to the container",
        ),
    }
}

pub(super) const TAKEN: &str =
    "the same client port already speaks with this container port over another address or port";

/// Whether the container could not tell this connection from one that it has.
/// One whose port is published no longer gives way.
pub(super) fn taken(
    snapshot: &Snapshot<'_>,
    question: &Question,
    mapping: &Mapping,
    client: SocketAddr,
) -> bool {
    let container = mapping.container();
    let Some(flow) = snapshot.conversation(client, container, question.proto()) else {
        return false;
    };
    !rules::asked_the_same(&flow, &question.tuple())
        && rules::is_in_the_way(flow.state, question.proto(), question.transport(), || {
            leads_to(snapshot, &flow, container, question.proto())
        })
}

/// The flow of the packet's source that has had the port since before it was
/// published; none where the packet may as well be a client's.
fn older_flow(snapshot: &Snapshot<'_>, question: &Question) -> Option<KnownFlow> {
    let known = begun(snapshot, question)?;
    let is_its_own = known.flow.kind == flow_kind::HOST
        || !rules::may_be_for_a_service(
            question.transport(),
            question.tuple().dport,
            known.flow.state,
        );
    is_its_own.then_some(known)
}

/// The flow of the packet's source that a container, or the host, began.
fn begun(snapshot: &Snapshot<'_>, question: &Question) -> Option<KnownFlow> {
    let to = question.destination;
    snapshot
        .outside_flow(question.source, to.port(), question.proto())
        .filter(|known| known.flow.external == to.ip())
}

/// An answer to a conversation that a container, or the host, began.
fn answer(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    match begun(snapshot, question) {
        None => {
            if mapped::enter(snapshot, question, told) {
                is_refused(snapshot, question.source.ip(), told);
            } else {
                told.say("flow", "none: the host's own stack has the packet");
            }
        }
        Some(known) => go_on(&known, told),
    }
}

fn go_on(known: &KnownFlow, told: &mut Explanation) {
    if known.flow.kind == flow_kind::HOST {
        told.say("flow", "of a socket of the host whose port was changed");
    } else {
        told.say("flow", format!("masqueraded, of {}", known.inner()));
        told.destination = known.inner();
        told.outcome = Outcome::Container(known.flow.to.ifindex);
    }
}
