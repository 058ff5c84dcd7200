//! What the tables shall hold, once the interfaces have their numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr},
    flow::Time,
    maps::{
        self, Back, BackRange, Delivery, LinkKey, Local, Owner, PortKey, Published, PublishedRange,
        Times, local_flags, published_flags,
    },
    range::RangeKey,
};

use super::{
    Desired, Observed, Reach, Uplink, allowed::Sets, desired::DesiredEndpoint,
    generation::generation, inside,
};
use crate::{
    bpf::{Entry, Key, Tables, blocked_key},
    model::{Endpoint, Opening, PortRange, Proto, Publication, Timeouts},
};

/// The tables for `desired`, as far as its links are among `live` (index by
/// name): what has no interface has no entries.
pub(super) fn entries(desired: &Desired, live: &BTreeMap<&str, u32>) -> Tables {
    let mut tables = Tables::new();
    for uplink in &desired.uplinks {
        let value = maps::Uplink {
            mac: uplink.mac,
            prefix4: prefix(&uplink.reach4),
            prefix6: prefix(&uplink.reach6),
            addr4: main_address(&uplink.addresses).unwrap_or_default(),
            gateway4: gateway(&uplink.reach4),
            addr6: main_address(&uplink.addresses).unwrap_or_default(),
            gateway6: gateway(&uplink.reach6),
            flags: uplink_flags(uplink),
            pad: 0,
        };
        tables.insert(Key::Uplink(uplink.ifindex), Entry::Uplink(value));
    }
    for fact in &desired.addresses {
        local(&mut tables, fact.address, fact.ifindex, 0);
    }
    for bridge in desired.bridges.values() {
        if let Some(&ifindex) = live.get(bridge.ifname.as_str()) {
            for address in &bridge.addresses {
                local(&mut tables, address.addr(), ifindex, local_flags::GATEWAY);
            }
        }
    }
    let sets = Sets::of(desired.endpoints.iter().map(|it| &it.endpoint));
    sets.add_to(&mut tables);
    inside::add_to(&mut tables, desired);
    let outside = Outside {
        v4: main_of_uplinks(desired),
        v6: main_of_uplinks(desired),
        sets: &sets,
    };
    for endpoint in &desired.endpoints {
        if let Some(&ifindex) = live.get(endpoint.host_ifname.as_str()) {
            add_endpoint(&mut tables, endpoint, ifindex, &outside);
        }
    }
    for source in &desired.blocked {
        tables.insert(blocked_key(*source), Entry::Blocked);
    }
    if let Some(limit) = desired.limit {
        tables.insert(Key::Limit, Entry::Limit(limit));
    }
    for opening in &desired.openings {
        link(&mut tables, opening);
    }
    tables
}

/// The addresses that the outside knows the host by, and who of it may use
/// what.
struct Outside<'a> {
    v4: Option<V4Addr>,
    v6: Option<V6Addr>,
    sets: &'a Sets<'a>,
}

fn link(tables: &mut Tables, opening: &Opening) {
    let (port, proto) = (Be16::new(opening.port), opening.proto.number());
    let key = match (opening.client, opening.server) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            Key::Link4(LinkKey::new(client.into(), server.into(), port, proto))
        }
        (IpAddr::V6(client), IpAddr::V6(server)) => {
            Key::Link6(LinkKey::new(client.into(), server.into(), port, proto))
        }
        // Its addresses are of one family.
        _ => return,
    };
    tables.insert(key, Entry::Link(opening.network));
}

/// The links of `desired` that are there and ours.
pub(super) fn live<'a>(desired: &'a Desired, observed: &Observed) -> BTreeMap<&'a str, u32> {
    let bridges = desired.bridges.values().map(|b| (&b.ifname, &b.alias));
    let pairs = desired.pairs.values().map(|v| (&v.host_ifname, &v.alias));
    bridges
        .chain(pairs)
        .filter_map(|(ifname, alias)| {
            let link = observed.links.get(ifname)?;
            (link.alias.as_ref() == Some(alias)).then_some((ifname.as_str(), link.ifindex))
        })
        .collect()
}

/// An address family and the tables that are its own.
trait Family: Address {
    fn of(address: IpAddr) -> Option<Self>;
    fn owner(self, owner: Owner) -> (Key, Entry);
    fn port(key: PortKey<Self>, published: Published<Self>) -> (Key, Entry);
    fn back(key: PortKey<Self>, back: Back<Self>) -> (Key, Entry);
    fn range(key: RangeKey<Self>, range: PublishedRange<Self>) -> (Key, Entry);
    fn back_range(key: RangeKey<Self>, range: BackRange<Self>) -> (Key, Entry);
}

