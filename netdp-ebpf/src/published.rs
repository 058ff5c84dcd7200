//! Published ports: in by the port table, back by the flow or, while the
//! tables alone give the way, by `back`.

use netdp_common::{
    addr::{Address, Be16, proto},
    drop::DropReason,
    flow::ANSWERED,
    maps::{Delivery, FlowKey, PortKey, Published, flow_kind},
    packet::{Packet, Transport, Tuple, tcp_flags},
    tcp::{self, Direction},
};

use crate::{
    count,
    family::Family,
    flows, share,
    skb::Skb,
    work::{Decision, Exit},
};

/// The mapping of a port of the host, on this address or on all.
#[inline(always)]
pub fn mapping<F: Family>(
    addr: F::Addr,
    packet: &Packet<F::Addr>,
) -> Option<*const Published<F::Addr>> {
    mapping_of::<F>(addr, packet.tuple.dport, packet.proto)
}

/// The same by its parts.
#[inline(always)]
pub fn mapping_of<F: Family>(
    addr: F::Addr,
    port: Be16,
    proto: u8,
) -> Option<*const Published<F::Addr>> {
    if proto != proto::TCP && proto != proto::UDP {
        return None;
    }
    F::ports()
        .get_ptr(PortKey::new(F::Addr::ANY, port, proto))
        .or_else(|| F::ports().get_ptr(PortKey::new(addr, port, proto)))
}

/// A packet from outside for a published port: to the container.
#[inline(always)]
pub fn inbound<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    published: &Published<F::Addr>,
    decision: &mut Decision<F::Addr>,
) -> Result<(), DropReason> {
    let from = &packet.tuple;
    let to = Tuple {
        saddr: from.saddr,
        daddr: published.addr,
        sport: from.sport,
        dport: published.port,
    };
    // The tables alone give the way back to who used this very address.
    let stateless = published.back_addr == from.daddr;
    // From outside, it counts in the share of the container behind the port.
    // The stack would have this misaligned.
    let client = &mut decision.container;
    *client = Delivery::default();
    client.slot = published.to.slot;
    if packet.proto == proto::TCP {
        const OPENING_OR_CLOSING: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
        if !stateless || packet.transport.has_flags(OPENING_OR_CLOSING) {
            remember::<F>(skb, packet, &to, client, stateless)?;
        }
    } else if !stateless {
        remember::<F>(skb, packet, &to, client, stateless)?;
    }
    decision.to = to;
    decision.enter(&published.to);
    Ok(())
}

/// Keeps the flow's entry up to date, or makes one where the way back needs it:
/// for the outside, or for a container that is the `client`.
#[inline(never)]
pub fn remember<F: Family>(
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
            flows::touch::<F>(entry, packet, Direction::Original);
            return Ok(());
        }
        // The same client port, over another published port or address, to the
        // same container port: the container could not tell the two apart.
        // Without connections, the way that was used last is the way back.
        if packet.proto == proto::TCP
            && (tcp::is_established(flows::state(entry)) || !packet.transport.is_syn())
        {
            return Err(DropReason::TupleTaken);
        }
        let _ = F::flows().remove(key);
    }
    if stateless {
        return Ok(());
    }
    if let Some(entry) = flows::find_pending::<F>(&key)
        && asked_the_same::<F>(entry, from)
    {
        if packet.proto == proto::UDP && flows::state(entry) == ANSWERED {
            return flows::promote::<F>(&key, entry, packet, Direction::Original);
        }
        flows::touch::<F>(entry, packet, Direction::Original);
        return Ok(());
    }
    if packet.transport.is_syn() || packet.transport == Transport::Udp {
        if client.ifindex != 0 && !share::has_room(client.slot) {
            return Err(DropReason::EndpointLimit);
        }
        let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
        flow.addr = from.daddr;
        flow.external = from.daddr;
        flow.port = from.dport;
        flow.kind = flow_kind::PUBLISHED;
        flow.to = *client;
        flow.ifindex = skb.ifindex();
        flow.tag = key.tag();
        if to.saddr != from.saddr {
            flow.kind = flow_kind::HAIRPIN;
            flow.external = from.saddr;
        }
        flows::begin::<F>(flow, packet, Direction::Original);
        flows::expect::<F>(&key, flow)?;
        share::expected(flow);
        return Ok(());
    }
    Ok(())
}

