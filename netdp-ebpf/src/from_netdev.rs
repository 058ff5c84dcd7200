//! tcx ingress of an uplink: what arrives from outside.

use netdp_common::{
    addr::Address,
    drop::DropReason,
    fragment,
    maps::Published,
    packet::{Fragment, Transport, V4, V6, ethertype},
    rules,
};

use crate::{
    blocked, calls, direct, early,
    family::{Family, translate},
    fast, flows, icmp, limit, mapped, masquerade, ports, published, ranges, routed,
    skb::Skb,
    source,
    verdict::{self, Verdict},
    work::{self, Exit, Work},
};

/// Nothing from a blocked source. Published ports, answers to masqueraded flows;
/// nothing else gets to a container.
#[inline(always)]
pub fn from_netdev(skb: &Skb) -> Result<Verdict, DropReason> {
    if let Some(action) = at_once(skb) {
        return Ok(Verdict::Part(action));
    }
    match skb.ethertype() {
        ethertype::IPV4 if skb.is_for_interface() => Ok(Verdict::Part(ipv4(skb))),
        ethertype::IPV6 if skb.is_for_interface() => Ok(Verdict::Part(ipv6(skb))),
        ethertype::IPV4 if skb.is_for_many() => Ok(Verdict::Part(for_many::<V4>(skb))),
        ethertype::IPV6 if skb.is_for_many() => Ok(Verdict::Part(for_many::<V6>(skb))),
        _ => Ok(Verdict::Pass),
    }
}

/// What is decided without asking much: packets for direct ports, and the fast path.
#[inline(always)]
fn at_once(skb: &Skb) -> Option<i32> {
    if blocked::are_there() || limit::is_set() || !skb.is_for_interface() {
        return None;
    }
    match skb.ethertype() {
        ethertype::IPV4 if direct::is_to_known::<V4>(skb) => Some(verdict::NEXT),
        ethertype::IPV6 if direct::is_to_known::<V6>(skb) => Some(verdict::NEXT),
        ethertype::IPV4 => fast::inbound::<V4>(skb),
        ethertype::IPV6 => fast::inbound::<V6>(skb),
        _ => None,
    }
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn ipv4(skb: &Skb) -> i32 {
    if blocked::is_source::<V4>(skb) {
        return verdict::action(Err(DropReason::BlockedSource));
    }
    verdict::action(by_destination::<V4>(skb))
}

/// As [`ipv4`].
#[inline(never)]
fn ipv6(skb: &Skb) -> i32 {
    if blocked::is_source::<V6>(skb) {
        return verdict::action(Err(DropReason::BlockedSource));
    }
    verdict::action(by_destination::<V6>(skb))
}

/// What the stack hears along with others: no container has anything to do with
/// it, not as its sender either.
#[inline(never)]
fn for_many<F: Family>(skb: &Skb) -> i32 {
    if blocked::is_source::<F>(skb) {
        return verdict::action(Err(DropReason::BlockedSource));
    }
    let Ok(work) = work::begin::<F>(skb) else {
        return verdict::action(Ok(Verdict::Pass));
    };
    let checked = source::check_for_host::<F>(&work.packet.tuple.saddr);
    verdict::action(checked.map(|()| Verdict::Pass))
}

#[inline(always)]
fn by_destination<F: Family>(skb: &Skb) -> Result<Verdict, DropReason> {
    // What can't be parsed isn't ours: the kernel counts it.
    let Ok(work) = work::begin::<F>(skb) else {
        return Ok(Verdict::Pass);
    };
    if work.packet.fragment != Fragment::Whole {
        work.now = flows::now();
        if flows::reassemble::<F>(&mut work.packet, work.now).is_err() {
            return wait::<F>(skb, work);
        }
        work.decision.to = work.packet.tuple;
    }
    // The host's own neighbours.
    if work.packet.transport == Transport::Neighbour {
        return Ok(Verdict::Pass);
    }
    let fragment = work.packet.fragment;
    let now = work.now;
    let daddr = work.packet.tuple.daddr;
    let mapping = ports::mapping::<F>(&work.packet.tuple.daddr, &work.packet);
    // SAFETY: a map value stays readable while the program runs.
    let mapping = mapping.map(|mapping| unsafe { &*mapping });
    // An address that is the way back of a mapping is one of the host.
    let is_host = mapping.is_some_and(|mapping| rules::is_way_back(mapping, daddr))
        || F::locals().get_ptr(daddr).is_some();
    if !is_host {
        // Also for a neighbour that routes to the container subnet.
        let Some(owner) = F::addrs().get_ptr(daddr) else {
            return at_the_link(mapping, daddr);
        };
        // Without ports it would look like an echo of identifier 0.
        if work.packet.transport == Transport::IcmpOther {
            return Err(DropReason::NotPublished);
        }
        // SAFETY: a map value stays readable while the program runs.
        let owner = unsafe { &*owner };
        if calls::may_answer::<F>(skb, &work.packet, owner) {
            return Ok(Verdict::Pass);
        }
        F::apart(|| routed::inbound::<F>(skb, work, owner))?;
        return enter::<F>(skb, work, fragment, now);
    }
    match mapping {
        Some(mapping) => {
            // A flow may be older than the publication of its port.
            if mapping.shared != 0 {
                source::check_for_host::<F>(&work.packet.tuple.saddr)?;
                answered::<F>(skb, work, true)?;
            }
            if work.decision.exit == Exit::Stack {
                let Work {
                    packet, decision, ..
                } = work;
                source::check::<F>(&packet.tuple.saddr)?;
                if !ranges::is_allowed::<F>(mapping.allow, &packet.tuple.saddr) {
                    return Err(DropReason::NotAllowed);
                }
                limit::check::<F>(packet)?;
                if direct::is_hosts::<F>(skb, mapping, packet, &mapping.back_addr) {
                    return Ok(Verdict::Pass);
                }
                F::apart(|| published::inbound::<F>(skb, packet, mapping, decision))?;
            }
        }
        None if work.packet.transport == Transport::IcmpError => {
            source::check_for_host::<F>(&work.packet.tuple.saddr)?;
            if !icmp::received::<F>(skb, work).result()? {
                return Ok(Verdict::Pass);
            }
            source::check::<F>(&work.packet.tuple.saddr)?;
        }
        None => {
            source::check_for_host::<F>(&work.packet.tuple.saddr)?;
            // The peer of a flow that was masqueraded is outside.
            answered::<F>(skb, work, false)?;
            if work.decision.exit == Exit::Stack
                && mapped::may_have(work.packet.proto)
                && mapped::inbound::<F>(skb, work)?
            {
                source::check::<F>(&work.packet.tuple.saddr)?;
            }
        }
    }
    enter::<F>(skb, work, fragment, now)
}

/// Nothing is published at the addresses that the host has on each of its links,
/// where the stack may have a listener that is there for direct ports.
#[inline(always)]
fn at_the_link<A: Address>(
    mapping: Option<&Published<A>>,
    daddr: A,
) -> Result<Verdict, DropReason> {
    if daddr.is_link_local() && mapping.is_some_and(Published::is_direct) {
        return Err(DropReason::NotPublished);
    }
    Ok(Verdict::Pass)
}

/// See [`masquerade::inbound`].
#[inline(always)]
fn answered<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    published: bool,
) -> Result<(), DropReason> {
    let answered = masquerade::inbound::<F>(skb, work, published);
    flows::end_without_room::<F>(&work.key, answered)
}

