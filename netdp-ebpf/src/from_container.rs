//! tc ingress of a host end: what the container sends.

use netdp_common::{
    addr::{Address, proto},
    drop::DropReason,
    fragment,
    maps::{Endpoint, FlowKey, Owner, endpoint_flags, flow_kind},
    packet::{Fragment, Packet, Transport, V4, V6, ethertype},
    rules::{self, Towards},
    tcp,
};

use crate::{
    arp, calls, count, current, direct, early,
    family::{Family, is_any, translate},
    fast, flows,
    found::Found,
    hairpin::hairpin,
    icmp, linked, mapped,
    maps::ENDPOINTS,
    masquerade, nd, path, ports, published, refuse, routed,
    skb::Skb,
    verdict::{self, Verdict},
    work::{self, By, Decision, Exit, Work},
};

/// No spoofed source; replies of published flows; container to container,
/// hairpin; masquerade.
#[inline(always)]
pub fn from_container(skb: &Skb) -> Result<Verdict, DropReason> {
    // Between attaching and the table's entry the container has no network.
    let endpoint = ENDPOINTS
        .get_ptr(skb.ifindex())
        .ok_or(DropReason::NoEndpoint)?;
    // SAFETY: the entry of a live interface is replaced, never removed, and a
    // map value stays readable while the program runs.
    let endpoint = unsafe { &*endpoint };
    let length = skb.len();
    let action = by_ethertype(skb, endpoint);
    if action == verdict::TAKEN {
        return Ok(Verdict::Taken);
    }
    if action >= verdict::ANSWERED {
        count::refused(endpoint.slot);
        return Ok(Verdict::Part(action - verdict::ANSWERED));
    }
    if action == verdict::DROP {
        count::refused(endpoint.slot);
    } else {
        count::sent(endpoint.slot, length);
    }
    Ok(Verdict::Part(action))
}

#[inline(always)]
fn by_ethertype(skb: &Skb, endpoint: &Endpoint) -> i32 {
    match skb.source_mac() {
        Ok(mac) if mac == endpoint.mac => {}
        Ok(_) => return verdict::part(Err(DropReason::SpoofedSource)),
        Err(reason) => return verdict::part(Err(reason)),
    }
    // The kernel takes a tag off before any program sees the frame, and puts it
    // on again where the frame leaves.
    if skb.is_tagged() {
        return verdict::part(Err(DropReason::UnknownEthertype));
    }
    verdict::part(match skb.ethertype() {
        ethertype::IPV4 if !is_any(endpoint.addr4) => {
            return fast::onward::<V4>(skb, endpoint).unwrap_or_else(|| ipv4(skb, endpoint));
        }
        ethertype::ARP if !is_any(endpoint.addr4) => arp::answer(skb, endpoint),
        ethertype::IPV6 if !is_any(endpoint.addr6) => {
            return fast::onward::<V6>(skb, endpoint).unwrap_or_else(|| ipv6(skb, endpoint));
        }
        _ => Err(DropReason::UnknownEthertype),
    })
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn ipv4(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let work = match work::begin_timed::<V4>(skb) {
        Ok(work) => work,
        Err(reason) => return verdict::part(Err(reason)),
    };
    let verdict = by_source::<V4>(skb, work, endpoint);
    refuse::answered::<V4>(skb, endpoint, verdict)
}

/// As [`ipv4`].
#[inline(never)]
fn ipv6(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let work = match work::begin_timed::<V6>(skb) {
        Ok(work) => work,
        Err(reason) => return verdict::part(Err(reason)),
    };
    if work.packet.transport == Transport::Neighbour {
        return nd::answer(skb, work, endpoint);
    }
    let verdict = by_source::<V6>(skb, work, endpoint);
    refuse::answered::<V6>(skb, endpoint, verdict)
}

#[inline(always)]
fn by_source<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    if work.packet.tuple.saddr != F::address(endpoint) {
        return Err(DropReason::SpoofedSource);
    }
    if work.packet.transport == Transport::IcmpError {
        icmp::sent::<F>(skb, work, endpoint)?;
        return exit::<F>(skb, work);
    }
    if work.packet.fragment != Fragment::Whole && gather::<F>(skb, work, endpoint.slot)? {
        return Ok(Verdict::Taken);
    }
    if !F::apart(|| path::kept::<F>(skb, work)) {
        if inside::<F>(skb, work, endpoint).result()? {
            if work.decision.exit == Exit::Mapping {
                mapped::meet::<F>(skb, work, endpoint)?;
            }
            if work.decision.exit == Exit::Stack {
                calls::note::<F>(skb, work, endpoint);
            }
            if work.decision.exit == Exit::Host {
                calls::keep::<F>(skb, work);
            }
            return exit::<F>(skb, work);
        }
        path::ask::<F>(skb, work)?;
    }
    outward::<F>(skb, work, endpoint)?;
    exit::<F>(skb, work)
}

