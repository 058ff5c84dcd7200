//! What shall be there, in the terms of links and tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use netdp_common::limit::Limit;

use super::{Facts, HostAddress, Uplink, driver};
use crate::{
    bpf::Xdp,
    model::{
        Address, Device, Endpoint, Nat, Network, Opening, PortRange, Proto, Publication, State,
        Timeouts, host_side,
    },
    netlink::{PacketLimit, PairKind},
};

/// How the names of host ends begin.
pub const HOST_END: &str = "vn";

/// How the aliases of links begin that a daemon made: `netdp:INSTANCE:ID`.
pub const ALIAS: &str = "netdp:";

/// A route of the host to a container.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// A single address.
    pub to: IpAddr,
    pub ifname: String,
    /// Source of what the host itself sends there.
    pub src: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.to, self.ifname)
    }
}

/// A permanent neighbour entry of the host for a container.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Neighbour {
    pub address: IpAddr,
    pub ifname: String,
    pub mac: [u8; 6],
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.ifname)
    }
}

/// A port of the host that is held by a bound socket while it is published, or
/// a range, each of which is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hold {
    /// The unspecified address for every address of the host.
    pub address: IpAddr,
    pub ports: PortRange,
    pub proto: Proto,
    /// Of ::, that the same sockets have the ports of 0.0.0.0 as well.
    pub both: bool,
    /// Sockets that netdp hands to programs may share them.
    pub direct: bool,
}

impl Hold {
    /// Ports of every address of both families, if these are of one.
    pub fn of_both(self) -> Option<Self> {
        self.address.is_unspecified().then_some(Self {
            address: Ipv6Addr::UNSPECIFIED.into(),
            both: true,
            ..self
        })
    }

    /// Whether a socket that is bound to `addr` and `port` has one of these ports.
    pub fn collides(&self, addr: IpAddr, port: u16) -> bool {
        let family = match (addr, self.address) {
            // A dual-stack socket has the port in both families.
            (IpAddr::V6(own), IpAddr::V4(_)) => own.is_unspecified(),
            (own, wanted) => own.is_ipv4() == wanted.is_ipv4() || self.both,
        };
        family
            && self.ports.holds(port)
            && (addr == self.address || addr.is_unspecified() || self.address.is_unspecified())
    }

    /// Each of the ports by itself.
    pub fn singles(self) -> impl Iterator<Item = (u16, Self)> {
        let ports = self.ports.ports();
        ports.filter_map(move |port| {
            Some((
                port,
                Self {
                    ports: PortRange::single(port)?,
                    ..self
                },
            ))
        })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = host_side(self.address, self.ports);
        write!(f, "{ports}/{}", self.proto)
    }
}

impl From<&Publication> for Hold {
    fn from(publication: &Publication) -> Self {
        Self {
            address: publication.host_ip,
            ports: publication.host_ports(),
            both: false,
            proto: publication.proto,
            direct: publication.direct,
        }
    }
}

/// The bridge of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredBridge {
    pub ifname: String,
    pub alias: String,
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// The gateways, with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
}

/// The pair of interfaces of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredPair {
    /// Of one that is to be made: one that is there stays what it is.
    pub kind: PairKind,
    pub host_ifname: String,
    pub alias: String,
    pub host_mac: [u8; 6],
    /// Bytes, of both ends.
    pub mtu: u32,
    /// Path of the sandbox; none where the sandbox's end is left in the host's
    /// namespace, for an engine to take.
    pub netns: Option<PathBuf>,
    /// Name of the sandbox's end.
    pub ifname: String,
    pub mac: [u8; 6],
    pub addresses: Vec<Address>,
    /// Whether the host end carries IPv6.
    pub ipv6: bool,
    /// Metric of the default route through the gateways, or none for no route.
    pub metric: Option<u32>,
    /// Of both ends.
    pub packet_limit: PacketLimit,
}

/// What the tables shall say of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DesiredEndpoint {
    pub host_ifname: String,
    pub endpoint: Endpoint,
    pub network: u32,
    /// [`netdp_common::maps::endpoint_flags`].
    pub flags: u16,
    /// Addresses of the host to leave under, whatever the uplink's.
    pub sources: Vec<IpAddr>,
    pub timeouts: Timeouts,
}

