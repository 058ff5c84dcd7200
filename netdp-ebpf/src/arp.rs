//! ARP of a container, answered by the datapath: for its gateway and for the
//! endpoints of its network, with the host end's MAC address.

use netdp_common::{addr::V4Addr, arp::Request, drop::DropReason, maps::Endpoint};

use crate::{maps::ADDRS4, skb::Skb, verdict::Verdict};

/// Turns a request into its reply and sends it back. What isn't a request for
/// an address that the container may reach is dropped: nobody else hears it.
#[inline(never)]
pub fn answer(skb: &Skb, endpoint: &Endpoint) -> Result<Verdict, DropReason> {
    skb.pull_headers();
    let request = Request::parse(skb).ok_or(DropReason::ArpUnknown)?;
    if request.sender_mac != endpoint.mac
        || (request.sender != endpoint.addr4 && request.sender != V4Addr::default())
    {
        return Err(DropReason::SpoofedSource);
    }
    if request.target != endpoint.gateway4 && !is_neighbour(endpoint, request.target) {
        return Err(DropReason::ArpUnknown);
    }
    skb.write(0, request.reply(endpoint.host_mac))?;
    Ok(skb.to_peer(skb.ifindex()))
}

/// Whether another endpoint of the same network has this address. Also where
/// they may not reach each other: one may answer another that came in by a
/// published port, and what is refused is counted as such.
#[inline(always)]
fn is_neighbour(endpoint: &Endpoint, addr: V4Addr) -> bool {
    if addr == endpoint.addr4 {
        return false;
    }
    match ADDRS4.get_ptr(addr) {
        // SAFETY: a map value stays readable while the program runs.
        Some(owner) => unsafe { (*owner).network == endpoint.network },
        None => false,
    }
}
