//! The tables as they were when the question was asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr},
    drop::DropReason,
    flow::is_past,
    maps::{
        Back, Endpoint, LinkKey, Local, Owner, PortKey, Published, PublishedRange, endpoint_flags,
        uplink_flags::{BY_ROUTE4, BY_ROUTE6},
    },
    own::INSIDE,
    range::{RangeKey, contains},
    rules,
};

use super::{Protocol, Question};
use crate::bpf::{Entry, FlowSeen, Key, Tables};

/// Where the host's routes lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub ifindex: u32,
    /// None where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Address of the host that the route prefers, where the programs can ask
    /// for it.
    pub source: Option<IpAddr>,
}

/// A published port and the container behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    pub published: Published<IpAddr>,
    /// The port of the host that was asked for.
    asked: Be16,
    /// First and last port of the host, where it is one of a range.
    range: Option<(u16, u16)>,
}

impl Mapping {
    /// Where the port leads to.
    pub fn container(&self) -> SocketAddr {
        socket(
            self.published.addr,
            self.published.container_port(self.asked),
        )
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "published by {}", self.container())?;
        match self.range {
            Some((first, last)) => write!(f, ", as one of {first}-{last}"),
            None => Ok(()),
        }
    }
}

/// A subnet of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subnet {
    pub net: IpNet,
    /// Name of the network.
    pub network: String,
}

/// How a container port answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WayBack {
    /// Under this address and port of the host.
    By(SocketAddr),
    /// It was published until a while ago, and doesn't answer.
    Closed,
}

/// What the programs would find.
pub struct Snapshot<'a> {
    pub tables: &'a Tables,
    pub flows4: &'a [FlowSeen<V4Addr>],
    pub flows6: &'a [FlowSeen<V6Addr>],
    /// The way of the container's packet to the destination, if there is one.
    pub way: Option<Way>,
    /// Second of `CLOCK_MONOTONIC`.
    pub now: u32,
    /// Why the container that sends the packet may open no flow.
    pub want_of_room: Option<DropReason>,
    /// Subnets that containers have addresses of.
    pub subnets: &'a [Subnet],
    /// Whether the packet's source has begun all the conversations that it may, and
    /// this would be another one.
    pub is_over_limit: bool,
    /// Whether the host's stack has a socket for a packet from the second to the
    /// first, which is asked where a port is direct.
    pub has_socket: &'a (dyn Fn(Protocol, SocketAddr, SocketAddr) -> bool + Sync),
}