/// What shall be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired {
    /// How the aliases of links of this state begin: `netdp:INSTANCE:`.
    pub alias: String,
    /// By name.
    pub bridges: BTreeMap<String, DesiredBridge>,
    /// By name of the host end.
    pub pairs: BTreeMap<String, DesiredPair>,
    pub routes: BTreeSet<Route>,
    pub neighbours: BTreeSet<Neighbour>,
    pub holds: BTreeSet<Hold>,
    /// In the order of preference.
    pub uplinks: Vec<Uplink>,
    /// Addresses of the host, without those of bridges of ours.
    pub addresses: Vec<HostAddress>,
    pub(super) endpoints: Vec<DesiredEndpoint>,
    /// What links open where the network has no icc.
    pub(super) openings: BTreeSet<Opening>,
    /// Uplinks whose packets shall be those of BIG TCP, by name.
    pub big_uplinks: BTreeSet<String>,
    /// Sources of which nothing gets in.
    pub blocked: BTreeSet<IpNet>,
    /// What a source may begin with published ports.
    pub limit: Option<Limit>,
    /// Uplinks whose drivers drop packets, by ifindex, with their names.
    pub xdp: BTreeMap<u32, String>,
    /// Where they can't, nothing is to be dropped.
    pub xdp_is_asked: bool,
    no_ipv6: bool,
    has_netkit: bool,
}

impl Desired {
    /// What `state` asks for on a host with these `facts`.
    pub fn of(state: &State, facts: &Facts) -> Self {
        let alias = format!("{ALIAS}{}:", state.instance);
        let bridges: BTreeMap<_, _> = state
            .networks
            .values()
            .filter_map(|network| bridge(network, &alias, facts))
            .map(|bridge| (bridge.ifname.clone(), bridge))
            .collect();
        let gateways: BTreeSet<IpAddr> = bridges
            .values()
            .flat_map(|bridge| bridge.addresses.iter().map(IpNet::addr))
            .collect();
        let mut desired = Self {
            alias,
            bridges,
            pairs: BTreeMap::new(),
            routes: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            holds: BTreeSet::new(),
            uplinks: facts.uplinks.clone(),
            addresses: facts
                .addresses
                .iter()
                .filter(|fact| is_hosts_own(fact.address) && !gateways.contains(&fact.address))
                .copied()
                .collect(),
            endpoints: Vec::new(),
            openings: state.openings(),
            big_uplinks: big_uplinks(state, &facts.uplinks),
            blocked: state.blocked.keys().copied().collect(),
            limit: state.limit.map(Limit::from),
            xdp: driver::uplinks(state, facts),
            xdp_is_asked: facts.xdp == Xdp::Native,
            no_ipv6: facts.no_ipv6,
            has_netkit: facts.has_netkit,
        };
        let linked: BTreeSet<IpAddr> = desired
            .openings
            .iter()
            .flat_map(|opening| [opening.client, opening.server])
            .collect();
        for endpoint in state.endpoints.values() {
            desired.add(state, endpoint, &linked);
        }
        desired.join_holds();
        desired
    }

    /// Nothing but what the host has by itself.
    pub(super) fn empty(facts: &Facts) -> Self {
        Self {
            alias: String::new(),
            bridges: BTreeMap::new(),
            pairs: BTreeMap::new(),
            routes: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            holds: BTreeSet::new(),
            uplinks: facts.uplinks.clone(),
            addresses: facts
                .addresses
                .iter()
                .filter(|fact| is_hosts_own(fact.address))
                .copied()
                .collect(),
            endpoints: Vec::new(),
            openings: BTreeSet::new(),
            big_uplinks: BTreeSet::new(),
            blocked: BTreeSet::new(),
            limit: None,
            xdp: BTreeMap::new(),
            xdp_is_asked: false,
            no_ipv6: facts.no_ipv6,
            has_netkit: facts.has_netkit,
        }
    }

    /// A range of many ports takes one socket each, not one a family.
    fn join_holds(&mut self) {
        let v4 = self.holds.iter().filter(|hold| {
            hold.ports.count() > 1 && hold.address == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        });
        for v4 in v4.copied().collect::<Vec<_>>() {
            let v6 = Hold {
                address: Ipv6Addr::UNSPECIFIED.into(),
                ..v4
            };
            if self.holds.remove(&v6) {
                self.holds.remove(&v4);
                self.holds.extend(v4.of_both());
            }
        }
    }

