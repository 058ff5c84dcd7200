//! Containers of another engine, on that engine's own bridge networks.
//!
//! Everything about them is the engine's: bridge, addresses, routes and rules.
//! These programs only shorten the way of what they know: conversations that
//! began with them. All else goes on to the stack as it came, and is never
//! dropped, so that the engine's rules decide about it: a port that isn't in
//! the tables, a packet for a container's own address, what stays on the
//! bridge, a segment of a connection that began before, fragments, what is too
//! long. They are loaded a second time with tables of their own, which end with
//! the daemon; none of the other programs sees these.

use netdp_common::{
    addr::{Address, proto},
    drop::DropReason,
    flow::ANSWERED,
    maps::{Delivery, Endpoint, FlowKey, Published, endpoint_flags, flow_kind},
    packet::{Fragment, Transport, V4, V6, ethertype, tcp_flags},
    rules,
    tcp::{self, Direction},
};

use crate::{
    count,
    family::{Family, translate},
    flows,
    found::Found,
    from_container::has_published_port,
    icmp,
    maps::{ENDPOINTS, HOST_FLOWS},
    masquerade, others, path, published, share,
    skb::{MARK_ACCELERATED, MARK_OURS, Skb},
    source, to_netdev as sockets,
    verdict::{self, Verdict},
    work::{self, By, Exit, Work, copy},
};

/// The action that leaves a packet to the next program, and the stack.
#[inline(always)]
fn pass() -> i32 {
    verdict::action(Ok(Verdict::Pass))
}

