//! tcx ingress of an uplink: what arrives for a published port, and answers to
//! what containers began.

use netdp_common::{
    addr::proto,
    left::Left,
    maps::{Delivery, FlowKey, Published},
    packet::{Fragment, Transport, V4, V6, ethertype},
    rules,
    tcp::{self, Direction},
};

use super::{is_last, leave, pass};
use crate::{
    blocked, count,
    family::{Family, translate},
    flows,
    found::Found,
    icmp, masquerade, others, ports, published, share,
    skb::Skb,
    source,
    verdict::{self, Verdict},
    work::{self, Exit, Work},
};

/// tcx ingress of an uplink.
#[inline(always)]
pub fn from_netdev(skb: &Skb) -> i32 {
    match skb.ethertype() {
        ethertype::IPV4 if skb.is_for_interface() => inbound4(skb),
        ethertype::IPV6 if skb.is_for_interface() => inbound6(skb),
        _ => pass(),
    }
}

/// A function of its own: the stack of one family is not the other's.
#[inline(never)]
fn inbound4(skb: &Skb) -> i32 {
    inbound::<V4>(skb)
}

/// As [`inbound4`].
#[inline(never)]
fn inbound6(skb: &Skb) -> i32 {
    inbound::<V6>(skb)
}

#[inline(always)]
fn inbound<F: Family>(skb: &Skb) -> i32 {
    // `from_netdev` drops and counts it.
    if blocked::is_known_source::<F>(skb) {
        return pass();
    }
    let Ok(work) = work::begin_timed::<F>(skb) else {
        return pass();
    };
    if work.packet.fragment != Fragment::Whole {
        return pass();
    }
    match work.packet.transport {
        Transport::IcmpError => {
            if icmp::received::<F>(skb, work) != Found::YES {
                return pass();
            }
        }
        transport if transport.has_ports() => {
            if !belongs::<F>(skb, work) {
                return pass();
            }
        }
        _ => return pass(),
    }
    let Work {
        packet,
        decision,
        way,
        ..
    } = work;
    if decision.exit == Exit::Host {
        let translated = F::apart(|| translate::<F>(skb, packet, &decision.to, false));
        return verdict::action(translated.map(|()| Verdict::Pass));
    }
    // The daemon may not have heard yet that the interface is gone; and what is
    // too long for it, the stack answers.
    if decision.exit != Exit::Container
        || !skb.is_taken_by(decision.container.ifindex, &mut way.mtu)
    {
        return leave(Left::TooBig);
    }
    let hop = packet.ttl > 1;
    let done = F::apart(|| translate::<F>(skb, packet, &decision.to, hop))
        .and_then(|()| skb.deliver(&decision.container));
    verdict::action(done)
}

/// Whether a packet belongs to a flow of these programs, or begins one.
#[inline(always)]
fn belongs<F: Family>(skb: &Skb, work: &mut Work<F::Addr>) -> bool {
    let mapping = ports::mapping::<F>(&work.packet.tuple.daddr, &work.packet);
    if let Some(mapping) = mapping {
        // SAFETY: a map value stays readable while the program runs.
        let mapping = unsafe { &*mapping };
        let daddr = work.packet.tuple.daddr;
        if !rules::is_way_back(mapping, daddr) && F::locals().get_ptr(daddr).is_none() {
            count::left(Left::Elsewhere);
            return false;
        }
        if source::check::<F>(&work.packet.tuple.saddr).is_err() {
            count::left(Left::Source);
            return false;
        }
        if to_published::<F>(skb, work, mapping) {
            return true;
        }
    }
    // An answer that could not be noted is one nevertheless.
    let _ = masquerade::inbound::<F>(skb, work, mapping.is_some());
    if work.decision.exit != Exit::Stack {
        return true;
    }
    match mapping {
        // SAFETY: as above.
        Some(mapping) => begin_published::<F>(skb, work, unsafe { &*mapping }),
        None => false,
    }
}

/// A packet of a known flow with a published port: to the container.
#[inline(never)]
fn to_published<F: Family>(
    _skb: &Skb,
    work: &mut Work<F::Addr>,
    mapping: &Published<F::Addr>,
) -> bool {
    let Work {
        packet,
        decision,
        key,
        ..
    } = work;
    let from = &packet.tuple;
    *key = FlowKey::full(
        from.saddr,
        from.sport,
        mapping.addr,
        mapping.container_port(from.dport),
        packet.proto,
    );
    if let Some(entry) = flows::find::<F>(key) {
        if !rules::is_published(flows::kind(entry)) || !published::asked_the_same::<F>(entry, from)
        {
            return false;
        }
        let before = flows::state(entry);
        let after = flows::touch::<F>(entry, packet, Direction::Original);
        if is_last(packet.proto, before, after) {
            flows::remove::<F>(key, entry);
        }
    } else if let Some(entry) = flows::find_pending::<F>(key)
        && rules::is_published(flows::kind(entry))
        && published::asked_the_same::<F>(entry, from)
    {
        // Where there is no room it works from where it is.
        let _ = published::keep_expected::<F>(key, entry, packet);
    } else {
        return false;
    }
    decision.to.daddr = mapping.addr;
    decision.to.dport = mapping.container_port(from.dport);
    decision.enter(&mapping.to);
    true
}

/// The first packet of a flow with a published port: to the container.
///
/// A connection begins with a SYN. Of one that began otherwise the stack knows,
/// or nobody does.
#[inline(never)]
fn begin_published<F: Family>(
    skb: &Skb,
    work: &mut Work<F::Addr>,
    mapping: &Published<F::Addr>,
) -> bool {
    let Work {
        packet,
        decision,
        key,
        now,
        ..
    } = work;
    let from = &packet.tuple;
    match packet.transport {
        Transport::Tcp(_) if !packet.transport.is_syn() => {
            count::left(Left::Began);
            return false;
        }
        Transport::Tcp(_) => {}
        _ => {
            // An answer to a conversation that the stack masquerades.
            *key = FlowKey::masquerade(from.saddr, from.sport, from.dport, packet.proto);
            if others::have::<F>(key, *now) {
                count::left(Left::Stacks);
                return false;
            }
        }
    }
    *key = FlowKey::full(
        from.saddr,
        from.sport,
        mapping.addr,
        mapping.container_port(from.dport),
        packet.proto,
    );
    if let Some(entry) = flows::find::<F>(key) {
        // The container has this very tuple otherwise.
        if packet.proto == proto::TCP && tcp::is_established(flows::state(entry)) {
            count::left(Left::Stacks);
            return false;
        }
        flows::remove::<F>(key, entry);
    }
    let Some(flow) = flows::scratch::<F>() else {
        return false;
    };
    published::describe::<F>(skb, flow, key, from);
    flow.to = Delivery::default();
    flow.to.slot = mapping.to.slot;
    flows::begin::<F>(flow, packet, Direction::Original);
    if flows::expect::<F>(key, flow).is_err() {
        count::left(Left::NoRoom);
        return false;
    }
    share::expected(flow);
    decision.to.daddr = mapping.addr;
    decision.to.dport = mapping.container_port(from.dport);
    decision.enter(&mapping.to);
    true
}
