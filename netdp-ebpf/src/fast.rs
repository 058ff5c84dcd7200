//! The fast path: what most packets need, and no more.
//!
//! It is for whole segments and datagrams, by mappings and flows that need no second
//! look and for which no entry is to be made or taken away. It does what the full way
//! does with them, reads each header once and writes them as one piece. Whatever else
//! there is to a packet, it leaves it as it came, and the full way decides.

use core::mem::MaybeUninit;

use netdp_common::{
    addr::{Be16, Mac, proto},
    drop::DropReason,
    flow,
    maps::{
        Delivery, Endpoint, Flow, FlowKey, Path, PortKey, Published, endpoint_flags, flow_kind,
    },
    packet::{
        Transport, Tuple,
        plain::{Plain, WORDS, headers},
        tcp_flags::{FIN, RST, SYN},
    },
    rules::{self, Towards},
    tcp::{self, Direction},
};

use crate::{
    count, current,
    family::{Aligned, Family},
    flows, linked, masquerade, path, ports, published, ranges, routed,
    skb::{MARK_OURS, Skb},
    source, verdict,
};

/// What the full way is for, as no action: functions out of line give one number.
const SLOW: i32 = 0x400;

/// A packet from outside for a container of this host: the action.
#[inline(always)]
pub fn inbound<F: Family>(skb: &Skb) -> Option<i32> {
    decided(to_container::<F>(skb))
}

/// A container's packet for the outside or for another container.
#[inline(always)]
pub fn onward<F: Family>(skb: &Skb, endpoint: &Endpoint) -> Option<i32> {
    decided(from_container::<F>(skb, endpoint))
}

/// A container's packet for the outside.
#[inline(always)]
pub fn outward<F: Family>(skb: &Skb, endpoint: &Endpoint) -> Option<i32> {
    decided(to_outside::<F>(skb, endpoint))
}

#[inline(always)]
fn decided(action: i32) -> Option<i32> {
    (action != SLOW).then_some(action)
}

#[inline(never)]
fn to_container<F: Family>(skb: &Skb) -> i32 {
    let Some(plain) = F::plain(skb) else {
        return SLOW;
    };
    let mut to = plain.tuple;
    let mapping = ports::at::<F>(&to.daddr, to.dport, plain.proto);
    let container = match mapping {
        // SAFETY: a map value stays readable while the program runs.
        Some(mapping) => published_to::<F>(&plain, unsafe { &*mapping }, &mut to),
        None => masqueraded_to::<F>(&plain, &mut to),
    };
    let Some(container) = container else {
        return SLOW;
    };
    // The last hop of a packet is the container, not the host.
    let ttl = plain.ttl - u8::from(plain.ttl > 1);
    let macs = (container.mac, container.host_mac);
    // Before helpers run: the entry of a flow that ends meanwhile is given out again.
    let (slot, ifindex) = (container.slot, container.ifindex);
    if let Err(reason) = write::<F>(skb, &plain, &to, macs, ttl) {
        return verdict::action(Err(reason));
    }
    count::received(slot, skb.len());
    skb.to_peer_code(ifindex)
}

/// By a published port from which the tables alone lead back; there is nobody who
/// may not use it, and nobody else who may have it.
#[inline(always)]
fn published_to<'a, F: Family>(
    plain: &Plain<F::Addr>,
    mapping: &'a Published<F::Addr>,
    to: &mut Tuple<F::Addr>,
) -> Option<&'a Delivery> {
    let from = &plain.tuple;
    if !rules::is_way_back(mapping, from.daddr)
        || mapping.allow | mapping.shared | mapping.flags != 0
        || plain.proto == proto::UDP && published::has_several_uplinks()
        || source::check::<F>(&from.saddr).is_err()
    {
        return None;
    }
    to.daddr = mapping.addr;
    to.dport = mapping.container_port(from.dport);
    if plain.transport.has_flags(SYN | FIN | RST) && !is_noted::<F>(plain, to) {
        return None;
    }
    Some(&mapping.to)
}

/// Notes a segment that opens or closes a connection at its entry, where it has one.
/// No where the entry is another's, or may have to be made.
#[inline(always)]
fn is_noted<F: Family>(plain: &Plain<F::Addr>, to: &Tuple<F::Addr>) -> bool {
    if published::has_several_uplinks() {
        return false;
    }
    let Some(entry) = flows::find::<F>(&to.received(plain.proto)) else {
        return true;
    };
    if !published::asked_the_same::<F>(entry, &plain.tuple) {
        return false;
    }
    note::<F>(entry, plain, Direction::Original, flows::now());
    true
}

