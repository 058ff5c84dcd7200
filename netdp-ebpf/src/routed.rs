//! Routed networks: the outside knows a container by its own address, and
//! reaches there what it was asked for, and the container's published ports.
//!
//! A published port is a mapping of the container's address and port to
//! themselves, so all that is said of mappings holds here. A conversation of
//! the container's own has an entry like a masqueraded one, keyed by the tuple
//! that both sides see.

use netdp_common::{
    drop::DropReason,
    maps::{Delivery, Endpoint, Owner, Published, flow_kind},
    packet::{Transport, Tuple},
    rules,
    tcp::Direction,
};

use crate::{
    family::Family,
    flows, icmp, limit, ports, published, ranges, share,
    skb::Skb,
    source,
    work::{Exit, Work},
};

/// Whether the outside knows this container by its own address.
#[inline(always)]
pub fn is_routed<F: Family>(endpoint: &Endpoint) -> bool {
    endpoint.flags & F::ROUTED != 0
}

/// Whether it is a container that the outside knows by this address.
#[inline(always)]
pub fn is_there<F: Family>(addr: &F::Addr) -> bool {
    match F::addrs().get_ptr(addr) {
        // SAFETY: a map value stays readable while the program runs.
        Some(owner) => unsafe { (*owner).flags & u32::from(F::ROUTED) != 0 },
        None => false,
    }
}

/// A packet of a container for the outside, as it is; false where its flow
/// isn't known.
#[inline(always)]
pub fn outbound<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    // Without ports it would look like an echo of identifier 0.
    if packet.transport == Transport::IcmpOther {
        return false;
    }
    *key = packet.tuple.sent(packet.proto);
    let Some(entry) = flows::find_either::<F>(key) else {
        return false;
    };
    if flows::kind(entry) != flow_kind::ROUTED {
        return false;
    }
    flows::touch::<F>(entry, packet, Direction::Original);
    decision.exit = Exit::Uplink;
    true
}

/// The first packet of a flow.
#[inline(never)]
pub fn open<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    rules::may_open(packet.transport)?;
    share::check::<F>(endpoint.slot)?;
    let from = &packet.tuple;
    *key = from.sent(packet.proto);
    let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
    flow.addr = from.saddr;
    flow.external = from.saddr;
    flow.port = from.sport;
    flow.kind = flow_kind::ROUTED;
    flow.to = Delivery {
        ifindex: skb.ifindex(),
        slot: endpoint.slot,
        mac: endpoint.mac,
        host_mac: endpoint.host_mac,
    };
    flow.ifindex = 0;
    flow.generation = 0;
    flow.tag = key.tag();
    flows::begin::<F>(flow, packet, Direction::Original);
    flows::expect::<F>(key, flow)?;
    share::expected(flow);
    decision.exit = Exit::Uplink;
    Ok(())
}

/// A packet from outside for a container's own address.
///
/// # Errors
/// [`DropReason::NotPublished`] where nothing of the container's asked for it.
#[inline(always)]
pub fn inbound<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    owner: &Owner,
) -> Result<(), DropReason> {
    if owner.flags & u32::from(F::ROUTED) == 0 {
        return Err(DropReason::NotPublished);
    }
    source::check::<F>(&work.packet.tuple.saddr)?;
    if work.packet.transport == Transport::IcmpError {
        return icmp::routed::<F>(skb, work, owner);
    }
    let Work {
        packet, decision, ..
    } = &mut *work;
    if let Some(mapping) = mapping::<F>(&packet.tuple, packet.proto) {
        // SAFETY: a map value stays readable while the program runs.
        let mapping = unsafe { &*mapping };
        if !ranges::is_allowed::<F>(mapping.allow, &packet.tuple.saddr) {
            return Err(DropReason::NotAllowed);
        }
        limit::check::<F>(packet)?;
        return published::inbound::<F>(skb, packet, mapping, decision);
    }
    answer::<F>(work)
}

/// To a conversation that the container began.
#[inline(never)]
fn answer<F: Family>(work: &mut Work<F::Addr>) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    *key = packet.tuple.received(packet.proto);
    let (entry, pending) = match flows::find::<F>(key) {
        Some(entry) => (entry, false),
        None => match flows::find_pending::<F>(key) {
            Some(entry) => (entry, true),
            None => return Err(DropReason::NotPublished),
        },
    };
    if flows::kind(entry) != flow_kind::ROUTED {
        return Err(DropReason::NotPublished);
    }
    // SAFETY: a map value stays readable while the program runs.
    decision.enter(unsafe { &(*entry).to });
    if pending {
        let answered = flows::promote::<F>(key, entry, packet, Direction::Reply);
        flows::end_without_room::<F>(key, answered)
    } else {
        flows::touch::<F>(entry, packet, Direction::Reply);
        Ok(())
    }
}

/// The mapping of a container's own port to itself, where it is published.
#[inline(always)]
pub fn mapping<F: Family>(tuple: &Tuple<F::Addr>, proto: u8) -> Option<*const Published<F::Addr>> {
    ports::exact::<F>(&tuple.daddr, tuple.dport, proto)
}
