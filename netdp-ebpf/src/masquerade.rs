//! Masquerade: a container's own conversations with the outside, under an
//! address of the host.
//!
//! An entry is keyed by what the outside sees. While the source port is kept,
//! the container's packets find the same entry, so one serves both directions;
//! only a changed port needs a second.

use netdp_common::{
    addr::{Address, Be16},
    drop::DropReason,
    maps::{Endpoint, FlowKey, endpoint_flags, flow_kind},
    packet::{Packet, Transport, Tuple},
    rules,
    tcp::Direction,
};

use crate::{
    allocation::{allocate, is_served},
    family::{Family, is_any},
    fib::preferred_source,
    flows, mapped,
    maps::UPLINKS,
    share,
    skb::Skb,
    work::{Decision, Exit, Work, copy},
};

/// A packet of a container for the outside that belongs to no published port:
/// the address and port that it leaves under. False where its flow isn't known.
#[inline(always)]
pub fn outbound<F: Family>(work: &mut Work<F::Addr>) -> bool {
    F::masqueraded(work)
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn outbound_alone<F: Family>(work: &mut Work<F::Addr>) -> bool {
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
    let from = &packet.tuple;
    *key = FlowKey::masquerade(from.daddr, from.dport, from.sport, packet.proto);
    if let Some(entry) = flows::find::<F>(key)
        && is_owner::<F>(entry, from)
    {
        seen::<F>(entry, packet, decision);
        return true;
    }
    let kinds = (flow_kind::MASQUERADE, flow_kind::MASQUERADE_OUT);
    if let Some(entry) = renumbered::<F>(packet, key, kinds) {
        seen::<F>(entry, packet, decision);
        return true;
    }
    *key = FlowKey::masquerade(from.daddr, from.dport, from.sport, packet.proto);
    if let Some(entry) = flows::find_pending::<F>(key)
        && is_owner::<F>(entry, from)
    {
        seen::<F>(entry, packet, decision);
        return true;
    }
    // Another CPU may have promoted it between the two lookups.
    if let Some(entry) = flows::find::<F>(key)
        && is_owner::<F>(entry, from)
    {
        seen::<F>(entry, packet, decision);
        return true;
    }
    false
}

/// The sender's side of a flow whose port was changed, of these kinds (what
/// the outside sees, the sender's side). `key` is room for what it looks for.
///
/// It is worth nothing without the other: a packet is noted at both, so that
/// they expire together, and where the outside's has gone nevertheless (LRU),
/// so does this one, and the flow is opened anew.
#[inline(always)]
pub fn renumbered<F: Family>(
    packet: &Packet<F::Addr>,
    key: &mut FlowKey<F::Addr>,
    kinds: (u8, u8),
) -> Option<flows::Entry<F::Addr>> {
    let from = &packet.tuple;
    *key = sender_key(packet, kinds.0);
    let entry = flows::find_either::<F>(key)?;
    if flows::kind(entry) != kinds.1 {
        return None;
    }
    // SAFETY: a map value stays readable while the program runs.
    let port = unsafe { (*entry).port };
    *key = outside_key(packet, port, kinds.0);
    // Another CPU may have promoted it between the two lookups.
    if let Some(twin) = flows::find_either::<F>(key).or_else(|| flows::find::<F>(key))
        // SAFETY: as above.
        && unsafe {
            (*twin).kind == kinds.0 && (*twin).addr == from.saddr && (*twin).port == from.sport
        }
    {
        flows::touch::<F>(twin, packet, Direction::Original);
        return Some(entry);
    }
    *key = sender_key(packet, kinds.0);
    if let Some(entry) = flows::find::<F>(key) {
        flows::remove::<F>(key, entry);
    }
    let _ = F::pending().remove(&*key);
    None
}

/// The key under which the outside's side of an entry of this kind is found.
#[inline(always)]
pub fn outside_key<A: Address>(packet: &Packet<A>, port: Be16, kind: u8) -> FlowKey<A> {
    if mapped::is_mapping(kind) {
        return FlowKey::mapping(port, packet.proto);
    }
    FlowKey::masquerade(packet.tuple.daddr, packet.tuple.dport, port, packet.proto)
}

/// The same of the sender's side, where its port was changed.
#[inline(always)]
pub fn sender_key<A: Address>(packet: &Packet<A>, kind: u8) -> FlowKey<A> {
    if mapped::is_mapping(kind) {
        return FlowKey::mapped(packet.tuple.saddr, packet.tuple.sport, packet.proto);
    }
    packet.tuple.sent(packet.proto)
}

/// A packet of a known flow: under the address and port that it has.
#[inline(always)]
pub fn seen<F: Family>(
    entry: flows::Entry<F::Addr>,
    packet: &Packet<F::Addr>,
    decision: &mut Decision<F::Addr>,
) {
    flows::touch::<F>(entry, packet, Direction::Original);
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        copy(&mut decision.to.saddr, &(*entry).external);
        decision.to.sport = (*entry).port;
        decision.uplink = (*entry).ifindex;
    }
    decision.bound = true;
    decision.exit = Exit::Uplink;
}

/// Forgets the flow that a packet was found to belong to.
#[inline(never)]
pub fn end<F: Family>(work: &mut Work<F::Addr>) {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    let from = &packet.tuple;
    *key = FlowKey::masquerade(from.daddr, from.dport, decision.to.sport, packet.proto);
    flows::forget::<F>(key);
    if decision.to.sport != from.sport {
        *key = from.sent(packet.proto);
        flows::forget::<F>(key);
    }
    decision.to = *from;
}

