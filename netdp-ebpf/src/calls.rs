//! What containers ask the host's addresses for, where no port of netdp's is.
//!
//! The host's own programs answer, or somebody behind it: Docker's own bridge
//! networks publish ports by netfilter, whose answers the host forwards to the
//! container. So of what the host forwards to a container, answers to the
//! container pass, and nothing else. That they have the host's address as their
//! source can't be made up by whoever sends to the host: it takes such a packet
//! for a martian (`fib_validate_source` in net/ipv4/fib_frontend.c, 6.12).

use aya_ebpf::bindings::BPF_ANY;
use netdp_common::{
    addr::proto,
    fragment,
    maps::{Endpoint, Owner, endpoint_flags, uplink_flags},
    packet::{Packet, Transport},
};

use crate::{
    family::Family,
    flows,
    maps::UPLINKS,
    skb::Skb,
    work::{self, Work},
};

/// Notes what opens a conversation with the host. Of UDP that may be any
/// packet; an internal network has no such conversations.
#[inline(never)]
pub fn note<F: Family>(skb: &Skb, work: &mut Work<F::Addr>, endpoint: &Endpoint) {
    let Work { packet, key, .. } = work;
    let opens = packet.transport.is_syn() || packet.transport == Transport::Udp;
    if !opens || endpoint.flags & endpoint_flags::INTERNAL != 0 {
        return;
    }
    *key = packet.tuple.sent(packet.proto);
    // Of an endpoint that was here before with this address it says nothing.
    let ifindex = skb.ifindex();
    if is_noted::<F>(work, ifindex) {
        return;
    }
    // Without an entry the answer is dropped, and counted then.
    let _ = F::calls().insert(&work.key, ifindex, u64::from(BPF_ANY));
}

/// Notes under which address and port a container asks for a socket of the host
/// that is behind another one, or that this is still going on.
#[inline(never)]
pub fn keep<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) {
    work.key = work.packet.tuple.sent(work.packet.proto);
    let ifindex = skb.ifindex();
    if !is_noted::<F>(work, ifindex) {
        let _ = F::calls().insert(&work.key, ifindex, u64::from(BPF_ANY));
    }
}

/// Whether a container asked under the address and port that an answer of the
/// host is about to get.
#[inline(always)]
pub fn is_kept<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> bool {
    work.key = work.decision.to.received(work.packet.proto);
    is_noted::<F>(work, skb.ifindex())
}

/// Whether what the host forwards to a container answers it.
#[inline(never)]
pub fn is_answer<F: Family>(skb: &Skb) -> bool {
    let Ok(work) = work::begin_timed::<F>(skb) else {
        return false;
    };
    if flows::reassemble::<F>(&mut work.packet, work.now).is_err()
        || fragment::check(work.packet.fragment).is_err()
    {
        return false;
    }
    let Work { packet, key, .. } = work;
    if packet.transport.is_syn() || packet.proto != proto::TCP && packet.proto != proto::UDP {
        return false;
    }
    *key = packet.tuple.received(packet.proto);
    is_noted::<F>(work, skb.ifindex())
}

/// Whether a packet from outside to a container may be an answer that netfilter
/// has yet to translate, so that [`is_answer`] can tell: it came by a bridge
/// with others' containers, and opens no connection.
#[inline(never)]
pub fn may_answer<F: Family>(skb: &Skb, packet: &Packet<F::Addr>, owner: &Owner) -> bool {
    owner.flags & u32::from(F::ROUTED) == 0
        && !packet.transport.is_syn()
        && is_beside(skb.ifindex())
}

/// Whether an uplink is a bridge with others' containers, which the host
/// forwards to what netfilter translated.
#[inline(never)]
pub fn is_beside(uplink: u32) -> bool {
    match UPLINKS.get_ptr(uplink) {
        // SAFETY: a map value stays readable while the program runs.
        Some(uplink) => unsafe { (*uplink).flags & uplink_flags::BESIDE != 0 },
        None => false,
    }
}

#[inline(always)]
fn is_noted<F: Family>(work: &Work<F::Addr>, ifindex: u32) -> bool {
    match F::calls().get_ptr(&work.key) {
        // SAFETY: a map value stays readable while the program runs.
        Some(noted) => unsafe { *noted == ifindex },
        None => false,
    }
}
