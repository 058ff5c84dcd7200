//! Mappings: a container's UDP port that has one port outside towards every
//! peer (RFC 4787: endpoint-independent mapping), on networks that ask for it.
//!
//! Their entries are those of masquerade with the peer left out of the key. A
//! packet of the container refreshes its mapping; one from outside does so only
//! where not everybody may send, for a stranger shall not keep it alive
//! (RFC 4787, REQ-6).

use netdp_common::{
    addr::{Be16, proto},
    drop::DropReason,
    maps::{Endpoint, FlowKey, endpoint_flags, flow_kind},
    packet::Packet,
    rules,
    tcp::Direction,
};

use crate::{
    allocation, atomic,
    family::Family,
    flows::{self, find_either},
    found::Found,
    maps::MAPPINGS,
    masquerade, share,
    skb::Skb,
    work::{Exit, Work, copy},
};

/// Whether there may be mappings of this protocol at all.
#[inline(always)]
pub fn may_have(proto: u8) -> bool {
    proto == proto::UDP && MAPPINGS.get(0).is_some_and(|seen| *seen != 0)
}

/// Whether the container sends such packets by a mapping.
#[inline(always)]
pub fn applies<A>(endpoint: &Endpoint, packet: &Packet<A>) -> bool {
    rules::is_mapped(endpoint.flags, packet.proto)
}

/// Kinds of its entries: what the outside sees, and the container's side.
#[inline(always)]
pub fn kinds(endpoint: &Endpoint) -> (u8, u8) {
    if endpoint.flags & endpoint_flags::OPEN != 0 {
        (flow_kind::MAPPING_OPEN, flow_kind::MAPPING_OUT)
    } else {
        (flow_kind::MAPPING, flow_kind::MAPPING_OUT)
    }
}

#[inline(always)]
pub fn is_mapping(kind: u8) -> bool {
    kind == flow_kind::MAPPING || kind == flow_kind::MAPPING_OPEN
}

/// From now on they are looked for.
#[inline(always)]
pub fn begin() {
    if let Some(seen) = MAPPINGS.get_ptr_mut(0) {
        // SAFETY: only ever set, by any CPU.
        unsafe { atomic::set(seen, 1) };
    }
}

/// What was found of the sender's mapping.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mine {
    Nothing = 0,
    Mapping,
    /// One that is to be looked at once more: see [`flows::is_due`].
    Due,
}

/// A packet of a container for the outside: under the address and port of its
/// mapping. False where it has none yet, or another flow has the mapping's port
/// towards this very peer: then the packet is that of a flow of its own.
///
/// # Errors
/// [`DropReason::EndpointLimit`] where the peer could not be let in.
#[inline(always)]
pub fn outbound<F: Family>(skb: &Skb, work: &mut Work<F::Addr>, endpoint: &Endpoint) -> Found {
    F::mapped(skb, work, endpoint)
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn outbound_alone<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Found {
    let mine = of_sender::<F>(work);
    if mine == Mine::Nothing {
        return Found::NO;
    }
    let (external, port) = (work.decision.to.saddr, work.decision.to.sport);
    let from = &work.packet.tuple;
    let proto = work.packet.proto;
    if mine == Mine::Due
        && (F::locals().get_ptr(external).is_none()
            || allocation::is_hosts::<F>(skb, external, port, proto))
    {
        work.key = FlowKey::mapped(from.saddr, from.sport, proto);
        flows::forget::<F>(&work.key);
        work.key = FlowKey::mapping(port, proto);
        flows::forget::<F>(&work.key);
        return Found::NO;
    }
    work.key = FlowKey::masquerade(from.daddr, from.dport, port, proto);
    if is_there::<F>(&work.key) {
        return Found::NO;
    }
    if endpoint.flags & endpoint_flags::OPEN == 0
        && let Err(reason) = permit::<F>(work)
    {
        return Found::refused(reason);
    }
    work.decision.exit = Exit::Uplink;
    Found::YES
}

/// Looks for the sender's mapping, notes the packet there, and says in the
/// decision under which address and port it leaves, and whose it is.
#[inline(never)]
fn of_sender<F: Family>(work: &mut Work<F::Addr>) -> Mine {
    work.key = FlowKey::mapping(work.packet.tuple.sport, work.packet.proto);
    if !is_of::<F>(&work.key, &work.packet) && !renumbered::<F>(work) {
        return Mine::Nothing;
    }
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    let Some(entry) = find_either::<F>(key) else {
        return Mine::Nothing;
    };
    let due = flows::is_due(entry);
    flows::touch::<F>(entry, packet, Direction::Original);
    decision.to.sport = key.local_port;
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        copy(&mut decision.to.saddr, &(*entry).external);
        copy(&mut decision.container, &(*entry).to);
        decision.uplink = (*entry).ifindex;
    }
    if due { Mine::Due } else { Mine::Mapping }
}

