//! Published ports: in by the port table, back by the flow or, while the
//! tables alone give the way, by `back`.

use netdp_common::{
    addr::proto,
    drop::DropReason,
    flow::{self, ANSWERED},
    maps::{Delivery, Endpoint, Flow, FlowKey, Published, flow_kind},
    packet::{Packet, Transport, Tuple, tcp_flags},
    rules,
    tcp::{self, Direction},
};

use crate::{
    atomic,
    current::{is_current, outlived},
    family::Family,
    flows,
    found::Found,
    maps::EXPECTING,
    path,
    ports::back_of,
    share,
    skb::Skb,
    work::{Decision, Exit, copy},
};

/// A packet from outside for a published port: to the container.
#[inline(always)]
pub fn inbound<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    published: &Published<F::Addr>,
    decision: &mut Decision<F::Addr>,
) -> Result<(), DropReason> {
    let from = &packet.tuple;
    // Made where it is to be: the stack has no room for it.
    let to = &mut decision.to;
    to.daddr = published.addr;
    to.dport = published.container_port(from.dport);
    // The tables alone give the way back to who used this very address.
    let mut stateless = published.back_addr == from.daddr;
    let by_uplink = has_several_uplinks() && opens(packet);
    if stateless && by_uplink {
        // And came in by the interface that the route names.
        to.saddr = published.addr;
        to.daddr = from.saddr;
        stateless = !path::turns::<F>(skb, to, published.to.ifindex);
        to.saddr = from.saddr;
        to.daddr = published.addr;
    }
    // From outside, it counts in the share of the container behind the port.
    // The stack would have this misaligned.
    let client = &mut decision.container;
    *client = Delivery::default();
    client.slot = published.to.slot;
    const OPENING_OR_CLOSING: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
    if !stateless
        || packet.proto == proto::TCP && packet.transport.has_flags(OPENING_OR_CLOSING)
        || packet.proto != proto::TCP && by_uplink
    {
        remember::<F>(skb, packet, to, client, stateless)?;
    }
    decision.enter(&published.to);
    Ok(())
}

/// Whether packets may come in by another uplink than the route names.
#[inline(always)]
pub fn has_several_uplinks() -> bool {
    flows::config().is_some_and(|config| config.uplinks > 1)
}

/// Whether the interface that a packet came in by decides about the answers'.
#[inline(always)]
fn opens<A>(packet: &Packet<A>) -> bool {
    packet.proto == proto::UDP || packet.transport.is_syn()
}

/// Notes by which interface an entry's client comes; none where the route
/// names it.
#[inline(always)]
fn note_interface<A>(skb: &Skb, packet: &Packet<A>, entry: flows::Entry<A>, stateless: bool) {
    if !has_several_uplinks() || !opens(packet) {
        return;
    }
    let now = if stateless { 0 } else { skb.ifindex() };
    // SAFETY: a map value stays valid while the program runs; the field is
    // aligned, read and written whole.
    unsafe {
        let ifindex = &raw mut (*entry).ifindex;
        if ifindex.read_volatile() != now {
            ifindex.write_volatile(now);
        }
    }
}

/// Whether there may be an unanswered entry of a published port. No lookup for
/// the kernel, and where no client ever needed one, none in a table that is
/// too large to be at hand.
#[inline(always)]
pub fn is_expecting() -> bool {
    EXPECTING.get(0).is_some_and(|seen| *seen != 0)
}

/// From now on they are looked for.
#[inline(always)]
fn begin_expecting() {
    if let Some(seen) = EXPECTING.get_ptr_mut(0) {
        // SAFETY: only ever set, by any CPU.
        unsafe { atomic::set(seen, 1) };
    }
}

