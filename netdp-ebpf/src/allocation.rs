//! The port that a new flow gets: its own, or another one that nobody has.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use netdp_common::{
    addr::{Address, Be16, proto},
    drop::DropReason,
    maps::{Flow, flow_kind},
    packet::Tuple,
    port,
    tcp::Direction,
};

use crate::{
    family::Family,
    flows, mapped,
    masquerade::{outside_key, sender_key},
    others, share,
    skb::Skb,
    work::{Work, copy},
};

/// What the attempts to find a port work with. The verifier follows pointers
/// on the stack; numbers lie in `work`.
struct Search<'a, A> {
    skb: &'a Skb,
    work: &'a mut Work<A>,
    flow: &'a mut Flow<A>,
}

/// Takes a port of the address that was decided on for a new flow of the
/// container, and by the uplink, that were, and makes its pending entries of
/// these kinds: what the outside sees, and the sender's side if the port is
/// another than its own.
///
/// # Errors
/// [`DropReason::PortExhausted`] where none of the ports tried is free.
#[inline(always)]
pub fn allocate<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    kinds: (u8, u8),
) -> Result<(), DropReason> {
    let flow = flows::scratch::<F>().ok_or(DropReason::HelperFailed)?;
    let Work {
        packet,
        decision,
        search,
        ..
    } = &mut *work;
    let from = &packet.tuple;
    copy(&mut flow.addr, &from.saddr);
    copy(&mut flow.external, &decision.to.saddr);
    flow.port = from.sport;
    flow.kind = kinds.0;
    copy(&mut flow.to, &decision.container);
    flow.ifindex = decision.uplink;
    flow.generation = 0;
    flows::begin::<F>(flow, packet, Direction::Original);
    (search.first, search.last) = flows::config().map_or((1024, 65535), |config| {
        (config.port_first, config.port_last)
    });
    search.found = 0;
    let mut context = Search { skb, work, flow };
    // SAFETY: the callback takes the context as it is given: a pointer to this
    // stack.
    unsafe {
        bpf_loop(
            port::TRIES,
            attempt::<F> as *const () as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    let Search { work, flow, .. } = context;
    if work.search.found == 0 {
        return Err(DropReason::PortExhausted);
    }
    share::expected(flow);
    if work.decision.to.sport != work.packet.tuple.sport {
        flow.kind = kinds.1;
        flow.port = work.decision.to.sport;
        work.key = sender_key(&work.packet, kinds.0);
        flow.tag = work.key.tag();
        flows::expect::<F>(&work.key, flow)?;
        share::expected(flow);
    }
    Ok(())
}

/// Tries one port: the callback of `bpf_loop`, which ends it by 1.
extern "C" fn attempt<F: Family>(index: u32, context: *mut Search<'_, F::Addr>) -> c_long {
    // SAFETY: the context that `allocate` gives.
    let Search { skb, work, flow } = unsafe { &mut *context };
    let Work {
        packet,
        decision,
        search,
        key,
        now,
        ..
    } = &mut **work;
    let from = &packet.tuple;
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    // The host's own flow can't keep its port: a container has it.
    let index = index + u32::from(flow.kind == flow_kind::HOST);
    let port = port::candidate(
        from.sport,
        packet.proto,
        index,
        random,
        search.first,
        search.last,
    );
    *key = outside_key(packet, port, flow.kind);
    flow.tag = key.tag();
    let answer = Tuple {
        saddr: key.remote,
        daddr: flow.external,
        sport: key.remote_port,
        dport: port,
    };
    if is_taken::<F>(skb, &answer, packet.proto)
        || others::have::<F>(key, *now)
        || !flows::claim::<F>(key, flow)
    {
        return 0;
    }
    // Once more, now that `to_netdev` finds the entry: of a socket and a flow
    // that begin at once one sees the other.
    if flows::find::<F>(key).is_some() || is_of_socket::<F>(skb, &answer, packet.proto) {
        let _ = F::pending().remove(&*key);
        return 0;
    }
    decision.to.sport = port;
    search.found = 1;
    1
}

/// Whether somebody else would take the answers: the port is published, or a
/// mapping's, or a socket of the host has the tuple or listens.
#[inline(always)]
fn is_taken<F: Family>(skb: &Skb, answer: &Tuple<F::Addr>, proto: u8) -> bool {
    let (external, port) = (answer.daddr, answer.dport);
    has_ports(proto) && is_published::<F>(external, port, proto)
        || mapped::may_have(proto) && mapped::has::<F>(external, port, proto)
        || is_of_socket::<F>(skb, answer, proto)
}

#[inline(always)]
const fn has_ports(proto: u8) -> bool {
    proto == proto::TCP || proto == proto::UDP
}

#[inline(always)]
fn is_published<F: Family>(addr: F::Addr, port: Be16, proto: u8) -> bool {
    F::is_published(&addr, port, proto)
}

/// Whether the host serves a port itself: it is published, or
/// [served](is_served).
#[inline(never)]
pub fn is_hosts<F: Family>(skb: &Skb, addr: F::Addr, port: Be16, proto: u8) -> bool {
    is_published::<F>(addr, port, proto) || is_served::<F>(skb, addr, port, proto)
}

/// Whether a socket of the host listens at a port or, of UDP, is bound to it
/// and not connected.
#[inline(never)]
pub fn is_served<F: Family>(skb: &Skb, addr: F::Addr, port: Be16, proto: u8) -> bool {
    // A peer that no socket can be connected to.
    let anybody = Tuple {
        saddr: F::Addr::any(),
        daddr: addr,
        sport: Be16::default(),
        dport: port,
    };
    F::host_has_socket(skb.as_ptr(), &anybody, proto)
}

/// Whether the host has a socket that such a packet from outside would reach.
#[inline(never)]
pub fn is_of_socket<F: Family>(skb: &Skb, inbound: &Tuple<F::Addr>, proto: u8) -> bool {
    has_ports(proto) && F::host_has_socket(skb.as_ptr(), inbound, proto)
}