/// Notes the packet at the sender's side of a mapping whose port was changed,
/// and leaves the key of the outside's side, without which it is worth nothing
/// (LRU).
#[inline(never)]
fn renumbered<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let Work { packet, key, .. } = work;
    let from = &packet.tuple;
    *key = FlowKey::mapped(from.saddr, from.sport, packet.proto);
    let Some(entry) = find_either::<F>(key) else {
        return false;
    };
    flows::touch::<F>(entry, packet, Direction::Original);
    // SAFETY: a map value stays readable while the program runs.
    *key = FlowKey::mapping(unsafe { (*entry).port }, packet.proto);
    if is_of::<F>(key, packet) {
        return true;
    }
    *key = FlowKey::mapped(from.saddr, from.sport, packet.proto);
    flows::forget::<F>(key);
    false
}

/// Whether the mapping with this key is of the sender's port.
#[inline(never)]
fn is_of<F: Family>(key: &FlowKey<F::Addr>, packet: &Packet<F::Addr>) -> bool {
    match find_either::<F>(key) {
        // SAFETY: a map value stays readable while the program runs.
        Some(entry) => unsafe { rules::is_of(&*entry, &packet.tuple) },
        None => false,
    }
}

/// Lets the peer of a packet that leaves by a mapping, as the decision says,
/// send there.
///
/// # Errors
/// As [`outbound`].
#[inline(always)]
pub fn permit<F: Family>(work: &mut Work<F::Addr>) -> Result<(), DropReason> {
    F::permit(work).result()?;
    Ok(())
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn permit_alone<F: Family>(work: &mut Work<F::Addr>) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    *key = FlowKey::permit(packet.tuple.daddr, decision.to.sport, packet.proto);
    if let Some(entry) = find_either::<F>(key) {
        flows::touch::<F>(entry, packet, Direction::Original);
        return Ok(());
    }
    share::check::<F>(decision.container.slot)?;
    let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
    copy(&mut flow.addr, &packet.tuple.saddr);
    copy(&mut flow.external, &decision.to.saddr);
    flow.port = packet.tuple.sport;
    flow.kind = flow_kind::PERMIT;
    copy(&mut flow.to, &decision.container);
    flow.ifindex = 0;
    flow.generation = 0;
    flow.tag = key.tag();
    flows::begin::<F>(flow, packet, Direction::Original);
    if flows::claim::<F>(key, flow) {
        share::expected(flow);
    }
    Ok(())
}

/// A datagram from outside: to the container whose mapping its port is. False
/// where there is none, or the peer may not send there.
///
/// A socket that the host has bound since takes the port back: the mapping is
/// forgotten, and the container gets another port with its next packet. One
/// that is connected to the peer has that peer's datagrams alone.
#[inline(never)]
pub fn inbound<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Result<bool, DropReason> {
    if !is_at_destination::<F>(work) {
        return Ok(false);
    }
    let from = &work.packet.tuple;
    let proto = work.packet.proto;
    if allocation::is_of_socket::<F>(skb, &work.packet.tuple, work.packet.proto) {
        if allocation::is_hosts::<F>(skb, from.daddr, from.dport, proto) {
            work.key = FlowKey::mapping(from.dport, proto);
            flows::forget::<F>(&work.key);
        }
        return Ok(false);
    }
    enter::<F>(work, false)
}

/// Whether a mapping has the packet's destination. Whoever meets it leaves by
/// the same uplink.
#[inline(never)]
fn is_at_destination<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    *key = FlowKey::mapping(packet.tuple.dport, packet.proto);
    let Some(entry) = find_either::<F>(key) else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        decision.uplink = (*entry).ifindex;
        (*entry).external == packet.tuple.daddr
    }
}

/// To the container whose mapping has the packet's destination, if its peer may
/// send there: the packet's source, or what the decision makes of it.
#[inline(never)]
pub fn enter<F: Family>(work: &mut Work<F::Addr>, translated: bool) -> Result<bool, DropReason> {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    let outside = packet.tuple.dport;
    *key = FlowKey::mapping(outside, packet.proto);
    let Some(entry) = find_either::<F>(key) else {
        decision.exit = Exit::Stack;
        return Ok(false);
    };
    let filters = rules::filters(flows::kind(entry));
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        copy(&mut decision.to.daddr, &(*entry).addr);
        decision.to.dport = (*entry).port;
        copy(&mut decision.container, &(*entry).to);
    }
    if filters {
        let peer = if translated {
            decision.to.saddr
        } else {
            packet.tuple.saddr
        };
        *key = FlowKey::permit(peer, outside, packet.proto);
        if !note::<F>(key, packet, true)? {
            decision.to = packet.tuple;
            decision.exit = Exit::Stack;
            return Ok(false);
        }
    }
    *key = FlowKey::mapping(outside, packet.proto);
    note::<F>(key, packet, filters)?;
    if decision.to.dport != outside {
        *key = FlowKey::mapped(decision.to.daddr, decision.to.dport, packet.proto);
        note::<F>(key, packet, filters)?;
    }
    decision.exit = Exit::Container;
    Ok(true)
}