/// By the conversation of a container, whose port was kept.
#[inline(always)]
fn masqueraded_to<F: Family>(
    plain: &Plain<F::Addr>,
    to: &mut Tuple<F::Addr>,
) -> Option<&'static Delivery> {
    let from = &plain.tuple;
    if ranges::are_there()
        || plain.transport == Transport::Udp && rules::is_of_a_service(from.dport)
        || plain.transport.has_flags(SYN)
        || source::check_for_host::<F>(&from.saddr).is_err()
    {
        return None;
    }
    let key = FlowKey::masquerade(from.saddr, from.sport, from.dport, plain.proto);
    let entry = flows::find::<F>(&key)?;
    // SAFETY: a map value stays readable while the program runs; what other CPUs
    // change is read whole.
    let flow = unsafe { &*entry };
    if flow.kind != flow_kind::MASQUERADE || flow.external != from.daddr || flow.port != from.dport
    {
        return None;
    }
    note::<F>(entry, plain, Direction::Reply, flows::now());
    to.daddr = flow.addr;
    Some(&flow.to)
}

#[inline(never)]
fn from_container<F: Family>(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let Some(plain) = sent::<F>(skb, endpoint) else {
        return SLOW;
    };
    let now = flows::now();
    match path::fitting::<F>(skb, plain.tuple.daddr, now) {
        Some(way) => leave::<F>(skb, endpoint, &plain, way, now),
        None => meet::<F>(skb, endpoint, &plain),
    }
}

#[inline(never)]
fn to_outside<F: Family>(skb: &Skb, endpoint: &Endpoint) -> i32 {
    let Some(plain) = sent::<F>(skb, endpoint) else {
        return SLOW;
    };
    let now = flows::now();
    match path::fitting::<F>(skb, plain.tuple.daddr, now) {
        Some(way) => leave::<F>(skb, endpoint, &plain, way, now),
        None => SLOW,
    }
}

/// Out of the host by a way that is known.
#[inline(always)]
fn leave<F: Family>(
    skb: &Skb,
    endpoint: &Endpoint,
    plain: &Plain<F::Addr>,
    way: &Path<F::Addr>,
    now: u32,
) -> i32 {
    let mut mtu = 0;
    if plain.ttl <= 1 || !skb.segments_fit(way.ifindex, &mut mtu) {
        return SLOW;
    }
    let Some((addr, port)) = leaves_as::<F>(plain, endpoint, way, now) else {
        return SLOW;
    };
    let to = Tuple {
        saddr: addr,
        sport: port,
        ..plain.tuple
    };
    if let Err(reason) = write::<F>(skb, plain, &to, (way.dmac, way.smac), plain.ttl - 1) {
        return verdict::part(Err(reason));
    }
    skb.set_mark(MARK_OURS);
    skb.redirect_code(way.ifindex)
}

/// To a container of the same network, as it is.
#[inline(always)]
fn meet<F: Family>(skb: &Skb, endpoint: &Endpoint, plain: &Plain<F::Addr>) -> i32 {
    let tuple = &plain.tuple;
    // For the host.
    if tuple.daddr == F::gateway(endpoint) {
        return SLOW;
    }
    let Some(owner) = F::addrs().get_ptr(tuple.daddr) else {
        return SLOW;
    };
    // SAFETY: a map value stays readable while the program runs.
    let owner = unsafe { &*owner };
    let mut others = u32::from(endpoint_flags::DIRECT);
    if plain.proto == proto::UDP {
        others |= u32::from(endpoint_flags::PUBLISHED);
    }
    if owner.flags & others != 0
        || rules::towards(endpoint, owner, F::ROUTED) != Towards::Neighbour
        || linked::check_tuple::<F>(tuple, plain.proto, plain.transport.is_syn(), endpoint).is_err()
        || may_answer_a_port::<F>(plain, endpoint)
    {
        return SLOW;
    }
    if let Err(reason) = skb.write_macs(owner.to.mac, owner.to.host_mac) {
        return verdict::part(Err(reason));
    }
    count::received(owner.to.slot, skb.len());
    skb.to_peer_code(owner.to.ifindex)
}

/// Whether it may be the answer to a container that came in by a published port.
#[inline(always)]
fn may_answer_a_port<F: Family>(plain: &Plain<F::Addr>, endpoint: &Endpoint) -> bool {
    let is_established = plain.proto == proto::TCP && !plain.transport.has_flags(SYN | RST);
    rules::has_published_port(endpoint.flags, plain.proto)
        && (!is_established && published::is_expecting()
            || flows::find::<F>(&plain.tuple.sent(plain.proto)).is_some())
}

/// A plain packet under the sender's own address.
#[inline(always)]
fn sent<F: Family>(skb: &Skb, endpoint: &Endpoint) -> Option<Plain<F::Addr>> {
    F::plain(skb).filter(|plain| plain.tuple.saddr == F::address(endpoint))
}

