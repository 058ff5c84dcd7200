//! Masquerade: a container's own conversations with the outside, under an
//! address of the host.
//!
//! An entry is keyed by what the outside sees. While the source port is kept,
//! the container's packets find the same entry, so one serves both directions;
//! only a changed port needs a second.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use netdp_common::{
    addr::{Address, Be16, proto},
    drop::DropReason,
    maps::{Delivery, Endpoint, Flow, FlowKey, PortKey, endpoint_flags, flow_kind},
    packet::{Packet, Transport, Tuple, tcp_flags},
    port,
    tcp::Direction,
};

use crate::{
    family::{Family, is_any},
    flows,
    maps::UPLINKS,
    share,
    skb::Skb,
    work::{Decision, Exit, Work},
};

/// A packet of a container for the outside that belongs to no published port:
/// the address and port that it leaves under. False where its flow isn't known.
#[inline(always)]
pub fn outbound<F: Family>(packet: &Packet<F::Addr>, decision: &mut Decision<F::Addr>) -> bool {
    // Without ports it would look like an echo of identifier 0.
    if packet.transport == Transport::IcmpOther {
        return false;
    }
    let from = &packet.tuple;
    let own = FlowKey::masquerade(from.daddr, from.dport, from.sport, packet.proto);
    if let Some(entry) = flows::find::<F>(&own)
        && is_owner::<F>(entry, from)
    {
        seen::<F>(entry, packet, decision);
        return true;
    }
    let kinds = (flow_kind::MASQUERADE, flow_kind::MASQUERADE_OUT);
    if let Some(entry) = renumbered::<F>(packet, kinds) {
        seen::<F>(entry, packet, decision);
        return true;
    }
    if let Some(entry) = flows::find_pending::<F>(&own)
        && is_owner::<F>(entry, from)
    {
        seen::<F>(entry, packet, decision);
        return true;
    }
    false
}

/// The sender's side of a flow whose port was changed, of these kinds (what
/// the outside sees, the sender's side).
///
/// It is worth nothing without the other: a packet is noted at both, so that
/// they expire together, and where the outside's has gone nevertheless (LRU),
/// so does this one, and the flow is opened anew.
#[inline(always)]
pub fn renumbered<F: Family>(
    packet: &Packet<F::Addr>,
    kinds: (u8, u8),
) -> Option<flows::Entry<F::Addr>> {
    let from = &packet.tuple;
    let full = from.sent(packet.proto);
    let entry = find_either::<F>(&full)?;
    if flows::kind(entry) != kinds.1 {
        return None;
    }
    // SAFETY: a map value stays readable while the program runs.
    let port = unsafe { (*entry).port };
    let outside = FlowKey::masquerade(from.daddr, from.dport, port, packet.proto);
    // Another CPU may have promoted it between the two lookups.
    if let Some(twin) = find_either::<F>(&outside).or_else(|| flows::find::<F>(&outside))
        // SAFETY: as above.
        && unsafe {
            (*twin).kind == kinds.0 && (*twin).addr == from.saddr && (*twin).port == from.sport
        }
    {
        flows::touch::<F>(twin, packet, Direction::Original);
        return Some(entry);
    }
    if let Some(entry) = flows::find::<F>(&full) {
        flows::remove::<F>(&full, entry);
    }
    let _ = F::pending().remove(&full);
    None
}

/// An entry of the main table or, where there is none, a pending one.
#[inline(always)]
pub fn find_either<F: Family>(key: &FlowKey<F::Addr>) -> Option<flows::Entry<F::Addr>> {
    match flows::find::<F>(key) {
        Some(entry) => Some(entry),
        None => flows::find_pending::<F>(key),
    }
}

/// A packet of a known flow: under the address and port that it has.
#[inline(always)]
fn seen<F: Family>(
    entry: flows::Entry<F::Addr>,
    packet: &Packet<F::Addr>,
    decision: &mut Decision<F::Addr>,
) {
    flows::touch::<F>(entry, packet, Direction::Original);
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        decision.to.saddr = (*entry).external;
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
        packet, decision, ..
    } = work;
    let from = &packet.tuple;
    let mut key = FlowKey::masquerade(from.daddr, from.dport, decision.to.sport, packet.proto);
    forget::<F>(&key);
    if decision.to.sport != from.sport {
        key.local = from.saddr;
        key.local_port = from.sport;
        forget::<F>(&key);
    }
    decision.to = *from;
}