/// Out of the host by the way that is known. Where the stack has to answer, the
/// packet goes there.
///
/// # Errors
/// Nothing has been written into the packet.
#[inline(always)]
pub fn outward<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    let expired = work.packet.ttl <= 1;
    if F::STACK_ANSWERS && work.way.by == By::Stack
        || expired
        || !skb.segments_fit(work.way.ifindex, &mut work.way.mtu)
    {
        if F::STACK_ANSWERS {
            work.decision.exit = Exit::Stack;
            return Ok(());
        }
        return Err(if expired {
            DropReason::Expired
        } else {
            DropReason::TooBig
        });
    }
    if !outside::<F>(skb, work, endpoint).result()? || !path::follow::<F>(skb, work)? {
        if routed::is_routed::<F>(endpoint) {
            routed::open::<F>(skb, work, endpoint)?;
        } else {
            masquerade::open::<F>(work, endpoint)?;
            masquerade::address::<F>(skb, work, endpoint)?;
            masquerade::choose::<F>(skb, work, endpoint)?;
        }
    }
    Ok(())
}

/// Gives a fragment its ports. True where it has been taken: to wait for its
/// first fragment, or to come again behind those that waited for it.
#[inline(never)]
fn gather<F: Family>(skb: &Skb, work: &mut Work<F::Addr>, slot: u32) -> Result<bool, DropReason> {
    let group = early::of_container(slot);
    if flows::reassemble::<F>(&mut work.packet, work.now).is_err() {
        // No copy of it goes to the stack.
        if !early::hold::<F>(skb, &work.packet, group, work.now, true) {
            return Err(DropReason::FragmentWithoutFirst);
        }
        return Ok(true);
    }
    fragment::check(work.packet.fragment)?;
    if early::release::<F>(skb, &work.packet, group, work.now) {
        return Ok(true);
    }
    work.decision.to = work.packet.tuple;
    Ok(false)
}

/// Carries a decision out.
#[inline(never)]
fn exit<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> Result<Verdict, DropReason> {
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    if decision.exit == Exit::Stack {
        return Ok(Verdict::Pass);
    }
    let hop = decision.exit == Exit::Uplink;
    translate::<F>(skb, packet, &decision.to, hop)?;
    if decision.exit == Exit::Host {
        Ok(Verdict::Pass)
    } else if hop {
        path::leave::<F>(skb, way)
    } else {
        skb.deliver(&decision.container)
    }
}

/// To a container of this host or the host itself; no where the destination is
/// neither.
#[inline(never)]
fn inside<F: Family>(skb: &Skb, work: &mut Work<F::Addr>, endpoint: &Endpoint) -> Found {
    let Work {
        packet, decision, ..
    } = work;
    let daddr = packet.tuple.daddr;
    if let Some(owner) = F::addrs().get_ptr(daddr) {
        // SAFETY: a map value stays readable while the program runs.
        return neighbour::<F>(skb, packet, endpoint, unsafe { &*owner }, decision);
    }
    if F::locals().get_ptr(daddr).is_some() {
        return host::<F>(skb, packet, endpoint, decision);
    }
    if daddr.is_multicast() {
        return Found::refused(DropReason::Multicast);
    }
    Found::NO
}

/// To another container of this host, directly.
#[inline(always)]
fn neighbour<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    endpoint: &Endpoint,
    owner: &Owner,
    decision: &mut Decision<F::Addr>,
) -> Found {
    // A hairpin enters the main table with its first answer, so only such an
    // answer has to look for what is pending.
    if has_published_port(endpoint, packet) {
        let established = is_established_segment(packet);
        let reply = hairpin_reply::<F>(packet, endpoint, established, decision);
        if reply != Found::NO {
            return reply;
        }
    }
    match rules::towards(endpoint, owner, F::ROUTED) {
        Towards::Neighbour => {}
        Towards::PublishedPorts => return other_network::<F>(skb, packet, endpoint, decision),
        Towards::Nobody => return Found::refused(DropReason::OtherNetwork),
    }
    if let Err(reason) = linked::check::<F>(packet, endpoint) {
        return Found::refused(reason);
    }
    if owner.flags & u32::from(endpoint_flags::DIRECT) != 0
        && packet.transport.is_tcp_or_udp()
        && direct::is_instead::<F>(skb, packet, decision)
    {
        return Found::YES;
    }
    // Without connections, the way that was used last is the way back.
    if packet.transport == Transport::Udp && owner.flags & u32::from(endpoint_flags::PUBLISHED) != 0
    {
        let key = packet.tuple.received(packet.proto);
        if let Some(entry) = flows::find::<F>(&key) {
            flows::remove::<F>(&key, entry);
        } else if published::is_expecting() && flows::find_pending::<F>(&key).is_some() {
            let _ = F::pending().remove(&key);
        }
    }
    decision.enter(&owner.to);
    Found::YES
}

/// To a container on another network, by a port that it publishes at its own
/// address.
#[inline(always)]
fn other_network<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    endpoint: &Endpoint,
    decision: &mut Decision<F::Addr>,
) -> Found {
    if let Some(mapping) = routed::mapping::<F>(&packet.tuple, packet.proto) {
        // SAFETY: a map value stays readable while the program runs.
        let mapping = unsafe { &*mapping };
        return Found::done(hairpin::<F>(skb, packet, endpoint, mapping, decision));
    }
    Found::refused(DropReason::OtherNetwork)
}