impl Snapshot<'_> {
    /// Whose address it is.
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        let key = match address {
            IpAddr::V4(address) => Key::Owner4(address.into()),
            IpAddr::V6(address) => Key::Owner6(address.into()),
        };
        match self.tables.get(&key)? {
            Entry::Owner4(owner) | Entry::Owner6(owner) => Some(*owner),
            _ => None,
        }
    }

    pub fn endpoint(&self, ifindex: u32) -> Option<Endpoint> {
        match self.tables.get(&Key::Endpoint(ifindex))? {
            Entry::Endpoint(endpoint) => Some(*endpoint),
            _ => None,
        }
    }

    /// The network of whose subnet an address is.
    pub fn network_of(&self, address: IpAddr) -> Option<&str> {
        let mut subnets = self.subnets.iter();
        let subnet = subnets.find(|subnet| subnet.net.contains(&address))?;
        Some(&subnet.network)
    }

    fn local(&self, address: IpAddr) -> Option<&Local> {
        match self.tables.get(&local_key(address)) {
            Some(Entry::Local4(local) | Entry::Local6(local)) => Some(local),
            _ => None,
        }
    }

    /// Whether the host has this address, other than loopback.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local(address).is_some()
    }

    /// The mapping of a single port on this very address.
    fn single(&self, at: SocketAddr, proto: u8) -> Option<Mapping> {
        let asked = Be16::new(at.port());
        let key = match at.ip() {
            IpAddr::V4(address) => Key::Port4(PortKey::new(address.into(), asked, proto)),
            IpAddr::V6(address) => Key::Port6(PortKey::new(address.into(), asked, proto)),
        };
        match self.tables.get(&key) {
            Some(Entry::Port4(published)) => Some(mapping(published, asked, None)),
            Some(Entry::Port6(published)) => Some(mapping(published, asked, None)),
            _ => None,
        }
    }

    /// The same of a range that the port is one of.
    fn range(&self, at: SocketAddr, proto: u8) -> Option<Mapping> {
        let (address, port) = (at.ip(), Be16::new(at.port()));
        self.tables
            .iter()
            .find_map(|(key, entry)| match (key, entry) {
                (Key::Range4(key), Entry::Range4(range)) if is_of(key, address, proto) => {
                    in_range(range, port)
                }
                (Key::Range6(key), Entry::Range6(range)) if is_of(key, address, proto) => {
                    in_range(range, port)
                }
                _ => None,
            })
    }

    /// The mapping of a port on one address alone.
    pub fn exact(&self, at: SocketAddr, proto: u8) -> Option<Mapping> {
        self.single(at, proto).or_else(|| self.range(at, proto))
    }

    /// The mapping of a port on all addresses or, where there is none, on this;
    /// single ports before ranges.
    pub fn published(&self, to: SocketAddr, proto: u8) -> Option<Mapping> {
        let all = SocketAddr::new(super::unspecified(to.ip()), to.port());
        self.single(all, proto)
            .or_else(|| self.single(to, proto))
            .or_else(|| self.range(all, proto))
            .or_else(|| self.range(to, proto))
    }

    /// Whether a packet to a published port is one of the host's own: its program
    /// has a socket there.
    pub fn is_hosts(&self, mapping: &Mapping, question: &Question) -> bool {
        mapping.published.is_direct()
            && (self.has_socket)(question.protocol, question.destination, question.source)
    }

    /// The address and port of the host where a program of the sandbox with this
    /// address listens directly, whoever asks.
    pub fn instead(&self, question: &Question) -> Option<SocketAddr> {
        let owner = self.owner(question.destination.ip())?;
        if owner.flags & u32::from(endpoint_flags::DIRECT) == 0 {
            return None;
        }
        let WayBack::By(to) = self.back(question.destination, question.proto())? else {
            return None;
        };
        let mapping = self.published(to, question.proto())?;
        let is_there = (self.has_socket)(question.protocol, to, question.source);
        (mapping.published.is_direct() && is_there).then_some(to)
    }

    /// Whether a source may use a published port.
    pub fn allows(&self, mapping: &Mapping, source: IpAddr) -> bool {
        mapping.published.allow == 0 || self.holds(mapping.published.allow, source)
    }

    /// Whether an address is one that nobody outside has, although neither a
    /// container nor the host need have it.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.holds(INSIDE, address)
    }

    /// Whether a set has an address.
    fn holds(&self, set: u32, address: IpAddr) -> bool {
        self.tables.keys().any(|key| match (key, address) {
            (Key::Allow4(key), IpAddr::V4(address)) => {
                let net = Ipv4Net::new(key.place.addr.into(), (key.prefix - 64) as u8);
                key.place.set == set && net.is_ok_and(|net| net.contains(&address))
            }
            (Key::Allow6(key), IpAddr::V6(address)) => {
                let net = Ipv6Net::new(key.place.addr.into(), (key.prefix - 64) as u8);
                key.place.set == set && net.is_ok_and(|net| net.contains(&address))
            }
            _ => false,
        })
    }

    /// The longest prefix of an address that is blocked.
    pub fn blocked(&self, address: IpAddr) -> Option<IpNet> {
        let nets = self.tables.keys().filter_map(|key| match key {
            Key::Blocked4(key) => {
                let net = Ipv4Net::new(key.place.addr.into(), key.prefix as u8);
                net.ok().map(IpNet::from)
            }
            Key::Blocked6(key) => {
                let net = Ipv6Net::new(key.place.addr.into(), key.prefix as u8);
                net.ok().map(IpNet::from)
            }
            _ => None,
        });
        nets.filter(|net| net.contains(&address))
            .max_by_key(IpNet::prefix_len)
    }

    /// Whether there is such a link.
    pub fn has_link(&self, link: &LinkKey<IpAddr>) -> bool {
        let key = match (link.client, link.server) {
            (IpAddr::V4(client), IpAddr::V4(server)) => Key::Link4(LinkKey::new(
                client.into(),
                server.into(),
                link.port,
                link.proto,
            )),
            (IpAddr::V6(client), IpAddr::V6(server)) => Key::Link6(LinkKey::new(
                client.into(),
                server.into(),
                link.port,
                link.proto,
            )),
            _ => return false,
        };
        self.tables.contains_key(&key)
    }

    /// How a container port answers when no flow says otherwise.
    pub fn back(&self, container: SocketAddr, proto: u8) -> Option<WayBack> {
        let port = Be16::new(container.port());
        let key = match container.ip() {
            IpAddr::V4(address) => Key::Back4(PortKey::new(address.into(), port, proto)),
            IpAddr::V6(address) => Key::Back6(PortKey::new(address.into(), port, proto)),
        };
        match self.tables.get(&key) {
            Some(Entry::Back4(back)) => return self.way_back(back, port),
            Some(Entry::Back6(back)) => return self.way_back(back, port),
            _ => {}
        }
        let address = container.ip();
        self.tables
            .iter()
            .find_map(|(key, entry)| match (key, entry) {
                (Key::BackRange4(key), Entry::BackRange4(range))
                    if is_of(key, address, proto)
                        && contains(range.back.own_port, range.span, port) =>
                {
                    self.way_back(&range.back, port)
                }
                (Key::BackRange6(key), Entry::BackRange6(range))
                    if is_of(key, address, proto)
                        && contains(range.back.own_port, range.span, port) =>
                {
                    self.way_back(&range.back, port)
                }
                _ => None,
            })
    }

    fn way_back<A: Address + Into<IpAddr>>(&self, back: &Back<A>, port: Be16) -> Option<WayBack> {
        match back.until {
            0 => Some(WayBack::By(socket(back.addr, back.host_port(port)))),
            until if is_past(until, self.now) => None,
            _ => Some(WayBack::Closed),
        }
    }

    /// The address of the destination's family that a new flow of a container
    /// gets, unspecified where there is none; none where the interface is no
    /// uplink.
    pub fn external(&self, way: &Way, from: &Endpoint, destination: IpAddr) -> Option<IpAddr> {
        let Entry::Uplink(uplink) = self.tables.get(&Key::Uplink(way.ifindex))? else {
            return None;
        };
        let (given, main, by_route): (IpAddr, IpAddr, u32) = match destination {
            IpAddr::V4(_) => (from.source4.into(), uplink.addr4.into(), BY_ROUTE4),
            IpAddr::V6(_) => (from.source6.into(), uplink.addr6.into(), BY_ROUTE6),
        };
        if !given.is_unspecified() {
            let nothing = super::unspecified(given);
            return Some(if self.is_outward(given) {
                given
            } else {
                nothing
            });
        }
        let preferred = way
            .source
            .filter(|source| uplink.flags & by_route != 0 && self.is_outward(*source));
        Some(preferred.unwrap_or(main))
    }

    /// Whether the host has this address, and not as a gateway.
    fn is_outward(&self, address: IpAddr) -> bool {
        self.local(address).is_some_and(rules::is_outward)
    }

    /// Where a packet to this destination goes first that leaves by an uplink
    /// that need not be the one of the route: none where it leads nowhere.
    pub fn beyond(&self, ifindex: u32, destination: IpAddr) -> Option<IpAddr> {
        let Entry::Uplink(uplink) = self.tables.get(&Key::Uplink(ifindex))? else {
            return None;
        };
        let (on_link, gateway): (bool, IpAddr) = match destination {
            IpAddr::V4(to) => (
                V4Addr::from(to).shares_prefix(uplink.addr4, uplink.prefix4),
                uplink.gateway4.into(),
            ),
            IpAddr::V6(to) => (
                V6Addr::from(to).shares_prefix(uplink.addr6, uplink.prefix6),
                uplink.gateway6.into(),
            ),
        };
        if on_link {
            return Some(destination);
        }
        (!gateway.is_unspecified()).then_some(gateway)
    }
}