/// Notes an answer: moves the entry to the main table, or refreshes it there.
/// False where there is no such entry.
#[inline(never)]
fn note<F: Family>(
    key: &FlowKey<F::Addr>,
    packet: &Packet<F::Addr>,
    refresh: bool,
) -> Result<bool, DropReason> {
    if let Some(entry) = flows::find::<F>(key) {
        if refresh {
            flows::touch::<F>(entry, packet, Direction::Reply);
        }
        return Ok(true);
    }
    match flows::find_pending::<F>(key) {
        Some(entry) => flows::promote::<F>(key, entry, packet, Direction::Reply).map(|()| true),
        None => Ok(false),
    }
}

/// A datagram of a container for an address of the host, at a port that isn't
/// published: to the container whose mapping it is, under the address and port
/// that the outside sees of the sender (RFC 4787, REQ-9). It goes to the host's
/// stack where there is no such mapping, or the sender may not send there.
#[inline(always)]
pub fn meet<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    work.decision.exit = Exit::Stack;
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 {
        return Ok(());
    }
    let is_mapped = applies(endpoint, &work.packet);
    if !is_at_destination::<F>(work) {
        if is_mapped && of_sender::<F>(work) != Mine::Nothing {
            return answer::<F>(skb, work);
        }
        return Ok(());
    }
    if allocation::is_of_socket::<F>(skb, &work.packet.tuple, work.packet.proto) {
        return Ok(());
    }
    let known = is_mapped && outbound::<F>(skb, work, endpoint).result()?;
    if !known && !masquerade::outbound::<F>(work) {
        work.decision.to.saddr = work.packet.tuple.daddr;
        masquerade::choose::<F>(skb, work, endpoint)?;
    }
    enter::<F>(work, true)?;
    Ok(())
}

/// The answer by a mapping to a container that has reached it without one. The
/// decision says as whom the sender leaves.
#[inline(never)]
fn answer<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        key,
        ..
    } = &mut *work;
    let to = &decision.to;
    *key = FlowKey::masquerade(to.saddr, to.sport, packet.tuple.dport, packet.proto);
    masquerade::answer::<F>(skb, work, false)?;
    // The host's own sockets don't reach its own addresses by an uplink.
    if work.decision.exit != Exit::Container {
        work.decision.to = work.packet.tuple;
        work.decision.exit = Exit::Stack;
    }
    Ok(())
}

#[inline(never)]
fn is_there<F: Family>(key: &FlowKey<F::Addr>) -> bool {
    if flows::find::<F>(key).is_some() {
        return true;
    }
    flows::find_pending::<F>(key).is_some()
}

/// Whether the sender has a mapping.
#[inline(never)]
pub fn is_made<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let Work { packet, key, .. } = work;
    let from = &packet.tuple;
    *key = FlowKey::mapping(from.sport, packet.proto);
    if is_of::<F>(key, packet) {
        return true;
    }
    *key = FlowKey::mapped(from.saddr, from.sport, packet.proto);
    is_there::<F>(key)
}

/// Whether a port of this address is a mapping's.
#[inline(always)]
pub fn has<F: Family>(addr: F::Addr, port: Be16, proto: u8) -> bool {
    match find_either::<F>(&FlowKey::mapping(port, proto)) {
        // SAFETY: a map value stays readable while the program runs.
        Some(entry) => unsafe { (*entry).external == addr },
        None => false,
    }
}

/// The mapping of a container's port: an entry that says which address and port
/// the outside sees.
#[inline(always)]
pub fn of<F: Family>(addr: F::Addr, port: Be16, proto: u8) -> Option<flows::Entry<F::Addr>> {
    if let Some(entry) = find_either::<F>(&FlowKey::mapping(port, proto))
        // SAFETY: a map value stays readable while the program runs.
        && unsafe { (*entry).addr == addr && (*entry).port == port }
    {
        return Some(entry);
    }
    find_either::<F>(&FlowKey::mapped(addr, port, proto))
}