    /// `linked` are the addresses of those that a link names.
    fn add(&mut self, state: &State, endpoint: &Endpoint, linked: &BTreeSet<IpAddr>) {
        let (Some(network), Some(sandbox)) = (
            state.networks.get(&endpoint.network),
            state.sandboxes.get(&endpoint.sandbox),
        ) else {
            return;
        };
        let ifname = &endpoint.host_ifname;
        let (netns, inside) = match endpoint.handover {
            None => (Some(sandbox.netns.clone()), endpoint.ifname.clone()),
            Some(_) => (None, endpoint.offered_ifname()),
        };
        let mut carried = endpoint.clone();
        if self.no_ipv6 {
            let addresses = &mut carried.addresses;
            addresses.retain(|address| address.net.addr().is_ipv4());
            carried.published.retain(|port| port.host_ip.is_ipv4());
        }
        for address in &carried.addresses {
            self.routes.insert(Route {
                to: address.net.addr(),
                ifname: ifname.clone(),
                src: Some(address.gateway),
            });
            self.neighbours.insert(Neighbour {
                address: address.net.addr(),
                ifname: ifname.clone(),
                mac: endpoint.mac.bytes(),
            });
        }
        let of_host = carried.published.iter();
        let of_host = of_host.filter(|publication| !carried.is_at_itself(publication));
        if !sandbox.holds_ports() {
            self.holds.extend(of_host.map(Hold::from));
        }
        self.pairs.insert(
            ifname.clone(),
            DesiredPair {
                kind: pair_kind(network, self.has_netkit),
                host_ifname: ifname.clone(),
                alias: format!("{}{}", self.alias, endpoint.id),
                host_mac: endpoint.host_mac.bytes(),
                mtu: network.mtu,
                netns,
                ifname: inside,
                mac: endpoint.mac.bytes(),
                addresses: endpoint.addresses.clone(),
                ipv6: carried.v6().is_some(),
                metric: endpoint.metric,
                packet_limit: packet_limit(network, &self.uplinks),
            },
        );
        self.endpoints.push(DesiredEndpoint {
            host_ifname: ifname.clone(),
            network: network.number,
            flags: flags(network, &carried, linked),
            sources: network.sources.clone(),
            timeouts: network.timeouts,
            endpoint: carried,
        });
    }
}

/// Whether packets for this address mean the host wherever they come from:
/// IPv6 link-local ones mean something on one link only.
fn is_hosts_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// A network that was made for netkit has veth pairs where the kernel is one
/// without: its containers are reached all the same.
fn pair_kind(network: &Network, has_netkit: bool) -> PairKind {
    match network.device {
        Device::Auto | Device::Netkit if has_netkit => PairKind::Netkit,
        Device::Veth | Device::Auto | Device::Netkit => PairKind::Veth,
    }
}

/// A container's larger packets would be cut by software at an uplink that
/// doesn't take them: slower than smaller ones.
fn packet_limit(network: &Network, uplinks: &[Uplink]) -> PacketLimit {
    if network.big_tcp && (network.internal || uplinks.iter().all(Uplink::may_be_big)) {
        PacketLimit::Big
    } else {
        PacketLimit::Legacy
    }
}

/// Those that are to be changed: what somebody has set stays.
fn big_uplinks(state: &State, uplinks: &[Uplink]) -> BTreeSet<String> {
    let mut networks = state
        .endpoints
        .values()
        .filter_map(|it| state.networks.get(&it.network));
    let wanted = networks.any(|network| network.big_tcp && !network.internal);
    if !wanted || !uplinks.iter().all(Uplink::may_be_big) {
        return BTreeSet::new();
    }
    let own = uplinks
        .iter()
        .filter(|uplink| uplink.packet_limit != PacketLimit::OtherBig);
    own.map(|uplink| uplink.ifname.clone()).collect()
}

fn bridge(network: &Network, alias: &str, facts: &Facts) -> Option<DesiredBridge> {
    let bridge = network.bridge.as_ref()?;
    let pools = network.pools.iter();
    let pools = pools.filter(|pool| pool.gateway.is_ipv4() || !facts.no_ipv6);
    let addresses = pools.filter_map(|pool| {
        // The prefix length is that of a subnet of the same family.
        IpNet::new(pool.gateway, pool.subnet.prefix_len()).ok()
    });
    Some(DesiredBridge {
        ifname: bridge.ifname.clone(),
        alias: format!("{alias}{}", network.id),
        mac: bridge.mac.bytes(),
        mtu: network.mtu,
        addresses: addresses.collect(),
    })
}

fn flags(network: &Network, endpoint: &Endpoint, linked: &BTreeSet<IpAddr>) -> u16 {
    use netdp_common::maps::endpoint_flags::{
        DIRECT, ICC, INTERNAL, LINKED, MAPPED, MASQUERADE, OPEN, PUBLISHED, ROUTED4, ROUTED6,
    };
    let mut flags = 0;
    if !network.internal {
        for (routed, flag) in [(network.routed4, ROUTED4), (network.routed6, ROUTED6)] {
            if routed || !network.masquerade {
                flags |= flag;
            }
        }
    }
    if network.masquerade && !network.internal {
        flags |= MASQUERADE;
        flags |= match network.nat {
            Nat::AddressAndPortDependent => 0,
            Nat::EndpointIndependentMapping => MAPPED,
            Nat::EndpointIndependent => MAPPED | OPEN,
        };
    }
    if network.internal {
        flags |= INTERNAL;
    }
    if network.icc {
        flags |= ICC;
    }
    if endpoint.has_published || !endpoint.published.is_empty() {
        flags |= PUBLISHED;
    }
    if endpoint.published.iter().any(|port| port.direct) {
        flags |= DIRECT;
    }
    let mut addresses = endpoint.addresses.iter().map(|address| address.net.addr());
    if addresses.any(|address| linked.contains(&address)) {
        flags |= LINKED;
    }
    flags
}
