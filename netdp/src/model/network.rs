//! Networks: what they are, how they are made and removed.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Device, HostView, MacAddr, Name, Nat, NetworkId, Refusal, Sockmap, State, Timeouts,
    endpoint::is_host_ifname,
    ipam::Pool,
    options::{BRIDGE_NAME, DEFAULT_MTU, LEAST_MTU_V6, Options, is_ifname},
    state::next_number,
    subnets::Family,
};

/// Name of the network that the daemon makes when it starts.
pub const FIRST_NETWORK: &str = "netdp0";

/// How a network carries packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge with veth pairs on this host.
    #[default]
    Bridge,
    /// The host's own network.
    Host,
    /// No network but loopback.
    Null,
    Overlay,
    Macvlan,
    Ipvlan,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Overlay => "overlay",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        })
    }
}

impl FromStr for Driver {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        Ok(match text {
            "bridge" => Self::Bridge,
            "host" => Self::Host,
            "null" => Self::Null,
            "overlay" => Self::Overlay,
            "macvlan" => Self::Macvlan,
            "ipvlan" => Self::Ipvlan,
            _ => {
                return Err(Refusal::invalid(format!(
                    "there is no network driver '{text}': \
                     take bridge, host, null, overlay, macvlan or ipvlan"
                )));
            }
        })
    }
}

/// The bridge device of a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bridge {
    pub ifname: String,
    pub mac: MacAddr,
}

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: Name,
    pub driver: Driver,
    /// What the datapath calls it: unique, never 0.
    pub number: u32,
    /// Subnets with their gateways, one a family.
    pub pools: Vec<Pool>,
    /// Nothing outside the network can be reached.
    pub internal: bool,
    /// Endpoints may reach each other.
    pub icc: bool,
    /// What goes outside gets the uplink's address.
    pub masquerade: bool,
    #[serde(default)]
    pub nat: Nat,
    /// Its containers send packets of BIG TCP where the uplinks take them.
    #[serde(default)]
    pub big_tcp: bool,
    #[serde(default)]
    pub sockmap: Sockmap,
    /// Ports published here are direct, where they can be.
    #[serde(default)]
    pub publish_direct: bool,
    #[serde(default)]
    pub device: Device,
    /// Where flows of its endpoints have other times than those of the host.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The outside knows containers by their own IPv4 addresses, and reaches
    /// published ports there.
    #[serde(default)]
    pub routed4: bool,
    /// The same over IPv6.
    #[serde(default)]
    pub routed6: bool,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Host address of ports that are published without one.
    pub host_binding: Option<IpAddr>,
    /// Addresses of the host that masqueraded packets get, one a family at
    /// most; without one, the uplink's.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
    /// Options as they were given.
    pub options: BTreeMap<String, String>,
    /// Those that it has beside them, because networks had them when it was made.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
    /// None for `host` and `none`.
    pub bridge: Option<Bridge>,
    /// The engine that made it, and gives addresses on it; none: a user.
    #[serde(default)]
    pub engine: Option<String>,
    /// It was made for an attachment, and goes with its last endpoint.
    #[serde(default)]
    pub on_demand: bool,
    /// Seconds since the Unix epoch.
    pub created: u64,
}

/// What is asked of [`State::create_network`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    pub name: Name,
    #[serde(default)]
    pub driver: Driver,
    /// One a family at most; without one of IPv4, a free one is chosen.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// One a family at most; none: the first address of the subnet.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// One a family at most; none: the whole subnet.
    #[serde(default)]
    pub ip_ranges: Vec<IpNet>,
    /// None: yes.
    #[serde(default)]
    pub ipv4: Option<bool>,
    /// A free IPv6 subnet is chosen where none is given. A subnet of IPv6
    /// asks for IPv6 by itself.
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default)]
    pub internal: bool,
    /// None: yes.
    #[serde(default)]
    pub icc: Option<bool>,
    /// Bytes; none: 1500.
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl NetworkRequest {
    /// Whether it says itself that ports published there shall be direct.
    pub fn asks_for_direct(&self) -> bool {
        let publish = self.options.get("publish");
        publish.is_some_and(|it| it == "direct")
    }

    /// A bridge network of this name, all else as it comes.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            driver: Driver::Bridge,
            subnets: Vec::new(),
            gateways: Vec::new(),
            ip_ranges: Vec::new(),
            ipv4: None,
            ipv6: false,
            internal: false,
            icc: None,
            mtu: None,
            options: BTreeMap::new(),
        }
    }

    /// Whether its options make sense by themselves.
    ///
    /// # Errors
    /// One is unknown, or has a value that it can't have.
    pub fn check_options(&self) -> Result<(), Refusal> {
        Options::of(self, &BTreeMap::new()).map(drop)
    }

    /// Whether the network shall have IPv4.
    pub fn wants_ipv4(&self) -> bool {
        self.ipv4.unwrap_or(true)
    }

    /// Whether the network shall have IPv6.
    pub fn wants_ipv6(&self) -> bool {
        self.ipv6 || self.subnets.iter().any(|subnet| subnet.addr().is_ipv6())
    }
}