#[inline(always)]
fn forget<F: Family>(key: &FlowKey<F::Addr>) {
    if let Some(entry) = flows::find::<F>(key) {
        // SAFETY: a map value stays readable while the program runs.
        share::removed(unsafe { &*entry });
        let _ = F::flows().remove(key);
    }
    let _ = F::pending().remove(key);
}

/// The first packet of a flow: chooses the port that the outside will see.
///
/// A segment in the middle of a connection is taken as well: its port is kept
/// if it can be, so that connections outlive a flow table that was lost.
#[inline(never)]
pub fn open<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 {
        return Err(DropReason::Internal);
    }
    match packet.transport {
        Transport::Tcp(flags) if flags & tcp_flags::RST != 0 => return Err(DropReason::NoFlow),
        Transport::Tcp(_) | Transport::Udp | Transport::EchoRequest => {}
        Transport::EchoReply
        | Transport::IcmpError
        | Transport::IcmpOther
        | Transport::Neighbour => return Err(DropReason::IcmpUnrelated),
        Transport::Later => return Err(DropReason::FragmentWithoutFirst),
        Transport::Other => return Err(DropReason::UnknownProtocol),
    }
    let uplink = UPLINKS.get_ptr(way.ifindex).ok_or(DropReason::NoRoute)?;
    // SAFETY: a map value stays readable while the program runs.
    let external = F::external(unsafe { &*uplink });
    if is_any(external) {
        return Err(DropReason::NoUplinkAddress);
    }
    let to = Delivery {
        ifindex: skb.ifindex(),
        slot: endpoint.slot,
        mac: endpoint.mac,
        host_mac: endpoint.host_mac,
    };
    if !share::has_room(to.slot) {
        return Err(DropReason::EndpointLimit);
    }
    begin::<F>(way.ifindex)?;
    let kinds = (flow_kind::MASQUERADE, flow_kind::MASQUERADE_OUT);
    decision.to.sport = allocate::<F>(skb, packet, external, &to, kinds)?;
    decision.to.saddr = external;
    decision.exit = Exit::Uplink;
    Ok(())
}

/// A port being looked for. The entry lies in [`flows::scratch`].
struct Search<'a, A> {
    skb: &'a Skb,
    packet: &'a Packet<A>,
    flow: &'a mut Flow<A>,
    first: u16,
    last: u16,
    /// Set by the attempt that found one.
    found: bool,
    port: Be16,
}

/// Begins an entry in the making by the uplink of its flow, or 0: what is
/// handed on from function to function takes room on the stack.
#[inline(always)]
pub fn begin<F: Family>(uplink: u32) -> Result<(), DropReason> {
    flows::scratch::<F>()
        .ok_or(DropReason::HelperFailed)?
        .ifindex = uplink;
    Ok(())
}

/// Takes a port of `external` for a new flow and makes its pending entries of
/// these kinds: what the outside sees, and the sender's side if the port is
/// another than its own. Its uplink is that of [`begin`].
///
/// # Errors
/// [`DropReason::PortExhausted`] where none of the ports tried is free.
#[inline(always)]
pub fn allocate<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    external: F::Addr,
    to: &Delivery,
    kinds: (u8, u8),
) -> Result<Be16, DropReason> {
    let from = &packet.tuple;
    let (first, last) = flows::config().map_or((1024, 65535), |config| {
        (config.port_first, config.port_last)
    });
    let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
    flow.addr = from.saddr;
    flow.external = external;
    flow.port = from.sport;
    flow.kind = kinds.0;
    flow.to = *to;
    flows::begin::<F>(flow, packet, Direction::Original);
    let mut search = Search {
        skb,
        packet,
        flow,
        first,
        last,
        found: false,
        port: from.sport,
    };
    // SAFETY: the callback takes the context as it is given: a pointer to this
    // stack.
    unsafe {
        bpf_loop(
            port::TRIES,
            attempt::<F> as *const () as *mut c_void,
            (&raw mut search).cast(),
            0,
        );
    }
    if !search.found {
        return Err(DropReason::PortExhausted);
    }
    share::expected(search.flow);
    if search.port != from.sport {
        search.flow.kind = kinds.1;
        search.flow.port = search.port;
        let key = from.sent(packet.proto);
        search.flow.tag = key.tag();
        flows::expect::<F>(&key, search.flow)?;
        share::expected(search.flow);
    }
    Ok(search.port)
}

