//! The tables as they were when the question was asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    flow::is_past,
    maps::{
        ALL_ON_LINK, Back, Endpoint, FlowKey, LinkKey, Owner, PortKey, Published, PublishedRange,
        local_flags,
        uplink_flags::{BY_ROUTE4, BY_ROUTE6},
    },
    range::{RangeKey, contains},
};

use ipnet::IpNet;

use super::Protocol;
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

/// The container behind a published port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    pub container: SocketAddr,
    /// Of its host end.
    pub ifindex: u32,
    /// The host's address whose users need no flow, or unspecified.
    pub back: IpAddr,
    /// First and last port of the host, where it is one of a range.
    pub range: Option<(u16, u16)>,
    /// Number of the set of sources that may use it, or 0 for all.
    allow: u32,
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "published by {}", self.container)?;
        match self.range {
            Some((first, last)) => write!(f, ", as one of {first}-{last}"),
            None => Ok(()),
        }
    }
}

/// An entry of the flow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownFlow {
    /// [`netdp_common::maps::flow_kind`].
    pub kind: u8,
    /// [`netdp_common::tcp::state`] for TCP.
    pub state: u8,
    /// `addr` and `port` of [`netdp_common::maps::Flow`].
    pub inner: SocketAddr,
    /// The host's address that the outside sees.
    pub external: IpAddr,
    /// Host end of the container to hand packets to, or 0.
    pub ifindex: u32,
    /// The uplink of the flow, or 0.
    pub uplink: u32,
    pub pending: bool,
    /// [`netdp_common::maps::Flow::generation`].
    pub generation: u32,
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
    /// The way to the destination, if there is one.
    pub way: Option<Way>,
    /// Second of `CLOCK_MONOTONIC`.
    pub now: u32,
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

    /// Whether the host has this address, other than loopback.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.tables.contains_key(&local_key(address))
    }

    /// The mapping of exactly this address and port, or of a range with it.
    pub fn mapping(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<Mapping> {
        let key = match address {
            IpAddr::V4(address) => Key::Port4(port_key(address.into(), port, protocol)),
            IpAddr::V6(address) => Key::Port6(port_key(address.into(), port, protocol)),
        };
        let port = Be16::new(port);
        match self.tables.get(&key) {
            Some(Entry::Port4(published)) => return Some(mapping(published, port, None)),
            Some(Entry::Port6(published)) => return Some(mapping(published, port, None)),
            _ => {}
        }
        self.tables
            .iter()
            .find_map(|(key, entry)| match (key, entry) {
                (Key::Range4(key), Entry::Range4(range)) if is_of(key, address, protocol) => {
                    in_range(range, port)
                }
                (Key::Range6(key), Entry::Range6(range)) if is_of(key, address, protocol) => {
                    in_range(range, port)
                }
                _ => None,
            })
    }

    /// Whether a source may use a published port.
    pub fn allows(&self, mapping: &Mapping, source: IpAddr) -> bool {
        mapping.allow == 0
            || self.tables.keys().any(|key| match (key, source) {
                (Key::Allow4(key), IpAddr::V4(source)) => {
                    let net = Ipv4Net::new(key.place.addr.into(), (key.prefix - 64) as u8);
                    key.place.set == mapping.allow && net.is_ok_and(|net| net.contains(&source))
                }
                (Key::Allow6(key), IpAddr::V6(source)) => {
                    let net = Ipv6Net::new(key.place.addr.into(), (key.prefix - 64) as u8);
                    key.place.set == mapping.allow && net.is_ok_and(|net| net.contains(&source))
                }
                _ => false,
            })
    }

    /// The mapping of a port on all addresses or, where there is none, on this.
    pub fn published(&self, to: SocketAddr, protocol: Protocol) -> Option<Mapping> {
        self.mapping(super::unspecified(to.ip()), to.port(), protocol)
            .or_else(|| self.mapping(to.ip(), to.port(), protocol))
    }

    /// Whether a link lets this client use this port of a server.
    pub fn link(&self, client: IpAddr, server: SocketAddr, protocol: Protocol) -> bool {
        let (port, proto) = (Be16::new(server.port()), protocol.number());
        let key = match (client, server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                Key::Link4(LinkKey::new(client.into(), server.into(), port, proto))
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                Key::Link6(LinkKey::new(client.into(), server.into(), port, proto))
            }
            _ => return false,
        };
        self.tables.contains_key(&key)
    }

    /// How a container port answers when no flow says otherwise.
    pub fn back(&self, container: SocketAddr, protocol: Protocol) -> Option<WayBack> {
        let port = container.port();
        let key = match container.ip() {
            IpAddr::V4(address) => Key::Back4(port_key(address.into(), port, protocol)),
            IpAddr::V6(address) => Key::Back6(port_key(address.into(), port, protocol)),
        };
        let port = Be16::new(port);
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
                    if is_of(key, address, protocol)
                        && contains(range.back.own_port, range.span, port) =>
                {
                    self.way_back(&range.back, port)
                }
                (Key::BackRange6(key), Entry::BackRange6(range))
                    if is_of(key, address, protocol)
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
        matches!(
            self.tables.get(&local_key(address)),
            Some(Entry::Local4(local) | Entry::Local6(local))
                if local.flags & local_flags::GATEWAY == 0
        )
    }

    /// Where a packet to this destination goes first that leaves by an uplink
    /// that need not be the one of the route: none where it leads nowhere.
    pub fn beyond(&self, ifindex: u32, destination: IpAddr) -> Option<IpAddr> {
        let Entry::Uplink(uplink) = self.tables.get(&Key::Uplink(ifindex))? else {
            return None;
        };
        let (prefix, own, gateway): (u8, IpAddr, IpAddr) = match destination {
            IpAddr::V4(_) => (uplink.prefix4, uplink.addr4.into(), uplink.gateway4.into()),
            IpAddr::V6(_) => (uplink.prefix6, uplink.addr6.into(), uplink.gateway6.into()),
        };
        let subnet = IpNet::new(own, prefix).ok();
        let on_link = prefix == ALL_ON_LINK
            || prefix != 0 && subnet.is_some_and(|subnet| subnet.contains(&destination));
        if on_link {
            return Some(destination);
        }
        (!gateway.is_unspecified()).then_some(gateway)
    }

    /// A flow by the key of a container's packets.
    pub fn full_flow(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        protocol: Protocol,
    ) -> Option<KnownFlow> {
        match (remote, local) {
            (SocketAddr::V4(remote), SocketAddr::V4(local)) => flow(
                self.flows4,
                &FlowKey::full(
                    (*remote.ip()).into(),
                    Be16::new(remote.port()),
                    (*local.ip()).into(),
                    Be16::new(local.port()),
                    protocol.number(),
                ),
            ),
            (SocketAddr::V6(remote), SocketAddr::V6(local)) => flow(
                self.flows6,
                &FlowKey::full(
                    (*remote.ip()).into(),
                    Be16::new(remote.port()),
                    (*local.ip()).into(),
                    Be16::new(local.port()),
                    protocol.number(),
                ),
            ),
            _ => None,
        }
    }

    /// The mapping that the outside sees as this address and port.
    pub fn mapping_at(&self, seen: SocketAddr) -> Option<KnownFlow> {
        self.mapping_with(seen)
            .filter(|mapping| mapping.external == seen.ip())
    }

    /// The mapping that has the port of a socket of this family.
    pub fn mapping_with(&self, socket: SocketAddr) -> Option<KnownFlow> {
        let port = Be16::new(socket.port());
        match socket {
            SocketAddr::V4(_) => flow(self.flows4, &FlowKey::mapping(port, proto::UDP)),
            SocketAddr::V6(_) => flow(self.flows6, &FlowKey::mapping(port, proto::UDP)),
        }
    }

    /// The container's side of a mapping whose port was changed.
    pub fn mapping_side(&self, container: SocketAddr) -> Option<KnownFlow> {
        let port = Be16::new(container.port());
        match container.ip() {
            IpAddr::V4(address) => flow(
                self.flows4,
                &FlowKey::mapped(address.into(), port, proto::UDP),
            ),
            IpAddr::V6(address) => flow(
                self.flows6,
                &FlowKey::mapped(address.into(), port, proto::UDP),
            ),
        }
    }

    /// Whether this address may send to the mapping at this port.
    pub fn is_permitted(&self, peer: IpAddr, port: u16) -> bool {
        let port = Be16::new(port);
        match peer {
            IpAddr::V4(peer) => flow(self.flows4, &FlowKey::permit(peer.into(), port, proto::UDP)),
            IpAddr::V6(peer) => flow(self.flows6, &FlowKey::permit(peer.into(), port, proto::UDP)),
        }
        .is_some()
    }

    /// A flow by what the outside sees.
    pub fn outside_flow(
        &self,
        remote: SocketAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<KnownFlow> {
        self.full_flow(
            remote,
            SocketAddr::new(super::unspecified(remote.ip()), port),
            protocol,
        )
    }
}