impl Family for V4Addr {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn owner(self, owner: Owner) -> (Key, Entry) {
        (Key::Owner4(self), Entry::Owner4(owner))
    }

    fn port(key: PortKey<Self>, published: Published<Self>) -> (Key, Entry) {
        (Key::Port4(key), Entry::Port4(published))
    }

    fn back(key: PortKey<Self>, back: Back<Self>) -> (Key, Entry) {
        (Key::Back4(key), Entry::Back4(back))
    }

    fn range(key: RangeKey<Self>, range: PublishedRange<Self>) -> (Key, Entry) {
        (Key::Range4(key), Entry::Range4(range))
    }

    fn back_range(key: RangeKey<Self>, range: BackRange<Self>) -> (Key, Entry) {
        (Key::BackRange4(key), Entry::BackRange4(range))
    }
}

impl Family for V6Addr {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address.into()),
            IpAddr::V4(_) => None,
        }
    }

    fn owner(self, owner: Owner) -> (Key, Entry) {
        (Key::Owner6(self), Entry::Owner6(owner))
    }

    fn port(key: PortKey<Self>, published: Published<Self>) -> (Key, Entry) {
        (Key::Port6(key), Entry::Port6(published))
    }

    fn back(key: PortKey<Self>, back: Back<Self>) -> (Key, Entry) {
        (Key::Back6(key), Entry::Back6(back))
    }

    fn range(key: RangeKey<Self>, range: PublishedRange<Self>) -> (Key, Entry) {
        (Key::Range6(key), Entry::Range6(range))
    }

    fn back_range(key: RangeKey<Self>, range: BackRange<Self>) -> (Key, Entry) {
        (Key::BackRange6(key), Entry::BackRange6(range))
    }
}

fn main_address<A: Family>(addresses: &[IpAddr]) -> Option<A> {
    addresses.iter().copied().find_map(A::of)
}

fn prefix(reach: &Reach) -> u8 {
    match reach.subnet {
        Some(subnet) if subnet.prefix_len() == 0 => maps::ALL_ON_LINK,
        Some(subnet) => subnet.prefix_len(),
        None => 0,
    }
}

fn uplink_flags(uplink: &Uplink) -> u32 {
    let mut flags = 0;
    if uplink.reach4.by_route {
        flags |= maps::uplink_flags::BY_ROUTE4;
    }
    if uplink.reach6.by_route {
        flags |= maps::uplink_flags::BY_ROUTE6;
    }
    if uplink.beside {
        flags |= maps::uplink_flags::BESIDE;
    }
    flags
}

fn gateway<A: Family>(reach: &Reach) -> A {
    reach.gateway.and_then(A::of).unwrap_or_default()
}

fn main_of_uplinks<A: Family>(desired: &Desired) -> Option<A> {
    let mut uplinks = desired.uplinks.iter();
    uplinks.find_map(|uplink| main_address(&uplink.addresses))
}

/// The first interface that has an address counts.
fn local(tables: &mut Tables, address: IpAddr, ifindex: u32, flags: u32) {
    let local = Local { ifindex, flags };
    let (key, entry) = match address {
        IpAddr::V4(address) => (Key::Local4(address.into()), Entry::Local4(local)),
        IpAddr::V6(address) => (Key::Local6(address.into()), Entry::Local6(local)),
    };
    tables.entry(key).or_insert(entry);
}

fn add_endpoint(
    tables: &mut Tables,
    desired: &DesiredEndpoint,
    ifindex: u32,
    outside: &Outside<'_>,
) {
    let endpoint = &desired.endpoint;
    let to = Delivery {
        ifindex,
        slot: endpoint.slot,
        mac: endpoint.mac.bytes(),
        host_mac: endpoint.host_mac.bytes(),
    };
    let addr4 = endpoint.v4().map(V4Addr::from);
    let addr6 = endpoint.v6().map(V6Addr::from);
    let value = maps::Endpoint {
        mac: to.mac,
        flags: desired.flags,
        host_mac: to.host_mac,
        pad: 0,
        network: desired.network,
        slot: to.slot,
        addr4: addr4.unwrap_or_default(),
        gateway4: endpoint.gateway4().map(V4Addr::from).unwrap_or_default(),
        addr6: addr6.unwrap_or_default(),
        gateway6: endpoint.gateway6().map(V6Addr::from).unwrap_or_default(),
        generation: generation(endpoint),
        source4: main_address(&desired.sources).unwrap_or_default(),
        source6: main_address(&desired.sources).unwrap_or_default(),
    };
    tables.insert(Key::Endpoint(ifindex), Entry::Endpoint(value));
    if let Some(times) = times(&desired.timeouts) {
        tables.insert(Key::Times(endpoint.slot), Entry::Times(times));
    }
    let owner = Owner {
        to,
        network: desired.network,
        flags: desired.flags.into(),
    };
    if let Some(address) = addr4 {
        add_address(tables, endpoint, address, owner, outside.v4, outside.sets);
    }
    if let Some(address) = addr6 {
        add_address(tables, endpoint, address, owner, outside.v6, outside.sets);
    }
}