/// tcx ingress of an uplink.
#[inline(always)]
pub fn from_netdev(skb: &Skb) -> i32 {
    match skb.ethertype() {
        ethertype::IPV4 if skb.is_for_interface() => inbound4(skb),
        ethertype::IPV6 if skb.is_for_interface() => inbound6(skb),
        _ => pass(),
    }
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn inbound4(skb: &Skb) -> i32 {
    inbound::<V4>(skb)
}

/// As [`inbound4`].
#[inline(never)]
fn inbound6(skb: &Skb) -> i32 {
    inbound::<V6>(skb)
}

#[inline(always)]
fn inbound<F: Family>(skb: &Skb) -> i32 {
    let Ok(work) = work::begin::<F>(skb) else {
        return pass();
    };
    if work.packet.fragment != Fragment::Whole {
        return pass();
    }
    match work.packet.transport {
        Transport::IcmpError => {
            if icmp::received::<F>(skb, work) != Found::YES {
                return pass();
            }
        }
        transport if transport.has_ports() => {
            if !belongs::<F>(skb, work) {
                return pass();
            }
        }
        _ => return pass(),
    }
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    if decision.exit == Exit::Host {
        let translated = F::apart(|| translate::<F>(skb, packet, &decision.to, false));
        return verdict::action(translated.map(|()| Verdict::Pass));
    }
    // The daemon may not have heard yet that the interface is gone; and what is
    // too long for it, the stack answers.
    if decision.exit != Exit::Container
        || !skb.is_taken_by(decision.container.ifindex, &mut way.mtu)
    {
        return pass();
    }
    let hop = packet.ttl > 1;
    let done = F::apart(|| translate::<F>(skb, packet, &decision.to, hop))
        .and_then(|()| skb.deliver(&decision.container));
    verdict::action(done)
}

/// Whether a packet belongs to a flow of these programs, or begins one.
#[inline(always)]
fn belongs<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> bool {
    let mapping = published::mapping::<F>(&work.packet.tuple.daddr, &work.packet);
    if let Some(mapping) = mapping {
        // SAFETY: a map value stays readable while the program runs.
        let mapping = unsafe { &*mapping };
        let daddr = work.packet.tuple.daddr;
        if !rules::is_way_back(mapping, daddr) && F::locals().get_ptr(daddr).is_none() {
            return false;
        }
        if source::check::<F>(&work.packet.tuple.saddr).is_err() {
            return false;
        }
        if to_published::<F>(skb, work, mapping) {
            return true;
        }
    }
    // An answer that could not be noted is one nevertheless.
    let _ = masquerade::inbound::<F>(skb, work, mapping.is_some());
    if work.decision.exit != Exit::Stack {
        return true;
    }
    match mapping {
        // SAFETY: as above.
        Some(mapping) => begin_published::<F>(skb, work, unsafe { &*mapping }),
        None => false,
    }
}

/// A packet of a known flow with a published port: to the container.
#[inline(never)]
fn to_published<F: Family>(
    _skb: &Skb,
    work: &mut Work<F::Addr>,
    mapping: &Published<F::Addr>,
) -> bool {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    let from = &packet.tuple;
    *key = FlowKey::full(
        from.saddr,
        from.sport,
        mapping.addr,
        mapping.container_port(from.dport),
        packet.proto,
    );
    if let Some(entry) = flows::find::<F>(key) {
        if !rules::is_published(flows::kind(entry)) || !published::asked_the_same::<F>(entry, from)
        {
            return false;
        }
        let before = flows::state(entry);
        let after = flows::touch::<F>(entry, packet, Direction::Original);
        if is_last(packet.proto, before, after) {
            flows::remove::<F>(key, entry);
        }
    } else if let Some(entry) = flows::find_pending::<F>(key)
        && rules::is_published(flows::kind(entry))
        && published::asked_the_same::<F>(entry, from)
    {
        if packet.proto == proto::UDP && flows::state(entry) == ANSWERED {
            // Where there is no room it works from where it is.
            let _ = flows::promote::<F>(key, entry, packet, Direction::Original);
        } else {
            flows::touch::<F>(entry, packet, Direction::Original);
        }
    } else {
        return false;
    }
    decision.to.daddr = mapping.addr;
    decision.to.dport = mapping.container_port(from.dport);
    decision.enter(&mapping.to);
    true
}

/// Whether a connection is over with this segment: both sides have sent their
/// last before it. Kept any longer it would only fill the table.
#[inline(always)]
fn is_last(proto: u8, before: u8, after: u8) -> bool {
    proto == proto::TCP && before == tcp::state::CLOSED && after == tcp::state::CLOSED
}

/// The first packet of a flow with a published port: to the container.
///
/// A connection begins with a SYN. Of one that began otherwise the stack knows,
/// or nobody does.
#[inline(never)]
fn begin_published<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    mapping: &Published<F::Addr>,
) -> bool {
    let Work {
        packet,
        decision,
        key,
        now,
        ..
    } = work;
    let from = &packet.tuple;
    match packet.transport {
        Transport::Tcp(_) if !packet.transport.is_syn() => return false,
        Transport::Tcp(_) => {}
        _ => {
            // An answer to a conversation that the stack masquerades.
            *key = FlowKey::masquerade(from.saddr, from.sport, from.dport, packet.proto);
            if others::have::<F>(key, *now) {
                return false;
            }
        }
    }
    *key = FlowKey::full(
        from.saddr,
        from.sport,
        mapping.addr,
        mapping.container_port(from.dport),
        packet.proto,
    );
    if let Some(entry) = flows::find::<F>(key) {
        // The container has this very tuple otherwise.
        if packet.proto == proto::TCP && tcp::is_established(flows::state(entry)) {
            return false;
        }
        flows::remove::<F>(key, entry);
    }
    let Some(flow) = flows::scratch::<F>() else {
        return false;
    };
    copy(&mut flow.addr, &from.daddr);
    copy(&mut flow.external, &from.daddr);
    flow.port = from.dport;
    flow.kind = flow_kind::PUBLISHED;
    flow.to = Delivery::default();
    flow.to.slot = mapping.to.slot;
    flow.ifindex = skb.ifindex();
    flow.tag = key.tag();
    flow.generation = 0;
    flows::begin::<F>(flow, packet, Direction::Original);
    if flows::expect::<F>(key, flow).is_err() {
        return false;
    }
    share::expected(flow);
    decision.to.daddr = mapping.addr;
    decision.to.dport = mapping.container_port(from.dport);
    decision.enter(&mapping.to);
    true
}

