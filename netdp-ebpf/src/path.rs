//! The way out of the host for a destination.
//!
//! The FIB is asked once a second for each destination and CPU; in between the
//! answer is kept in a per-CPU array, so that no CPU writes what another one
//! reads. The packet that asked goes by the kernel's neighbour table, which
//! keeps neighbour discovery alive for a next hop that only BPF sends to.

use netdp_common::{drop::DropReason, maps::Path, packet::Tuple};

use crate::{
    family::{Family, is_any},
    fib::{Unroutable, redirect_neigh, route},
    flows,
    maps::{MAX_PATHS, UPLINKS},
    masquerade,
    skb::{MARK_OURS, Skb},
    verdict::Verdict,
    work::{By, Way, Work},
};

/// Bit of [`Path::second`]: only the interface of the way is known. No uptime
/// has it.
const INTERFACE_ONLY: u32 = 1 << 31;

/// Looks for the way kept for a destination, if it is of this second and takes
/// a packet of this length. A destination that has one is neither a container
/// nor the host itself.
#[inline(always)]
pub fn kept<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> bool {
    let way = &mut work.way;
    let Some(path) = fitting::<F>(skb, work.packet.tuple.daddr, work.now) else {
        return false;
    };
    way.ifindex = path.ifindex;
    way.by = By::Macs;
    way.smac = path.smac;
    way.dmac = path.dmac;
    true
}

/// The same by its parts.
#[inline(always)]
pub fn fitting<F: Family>(skb: &Skb, daddr: F::Addr, now: u32) -> Option<&'static Path<F::Addr>> {
    found::<F>(daddr, now).filter(|path| path.second == now && skb.fits(path.mtu))
}

/// The way kept for an address, if it is of this second.
#[inline(always)]
fn found<F: Family>(addr: F::Addr, now: u32) -> Option<&'static Path<F::Addr>> {
    let slot = slot::<F>(addr)?;
    // SAFETY: this CPU's own value, see `keep`.
    let path = unsafe { &*slot };
    (path.daddr == addr && path.second & !INTERFACE_ONLY == now).then_some(path)
}

#[inline(always)]
fn slot<F: Family>(addr: F::Addr) -> Option<*mut Path<F::Addr>> {
    F::paths().get_ptr_mut(F::spread(addr) & (MAX_PATHS as u32 - 1))
}

#[inline(always)]
fn keep<F: Family>(path: Path<F::Addr>) {
    if let Some(slot) = slot::<F>(path.daddr) {
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
    ask_from::<F>(skb, work, skb.ifindex())
}

/// The same for a packet that comes in by this interface for the FIB.
#[inline(always)]
pub fn ask_from<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    ifindex: u32,
) -> Result<(), DropReason> {
    let Work {
        packet, way, now, ..
    } = work;
    let tuple = &packet.tuple;
    let route = match route::<F>(skb, ifindex, tuple, &mut way.mtu) {
        Ok(route) => route,
        // The stack says so to the sender. What may be fragmented would leave
        // the stack untranslated.
        Err(Unroutable::TooBig) if F::STACK_ANSWERS && packet.dont_fragment => return Ok(()),
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
            mtu: way.mtu,
        });
    }
    way.ifindex = route.ifindex;
    way.by = By::Neighbour;
    way.nexthop = route.nexthop;
    Ok(())
}

/// Whether an answer to a packet from outside would leave by another interface
/// than the packet came in by. `answer` is from the container, whose host end
/// is `ifindex`.
#[inline(never)]
pub fn turns<F: Family>(skb: &Skb, answer: &Tuple<F::Addr>, ifindex: u32) -> bool {
    let now = flows::now();
    if let Some(path) = found::<F>(answer.daddr, now) {
        return path.ifindex != skb.ifindex();
    }
    let mut mtu = 0;
    let Ok(route) = route::<F>(skb, ifindex, answer, &mut mtu) else {
        return false;
    };
    if let Some(slot) = slot::<F>(answer.daddr) {
        // SAFETY: as in `keep`.
        let path = unsafe { &mut *slot };
        path.daddr = answer.daddr;
        // What leaves that way asks for itself, and keeps the neighbour alive.
        path.second = now | INTERFACE_ONLY;
        path.ifindex = route.ifindex;
    }
    route.ifindex != skb.ifindex()
}

/// Makes the way that of the packet's flow, where the route names another
/// uplink: answers leave by the uplink that the request came in by, and a
/// conversation of the container by the one whose address it has outside.
///
/// False where the flow has ended with its uplink.
#[inline(always)]
pub fn follow<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Result<bool, DropReason> {
    let uplink = work.decision.uplink;
    if uplink == 0 || uplink == work.way.ifindex || turn::<F>(skb, work)? {
        return Ok(true);
    }
    masquerade::end::<F>(work);
    Ok(false)
}

/// False where the uplink leads nowhere and the flow ends with it.
#[inline(never)]
fn turn<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Result<bool, DropReason> {
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    let Some(uplink) = UPLINKS.get_ptr(decision.uplink) else {
        return Ok(!decision.bound);
    };
    // SAFETY: a map value stays readable while the program runs.
    let uplink = unsafe { &*uplink };
    if F::is_on_link(uplink, packet.tuple.daddr) {
        way.nexthop = packet.tuple.daddr;
    } else if !is_any(F::gateway_of(uplink)) {
        way.nexthop = F::gateway_of(uplink);
    } else {
        return Ok(!decision.bound);
    }
    // The stack would answer for the route's link.
    if !skb.is_taken_by(decision.uplink, &mut way.mtu) {
        return Err(DropReason::TooBig);
    }
    way.by = By::Neighbour;
    way.ifindex = decision.uplink;
    Ok(true)
}

/// Sends a translated packet out.
#[inline(always)]
pub fn leave<F: Family>(skb: &Skb, way: &Way<F::Addr>) -> Result<Verdict, DropReason> {
    leave_as::<F>(skb, way, MARK_OURS)
}

/// The same under another mark.
#[inline(always)]
pub fn leave_as<F: Family>(
    skb: &Skb,
    way: &Way<F::Addr>,
    mark: u32,
) -> Result<Verdict, DropReason> {
    skb.set_mark(mark);
    if way.by == By::Macs {
        skb.write_macs(way.dmac, way.smac)?;
        Ok(skb.redirect(way.ifindex))
    } else {
        Ok(redirect_neigh::<F>(way.ifindex, way.nexthop))
    }
}
