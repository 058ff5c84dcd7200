//! Neighbour discovery of a container, answered by the datapath: for its
//! gateway and for the endpoints of its network, with the host end's MAC
//! address.

use netdp_common::{
    addr::{Address, V6Addr},
    drop::DropReason,
    maps::Endpoint,
    nd::{self, Advertisement, Message},
    packet::{ETH_LEN, Fragment, Packet},
};

use crate::{
    maps::ADDRS6,
    skb::Skb,
    verdict::{self, TAKEN, Verdict},
    work::Work,
};

/// Turns a solicitation into its answer and sends it back. Nobody else hears
/// what containers say of their neighbours.
#[inline(never)]
pub fn answer(skb: &Skb, work: &mut Work<V6Addr>, endpoint: &Endpoint) -> i32 {
    let mut unheard = false;
    let target = &mut work.way.nexthop;
    let verdict = look_at(skb, &work.packet, target, endpoint, &mut unheard);
    if unheard {
        return TAKEN;
    }
    verdict::action(verdict)
}

#[inline(always)]
fn look_at(
    skb: &Skb,
    packet: &Packet<V6Addr>,
    target: &mut V6Addr,
    endpoint: &Endpoint,
    unheard: &mut bool,
) -> Result<Verdict, DropReason> {
    /// What no router has forwarded (RFC 4861, section 7.1.1).
    const HOPS: u8 = 255;
    const LENGTH: u32 = (ETH_LEN + nd::LEN) as u32;

    // RFC 6980.
    if packet.fragment != Fragment::Whole {
        return Err(DropReason::Malformed);
    }
    let l4 = packet.l4 & 0xff;
    let message = nd::parse(skb, l4, endpoint.mac, target).ok_or(DropReason::Malformed)?;
    let target = &*target;
    match message {
        Message::Solicitation | Message::Spoofed => {}
        Message::Advertisement if is_own(endpoint, target) => {
            *unheard = true;
            return Ok(Verdict::Pass);
        }
        Message::Advertisement | Message::Router => return Err(DropReason::SpoofedNeighbour),
        Message::Other => {
            *unheard = true;
            return Ok(Verdict::Pass);
        }
    }
    let sender = &packet.tuple.saddr;
    if packet.ttl != HOPS {
        return Err(DropReason::Malformed);
    }
    // It looks for others that have the address that it is about to take
    // (RFC 4862, section 5.4).
    if *sender == V6Addr::ANY {
        if is_own(endpoint, target) {
            *unheard = true;
            return Ok(Verdict::Pass);
        }
        return Err(DropReason::SpoofedNeighbour);
    }
    if message == Message::Spoofed || !is_own(endpoint, sender) {
        return Err(DropReason::SpoofedSource);
    }
    let router = *target == endpoint.gateway6 && *target != V6Addr::ANY;
    if !router && !is_neighbour(endpoint, target) {
        return Err(DropReason::NeighbourUnknown);
    }
    if skb.len() != LENGTH {
        skb.resize(LENGTH)?;
    }
    let answer = Advertisement::new(*target, endpoint.host_mac, *sender, router);
    skb.write_summed(ETH_LEN, answer)?;
    skb.write(0, nd::ethernet(endpoint.mac, endpoint.host_mac))?;
    skb.set_for_host();
    Ok(skb.to_peer(skb.ifindex()))
}

/// Whether an address may be the container's own: the one that it was given,
/// or one that doesn't leave its link.
#[inline(always)]
fn is_own(endpoint: &Endpoint, addr: &V6Addr) -> bool {
    *addr == endpoint.addr6 || addr.is_link_local()
}

/// Whether another endpoint of the same network has this address. Also where
/// they may not reach each other, as with ARP.
#[inline(always)]
fn is_neighbour(endpoint: &Endpoint, addr: &V6Addr) -> bool {
    if *addr == endpoint.addr6 {
        return false;
    }
    match ADDRS6.get_ptr(addr) {
        // SAFETY: a map value stays readable while the program runs.
        Some(owner) => unsafe { (*owner).network == endpoint.network },
        None => false,
    }
}
