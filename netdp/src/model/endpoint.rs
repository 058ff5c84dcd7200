//! Endpoints: attachments of sandboxes to networks.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use ipnet::IpNet;
use netdp_common::maps::MAX_ENDPOINTS;
use serde::{Deserialize, Serialize};

use super::{
    BadName, Driver, EndpointId, Handover, MacAddr, Mode, Name, Network, NetworkId, PortRange,
    Proto, Refusal, SandboxId, State, ipam::NoAddress, state::next_number, subnets::Family,
};

/// How names of host ends begin; digits of the endpoint's id follow.
const HOST_IFNAME: &str = "vn";
const HOST_IFNAME_DIGITS: usize = 10;

/// How names of ends begin that are left for an engine to take.
const OFFERED_IFNAME: &str = "vc";

/// Whether a host end may have this name.
pub(super) fn is_host_ifname(text: &str) -> bool {
    text.strip_prefix(HOST_IFNAME).is_some_and(|digits| {
        digits.len() == HOST_IFNAME_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// An address of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    /// The address with the prefix length of its subnet.
    pub net: IpNet,
    pub gateway: IpAddr,
}

/// A published port, or several that follow each other. The unspecified host
/// address stands for every address of the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Publication {
    pub host_ip: IpAddr,
    /// The first.
    pub host_port: u16,
    /// The one that the first leads to.
    pub container_port: u16,
    pub proto: Proto,
    /// How many there are.
    #[serde(default = "one")]
    pub count: NonZeroU16,
    /// Sources that may use it; empty: all.
    #[serde(default)]
    pub allow: Vec<IpNet>,
}

fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

impl Publication {
    pub fn host_ports(&self) -> PortRange {
        PortRange::following(self.host_port, self.count)
    }

    pub fn container_ports(&self) -> PortRange {
        PortRange::following(self.container_port, self.count)
    }

    pub fn is_range(&self) -> bool {
        self.count.get() > 1
    }

    /// `0.0.0.0:8080`, `[::]:20000-29999`
    pub fn host_side(&self) -> String {
        host_side(self.host_ip, self.host_ports())
    }
}

/// Ports of an address as they are written.
pub fn host_side(address: IpAddr, ports: PortRange) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{ports}"),
        IpAddr::V6(address) => format!("[{address}]:{ports}"),
    }
}

impl fmt::Display for Publication {
    /// `0.0.0.0:8080->80/tcp`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, container) = (self.host_side(), self.container_ports());
        write!(f, "{host}->{container}/{}", self.proto)
    }
}

/// Sources in order, each once, without those that others hold.
pub(super) fn normal(allow: &[IpNet]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = allow.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    let all = nets.clone();
    nets.retain(|net| !all.iter().any(|wider| wider != net && wider.contains(net)));
    nets
}

/// Another sandbox that is known by a name of one's own: `NAME[:ALIAS]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Link {
    /// Name of the other sandbox; in a request its id does as well.
    pub sandbox: String,
    pub alias: Name,
}

impl FromStr for Link {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (sandbox, alias) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            sandbox: Name::from_str(sandbox)?.into(),
            alias: alias.parse()?,
        })
    }
}

impl TryFrom<String> for Link {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.to_string()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sandbox, self.alias)
    }
}

/// A sandbox's attachment to a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub network: NetworkId,
    pub sandbox: SandboxId,
    /// Number of its interface in the sandbox.
    pub index: u32,
    /// Name of its interface in the sandbox.
    pub ifname: String,
    /// MAC address of that interface.
    pub mac: MacAddr,
    /// Name of the host end of its veth pair.
    pub host_ifname: String,
    /// MAC address of the host end.
    pub host_mac: MacAddr,
    /// One a family at most.
    pub addresses: Vec<Address>,
    /// Metric of the sandbox's default route through this endpoint; none on an
    /// internal network. The endpoint that came first has the lowest, and when
    /// it goes, the kernel takes the next one's route by itself.
    pub metric: Option<u32>,
    pub published: Vec<Publication>,
    /// It has published ports, or had some: their flows may still be there.
    #[serde(default)]
    pub has_published: bool,
    /// Index of its counters in the datapath.
    pub slot: u32,
    /// Further names that it has on the network.
    #[serde(default)]
    pub aliases: Vec<Name>,
    pub links: Vec<Link>,
    pub allow: Vec<IpNet>,
    /// How far an engine is with the container's end, where it puts that into
    /// the sandbox; none: netdp does.
    #[serde(default)]
    pub handover: Option<Handover>,
}