/// Keeps the flow's entry up to date, or makes one where the way back needs it:
/// for the outside, or for a container that is the `client`.
#[inline(always)]
pub fn remember<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    to: &Tuple<F::Addr>,
    client: &Delivery,
    stateless: bool,
) -> Result<(), DropReason> {
    F::remember(skb, packet, to, client, stateless).result()?;
    Ok(())
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn remember_alone<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    to: &Tuple<F::Addr>,
    client: &Delivery,
    stateless: bool,
) -> Result<(), DropReason> {
    let from = &packet.tuple;
    let key = to.received(packet.proto);
    if let Some(entry) = flows::find::<F>(&key) {
        if asked_the_same::<F>(entry, from) {
            note_interface(skb, packet, entry, stateless);
            flows::touch::<F>(entry, packet, Direction::Original);
            return Ok(());
        }
        // The same client port, over another published port or address, to the
        // same container port.
        let state = flows::state(entry);
        if rules::is_in_the_way(state, packet.proto, packet.transport, || {
            F::leads_here(&key, entry)
        }) {
            return Err(DropReason::TupleTaken);
        }
        flows::remove::<F>(&key, entry);
    }
    if stateless && !has_several_uplinks() {
        return Ok(());
    }
    if is_expecting()
        && let Some(entry) = flows::find_pending::<F>(&key)
        && asked_the_same::<F>(entry, from)
    {
        note_interface(skb, packet, entry, stateless);
        return keep_expected::<F>(&key, entry, packet);
    }
    if stateless {
        return Ok(());
    }
    if packet.transport.is_syn() || packet.transport == Transport::Udp {
        if client.ifindex != 0 {
            share::check::<F>(client.slot)?;
        }
        let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
        describe::<F>(skb, flow, &key, from);
        copy(&mut flow.to, client);
        if to.saddr != from.saddr {
            flow.kind = flow_kind::HAIRPIN;
            flow.external = from.saddr;
        }
        flows::begin::<F>(flow, packet, Direction::Original);
        begin_expecting();
        flows::expect::<F>(&key, flow)?;
        share::expected(flow);
        return Ok(());
    }
    Ok(())
}

/// Fills in an entry for a client that asked for this address and port of the
/// host, but for where the client is.
#[inline(always)]
pub fn describe<F: Family>(
    skb: &Skb,
    flow: &mut Flow<F::Addr>,
    key: &FlowKey<F::Addr>,
    from: &Tuple<F::Addr>,
) {
    copy(&mut flow.addr, &from.daddr);
    copy(&mut flow.external, &from.daddr);
    flow.port = from.dport;
    flow.kind = flow_kind::PUBLISHED;
    flow.ifindex = skb.ifindex();
    flow.tag = key.tag();
    flow.generation = 0;
}

/// Keeps an entry that is not answered up to date for one more packet of the
/// client. A datagram that was answered moves it to the main table.
#[inline(always)]
pub fn keep_expected<F: Family>(
    key: &FlowKey<F::Addr>,
    entry: flows::Entry<F::Addr>,
    packet: &Packet<F::Addr>,
) -> Result<(), DropReason> {
    if packet.proto == proto::UDP && flows::state(entry) == ANSWERED {
        return flows::promote::<F>(key, entry, packet, Direction::Original);
    }
    flows::touch::<F>(entry, packet, Direction::Original);
    Ok(())
}

/// Whether a flow's client used the same address and port of the host.
#[inline(always)]
pub fn asked_the_same<F: Family>(entry: flows::Entry<F::Addr>, from: &Tuple<F::Addr>) -> bool {
    // SAFETY: a map value stays readable while the program runs.
    unsafe { rules::asked_the_same(&*entry, from) }
}

/// A packet of the container that belongs to an entry of the main table.
#[inline(always)]
pub fn reply<F: Family>(
    packet: &Packet<F::Addr>,
    key: &FlowKey<F::Addr>,
    entry: flows::Entry<F::Addr>,
    decision: &mut Decision<F::Addr>,
) {
    let state = flows::touch::<F>(entry, packet, Direction::Reply);
    answer::<F>(packet, entry, decision);
    // Both sides have closed: what is still on its way finds the tables, as a
    // connection's first packets do.
    if state == tcp::state::CLOSED && packet.proto == proto::TCP && is_stateless::<F>(key, decision)
    {
        flows::remove::<F>(key, entry);
    }
}

/// Whether `back` alone gives the way that this answer takes.
#[inline(always)]
fn is_stateless<F: Family>(key: &FlowKey<F::Addr>, decision: &Decision<F::Addr>) -> bool {
    if decision.exit != Exit::Uplink || decision.uplink != 0 {
        return false;
    }
    let back = back_of::<F>(&key.local, key.local_port, key.proto);
    if back.is_null() {
        return false;
    }
    // SAFETY: a map value stays readable while the program runs.
    let back = unsafe { &*back };
    back.addr == decision.to.saddr && back.host_port(key.local_port) == decision.to.sport
}

