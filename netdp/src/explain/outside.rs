//! `from_netdev`: a packet from outside.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{drop::DropReason, maps::flow_kind, tcp};

use super::{
    Explanation, Mapping, Outcome, Protocol, Question, Snapshot, container::is_routed, mapped,
};

pub(super) fn explain(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let to = question.destination;
    let mapping = snapshot.published(to, question.protocol);
    let is_host =
        mapping.is_some_and(|mapping| mapping.back == to.ip()) || snapshot.is_local(to.ip());
    if !is_host {
        match snapshot.owner(to.ip()) {
            Some(owner) if is_routed(owner.flags, to) => routed(snapshot, question, told),
            Some(_) => told.drop(
                "policy",
                DropReason::NotPublished,
                "a container is reached from outside by its published ports only",
            ),
            None => told.say("route", "the destination is no address of this host"),
        }
        return;
    }
    match mapping {
        Some(mapping) => published(snapshot, question, &mapping, told),
        None => {
            told.say("mapping", "the port is not published");
            answer(snapshot, question, told);
        }
    }
}

/// fe80::/10. That of IPv4 may be behind a router of its own.
pub(super) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
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
    if is_refused(from, told) {
        return;
    }
    if !snapshot.allows(mapping, from) {
        told.drop("policy", DropReason::NotAllowed, NOT_ALLOWED);
        return;
    }
    if taken(snapshot, question, mapping, question.source) {
        told.drop("flow", DropReason::TupleTaken, TAKEN);
        return;
    }
    told.destination = mapping.container;
    told.outcome = Outcome::Container(mapping.ifindex);
}

/// Drops what has a source that nobody has who could be answered.
fn is_refused(from: IpAddr, told: &mut Explanation) -> bool {
    let why = if from.is_multicast() || from.is_unspecified() || from == IpAddr::from([255; 4]) {
        "nobody outside has this address"
    } else if is_link_local(from) {
        "no container could answer a link-local address"
    } else {
        return false;
    };
    told.drop("source", DropReason::SpoofedSource, why);
    true
}

/// To a container's own address, by which the outside knows it.
fn routed(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let to = question.destination;
    if is_refused(question.source.ip(), told) {
        return;
    }
    if let Some(mapping) = snapshot.mapping(to.ip(), to.port(), question.protocol) {
        published(snapshot, question, &mapping, told);
        return;
    }
    let flow = snapshot
        .full_flow(question.source, to, question.protocol)
        .filter(|flow| flow.kind == flow_kind::ROUTED);
    match flow {
        Some(flow) => {
            told.say("flow", "an answer to the container");
            told.outcome = Outcome::Container(flow.ifindex);
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
pub(super) fn taken(
    snapshot: &Snapshot<'_>,
    question: &Question,
    mapping: &Mapping,
    client: SocketAddr,
) -> bool {
    question.protocol == Protocol::Tcp
        && snapshot
            .full_flow(client, mapping.container, question.protocol)
            .is_some_and(|flow| {
                !flow.pending
                    && flow.inner != question.destination
                    && tcp::is_established(flow.state)
            })
}

/// An answer to a conversation that a container, or the host, began.
fn answer(snapshot: &Snapshot<'_>, question: &Question, told: &mut Explanation) {
    let to = question.destination;
    let flow = snapshot
        .outside_flow(question.source, to.port(), question.protocol)
        .filter(|flow| flow.external == to.ip());
    match flow {
        None => {
            if mapped::enter(snapshot, question, told) {
                is_refused(question.source.ip(), told);
            } else {
                told.say("flow", "none: the host's own stack has the packet");
            }
        }
        Some(flow) if flow.kind == flow_kind::HOST => {
            told.say("flow", "of a socket of the host whose port was changed");
        }
        Some(flow) => {
            told.say("flow", format!("masqueraded, of {}", flow.inner));
            told.destination = flow.inner;
            told.outcome = Outcome::Container(flow.ifindex);
        }
    }
}
