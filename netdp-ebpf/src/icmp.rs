//! ICMP errors: each goes to whoever sent the packet that it quotes, and quotes
//! it as that sender knows it (RFC 5508, sections 4.2 and 4.3).
//!
//! An error changes nothing of a flow, neither its time nor its state
//! (RFC 5382, REQ-10; RFC 5508, REQ-6): anybody can send one.

use netdp_common::{
    addr::{Address, Be16, proto},
    drop::DropReason,
    icmp,
    maps::{Endpoint, FlowKey, Owner, flow_kind},
    nat::L4Change,
    packet::{Bytes, Fragment},
    rules,
};

use crate::{
    current, direct,
    family::{Family, is_any},
    flows,
    found::Found,
    linked, mapped, path, ports, ranges,
    skb::{Copied, Skb},
    work::{By, Exit, Work},
};

/// An error from outside. No where it is about no packet of a container, or of
/// a host's socket that was renumbered: then it is for the host's stack.
#[inline(never)]
pub fn received<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> Found {
    if !read::<F>(skb, work) {
        return Found::NO;
    }
    // A flow may be older than the publication of its port.
    if !masqueraded_sender::<F>(work) {
        if direct::has_sent::<F>(skb, work) {
            return Found::NO;
        }
        let found = published_sender::<F>(work, F::Addr::ANY);
        if found != Found::YES {
            return found;
        }
    }
    Found::done(rewrite::<F>(skb, work))
}

/// An error from outside for a container that is known there by its own
/// address: it is handed over as it is.
///
/// # Errors
/// [`DropReason::NotPublished`] where it is about no packet of the container's.
#[inline(never)]
pub fn routed<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    owner: &Owner,
) -> Result<(), DropReason> {
    if !read::<F>(skb, work) {
        return Err(DropReason::NotPublished);
    }
    let (from, proto) = (&work.quote.tuple, work.quote.proto);
    let is_own = match flows::find_either::<F>(&from.sent(proto)) {
        Some(entry) => flows::kind(entry) == flow_kind::ROUTED,
        None => false,
    };
    if !is_own {
        let Some(mapping) = ports::exact::<F>(&from.saddr, from.sport, proto) else {
            return Err(DropReason::NotPublished);
        };
        // SAFETY: a map value stays readable while the program runs.
        if !ranges::is_allowed::<F>(unsafe { (*mapping).allow }, &from.daddr) {
            return Err(DropReason::NotAllowed);
        }
    }
    work.decision.enter(&owner.to);
    Ok(())
}

/// An error that a container sends, about a packet that it received. Left as
/// it is where the host's stack is to have it.
///
/// # Errors
/// [`DropReason::IcmpUnrelated`] where no such packet can have reached it.
#[inline(never)]
pub fn sent<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    if !read::<F>(skb, work) || work.quote.tuple.daddr != work.packet.tuple.saddr {
        return Err(DropReason::IcmpUnrelated);
    }
    decide::<F>(work, endpoint)?;
    if work.decision.exit == Exit::Stack {
        return Ok(());
    }
    if work.decision.exit == Exit::Uplink {
        if !path::kept::<F>(skb, work) {
            path::ask::<F>(skb, work)?;
        }
        if work.way.by == By::Stack || work.packet.ttl <= 1 {
            work.decision.exit = Exit::Stack;
            return Ok(());
        }
        // An error ends no flow.
        path::follow::<F>(skb, work)?;
    }
    rewrite::<F>(skb, work)
}

/// Reads the quote. False where it can't be translated, or was not sent by
/// whom the error is for.
#[inline(never)]
fn read<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> bool {
    let Work {
        packet,
        quote,
        quoted_to,
        ..
    } = work;
    if packet.fragment != Fragment::Whole || !icmp::parse_quote::<F>(&Copied(skb), packet, quote) {
        return false;
    }
    *quoted_to = quote.tuple;
    quote.tuple.saddr == packet.tuple.daddr
}