/// Whether a flow's client used the same address and port of the host.
#[inline(always)]
fn asked_the_same<F: Family>(entry: flows::Entry<F::Addr>, from: &Tuple<F::Addr>) -> bool {
    // SAFETY: a map value stays readable while the program runs.
    unsafe { (*entry).addr == from.daddr && (*entry).port == from.dport }
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
        // SAFETY: a map value stays readable while the program runs.
        share::removed(unsafe { &*entry });
        let _ = F::flows().remove(key);
    }
}

/// Whether `back` alone gives the way that this answer takes.
#[inline(always)]
fn is_stateless<F: Family>(key: &FlowKey<F::Addr>, decision: &Decision<F::Addr>) -> bool {
    if decision.exit != Exit::Uplink {
        return false;
    }
    match F::backs().get_ptr(PortKey::new(key.local, key.local_port, key.proto)) {
        // SAFETY: a map value stays readable while the program runs.
        Some(back) => unsafe {
            (*back).addr == decision.to.saddr && (*back).port == decision.to.sport
        },
        None => false,
    }
}

/// A packet of the container that has no entry in the main table: the answer
/// to what is pending, or to a client that needs no entry.
///
/// False where neither is known of this port. `slot` is the container's.
#[inline(never)]
pub fn first_reply<F: Family>(
    packet: &Packet<F::Addr>,
    key: &FlowKey<F::Addr>,
    local_client: bool,
    slot: u32,
    decision: &mut Decision<F::Addr>,
) -> Result<bool, DropReason> {
    const NOT_ESTABLISHED: u8 = tcp_flags::SYN | tcp_flags::RST | tcp_flags::FIN;
    let enters = packet.proto == proto::TCP && !packet.transport.has_flags(NOT_ESTABLISHED);

    if let Some(entry) = flows::find_pending::<F>(key)
        && flows::is_published(flows::kind(entry))
    {
        answer::<F>(packet, entry, decision);
        if enters || decision.exit == Exit::Container {
            flows::promote::<F>(key, entry, packet, Direction::Reply)?;
        } else {
            flows::touch::<F>(entry, packet, Direction::Reply);
        }
        return Ok(true);
    }
    if local_client {
        return Ok(false);
    }
    let from = &packet.tuple;
    let Some(back) = F::backs().get_ptr(PortKey::new(from.saddr, from.sport, packet.proto)) else {
        return Ok(false);
    };
    // SAFETY: a map value stays readable while the program runs.
    let (addr, port) = unsafe { ((*back).addr, (*back).port) };
    if enters {
        // The container speaks on an open connection: a client has completed
        // the handshake, or the connection is older than the table. Where the
        // table is full the flow goes on without an entry.
        let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
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
        if !share::has_room_published(slot) {
            count::dropped(DropReason::EndpointLimit);
        } else if flows::establish::<F>(key, flow).is_err() {
            count::dropped(DropReason::TableFull);
        } else {
            share::established(flow);
        }
    }
    decision.to.saddr = addr;
    decision.to.sport = port;
    decision.exit = Exit::Uplink;
    Ok(true)
}

/// Puts the host's address and port in place of the container's, on the way to
/// the client: out of the host, or another container.
#[inline(always)]
fn answer<F: Family>(
    packet: &Packet<F::Addr>,
    entry: flows::Entry<F::Addr>,
    decision: &mut Decision<F::Addr>,
) {
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    decision.to = packet.tuple;
    decision.to.saddr = flow.addr;
    decision.to.sport = flow.port;
    if flow.kind == flow_kind::HAIRPIN {
        decision.to.daddr = flow.external;
    }
    if flow.to.ifindex != 0 {
        decision.enter(&flow.to);
    } else {
        decision.exit = Exit::Uplink;
    }
}
