//! How endpoints come and go: sandboxes are connected to networks, and taken
//! out of them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netdp_common::maps::MAX_ENDPOINTS;
use serde::{Deserialize, Serialize};

use super::{
    Address, Driver, Endpoint, EndpointId, Link, MacAddr, Mode, Name, Network, NetworkId,
    Publication, Refusal, Sandbox, SandboxId, State, endpoint::host_ifname, ipam::NoAddress,
    options::is_ifname, publication::normal, state::next_number, subnets::Family,
};

/// What is asked of [`State::connect`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointRequest {
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<MacAddr>,
    /// Name of the interface in the sandbox; none: the next of `eth0`, `eth1`
    /// and so on.
    pub interface: Option<String>,
    /// Further names on the network, which others may have too.
    pub aliases: Vec<Name>,
    pub links: Vec<Link>,
    pub allow: Vec<IpNet>,
    /// Whether ports that are published here are direct, where they can be; none:
    /// as the network has it.
    pub direct: Option<bool>,
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

/// What the interface with this number is called in a sandbox.
fn ifname(index: u32) -> String {
    format!("eth{index}")
}

/// The lowest number that no interface of these has, by number or by name.
pub(super) fn free_index(siblings: &[&Endpoint]) -> u32 {
    (0..)
        .find(|index| {
            let name = ifname(*index);
            let differs = |it: &&Endpoint| it.index != *index && it.ifname != name;
            siblings.iter().all(differs)
        })
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
            self.end_if_unused(gone.network);
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
                direct: false,
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
        // An engine counts its own interfaces alone, and says which leads out.
        let engines = self.is_handed_over(sandbox);
        let prefix = if engines { "netdp" } else { "eth" };
        let highest = siblings.iter().filter_map(|sibling| sibling.metric).max();
        let endpoint = Endpoint {
            id,
            network: network.id,
            sandbox,
            index,
            ifname: match &request.interface {
                Some(name) => name.clone(),
                None => format!("{prefix}{index}"),
            },
            mac: request.mac.unwrap_or_else(MacAddr::random),
            host_ifname: host_ifname(id),
            host_mac: MacAddr::random(),
            addresses,
            metric: (!network.internal && !engines)
                .then(|| highest.map_or(0, |highest| highest + 1)),
            published: Vec::new(),
            has_published: false,
            slot,
            aliases: request.aliases.clone(),
            links,
            allow: normal(&request.allow),
            direct: request.direct,
            handover: None,
            offered_to: None,
            offered_in: None,
            list: None,
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
        self.check_interface(sandbox, request)?;
        check_families(network, request)?;
        if let Some(mac) = request.mac
            && let Some(other) = self.endpoints_in(network.id).find(|e| e.mac == mac)
        {
            let owner = self.owner_name(other);
            let text = format!("MAC address {mac} is in use by {owner}: give another one");
            return Err(Refusal::in_use(text).because_of(other.id, owner));
        }
        self.check_links(network, request)
    }

    fn check_interface(&self, sandbox: &Sandbox, request: &EndpointRequest) -> Result<(), Refusal> {
        let Some(name) = request.interface.as_deref() else {
            return Ok(());
        };
        if !is_ifname(name) {
            return Err(Refusal::invalid(format!(
                "'{name}' can't be the name of an interface: give up to 15 characters without \
                 '/', ':' and spaces"
            )));
        }
        let siblings = self.endpoints_of(sandbox.id);
        if siblings.iter().any(|sibling| sibling.ifname == name) {
            return Err(Refusal::conflict(format!(
                "{} has an interface {name} already: give another name",
                sandbox.name
            )));
        }
        Ok(())
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