/// The address and port of the host that a packet leaves by. None where more than the
/// state of its flow may have to be changed by it.
#[inline(always)]
fn leaves_as<F: Family>(
    plain: &Plain<F::Addr>,
    endpoint: &Endpoint,
    way: &Path<F::Addr>,
    now: u32,
) -> Option<(F::Addr, Be16)> {
    let from = &plain.tuple;
    if plain.transport.is_syn() {
        return None;
    }
    let mut is_answer = false;
    if rules::has_published_port(endpoint.flags, plain.proto) {
        if plain.proto == proto::TCP {
            if let Some(entry) = flows::find::<F>(&from.sent(plain.proto)) {
                return answers_as::<F>(plain, endpoint, way, entry, now);
            }
            // Rather an answer than of a connection of the container's own; the first
            // data makes an entry.
            is_answer = rules::is_of_a_service(from.sport);
            if is_answer && !plain.transport.has_flags(SYN | FIN | RST) {
                return None;
            }
        }
        // What no client ever needed an entry for, the tables alone tell.
        if is_answer || plain.proto == proto::UDP {
            if published::is_expecting() {
                return None;
            }
            let key = PortKey::new(from.saddr, from.sport, plain.proto);
            if let Some(back) = F::backs().get_ptr(&key) {
                // SAFETY: a map value stays readable while the program runs.
                let back = unsafe { &*back };
                let goes = back.until == 0 && !(is_answer && has_own::<F>(plain));
                return goes.then(|| (back.addr, back.host_port(from.sport)));
            }
            if ranges::are_there() {
                return None;
            }
        }
    }
    if routed::is_routed::<F>(endpoint) || rules::is_mapped(endpoint.flags, plain.proto) {
        return None;
    }
    let entry = own::<F>(plain)?;
    // SAFETY: as above; what other CPUs change is read whole.
    let flow = unsafe { &*entry };
    if !is_by::<F>(flow, way) {
        return None;
    }
    note::<F>(entry, plain, Direction::Original, now);
    Some((flow.external, flow.port))
}

/// The address and port by which a published port's flow is answered. None where the
/// flow is of another kind, ends, or has to ask whether its port is still there.
#[inline(always)]
fn answers_as<F: Family>(
    plain: &Plain<F::Addr>,
    endpoint: &Endpoint,
    way: &Path<F::Addr>,
    entry: flows::Entry<F::Addr>,
    now: u32,
) -> Option<(F::Addr, Be16)> {
    // SAFETY: a map value stays readable while the program runs; what other CPUs
    // change is read whole.
    let flow = unsafe { &*entry };
    let next = flow::next_state(flows::state(entry), plain.transport, Direction::Reply);
    if flow.kind != flow_kind::PUBLISHED
        || flow.to.ifindex != 0
        || current::generation(entry) != endpoint.generation
        || next == tcp::state::CLOSED
        || !is_by::<F>(flow, way)
    {
        return None;
    }
    flows::note::<F>(entry, plain.proto, next, now);
    Some((flow.addr, flow.port))
}

/// The conversation that a container has begun itself, from a port that was kept.
#[inline(always)]
fn own<F: Family>(plain: &Plain<F::Addr>) -> Option<flows::Entry<F::Addr>> {
    let from = &plain.tuple;
    let key = FlowKey::masquerade(from.daddr, from.dport, from.sport, plain.proto);
    flows::find::<F>(&key).filter(|entry| masquerade::is_owner::<F>(*entry, from))
}

/// A function of its own: its key's place on the stack is not the caller's.
#[inline(never)]
fn has_own<F: Family>(plain: &Plain<F::Addr>) -> bool {
    own::<F>(plain).is_some()
}

/// Whether a flow's packets leave by this way.
#[inline(always)]
fn is_by<F: Family>(flow: &Flow<F::Addr>, way: &Path<F::Addr>) -> bool {
    flow.ifindex == 0 || flow.ifindex == way.ifindex
}

/// Notes a packet at its flow's entry.
#[inline(always)]
fn note<F: Family>(
    entry: flows::Entry<F::Addr>,
    plain: &Plain<F::Addr>,
    direction: Direction,
    now: u32,
) {
    let next = flow::next_state(flows::state(entry), plain.transport, direction);
    flows::note::<F>(entry, plain.proto, next, now);
}

/// Writes all headers up to the ports at once.
#[inline(always)]
fn write<F: Family>(
    skb: &Skb,
    plain: &Plain<F::Addr>,
    to: &Tuple<F::Addr>,
    macs: (Mac, Mac),
    ttl: u8,
) -> Result<(), DropReason> {
    let mut frame = Aligned(MaybeUninit::<[u32; WORDS]>::uninit());
    let words = frame.0.as_mut_ptr().cast::<u32>();
    let change = headers::<F>(plain, to, macs, ttl, |at, word| {
        // SAFETY: there are so many words. Each by itself: the compiler would put
        // two in one store, misaligned.
        unsafe { words.add(at).write_volatile(word) }
    });
    // SAFETY: all words up to the ports were written.
    unsafe { skb.write_headers(words, F::HEADERS)? };
    skb.add_to_sum(change.unmade);
    skb.update_l4(&change.l4)
}