/// None where all are the host's.
fn times(timeouts: &Timeouts) -> Option<Times> {
    let mut times = Times::default();
    for (time, seconds) in [
        (Time::TcpEstablished, timeouts.tcp_established),
        (Time::TcpTransitory, timeouts.tcp_transitory),
        (Time::Udp, timeouts.udp),
        (Time::Icmp, timeouts.icmp),
    ] {
        times.seconds[time as usize] = seconds.unwrap_or(0);
    }
    (times != Times::default()).then_some(times)
}

/// One address of an endpoint with the ports of its family.
fn add_address<A: Family>(
    tables: &mut Tables,
    endpoint: &Endpoint,
    address: A,
    owner: Owner,
    outside: Option<A>,
    sets: &Sets<'_>,
) {
    tables.extend([address.owner(owner)]);
    let ways_back = ways_back(endpoint, outside);
    for publication in &endpoint.published {
        let Some(host_addr) = A::of(publication.host_ip) else {
            continue;
        };
        let proto = publication.proto.number();
        let host_port = Be16::new(publication.host_port);
        let port = Be16::new(publication.container_port);
        let back = ways_back.get(publication).copied();
        let published = Published {
            addr: address,
            port,
            host_port,
            to: owner.to,
            back_addr: back.unwrap_or(A::ANY),
            allow: sets.number(&publication.allow),
            shared: 0,
            flags: if publication.direct {
                published_flags::DIRECT
            } else {
                0
            },
            pad: 0,
        };
        if publication.is_range() {
            let (key, span, prefix) = range_of(host_addr, proto, publication.host_ports());
            let range = PublishedRange {
                published,
                span,
                prefix,
                pad: 0,
            };
            tables.extend([A::range(key, range)]);
        } else {
            let key = PortKey::new(host_addr, host_port, proto);
            tables.extend([A::port(key, published)]);
        }
        let Some(back) = back.map(|addr| Back::new(addr, host_port, port)) else {
            continue;
        };
        if publication.is_range() {
            let (key, span, prefix) = range_of(address, proto, publication.container_ports());
            let range = BackRange {
                back,
                span,
                prefix,
                pad: 0,
            };
            tables.extend([A::back_range(key, range)]);
        } else {
            tables.extend([A::back(PortKey::new(address, port, proto), back)]);
        }
    }
}

/// The key of a range, and what its value says of the key.
fn range_of<A: Address>(addr: A, proto: u8, ports: PortRange) -> (RangeKey<A>, u16, u16) {
    let key = RangeKey::of_range(addr, proto, ports.first(), ports.last());
    (key, ports.last() - ports.first(), key.prefix as u16)
}

/// For each published container port the mapping that answers go back by when
/// no flow says otherwise, and the host address of it. Never a loopback
/// address: nobody outside uses it.
///
/// Where one container port is published more than once, the first counts; a
/// range counts as a whole, or not at all.
fn ways_back<A: Family>(endpoint: &Endpoint, outside: Option<A>) -> BTreeMap<&Publication, A> {
    let mut singles: BTreeSet<(Proto, u16)> = BTreeSet::new();
    let mut ranges: Vec<(Proto, PortRange)> = Vec::new();
    let mut ways = BTreeMap::new();
    for publication in &endpoint.published {
        let address = match A::of(publication.host_ip) {
            Some(address) if address == A::ANY => outside,
            Some(address) if !address.is_loopback() => Some(address),
            _ => None,
        };
        let Some(address) = address else { continue };
        let (proto, ports) = (publication.proto, publication.container_ports());
        let mut chosen = singles.range((proto, ports.first())..=(proto, ports.last()));
        if chosen.next().is_some()
            || ranges
                .iter()
                .any(|(other, range)| *other == proto && range.meets(ports))
        {
            continue;
        }
        if publication.is_range() {
            ranges.push((proto, ports));
        } else {
            singles.insert((proto, ports.first()));
        }
        ways.insert(publication, address);
    }
    ways
}