impl Endpoint {
    /// Name of the container's end while it lies in the host's namespace for
    /// an engine to take.
    pub fn offered_ifname(&self) -> String {
        format!("{OFFERED_IFNAME}{}", &self.id.short()[..HOST_IFNAME_DIGITS])
    }

    pub(super) fn publish(&mut self, publication: Publication) {
        self.has_published = true;
        self.published.push(publication);
    }

    /// Whether a port is published at the endpoint's own address, as on a
    /// routed network: nothing of the host's is taken for it.
    pub fn is_at_itself(&self, publication: &Publication) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.any(|address| address.net.addr() == publication.host_ip)
    }

    /// Whether it has an address of a family.
    pub(super) fn has(&self, family: Family) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.any(|address| family.has(address.net.addr()))
    }

    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().map(|address| address.net.addr());
        addresses.find(|address| family.has(*address))
    }

    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|a| match a.net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|a| match a.net.addr() {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }

    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|a| match a.gateway {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }

    pub fn gateway4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|a| match a.gateway {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }
}

/// What is asked of [`State::connect`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointRequest {
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<MacAddr>,
    /// Further names on the network, which others may have too.
    pub aliases: Vec<Name>,
    pub links: Vec<Link>,
    pub allow: Vec<IpNet>,
}

/// An address is asked for only where the network has its family.
fn check_families(network: &Network, request: &EndpointRequest) -> Result<(), Refusal> {
    let asked = [
        (request.ip.map(IpAddr::V4), "--ip", "without --ipv4=false"),
        (request.ip6.map(IpAddr::V6), "--ip6", "with --ipv6"),
    ];
    for (address, option, how) in asked {
        let Some(address) = address else { continue };
        let family = Family::of(address);
        let mut pools = network.pools.iter();
        if !pools.any(|pool| family.has(pool.subnet.addr())) {
            return Err(Refusal::invalid(format!(
                "{address} can't be given: network {} has no {family}; leave {option} out, \
                 or take a network that was made {how}",
                network.name
            )));
        }
    }
    Ok(())
}

/// The lowest number that no interface of these has.
pub(super) fn free_index(siblings: &[&Endpoint]) -> u32 {
    (0..)
        .find(|index| siblings.iter().all(|sibling| sibling.index != *index))
        .unwrap_or_default()
}

impl From<NoAddress> for Refusal {
    fn from(reason: NoAddress) -> Self {
        match reason {
            NoAddress::Exhausted(_) | NoAddress::Taken(_) => Self::in_use(reason),
            NoAddress::Outside { .. } | NoAddress::Reserved { .. } => Self::invalid(reason),
        }
    }
}

impl State {
    /// Gives a sandbox an endpoint in one more network.
    ///
    /// # Errors
    /// One of them doesn't exist, the sandbox is in that network already or has
    /// no network of its own, or an address can't be had. Nothing is changed
    /// then.
    pub fn connect(
        &mut self,
        network: &str,
        sandbox: &str,
        request: &EndpointRequest,
    ) -> Result<Endpoint, Refusal> {
        let (network, sandbox) = (self.network(network)?.id, self.sandbox(sandbox)?.id);
        self.whole(|state| state.add_endpoint(network, sandbox, request))
    }