pub(super) fn socket(addr: impl Into<IpAddr>, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.into(), port.get())
}

fn mapping<A: Address + Into<IpAddr>>(
    published: &Published<A>,
    asked: Be16,
    range: Option<(u16, u16)>,
) -> Mapping {
    Mapping {
        published: Published {
            addr: published.addr.into(),
            port: published.port,
            host_port: published.host_port,
            to: published.to,
            back_addr: published.back_addr.into(),
            allow: published.allow,
            shared: published.shared,
            flags: published.flags,
            pad: 0,
        },
        asked,
        range,
    }
}

fn local_key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => Key::Local4(address.into()),
        IpAddr::V6(address) => Key::Local6(address.into()),
    }
}

fn in_range<A: Address + Into<IpAddr>>(range: &PublishedRange<A>, port: Be16) -> Option<Mapping> {
    let first = range.published.host_port;
    contains(first, range.span, port).then(|| {
        let ends = (first.get(), first.get() + range.span);
        mapping(&range.published, port, Some(ends))
    })
}

/// Whether a range is one of this address.
fn is_of<A: Address + Into<IpAddr>>(key: &RangeKey<A>, addr: IpAddr, proto: u8) -> bool {
    key.place.addr.into() == addr && key.place.proto == u32::from(proto)
}
