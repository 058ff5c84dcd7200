//! tcx ingress of a container's host end: answers from published ports, and
//! what the container says to the outside.

use netdp_common::{
    addr::{Address, proto},
    left::Left,
    maps::{Endpoint, endpoint_flags},
    packet::{Fragment, Transport, V4, V6, ethertype, tcp_flags},
    rules,
    tcp::Direction,
};

use super::{is_last, leave, pass};
use crate::{
    count, current,
    family::{Family, translate},
    flows,
    from_container::has_published_port,
    icmp,
    maps::ENDPOINTS,
    masquerade, others, path, ports, published,
    skb::{MARK_ACCELERATED, Skb},
    verdict,
    work::{self, By, Exit, Work},
};

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
        _ => return leave(Left::Bridge),
    }
    if skb.is_tagged() {
        return leave(Left::Protocol);
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
        _ => return leave(Left::Protocol),
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
        return leave(Left::NoRoom);
    }
    send::<F>(skb, work)
}

#[inline(always)]
fn outbound<F: Family>(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let Ok(work) = work::begin_timed::<F>(skb) else {
        return leave(Left::Protocol);
    };
    if work.packet.fragment != Fragment::Whole {
        return leave(Left::Fragment);
    }
    if work.packet.tuple.saddr != F::address(endpoint) {
        return leave(Left::Source);
    }
    if work.packet.transport == Transport::IcmpError {
        let known = icmp::sent::<F>(skb, work, endpoint).is_ok();
        if !known || work.decision.exit != Exit::Uplink {
            return leave(Left::Stacks);
        }
        return send::<F>(skb, work);
    }
    if !work.packet.transport.has_ports() {
        return leave(Left::Protocol);
    }
    if !F::apart(|| path::kept::<F>(skb, work)) && !leads_outside::<F>(skb, work, endpoint) {
        return leave(Left::Elsewhere);
    }
    if work.way.by == By::Stack || work.packet.ttl <= 1 {
        return leave(Left::Elsewhere);
    }
    if !skb.segments_fit(work.way.ifindex, &mut work.way.mtu) {
        return leave(Left::TooBig);
    }
    if known::<F>(work, endpoint) || masquerade::outbound::<F>(work) {
        if !matches!(path::follow::<F>(skb, work), Ok(true)) {
            return leave(Left::Elsewhere);
        }
        return send::<F>(skb, work);
    }
    opens::<F>(work, endpoint)
}

/// Sends a packet out as it was decided.
#[inline(never)]
fn send<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> i32 {
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
            || !current::is_current::<F>(key, entry, endpoint)
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
        && current::is_current::<F>(key, entry, endpoint)
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

/// [`OPENS`] where a packet may begin a conversation that is masqueraded.
///
/// A connection begins with a SYN: any other segment is of one that the stack
/// knows. Of a datagram from a published port nobody can tell whether it is an
/// answer, but conntrack.
#[inline(always)]
fn opens<F: Family>(work: &mut Work<F::Addr>, endpoint: &Endpoint) -> i32 {
    let Work {
        packet, key, now, ..
    } = work;
    if endpoint.flags & endpoint_flags::MASQUERADE == 0 || endpoint.flags & F::ROUTED != 0 {
        return leave(Left::NotTranslated);
    }
    let from = &packet.tuple;
    match packet.transport {
        Transport::Tcp(flags) if packet.transport.is_syn() && flags & tcp_flags::RST == 0 => OPENS,
        Transport::Tcp(_) => leave(Left::Began),
        Transport::Udp | Transport::EchoRequest => {
            if has_published_port(endpoint, packet)
                && !ports::back_of::<F>(&from.saddr, from.sport, packet.proto).is_null()
            {
                return leave(Left::Stacks);
            }
            // One that the stack had before, and has until it is silent.
            *key = from.sent(packet.proto);
            if others::have::<F>(key, *now) {
                others::note::<F>(key, *now);
                return leave(Left::Stacks);
            }
            OPENS
        }
        _ => leave(Left::Protocol),
    }
}