    /// Takes a sandbox out of a network. Its published ports move to the
    /// endpoint that has the default route of their family then; without one
    /// they go.
    ///
    /// # Errors
    /// One of them doesn't exist, or the sandbox isn't in that network.
    pub fn disconnect(&mut self, network: &str, sandbox: &str) -> Result<(), Refusal> {
        let network = self.network(network)?;
        let sandbox = self.sandbox(sandbox)?;
        let id = sandbox.id;
        if network.driver == Driver::Null && sandbox.mode == Mode::None {
            if let Some(sandbox) = self.sandboxes.get_mut(&id) {
                sandbox.mode = Mode::Networks;
            }
            return Ok(());
        }
        let endpoints = self.endpoints_of(id);
        let Some(endpoint) = endpoints.iter().find(|e| e.network == network.id) else {
            return Err(Refusal::conflict(format!(
                "{} is not in network {}: see `netdp inspect {}`",
                sandbox.name, network.name, sandbox.name
            )));
        };
        if endpoint.handover.is_some() {
            return Err(Refusal::conflict(format!(
                "{} was put into network {} by {engine}: let {engine} take it out",
                sandbox.name,
                network.name,
                engine = sandbox.owner.as_deref().unwrap_or("its engine")
            )));
        }
        let gone = endpoint.id;
        if let Some(gone) = self.endpoints.remove(&gone) {
            for publication in &gone.published {
                self.inherit(&gone, publication);
            }
        }
        Ok(())
    }

    /// Moves a published port of an endpoint that is gone to the next one that
    /// leads outside. A port of a container's own address stays one: no port
    /// of the host was asked for.
    fn inherit(&mut self, gone: &Endpoint, publication: &Publication) {
        let family = Family::of(publication.host_ip);
        let Some(heir) = self.outward(gone.sandbox, family) else {
            return;
        };
        let routed = self.is_routed(heir, family);
        let (id, address) = (heir.id, heir.address(family));
        let moved = match (routed, address) {
            (true, Some(address)) => Publication {
                host_ip: address,
                host_port: publication.container_port,
                ..publication.clone()
            },
            _ if gone.is_at_itself(publication) => return,
            _ => publication.clone(),
        };
        if let Some(heir) = self.endpoints.get_mut(&id)
            && !heir.published.contains(&moved)
        {
            heir.publish(moved);
        }
    }

    /// Whether an endpoint's published ports of a family are reached at its own
    /// address.
    pub(super) fn is_routed(&self, endpoint: &Endpoint, family: Family) -> bool {
        let network = self.networks.get(&endpoint.network);
        network.is_some_and(|network| network.is_routed(family))
    }

    /// The endpoint through which a sandbox reaches the outside over an address
    /// family, and at which its ports are published to it.
    pub(super) fn outward(&self, sandbox: SandboxId, family: Family) -> Option<&Endpoint> {
        self.endpoints
            .values()
            .filter(|e| e.sandbox == sandbox && e.metric.is_some() && e.has(family))
            .min_by_key(|endpoint| endpoint.metric)
    }

    pub(super) fn add_endpoint(
        &mut self,
        network: NetworkId,
        sandbox: SandboxId,
        request: &EndpointRequest,
    ) -> Result<Endpoint, Refusal> {
        self.new_endpoint(EndpointId::random(), network, sandbox, request)
    }

    /// The same with an id that was given elsewhere.
    pub(super) fn new_endpoint(
        &mut self,
        id: EndpointId,
        network: NetworkId,
        sandbox: SandboxId,
        request: &EndpointRequest,
    ) -> Result<Endpoint, Refusal> {
        self.check_connection(network, sandbox, request)?;
        let addresses = self.give_addresses(network, request)?;
        let links = self.links_by_name(request)?;
        let network = &self.networks[&network];
        let slots: BTreeSet<u32> = self.endpoints.values().map(|e| e.slot).collect();
        let slot = next_number(self.counters.slot, MAX_ENDPOINTS - 1, |n| {
            slots.contains(&n)
        })
        .ok_or_else(|| {
            Refusal::in_use(format!(
                "this host has {} endpoints already, as many as it can: remove one",
                slots.len()
            ))
        })?;
        let siblings = self.endpoints_of(sandbox);
        let index = free_index(&siblings);
        let highest = siblings.iter().filter_map(|sibling| sibling.metric).max();
        let endpoint = Endpoint {
            id,
            network: network.id,
            sandbox,
            index,
            ifname: format!("eth{index}"),
            mac: request.mac.unwrap_or_else(MacAddr::random),
            host_ifname: format!("{HOST_IFNAME}{}", &id.short()[..HOST_IFNAME_DIGITS]),
            host_mac: MacAddr::random(),
            addresses,
            metric: (!network.internal).then(|| highest.map_or(0, |highest| highest + 1)),
            published: Vec::new(),
            has_published: false,
            slot,
            aliases: request.aliases.clone(),
            links,
            allow: normal(&request.allow),
            handover: None,
        };
        self.counters.slot = slot;
        self.endpoints.insert(id, endpoint.clone());
        Ok(endpoint)
    }

