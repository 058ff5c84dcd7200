//! The way out of the host for a destination.
//!
//! The FIB is asked once a second for each destination and CPU; in between the
//! answer is kept in a per-CPU array, so that no CPU writes what another one
//! reads. The packet that asked goes by the kernel's neighbour table, which
//! keeps neighbour discovery alive for a next hop that only BPF sends to.

use netdp_common::{drop::DropReason, maps::Path};

use crate::{
    family::{Family, Unroutable, redirect_neigh, route},
    maps::{MAX_PATHS, UPLINKS},
    skb::{MARK_OURS, Skb},
    verdict::Verdict,
    work::{By, Way, Work},
};

/// Looks for the way kept for a destination, if it is of this second and takes
/// a packet of this length. A destination that has one is neither a container
/// nor the host itself.
#[inline(always)]
pub fn kept<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> bool {
    let daddr = work.packet.tuple.daddr;
    let way = &mut work.way;
    let Some(slot) = F::paths().get_ptr(F::spread(daddr) & (MAX_PATHS as u32 - 1)) else {
        return false;
    };
    // SAFETY: this CPU's own value, see `keep`.
    let path = unsafe { &*slot };
    if path.daddr != daddr || path.second != work.now || !skb.fits(path.mtu) {
        return false;
    }
    way.ifindex = path.ifindex;
    way.by = By::Macs;
    way.smac = path.smac;
    way.dmac = path.dmac;
    true
}

#[inline(always)]
fn keep<F: Family>(path: Path<F::Addr>) {
    if let Some(slot) = F::paths().get_ptr_mut(F::spread(path.daddr) & (MAX_PATHS as u32 - 1)) {
        // SAFETY: this CPU's own value; tcx programs run with softirqs
        // disabled and don't interrupt each other.
        unsafe { slot.write(path) };
    }
}

/// Asks the FIB.
///
/// # Errors
/// [`DropReason::NoRoute`] also where the route leads to no uplink.
#[inline(never)]
pub fn ask<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Result<(), DropReason> {
    let Work {
        packet, way, now, ..
    } = work;
    let tuple = &packet.tuple;
    let route = match route::<F>(skb, tuple) {
        Ok(route) => route,
        // The stack says so to the sender. What may be fragmented would leave
        // the stack untranslated.
        Err(Unroutable::TooBig) if packet.dont_fragment => return Ok(()),
        Err(Unroutable::TooBig) => return Err(DropReason::TooBig),
        Err(Unroutable::NoRoute) => return Err(DropReason::NoRoute),
    };
    if UPLINKS.get_ptr(route.ifindex).is_none() {
        return Err(DropReason::NoRoute);
    }
    if let Some((smac, dmac)) = route.macs {
        keep::<F>(Path {
            daddr: tuple.daddr,
            second: *now,
            ifindex: route.ifindex,
            smac,
            dmac,
            mtu: route.mtu,
        });
    }
    way.ifindex = route.ifindex;
    way.by = By::Neighbour;
    way.nexthop = route.nexthop;
    Ok(())
}

/// Sends a translated packet out.
#[inline(always)]
pub fn leave<F: Family>(skb: &Skb, way: &Way<F::Addr>) -> Result<Verdict, DropReason> {
    skb.set_mark(MARK_OURS);
    if way.by == By::Macs {
        skb.write_macs(way.dmac, way.smac)?;
        Ok(skb.redirect(way.ifindex))
    } else {
        Ok(redirect_neigh::<F>(way.ifindex, way.nexthop))
    }
}