/// To whom a container's error goes, and what it quotes there.
#[inline(always)]
fn decide<F: Family>(work: &mut Work<F::Addr>, endpoint: &Endpoint) -> Result<(), DropReason> {
    // An echo request, which is all of ICMP that is read of a quote, comes to a
    // container from no further than its neighbours.
    let is_echo = work.quote.proto != proto::TCP && work.quote.proto != proto::UDP;
    if !is_echo && to_known_flow::<F>(work, endpoint) {
        return Ok(());
    }
    let daddr = work.packet.tuple.daddr;
    if let Some(owner) = F::addrs().get_ptr(daddr) {
        // SAFETY: a map value stays readable while the program runs.
        let owner = unsafe { &*owner };
        if owner.network != endpoint.network {
            return Err(DropReason::OtherNetwork);
        }
        // Where the quoted packet may pass, so may the error about it.
        linked::check_tuple::<F>(&work.quote.tuple, work.quote.proto, false, endpoint)?;
        work.decision.enter(&owner.to);
        return Ok(());
    }
    if F::locals().get_ptr(daddr).is_some() {
        // Of a published port that this container is a client of; or of the
        // host's own sockets, which know what they have sent.
        published_sender::<F>(work, F::gateway(endpoint)).result()?;
        return Ok(());
    }
    if !is_echo && (to_masquerade_peer::<F>(work) || to_stateless_client::<F>(work)) {
        return Ok(());
    }
    Err(DropReason::IcmpUnrelated)
}

/// The sender of the quoted packet is the container behind this published port
/// of the host. Its peer is outside; or another container or itself, where the
/// `gateway` of the peer's network is given.
///
/// Whether a source may use the port is asked of the peer, the destination of
/// the quoted packet: the error itself comes from wherever on the way.
#[inline(never)]
fn published_sender<F: Family>(work: &mut Work<F::Addr>, gateway: F::Addr) -> Found {
    let Work {
        decision,
        quote,
        quoted_to,
        ..
    } = work;
    let from = &quote.tuple;
    let Some(published) = ports::mapping_of::<F>(&from.saddr, from.sport, quote.proto) else {
        return Found::NO;
    };
    // SAFETY: a map value stays readable while the program runs.
    let published = unsafe { &*published };
    if published.addr != from.daddr && !ranges::is_allowed::<F>(published.allow, &from.daddr) {
        return Found::refused(DropReason::NotAllowed);
    }
    let port = published.container_port(from.sport);
    let is_local = !is_any(gateway);
    // A container that is its own client sees the gateway in its place.
    let remote = if is_local && published.addr == from.daddr {
        gateway
    } else {
        from.daddr
    };
    // A local client always has an entry.
    if is_local || published.back_addr != from.saddr {
        let key = FlowKey::full(remote, from.dport, published.addr, port, quote.proto);
        let Some(entry) = flows::find_either::<F>(&key) else {
            return Found::NO;
        };
        // SAFETY: as above.
        let flow = unsafe { &*entry };
        if !rules::is_published(flow.kind) || flow.addr != from.saddr || flow.port != from.sport {
            return Found::NO;
        }
    }
    quoted_to.saddr = published.addr;
    quoted_to.sport = port;
    decision.to.daddr = published.addr;
    if is_local {
        quoted_to.daddr = remote;
        decision.to.saddr = remote;
    }
    decision.enter(&published.to);
    Found::YES
}

/// The sender of the quoted packet is a container that is masqueraded, or a
/// socket of the host that had to give way.
#[inline(never)]
fn masqueraded_sender<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let Work {
        decision,
        quote,
        quoted_to,
        ..
    } = work;
    let from = &quote.tuple;
    let key = FlowKey::masquerade(from.daddr, from.dport, from.sport, quote.proto);
    let Some(entry) = flows::find_either::<F>(&key).or_else(|| {
        let mapping = FlowKey::mapping(from.sport, quote.proto);
        mapped::may_have(quote.proto)
            .then(|| flows::find_either::<F>(&mapping))
            .flatten()
    }) else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    if flow.external != from.saddr {
        return false;
    }
    quoted_to.saddr = flow.addr;
    quoted_to.sport = flow.port;
    if flow.kind == flow_kind::HOST {
        decision.exit = Exit::Host;
    } else {
        decision.to.daddr = flow.addr;
        decision.enter(&flow.to);
    }
    true
}