    fn check_connection(
        &self,
        network: NetworkId,
        sandbox: SandboxId,
        request: &EndpointRequest,
    ) -> Result<(), Refusal> {
        let (network, sandbox) = (&self.networks[&network], &self.sandboxes[&sandbox]);
        if network.driver != Driver::Bridge {
            return Err(Refusal::invalid(format!(
                "a sandbox can't be connected to network {}: only a new one can get it, \
                 with `netdp run --network {}`",
                network.name, network.name
            )));
        }
        let instead = match sandbox.mode {
            Mode::Networks => None,
            Mode::Host => Some("is on the host's network: start it on a bridge network".into()),
            Mode::None => Some(format!(
                "has network none: take it out first with `netdp disconnect none {}`",
                sandbox.name
            )),
            Mode::Container(other) => Some(match self.sandboxes.get(&other) {
                Some(other) => format!("has the network of {}: connect that one", other.name),
                None => "has the network of another sandbox: connect that one".into(),
            }),
        };
        if let Some(instead) = instead {
            return Err(Refusal::conflict(format!("{} {instead}", sandbox.name)));
        }
        if self
            .endpoints_in(network.id)
            .any(|e| e.sandbox == sandbox.id)
        {
            return Err(Refusal::conflict(format!(
                "{} is in network {} already",
                sandbox.name, network.name
            )));
        }
        check_families(network, request)?;
        if let Some(mac) = request.mac
            && let Some(other) = self.endpoints_in(network.id).find(|e| e.mac == mac)
        {
            return Err(Refusal::in_use(format!(
                "MAC address {mac} is in use by {}: give another one",
                self.owner_name(other)
            )));
        }
        self.check_links(network, request)
    }

    fn check_links(&self, network: &Network, request: &EndpointRequest) -> Result<(), Refusal> {
        for link in &request.links {
            let other = self.sandbox(&link.sandbox)?;
            if !self.endpoints_in(network.id).any(|e| e.sandbox == other.id) {
                return Err(Refusal::invalid(format!(
                    "{} can't be linked: it is not in network {}; \
                     use `netdp connect {} {}` first",
                    other.name, network.name, network.name, other.name
                )));
            }
        }
        Ok(())
    }

    /// By name, which a sandbox that is started anew has again.
    fn links_by_name(&self, request: &EndpointRequest) -> Result<Vec<Link>, Refusal> {
        let links = request.links.iter().map(|link| {
            Ok(Link {
                sandbox: self.sandbox(&link.sandbox)?.name.to_string(),
                alias: link.alias.clone(),
            })
        });
        links.collect()
    }

    fn give_addresses(
        &mut self,
        network: NetworkId,
        request: &EndpointRequest,
    ) -> Result<Vec<Address>, Refusal> {
        let taken: BTreeSet<IpAddr> = self
            .endpoints_in(network)
            .flat_map(|e| e.addresses.iter().map(|address| address.net.addr()))
            .collect();
        let Some(network) = self.networks.get_mut(&network) else {
            return Ok(Vec::new());
        };
        let mut addresses = Vec::new();
        for pool in &mut network.pools {
            let asked = match pool.subnet {
                IpNet::V4(_) => request.ip.map(IpAddr::V4),
                IpNet::V6(_) => request.ip6.map(IpAddr::V6),
            };
            let address = match asked {
                Some(address) => {
                    pool.check(address, &taken)?;
                    address
                }
                None => pool.choose(&taken)?,
            };
            addresses.push(Address {
                // The prefix length is that of a subnet of the same family.
                net: IpNet::new(address, pool.subnet.prefix_len()).map_err(Refusal::invalid)?,
                gateway: pool.gateway,
            });
        }
        Ok(addresses)
    }
}