/// The first packet of a flow: whether it may be one, and the address and the
/// uplink by which the outside will see it.
///
/// A segment in the middle of a connection is taken as well: its port is kept
/// if it can be, so that connections outlive a flow table that was lost.
#[inline(never)]
pub fn open<F: Family>(work: &mut Work<F::Addr>, endpoint: &Endpoint) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 {
        return Err(DropReason::Internal);
    }
    rules::may_open(packet.transport)?;
    decision.uplink = way.ifindex;
    Ok(())
}

/// Decides which address of the host a new flow gets: the one that was given to
/// the network, the one that the route prefers, or the uplink's main one.
#[inline(never)]
pub fn address<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let Work {
        packet, decision, ..
    } = work;
    let saddr = &mut decision.to.saddr;
    *saddr = F::source(endpoint);
    if !is_any(*saddr) {
        return if is_outward::<F>(*saddr) {
            Ok(())
        } else {
            Err(DropReason::NoUplinkAddress)
        };
    }
    let uplink = UPLINKS
        .get_ptr(decision.uplink)
        .ok_or(DropReason::NoRoute)?;
    // SAFETY: a map value stays readable while the program runs.
    let uplink = unsafe { &*uplink };
    if F::is_by_route(uplink) {
        preferred_source::<F>(skb, &packet.tuple, saddr);
        if is_outward::<F>(*saddr) {
            return Ok(());
        }
    }
    *saddr = F::external(uplink);
    if is_any(*saddr) {
        return Err(DropReason::NoUplinkAddress);
    }
    Ok(())
}

/// Whether an address is the host's to leave under: answers to a gateway's
/// don't come back.
#[inline(always)]
fn is_outward<F: Family>(addr: F::Addr) -> bool {
    match F::locals().get_ptr(addr) {
        // SAFETY: a map value stays readable while the program runs.
        Some(local) => unsafe { rules::is_outward(&*local) },
        None => false,
    }
}

/// Chooses the port of a new flow under the address that was decided on, or
/// makes the container's mapping where it is to have one.
#[inline(never)]
pub fn choose<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    share::check::<F>(endpoint.slot)?;
    let container = &mut work.decision.container;
    container.ifindex = skb.ifindex();
    container.slot = endpoint.slot;
    container.mac = endpoint.mac;
    container.host_mac = endpoint.host_mac;
    let mut kinds = (flow_kind::MASQUERADE, flow_kind::MASQUERADE_OUT);
    // A mapping that is there and has not been taken has its port taken towards
    // this peer.
    if mapped::applies(endpoint, &work.packet) && !mapped::is_made::<F>(work) {
        mapped::begin();
        kinds = mapped::kinds(endpoint);
    }
    allocate::<F>(skb, work, kinds)?;
    work.decision.exit = Exit::Uplink;
    if kinds.0 == flow_kind::MAPPING {
        return mapped::permit::<F>(work);
    }
    Ok(())
}

/// An answer from outside to a flow of a container, or of a host's socket that
/// had to give way. The decision's exit stays where it belongs to neither.
///
/// `published`: the port is, and flows that began before share it.
#[inline(never)]
pub fn inbound<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    published: bool,
) -> Result<(), DropReason> {
    let Work { packet, key, .. } = &mut *work;
    if packet.transport == Transport::IcmpOther {
        return Ok(());
    }
    let from = &packet.tuple;
    *key = FlowKey::masquerade(from.saddr, from.sport, from.dport, packet.proto);
    answer::<F>(skb, work, published)
}

/// The same of a packet that comes from the peer that the key has.
#[inline(always)]
pub fn answer<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    published: bool,
) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    let from = &packet.tuple;
    let (entry, pending) = match flows::find::<F>(key) {
        Some(entry) => (entry, false),
        None => match flows::find_pending::<F>(key) {
            Some(entry) => (entry, true),
            None => return Ok(()),
        },
    };
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    if flow.external != from.daddr {
        return Ok(());
    }
    if flow.kind == flow_kind::MASQUERADE
        && rules::may_be_for_a_service(packet.transport, from.dport, flow.state)
        && (published || is_served::<F>(skb, from.daddr, from.dport, packet.proto))
    {
        flows::forget::<F>(key);
        return Ok(());
    }
    let sender = flow.addr;
    decision.to.dport = flow.port;
    if flow.kind == flow_kind::HOST {
        decision.exit = Exit::Host;
    } else {
        decision.to.daddr = sender;
        decision.enter(&flow.to);
    }
    if pending {
        flows::promote::<F>(key, entry, packet, Direction::Reply)?;
    } else {
        flows::touch::<F>(entry, packet, Direction::Reply);
    }
    if decision.to.dport != from.dport {
        // The sender's side, which is to expire with the outside's.
        key.local = sender;
        key.local_port = decision.to.dport;
        note_at_sender::<F>(packet, key)?;
    }
    Ok(())
}

/// Notes an answer at the sender's side of a flow whose port was changed, too,
/// and moves it to the main table along with the outside's.
#[inline(always)]
fn note_at_sender<F: Family>(
    packet: &Packet<F::Addr>,
    key: &FlowKey<F::Addr>,
) -> Result<(), DropReason> {
    if let Some(entry) = flows::find::<F>(key) {
        flows::touch::<F>(entry, packet, Direction::Reply);
        return Ok(());
    }
    match flows::find_pending::<F>(key) {
        Some(entry) => flows::promote::<F>(key, entry, packet, Direction::Reply),
        None => Ok(()),
    }
}

/// Whether this flow is the sender's own, with its port kept.
#[inline(always)]
pub fn is_owner<F: Family>(entry: flows::Entry<F::Addr>, from: &Tuple<F::Addr>) -> bool {
    // SAFETY: a map value stays readable while the program runs.
    unsafe { rules::is_owner(&*entry, from) }
}
