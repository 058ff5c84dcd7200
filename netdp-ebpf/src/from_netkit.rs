//! netkit, the container's end: what the container sends, while it is still in
//! its own system call.
//!
//! What leaves by an uplink leaves from here, without the host's backlog. All
//! else goes on as it came, to [`from_container`](crate::from_container), which
//! begins anew: what has been noted of it here is noted as of a packet that was
//! sent twice.

use netdp_common::{
    addr::Address,
    drop::DropReason,
    maps::Endpoint,
    packet::{Fragment, Transport, V4, V6, ethertype},
};

use crate::{
    count,
    family::{Family, is_any, translate},
    fast,
    from_container::outward,
    maps::ENDPOINTS,
    path,
    skb::Skb,
    verdict::{self, Verdict},
    work::{self, Exit, Work},
};

/// What [`ipv4`] and [`ipv6`] give of a packet that goes on as it came.
const ON: i32 = verdict::NEXT;

/// Out by an uplink, or on.
#[inline(always)]
pub fn from_netkit(skb: &Skb) -> Result<Verdict, DropReason> {
    // Until there is an entry the container has no network.
    let endpoint = ENDPOINTS
        .get_ptr(skb.ifindex())
        .ok_or(DropReason::NoEndpoint)?;
    // SAFETY: the entry of a live interface is replaced, never removed, and a
    // map value stays readable while the program runs.
    let endpoint = unsafe { &*endpoint };
    // On a veth, the kernel reads the ethertype from the frame. Here it is what
    // the sender has said (`netkit_xmit`, from 6.10), and another than goes out.
    let ethertype = skb.ethertype();
    if skb.header_ethertype() != ethertype {
        count::refused(endpoint.slot);
        return Err(DropReason::UnknownEthertype);
    }
    if skb.source_mac() != Ok(endpoint.mac) || skb.is_tagged() {
        return Ok(Verdict::Pass);
    }
    let length = skb.len();
    let action = match ethertype {
        ethertype::IPV4 if !is_any(endpoint.addr4) => ipv4(skb, endpoint),
        ethertype::IPV6 if !is_any(endpoint.addr6) => ipv6(skb, endpoint),
        _ => ON,
    };
    if action == verdict::DROP {
        count::refused(endpoint.slot);
    } else if action != ON {
        count::sent(endpoint.slot, length);
    }
    Ok(Verdict::Part(action))
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn ipv4(skb: &Skb, endpoint: &Endpoint) -> i32 {
    out::<V4>(skb, endpoint)
}

/// As [`ipv4`].
#[inline(never)]
fn ipv6(skb: &Skb, endpoint: &Endpoint) -> i32 {
    out::<V6>(skb, endpoint)
}

/// Whatever is to be refused is refused by `from_container`, which tells the
/// container why.
#[inline(always)]
fn out<F: Family>(skb: &Skb, endpoint: &Endpoint) -> i32 {
    if let Some(action) = fast::outward::<F>(skb, endpoint) {
        return action;
    }
    let Ok(work) = work::begin_timed::<F>(skb) else {
        return ON;
    };
    let packet = &work.packet;
    if packet.tuple.saddr != F::address(endpoint)
        || packet.fragment != Fragment::Whole
        || matches!(
            packet.transport,
            Transport::IcmpError | Transport::Neighbour
        )
    {
        return ON;
    }
    if !F::apart(|| path::kept::<F>(skb, work)) {
        let daddr = work.packet.tuple.daddr;
        if F::addrs().get_ptr(daddr).is_some()
            || F::locals().get_ptr(daddr).is_some()
            || daddr.is_multicast()
            || path::ask::<F>(skb, work).is_err()
        {
            return ON;
        }
    }
    if outward::<F>(skb, work, endpoint).is_err() || work.decision.exit != Exit::Uplink {
        return ON;
    }
    verdict::part(leave::<F>(skb, work))
}

#[inline(never)]
fn leave<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> Result<Verdict, DropReason> {
    translate::<F>(skb, &work.packet, &work.decision.to, true)?;
    path::leave::<F>(skb, &work.way)
}