impl Network {
    /// Whether the outside reaches published ports of this family at the
    /// containers' own addresses.
    pub(super) fn is_routed(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.routed4,
            Family::V6 => self.routed6,
        }
    }

    pub(super) fn host(now: u64) -> Self {
        Self::predefined("host", Driver::Host, 1, now)
    }

    pub(super) fn none(now: u64) -> Self {
        Self::predefined("none", Driver::Null, 2, now)
    }

    fn predefined(name: &str, driver: Driver, number: u32, now: u64) -> Self {
        Self {
            id: NetworkId::random(),
            name: Name::predefined(name),
            driver,
            number,
            pools: Vec::new(),
            internal: false,
            icc: true,
            masquerade: false,
            nat: Nat::default(),
            big_tcp: false,
            sockmap: Sockmap::default(),
            publish_direct: false,
            device: Device::default(),
            timeouts: Timeouts::default(),
            routed4: false,
            routed6: false,
            mtu: DEFAULT_MTU,
            host_binding: None,
            sources: Vec::new(),
            options: BTreeMap::new(),
            defaults: BTreeMap::new(),
            bridge: None,
            engine: None,
            on_demand: false,
            created: now,
        }
    }
}

impl State {
    /// Makes a network.
    ///
    /// # Errors
    /// The name is taken, the driver is not for making networks, a subnet
    /// overlaps another network or a route of the host, none is free, or an
    /// option makes no sense. Nothing is changed then.
    pub fn create_network(
        &mut self,
        request: &NetworkRequest,
        host: &HostView<'_>,
    ) -> Result<Network, Refusal> {
        self.new_network(NetworkId::random(), None, request, host)
    }

    /// The same with an id that was given elsewhere, for an engine.
    pub(super) fn new_network(
        &mut self,
        id: NetworkId,
        engine: Option<&str>,
        request: &NetworkRequest,
        host: &HostView<'_>,
    ) -> Result<Network, Refusal> {
        check_driver(request.driver)?;
        if self.networks.values().any(|n| n.name == request.name) {
            return Err(Refusal::conflict(format!(
                "network {} exists already: choose another name",
                request.name
            )));
        }
        let mut defaults = host.network_options.clone();
        defaults.retain(|key, _| !request.options.contains_key(key));
        let mut options = Options::of(request, &defaults)?;
        if options.device == Device::Netkit && !host.has_netkit {
            return Err(Refusal::unavailable(
                "this kernel has no netkit devices (Linux 6.7, CONFIG_NETKIT): take device=auto, \
                 which makes veth pairs where there are none",
            ));
        }
        let ipv6 = request.wants_ipv6();
        if ipv6 && options.mtu < LEAST_MTU_V6 {
            return Err(Refusal::invalid(format!(
                "IPv6 needs an MTU of {LEAST_MTU_V6} at least (RFC 8200), not {}: \
                 give that, or leave IPv6 out",
                options.mtu
            )));
        }
        let pools = self.pools(request, host)?;
        let numbers: Vec<u32> = self.networks.values().map(|n| n.number).collect();
        let number = next_number(self.counters.network, u32::MAX, |n| numbers.contains(&n))
            .ok_or_else(|| Refusal::in_use("there are as many networks as can be: remove one"))?;
        // What an engine calls its network is not known: its name is an id's
        // beginning, and says nothing as that of an interface.
        let name = engine.is_none().then_some(&request.name);
        let bridge = Bridge {
            ifname: self.bridge_name(name, id, options.bridge.take(), host)?,
            mac: MacAddr::random(),
        };
        let network = Network {
            id,
            name: request.name.clone(),
            driver: request.driver,
            number,
            pools,
            internal: request.internal,
            icc: options.icc,
            masquerade: options.masquerade,
            nat: options.nat,
            big_tcp: options.big_tcp,
            sockmap: options.sockmap,
            publish_direct: options.publish_direct,
            device: options.device,
            timeouts: options.timeouts,
            routed4: options.routed.contains(&Family::V4),
            routed6: options.routed.contains(&Family::V6),
            mtu: options.mtu,
            host_binding: options.host_binding,
            sources: options.sources,
            options: request.options.clone(),
            defaults,
            bridge: Some(bridge),
            engine: engine.map(str::to_owned),
            on_demand: false,
            created: host.now,
        };
        self.counters.network = number;
        self.networks.insert(id, network.clone());
        Ok(network)
    }