/// To an address of the host: the way back of a container's connection to
/// itself, a published port, or the host's own stack.
#[inline(always)]
fn host<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    endpoint: &Endpoint,
    decision: &mut Decision<F::Addr>,
) -> Found {
    if has_published_port(endpoint, packet) && packet.tuple.daddr == F::gateway(endpoint) {
        let reply = hairpin_reply::<F>(packet, endpoint, false, decision);
        if reply != Found::NO {
            return reply;
        }
    }
    match ports::mapping::<F>(&packet.tuple.daddr, packet) {
        Some(_) if endpoint.flags & endpoint_flags::INTERNAL != 0 => {
            Found::refused(DropReason::Internal)
        }
        // SAFETY: a map value stays readable while the program runs.
        Some(mapping) => Found::done(hairpin::<F>(
            skb,
            packet,
            endpoint,
            unsafe { &*mapping },
            decision,
        )),
        None => {
            if mapped::may_have(packet.proto) {
                decision.exit = Exit::Mapping;
            }
            Found::YES
        }
    }
}

/// The answer to a container that came in by a published port; no where there
/// was none.
#[inline(always)]
fn hairpin_reply<F: Family>(
    packet: &Packet<F::Addr>,
    endpoint: &Endpoint,
    only_established: bool,
    decision: &mut Decision<F::Addr>,
) -> Found {
    let key = packet.tuple.sent(packet.proto);
    if let Some(entry) = flows::find::<F>(&key) {
        // The client may have come back directly, from the same port.
        let over = match packet.transport {
            Transport::Tcp(flags) => tcp::is_of_another(flows::state(entry), flags),
            _ => false,
        };
        if !over {
            if current::is_current::<F>(&key, entry, endpoint) {
                published::reply::<F>(packet, &key, entry, decision);
                return Found::YES;
            }
            if let Err(reason) = current::outlived::<F>(packet, &key, entry) {
                return Found::refused(reason);
            }
            return Found::NO;
        }
        flows::remove::<F>(&key, entry);
    }
    if only_established {
        return Found::NO;
    }
    published::first_reply::<F>(packet, &key, true, endpoint, decision)
}

/// Out of the host; no where the packet belongs to no flow yet.
#[inline(never)]
fn outside<F: Family>(skb: &Skb, work: &mut Work<F::Addr>, endpoint: &Endpoint) -> Found {
    let Work {
        packet, decision, ..
    } = work;
    let mut closed = false;
    if has_published_port(endpoint, packet) {
        let key = packet.tuple.sent(packet.proto);
        let entry = flows::find::<F>(&key);
        if let Some(entry) = entry
            && rules::is_published(flows::kind(entry))
        {
            if current::is_current::<F>(&key, entry, endpoint) {
                published::reply::<F>(packet, &key, entry, decision);
                return Found::YES;
            }
            if let Err(reason) = current::outlived::<F>(packet, &key, entry) {
                return Found::refused(reason);
            }
        }
        // A connection that the container opened from a port that it also
        // publishes is its own; for UDP nobody can tell, and the published
        // port serves both.
        let own = packet.proto == proto::TCP
            && (packet.transport.is_syn()
                || entry.is_some_and(|entry| {
                    matches!(
                        flows::kind(entry),
                        flow_kind::MASQUERADE_OUT | flow_kind::ROUTED
                    )
                })
                || is_masqueraded::<F>(packet));
        if !own {
            let reply = published::first_reply::<F>(packet, &key, false, endpoint, decision);
            closed = reply == Found::CLOSED;
            if !closed && reply != Found::NO {
                return reply;
            }
        }
    }
    let known = if routed::is_routed::<F>(endpoint) {
        routed::outbound::<F>(work)
    } else {
        if mapped::applies(endpoint, packet) {
            let left = mapped::outbound::<F>(skb, work, endpoint);
            if left != Found::NO {
                return left;
            }
        }
        masquerade::outbound::<F>(work)
    };
    if known {
        Found::YES
    } else if closed {
        Found::refused(DropReason::Unpublished)
    } else {
        Found::NO
    }
}

/// Whether the container opened this connection itself and kept its port. A
/// function of its own: its key's place on the stack is not the caller's.
#[inline(never)]
fn is_masqueraded<F: Family>(packet: &Packet<F::Addr>) -> bool {
    let from = &packet.tuple;
    let key = FlowKey::masquerade(from.daddr, from.dport, from.sport, packet.proto);
    match flows::find::<F>(&key) {
        Some(entry) => masquerade::is_owner::<F>(entry, from),
        None => false,
    }
}

/// Whether the packet may come from a published port.
#[inline(always)]
pub fn has_published_port<A>(endpoint: &Endpoint, packet: &Packet<A>) -> bool {
    rules::has_published_port(endpoint.flags, packet.proto)
}

/// A TCP segment that neither opens nor resets a connection.
#[inline(always)]
fn is_established_segment<A>(packet: &Packet<A>) -> bool {
    use netdp_common::packet::tcp_flags::{RST, SYN};
    matches!(packet.transport, Transport::Tcp(flags) if flags & (SYN | RST) == 0)
}