/// A later fragment waits for its first one.
#[inline(always)]
fn wait<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> Result<Verdict, DropReason> {
    let to = &work.packet.tuple.daddr;
    let is_host = F::locals().get_ptr(to).is_some();
    let is_routed = !is_host && routed::is_there::<F>(to);
    if !is_host && !is_routed {
        return Ok(Verdict::Pass);
    }
    let group = early::from_outside::<F>(&work.packet);
    let held = early::hold::<F>(skb, &work.packet, group, work.now, is_routed);
    if is_host {
        // The stack has it too, for its own datagrams.
        return Ok(Verdict::Pass);
    }
    if !held {
        return Err(DropReason::FragmentWithoutFirst);
    }
    Ok(Verdict::Taken)
}

/// Carries a decision out.
#[inline(always)]
fn enter<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    fragment: Fragment,
    now: u32,
) -> Result<Verdict, DropReason> {
    let Work {
        packet, decision, ..
    } = work;
    if decision.exit == Exit::Stack {
        return Ok(Verdict::Pass);
    }
    fragment::check(fragment)?;
    let enters = decision.exit == Exit::Container;
    if enters && fragment == Fragment::First {
        let group = early::from_outside::<F>(packet);
        if early::release::<F>(skb, packet, group, now) {
            return Ok(Verdict::Taken);
        }
    }
    // The last hop of a packet is the container, not the host.
    let hop = enters && packet.ttl > 1;
    F::apart(|| translate::<F>(skb, packet, &decision.to, hop))?;
    if enters {
        skb.deliver(&decision.container)
    } else {
        Ok(Verdict::Pass)
    }
}
