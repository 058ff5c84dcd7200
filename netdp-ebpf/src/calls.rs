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
    maps::{Endpoint, endpoint_flags},
    packet::Transport,
};

use crate::{
    family::Family,
    flows,
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

/// Whether what the host forwards to a container answers it.
#[inline(never)]
pub fn is_answer<F: Family>(skb: &Skb) -> bool {
    let Ok(work) = work::begin::<F>(skb) else {
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

#[inline(always)]
fn is_noted<F: Family>(work: &Work<F::Addr>, ifindex: u32) -> bool {
    match F::calls().get_ptr(&work.key) {
        // SAFETY: a map value stays readable while the program runs.
        Some(noted) => unsafe { *noted == ifindex },
        None => false,
    }
}