/// A packet of the container that has no entry in the main table: the answer
/// to what is pending, or to a client that needs no entry.
///
/// No where neither is known of this port; [`Found::CLOSED`] where it was
/// published until a while ago: then only a conversation that the container has
/// begun goes on.
#[inline(always)]
pub fn first_reply<F: Family>(
    packet: &Packet<F::Addr>,
    key: &FlowKey<F::Addr>,
    local_client: bool,
    endpoint: &Endpoint,
    decision: &mut Decision<F::Addr>,
) -> Found {
    F::first_reply(packet, key, local_client, endpoint, decision)
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn first_reply_alone<F: Family>(
    packet: &Packet<F::Addr>,
    key: &FlowKey<F::Addr>,
    local_client: bool,
    endpoint: &Endpoint,
    decision: &mut Decision<F::Addr>,
) -> Found {
    const NOT_ESTABLISHED: u8 = tcp_flags::SYN | tcp_flags::RST | tcp_flags::FIN;
    let enters = packet.proto == proto::TCP && !packet.transport.has_flags(NOT_ESTABLISHED);

    if is_expecting()
        && let Some(entry) = flows::find_pending::<F>(key)
        && rules::is_published(flows::kind(entry))
    {
        if is_current::<F>(key, entry, endpoint) {
            answer::<F>(packet, entry, decision);
            if !enters && decision.exit != Exit::Container {
                flows::touch::<F>(entry, packet, Direction::Reply);
            } else if let Err(reason) = flows::promote::<F>(key, entry, packet, Direction::Reply) {
                return Found::refused(reason);
            }
            return Found::YES;
        }
        if let Err(reason) = outlived::<F>(packet, key, entry) {
            return Found::refused(reason);
        }
    }
    if local_client {
        return Found::NO;
    }
    let from = &packet.tuple;
    let back = back_of::<F>(&from.saddr, from.sport, packet.proto);
    if back.is_null() {
        return Found::NO;
    }
    // SAFETY: a map value stays readable while the program runs.
    let back = unsafe { &*back };
    let (addr, port) = (back.addr, back.host_port(from.sport));
    if back.until != 0 {
        return if flow::is_past(back.until, flows::now()) {
            Found::NO
        } else {
            Found::CLOSED
        };
    }
    let slot = endpoint.slot;
    if enters {
        // The container speaks on an open connection: a client has completed
        // the handshake, or the connection is older than the table. Where the
        // table is full, or the endpoint's share, the flow goes on without an
        // entry: nothing is dropped, so nothing is counted.
        let Some(flow) = flows::scratch::<F>() else {
            return Found::refused(DropReason::HelperFailed);
        };
        flow.addr = addr;
        flow.external = addr;
        flow.port = port;
        flow.kind = flow_kind::PUBLISHED;
        flow.state = tcp::state::OPENING;
        flow.last_seen = flows::now();
        flow.to = Delivery::default();
        flow.to.slot = slot;
        flow.ifindex = 0;
        flow.timeout = flows::config().map_or(0, |config| config.tcp_transitory);
        flow.tag = key.tag();
        flow.generation = endpoint.generation;
        if share::has_room_published(slot) && flows::establish::<F>(key, flow).is_ok() {
            share::established(flow);
        }
    }
    decision.to.saddr = addr;
    decision.to.sport = port;
    decision.exit = Exit::Uplink;
    Found::YES
}

/// Puts the host's address and port in place of the container's, on the way to
/// the client: out of the host, or another container.
#[inline(always)]
pub fn answer<F: Family>(
    packet: &Packet<F::Addr>,
    entry: flows::Entry<F::Addr>,
    decision: &mut Decision<F::Addr>,
) {
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    decision.to = packet.tuple;
    copy(&mut decision.to.saddr, &flow.addr);
    decision.to.sport = flow.port;
    if flow.kind == flow_kind::HAIRPIN {
        copy(&mut decision.to.daddr, &flow.external);
    }
    if flow.to.ifindex != 0 {
        decision.enter(&flow.to);
    } else {
        decision.exit = Exit::Uplink;
        decision.uplink = flow.ifindex;
    }
}