/// Tries one port: the callback of `bpf_loop`, which ends it by 1.
extern "C" fn attempt<F: Family>(index: u32, search: *mut Search<'_, F::Addr>) -> c_long {
    // SAFETY: the context that `allocate` gives.
    let search = unsafe { &mut *search };
    let packet = search.packet;
    let from = &packet.tuple;
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    // The host's own flow can't keep its port: a container has it.
    let index = index + u32::from(search.flow.kind == flow_kind::HOST);
    let port = port::candidate(
        from.sport,
        packet.proto,
        index,
        random,
        search.first,
        search.last,
    );
    let key = FlowKey::masquerade(from.daddr, from.dport, port, packet.proto);
    search.flow.tag = key.tag();
    if is_port_taken::<F>(search.skb, packet, search.flow.external, port)
        || !flows::claim::<F>(&key, search.flow)
    {
        return 0;
    }
    if flows::find::<F>(&key).is_some() {
        let _ = F::pending().remove(&key);
        return 0;
    }
    search.port = port;
    search.found = true;
    1
}

/// Whether the host would take the answers itself: the port is published, or
/// one of its sockets has the tuple or listens.
#[inline(always)]
fn is_port_taken<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    external: F::Addr,
    port: Be16,
) -> bool {
    if packet.proto != proto::TCP && packet.proto != proto::UDP {
        return false;
    }
    if F::ports()
        .get_ptr(PortKey::new(F::Addr::ANY, port, packet.proto))
        .is_some()
        || F::ports()
            .get_ptr(PortKey::new(external, port, packet.proto))
            .is_some()
    {
        return true;
    }
    let answer = Tuple {
        saddr: packet.tuple.daddr,
        daddr: external,
        sport: packet.tuple.dport,
        dport: port,
    };
    F::host_has_socket(skb, &answer, packet.proto)
}

/// An answer from outside to a flow of a container, or of a host's socket that
/// had to give way. What belongs to neither stays for the stack.
#[inline(always)]
pub fn inbound<F: Family>(
    packet: &Packet<F::Addr>,
    decision: &mut Decision<F::Addr>,
) -> Result<(), DropReason> {
    if packet.transport == Transport::IcmpOther {
        return Ok(());
    }
    let from = &packet.tuple;
    let key = FlowKey::masquerade(from.saddr, from.sport, from.dport, packet.proto);
    let (entry, pending) = match flows::find::<F>(&key) {
        Some(entry) => (entry, false),
        None => match flows::find_pending::<F>(&key) {
            Some(entry) => (entry, true),
            None => return Ok(()),
        },
    };
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    if flow.external != from.daddr {
        return Ok(());
    }
    decision.to.dport = flow.port;
    if flow.kind == flow_kind::HOST {
        decision.exit = Exit::Host;
    } else {
        decision.to.daddr = flow.addr;
        decision.enter(&flow.to);
    }
    if pending {
        flows::promote::<F>(&key, entry, packet, Direction::Reply)?;
    } else {
        flows::touch::<F>(entry, packet, Direction::Reply);
    }
    if decision.to.dport != from.dport {
        note_at_sender::<F>(packet, flow.addr, decision.to.dport)?;
    }
    Ok(())
}

/// Notes an answer at the sender's side of a flow whose port was changed, too,
/// and moves it to the main table along with the outside's.
#[inline(always)]
fn note_at_sender<F: Family>(
    packet: &Packet<F::Addr>,
    addr: F::Addr,
    port: Be16,
) -> Result<(), DropReason> {
    let from = &packet.tuple;
    let key = FlowKey::full(from.saddr, from.sport, addr, port, packet.proto);
    if let Some(entry) = flows::find::<F>(&key) {
        flows::touch::<F>(entry, packet, Direction::Reply);
        return Ok(());
    }
    match flows::find_pending::<F>(&key) {
        Some(entry) => flows::promote::<F>(&key, entry, packet, Direction::Reply),
        None => Ok(()),
    }
}

/// Whether this flow is the sender's own, with its port kept.
#[inline(always)]
pub fn is_owner<F: Family>(entry: flows::Entry<F::Addr>, from: &Tuple<F::Addr>) -> bool {
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        (*entry).kind == flow_kind::MASQUERADE
            && (*entry).addr == from.saddr
            && (*entry).port == from.sport
    }
}