/// tcx ingress of a container's host end.
#[inline(always)]
pub fn from_container(skb: &Skb) -> i32 {
    let Some(endpoint) = ENDPOINTS.get_ptr(skb.ifindex()) else {
        return pass();
    };
    // SAFETY: a map value stays readable while the program runs.
    let endpoint = unsafe { &*endpoint };
    // What isn't for the gateway stays on the bridge.
    match (skb.destination_mac(), skb.source_mac()) {
        (Ok(to), Ok(from)) if to == endpoint.host_mac && from == endpoint.mac => {}
        _ => return pass(),
    }
    if skb.is_tagged() {
        return pass();
    }
    let length = skb.len();
    let action = match skb.ethertype() {
        ethertype::IPV4 => match outbound4(skb, endpoint) {
            OPENS => open4(skb, endpoint),
            action => action,
        },
        ethertype::IPV6 => match outbound6(skb, endpoint) {
            OPENS => open6(skb, endpoint),
            action => action,
        },
        _ => return pass(),
    };
    if action != pass() {
        count::sent(endpoint.slot, length);
    }
    action
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn outbound4(skb: &Skb, endpoint: &Endpoint) -> i32 {
    outbound::<V4>(skb, endpoint)
}

/// As [`outbound4`].
#[inline(never)]
fn outbound6(skb: &Skb, endpoint: &Endpoint) -> i32 {
    outbound::<V6>(skb, endpoint)
}

/// That a packet begins a conversation: what that takes is done when the stack
/// of what led here is free again.
const OPENS: i32 = 0x300;

#[inline(never)]
fn open4(skb: &Skb, endpoint: &Endpoint) -> i32 {
    open::<V4>(skb, endpoint)
}

/// As [`open4`].
#[inline(never)]
fn open6(skb: &Skb, endpoint: &Endpoint) -> i32 {
    open::<V6>(skb, endpoint)
}

/// Chooses address and port of a new flow, and sends its first packet out.
#[inline(always)]
fn open<F: Family>(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let Some(work) = work::resume::<F>() else {
        return pass();
    };
    let opened = masquerade::open::<F>(work, endpoint).is_ok()
        && masquerade::address::<F>(skb, work, endpoint).is_ok()
        && masquerade::choose::<F>(skb, work, endpoint).is_ok();
    if !opened {
        return pass();
    }
    leave::<F>(skb, work)
}

#[inline(always)]
fn outbound<F: Family>(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let Ok(work) = work::begin::<F>(skb) else {
        return pass();
    };
    if work.packet.fragment != Fragment::Whole || work.packet.tuple.saddr != F::address(endpoint) {
        return pass();
    }
    if work.packet.transport == Transport::IcmpError {
        let known = icmp::sent::<F>(skb, work, endpoint).is_ok();
        if !known || work.decision.exit != Exit::Uplink {
            return pass();
        }
        return leave::<F>(skb, work);
    }
    if !work.packet.transport.has_ports()
        || !F::apart(|| path::kept::<F>(skb, work)) && !leads_outside::<F>(skb, work, endpoint)
    {
        return pass();
    }
    if work.way.by == By::Stack
        || work.packet.ttl <= 1
        || !skb.segments_fit(work.way.ifindex, &mut work.way.mtu)
    {
        return pass();
    }
    if known::<F>(work, endpoint) || masquerade::outbound::<F>(work) {
        if !matches!(path::follow::<F>(skb, work), Ok(true)) {
            return pass();
        }
        return leave::<F>(skb, work);
    }
    if opens::<F>(work, endpoint) {
        OPENS
    } else {
        pass()
    }
}

/// Sends a packet out as it was decided.
#[inline(never)]
fn leave<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> i32 {
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    let done = translate::<F>(skb, packet, &decision.to, true)
        .and_then(|()| path::leave_as::<F>(skb, way, MARK_ACCELERATED));
    verdict::action(done)
}

/// Whether a packet's way is out by an uplink. The FIB is asked as for one that
/// comes in by the bridge, whose number the endpoint has as its network's.
#[inline(never)]
fn leads_outside<F: Family>(skb: &Skb, work: &mut Work<F::Addr>, endpoint: &Endpoint) -> bool {
    let daddr = &work.packet.tuple.daddr;
    if daddr.is_multicast()
        || F::locals().get_ptr(daddr).is_some()
        || F::addrs().get_ptr(daddr).is_some()
    {
        return false;
    }
    path::ask_from::<F>(skb, work, endpoint.network).is_ok()
}

/// A packet of a known flow with a published port, on its way to the client.
#[inline(never)]
fn known<F: Family>(work: &mut Work<F::Addr>, endpoint: &Endpoint) -> bool {
    const NOT_ESTABLISHED: u8 = tcp_flags::SYN | tcp_flags::RST | tcp_flags::FIN;
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    if !has_published_port(endpoint, packet) {
        return false;
    }
    *key = packet.tuple.sent(packet.proto);
    if let Some(entry) = flows::find::<F>(key) {
        if !rules::is_published(flows::kind(entry))
            || !published::is_current::<F>(key, entry, endpoint)
        {
            return false;
        }
        let before = flows::state(entry);
        let after = flows::touch::<F>(entry, packet, Direction::Reply);
        published::answer::<F>(packet, entry, decision);
        if is_last(packet.proto, before, after) {
            flows::remove::<F>(key, entry);
        }
        return true;
    }
    if let Some(entry) = flows::find_pending::<F>(key)
        && rules::is_published(flows::kind(entry))
        && published::is_current::<F>(key, entry, endpoint)
    {
        published::answer::<F>(packet, entry, decision);
        if packet.proto == proto::TCP && !packet.transport.has_flags(NOT_ESTABLISHED) {
            // Where there is no room it works from where it is.
            let _ = flows::promote::<F>(key, entry, packet, Direction::Reply);
        } else {
            flows::touch::<F>(entry, packet, Direction::Reply);
        }
        return true;
    }
    false
}

/// Whether a packet may begin a conversation that is masqueraded.
///
/// A connection begins with a SYN: any other segment is of one that the stack
/// knows. Of a datagram from a published port nobody can tell whether it is an
/// answer, but conntrack.
#[inline(always)]
fn opens<F: Family>(work: &mut Work<F::Addr>, endpoint: &Endpoint) -> bool {
    let Work {
        packet, key, now, ..
    } = work;
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 || endpoint.flags & F::ROUTED != 0 {
        return false;
    }
    let from = &packet.tuple;
    match packet.transport {
        Transport::Tcp(flags) => packet.transport.is_syn() && flags & tcp_flags::RST == 0,
        Transport::Udp | Transport::EchoRequest => {
            if has_published_port(endpoint, packet)
                && !published::back_of::<F>(&from.saddr, from.sport, packet.proto).is_null()
            {
                return false;
            }
            // One that the stack had before, and has until it is silent.
            *key = from.sent(packet.proto);
            if others::have::<F>(key, *now) {
                others::note::<F>(key, *now);
                return false;
            }
            true
        }
        _ => false,
    }
}

/// tcx egress of an uplink.
#[inline(always)]
pub fn to_netdev(skb: &Skb) -> i32 {
    if skb.mark() == MARK_ACCELERATED {
        skb.set_mark(MARK_OURS);
        return pass();
    }
    match skb.ethertype() {
        ethertype::IPV4 => beside4(skb),
        ethertype::IPV6 => beside6(skb),
        _ => pass(),
    }
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn beside4(skb: &Skb) -> i32 {
    beside::<V4>(skb)
}

/// As [`beside4`].
#[inline(never)]
fn beside6(skb: &Skb) -> i32 {
    beside::<V6>(skb)
}

/// A packet that leaves beside our flows, of the host itself or translated by
/// somebody else. Where one of ours has its tuple, it gives way; otherwise none
/// of ours is to take it.
#[inline(always)]
fn beside<F: Family>(skb: &Skb) -> i32 {
    let Ok(work) = work::begin::<F>(skb) else {
        return pass();
    };
    let Work {
        packet, key, now, ..
    } = &mut *work;
    let from = &packet.tuple;
    if packet.fragment != Fragment::Whole || !packet.transport.has_ports() {
        return pass();
    }
    let translated = skb.mark() == MARK_OURS || skb.ingress_ifindex() != 0;
    let segment = packet.proto == proto::TCP && !packet.transport.is_syn();
    let gave_way = HOST_FLOWS.get(0).is_some_and(|seen| *seen != 0);
    // Of the host's sockets the table of sockets tells; they have their tuple
    // from the first packet on.
    if segment && !translated && !gave_way {
        return pass();
    }
    *key = FlowKey::masquerade(from.daddr, from.dport, from.sport, packet.proto);
    if translated {
        match others::last_seen::<F>(key) {
            Some(second) if second == *now => return pass(),
            Some(_) => {
                others::note::<F>(key, *now);
                return pass();
            }
            None if flows::find_either::<F>(key).is_none() => {
                others::note::<F>(key, *now);
                return pass();
            }
            None => {}
        }
    }
    if packet.proto != proto::TCP && packet.proto != proto::UDP {
        return pass();
    }
    verdict::action(sockets::yield_tuple::<F>(skb, work).or(Ok::<_, DropReason>(Verdict::Pass)))
}