    /// Makes [`FIRST_NETWORK`] unless it is there.
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network).
    pub fn ensure_first_network(
        &mut self,
        host: &HostView<'_>,
    ) -> Result<Option<Network>, Refusal> {
        let name = Name::predefined(FIRST_NETWORK);
        if self.networks.values().any(|network| network.name == name) {
            return Ok(None);
        }
        self.create_network(&NetworkRequest::new(name), host)
            .map(Some)
    }

    /// Removes a network.
    ///
    /// # Errors
    /// It doesn't exist, is one of those that are always there, or has
    /// endpoints.
    pub fn remove_network(&mut self, reference: &str) -> Result<Network, Refusal> {
        let network = self.network(reference)?.clone();
        if network.driver != Driver::Bridge || network.name.as_str() == FIRST_NETWORK {
            return Err(Refusal::conflict(format!(
                "network {} is always there and can't be removed",
                network.name
            )));
        }
        let mut owners: Vec<String> = self
            .endpoints_in(network.id)
            .map(|endpoint| self.owner_name(endpoint))
            .collect();
        if !owners.is_empty() {
            owners.sort();
            return Err(Refusal::in_use(format!(
                "network {} has endpoints of {}: remove or disconnect them first",
                network.name,
                owners.join(", ")
            )));
        }
        self.networks.remove(&network.id);
        Ok(network)
    }

    /// The network's own name where an interface can have it and none has or
    /// may get it.
    fn bridge_name(
        &self,
        name: Option<&Name>,
        id: NetworkId,
        asked: Option<String>,
        host: &HostView<'_>,
    ) -> Result<String, Refusal> {
        let used = |ifname: &str| {
            let mut bridges = self.networks.values().filter_map(|n| n.bridge.as_ref());
            host.interfaces.contains(ifname) || bridges.any(|bridge| bridge.ifname == ifname)
        };
        match asked {
            Some(ifname) if is_host_ifname(&ifname) => Err(Refusal::invalid(format!(
                "{ifname} is a name that netdp gives to interfaces of endpoints: \
                 give another {BRIDGE_NAME}"
            ))),
            Some(ifname) if used(&ifname) => Err(Refusal::conflict(format!(
                "interface {ifname} exists already: give another {BRIDGE_NAME}"
            ))),
            Some(ifname) => Ok(ifname),
            None => {
                let free = |name: &&str| is_ifname(name) && !is_host_ifname(name) && !used(name);
                let name = name.map(Name::as_str).filter(free);
                Ok(name.map_or_else(|| format!("nb{}", &id.short()[..10]), str::to_owned))
            }
        }
    }
}

fn check_driver(driver: Driver) -> Result<(), Refusal> {
    match driver {
        Driver::Bridge => Ok(()),
        Driver::Host | Driver::Null => Err(Refusal::conflict(format!(
            "only one instance of \"{driver}\" network is allowed: use the one that is there, {}",
            if driver == Driver::Host {
                "host"
            } else {
                "none"
            }
        ))),
        Driver::Overlay | Driver::Macvlan | Driver::Ipvlan => Err(Refusal::unavailable(format!(
            "network driver {driver} is not available yet: take bridge"
        ))),
    }
}