/// Conversations come before what isn't answered yet.
fn flow<A: Address + Into<IpAddr>>(flows: &[FlowSeen<A>], key: &FlowKey<A>) -> Option<KnownFlow> {
    let found = |pending| {
        flows
            .iter()
            .find(|seen| seen.pending == pending && seen.key == *key)
    };
    let seen = found(false).or_else(|| found(true))?;
    Some(KnownFlow {
        kind: seen.flow.kind,
        state: seen.flow.state,
        inner: socket(seen.flow.addr, seen.flow.port),
        external: seen.flow.external.into(),
        ifindex: seen.flow.to.ifindex,
        uplink: seen.flow.ifindex,
        pending: seen.pending,
        generation: seen.flow.generation,
    })
}

fn port_key<A: Address>(addr: A, port: u16, protocol: Protocol) -> PortKey<A> {
    PortKey::new(addr, Be16::new(port), protocol.number())
}

fn socket(addr: impl Into<IpAddr>, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.into(), port.get())
}

fn mapping<A: Address + Into<IpAddr>>(
    published: &Published<A>,
    port: Be16,
    range: Option<(u16, u16)>,
) -> Mapping {
    Mapping {
        container: socket(published.addr, published.container_port(port)),
        ifindex: published.to.ifindex,
        back: published.back_addr.into(),
        range,
        allow: published.allow,
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
fn is_of<A: Address + Into<IpAddr>>(key: &RangeKey<A>, addr: IpAddr, protocol: Protocol) -> bool {
    key.place.addr.into() == addr && key.place.proto == u32::from(protocol.number())
}