/// The quoted packet reached the container by a flow that is keyed by the
/// tuple it sees: a published port, or a masqueraded flow with another port.
#[inline(never)]
fn to_known_flow<F: Family>(work: &mut Work<F::Addr>, endpoint: &Endpoint) -> bool {
    let Work {
        decision,
        quote,
        quoted_to,
        ..
    } = work;
    let key = quote.tuple.received(quote.proto);
    let Some(entry) = flows::find_either::<F>(&key) else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    let is_published = rules::is_published(flow.kind);
    if is_published && !current::is_current::<F>(&key, entry, endpoint) {
        return false;
    }
    if !is_published && !matches!(flow.kind, flow_kind::MASQUERADE_OUT | flow_kind::ROUTED) {
        return false;
    }
    let addr = if is_published {
        flow.addr
    } else {
        flow.external
    };
    decision.to.saddr = addr;
    quoted_to.daddr = addr;
    quoted_to.dport = flow.port;
    if flow.kind == flow_kind::HAIRPIN {
        decision.to.daddr = flow.external;
        quoted_to.saddr = flow.external;
    }
    if is_published && flow.to.ifindex != 0 {
        decision.enter(&flow.to);
    } else {
        decision.exit = Exit::Uplink;
        decision.uplink = flow.ifindex;
    }
    true
}

/// The quoted packet is an answer to the container's own flow, whose port was
/// kept, or came in by its mapping.
#[inline(never)]
fn to_masquerade_peer<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let from = &work.quote.tuple;
    let key = FlowKey::masquerade(from.saddr, from.sport, from.dport, work.quote.proto);
    if let Some(entry) = flows::find_either::<F>(&key) {
        // SAFETY: a map value stays readable while the program runs.
        let flow = unsafe { &*entry };
        if flow.kind == flow_kind::MASQUERADE && flow.addr == from.daddr && flow.port == from.dport
        {
            leave::<F>(work, flow.external, flow.port);
            work.decision.uplink = flow.ifindex;
            return true;
        }
    }
    let proto = work.quote.proto;
    if mapped::may_have(proto)
        && let Some(entry) = mapped::of::<F>(from.daddr, from.dport, proto)
    {
        // SAFETY: as above.
        let flow = unsafe { &*entry };
        leave::<F>(work, flow.external, flow.port);
        work.decision.uplink = flow.ifindex;
        return true;
    }
    false
}

/// The quoted packet came in by a published port that keeps no entry for it.
#[inline(never)]
fn to_stateless_client<F: Family>(work: &mut Work<F::Addr>) -> bool {
    let from = &work.quote.tuple;
    let back = ports::back_of::<F>(&from.daddr, from.dport, work.quote.proto);
    if back.is_null() {
        return false;
    }
    // SAFETY: a map value stays readable while the program runs.
    let back = unsafe { &*back };
    if back.until != 0 {
        return false;
    }
    let (addr, port) = (back.addr, back.host_port(from.dport));
    leave::<F>(work, addr, port);
    true
}

/// Out of the host, the container having been reached at this address and port
/// of it.
#[inline(always)]
fn leave<F: Family>(work: &mut Work<F::Addr>, addr: F::Addr, port: Be16) {
    work.decision.to.saddr = addr;
    work.decision.exit = Exit::Uplink;
    work.quoted_to.daddr = addr;
    work.quoted_to.dport = port;
}

/// Writes the quote's new addresses and ports, and the checksums in and around
/// it; the error's own addresses are left to `translate`.
#[inline(never)]
fn rewrite<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> Result<(), DropReason> {
    let Work {
        packet,
        decision,
        quote,
        quoted_to: to,
        ..
    } = work;
    let from = &quote.tuple;
    if from == to && decision.to == packet.tuple {
        return Ok(());
    }
    F::write_quoted(skb, quote, to)?;
    if quote.proto == proto::TCP || quote.proto == proto::UDP {
        skb.write(quote.l4, [to.sport.raw(), to.dport.raw()])?;
    } else {
        // Of an echo request, which has its identifier as source port.
        skb.write(quote.l4 + 4, to.sport.raw())?;
    }
    let (mut old, mut new) = (0, 0);
    let offset = icmp::checksum_offset(quote);
    if offset != 0 {
        let field: [u8; 2] = Copied(skb).read(offset).ok_or(DropReason::Malformed)?;
        old = u16::from_ne_bytes(field);
        new = icmp::transport_checksum(quote, old, to);
        skb.write(offset, new)?;
    }
    skb.update_l4(&L4Change {
        offset: packet.l4 + 2,
        pseudo: F::pseudo_change(packet, &decision.to),
        header: icmp::message_change::<F>(quote, to, old, new),
        zero_means_none: false,
    })
}
