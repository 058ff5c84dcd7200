//! tcx egress of an uplink: what leaves beside the flows of containers.

use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::FlowKey,
    packet::{Fragment, V4, V6, ethertype},
};

use super::pass;
use crate::{
    family::Family,
    flows,
    maps::HOST_FLOWS,
    others,
    skb::{MARK_ACCELERATED, MARK_OURS, Skb},
    to_netdev as sockets,
    verdict::{self, Verdict},
    work::{self, Work},
};

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
    let Ok(work) = work::begin_timed::<F>(skb) else {
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
