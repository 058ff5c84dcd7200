//! tcx egress of an uplink: what leaves the host.

use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{Delivery, FlowKey, flow_kind},
    packet::{Packet, Tuple, V4, V6, ethertype},
    tcp::Direction,
};

use crate::{
    allocation, calls, direct,
    family::{Family, translate},
    flows,
    maps::HOST_FLOWS,
    masquerade,
    skb::{MARK_OURS, Skb},
    verdict::{self, Verdict},
    work::{self, Work},
};

/// A container's packet that `from_container` sent goes on. A socket of the
/// host whose tuple a container's flow has is given another port.
#[inline(always)]
pub fn to_netdev(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.mark() == MARK_OURS {
        skb.set_mark(0);
        return Ok(Verdict::Pass);
    }
    if direct::is_sent(skb) {
        return Ok(Verdict::Pass);
    }
    match skb.ethertype() {
        ethertype::IPV4 => Ok(Verdict::Part(ipv4(skb))),
        ethertype::IPV6 => Ok(Verdict::Part(ipv6(skb))),
        _ => Ok(Verdict::Pass),
    }
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn ipv4(skb: &Skb) -> i32 {
    verdict::action(by_source::<V4>(skb))
}

/// As [`ipv4`].
#[inline(never)]
fn ipv6(skb: &Skb) -> i32 {
    verdict::action(by_source::<V6>(skb))
}

#[inline(always)]
fn by_source<F: Family>(skb: &Skb) -> Result<Verdict, DropReason> {
    let Ok(work) = work::begin::<F>(skb) else {
        return Ok(Verdict::Pass);
    };
    let packet = &work.packet;
    // A container's packet that the stack forwards has not been translated, but
    // by netfilter, where it is for a port that others publish.
    if skb.ingress_ifindex() != 0 && F::addrs().get_ptr(packet.tuple.saddr).is_some() {
        if calls::is_beside(skb.ifindex()) {
            return Ok(Verdict::Pass);
        }
        return Err(DropReason::NoFlow);
    }
    if packet.proto != proto::TCP && packet.proto != proto::UDP || !packet.transport.has_ports() {
        return Ok(Verdict::Pass);
    }
    yield_tuple::<F>(skb, work)
}

/// Where a container's flow has the tuple, or that of another socket which had
/// to give way itself, the host's socket gets another port, as a container does
/// whose port is taken.
#[inline(always)]
pub fn yield_tuple<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Result<Verdict, DropReason> {
    let Work { packet, key, .. } = &mut *work;
    let from = &packet.tuple;
    let kinds = (flow_kind::HOST, flow_kind::HOST_OUT);
    if HOST_FLOWS.get(0).is_some_and(|seen| *seen != 0)
        && let Some(entry) = masquerade::renumbered::<F>(packet, key, kinds)
    {
        return renumber::<F>(skb, packet, entry);
    }
    *key = FlowKey::masquerade(from.daddr, from.dport, from.sport, packet.proto);
    let Some(entry) = flows::find_either::<F>(key) else {
        return Ok(Verdict::Pass);
    };
    // SAFETY: a map value stays readable while the program runs.
    let external = unsafe { (*entry).external };
    if external != from.saddr {
        return Ok(Verdict::Pass);
    }
    if let Some(seen) = HOST_FLOWS.get_ptr_mut(0) {
        // SAFETY: only ever set, by any CPU.
        unsafe { seen.write_volatile(1) };
    }
    work.decision.container = Delivery::default();
    allocation::allocate::<F>(skb, work, kinds)?;
    translate::<F>(skb, &work.packet, &work.decision.to, false)?;
    Ok(Verdict::Pass)
}

/// A later packet of such a socket.
#[inline(always)]
fn renumber<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    entry: flows::Entry<F::Addr>,
) -> Result<Verdict, DropReason> {
    flows::touch::<F>(entry, packet, Direction::Original);
    let to = Tuple {
        // SAFETY: a map value stays readable while the program runs.
        sport: unsafe { (*entry).port },
        ..packet.tuple
    };
    translate::<F>(skb, packet, &to, false)?;
    Ok(Verdict::Pass)
}
