//! What the programs shall know: Docker's networks and containers in the terms
//! of tables. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use ipnet::IpNet;
use netdp_common::maps::{MAX_ENDPOINTS, endpoint_flags};

use super::{
    inside::{Interface, namespace},
    rules::Judged,
    select::unfit,
    view::{DockerContainer, DockerEndpoint, DockerNetwork, View},
};
use crate::{
    model::{Endpoint, EndpointId, MacAddr, NetworkId, Publication, SandboxId, Selection},
    netlink::Link,
    plan::{ForeignBridge, ForeignEndpoint},
};

/// A network that was asked for, and what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carried {
    pub network: DockerNetwork,
    pub members: Vec<Member>,
    /// Why it is left as it is; none where it is carried.
    pub left: Option<String>,
}

/// A container on one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub container: DockerContainer,
    pub endpoint: DockerEndpoint,
    pub interface: Option<Interface>,
    pub host_ifname: String,
    /// Ports that it publishes by this network.
    pub published: Vec<Publication>,
    /// Place of its counters, where it is carried.
    pub slot: Option<u32>,
    /// Why it is left as it is; none where it is carried.
    pub left: Option<String>,
}

impl Member {
    pub fn netns(&self) -> PathBuf {
        namespace(self.container.pid)
    }
}

/// What shall be there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    pub networks: Vec<Carried>,
    pub bridges: Vec<ForeignBridge>,
    pub endpoints: Vec<ForeignEndpoint>,
}

/// What is known besides Docker's own words.
pub struct Known<'a> {
    pub links: &'a [Link],
    /// Addresses by the index of their interface.
    pub addresses: &'a [(u32, IpNet)],
    /// By the id of the endpoint.
    pub interfaces: &'a BTreeMap<String, Interface>,
    /// What netdp publishes itself.
    pub published: &'a [Publication],
    pub rules: &'a Judged,
}

/// What `view` asks for, as far as it was selected. `slots` keeps the counters
/// of endpoints from one time to the next.
pub fn wanted(
    view: &View,
    selection: &Selection,
    known: &Known<'_>,
    slots: &mut BTreeMap<String, u32>,
) -> Wanted {
    let mut wanted = Wanted::default();
    for network in &view.networks {
        if !selection.has(&network.name) {
            continue;
        }
        let name = network.bridge();
        let bridge = known.links.iter().find(|link| link.name == name);
        let left = unfit(network)
            .or_else(|| known.rules.barred.get(&name).cloned())
            .or_else(|| {
                let missing = bridge.is_none();
                missing.then(|| format!("its bridge {name} is not in the host's namespace"))
            });
        let mut carried = Carried {
            network: network.clone(),
            members: Vec::new(),
            left,
        };
        if let Some(bridge) = bridge {
            let of_bridge = known.addresses.iter().filter(|(it, _)| *it == bridge.index);
            if carried.left.is_none() {
                wanted.bridges.push(ForeignBridge {
                    ifname: name.clone(),
                    ifindex: bridge.index,
                    addresses: of_bridge.map(|(_, net)| *net).collect(),
                });
            }
        }
        for container in &view.containers {
            let mut endpoints = container.endpoints.iter();
            let Some(endpoint) = endpoints.find(|it| it.network == network.id) else {
                continue;
            };
            let mut member = member(container, endpoint, bridge, known);
            if let (None, None, Some(bridge)) = (&carried.left, &member.left, bridge) {
                match foreign(network, &member, bridge, known, slots) {
                    Some(foreign) => {
                        member.slot = Some(foreign.endpoint.slot);
                        wanted.endpoints.push(foreign);
                    }
                    None => member.left = Some("Docker's description of it is odd".into()),
                }
            }
            carried.members.push(member);
        }
        wanted.networks.push(carried);
    }
    let mut there = view.containers.iter().flat_map(|it| &it.endpoints);
    let ids: BTreeSet<&String> = there.by_ref().map(|endpoint| &endpoint.id).collect();
    slots.retain(|id, _| ids.contains(id));
    wanted
}

fn member(
    container: &DockerContainer,
    endpoint: &DockerEndpoint,
    bridge: Option<&Link>,
    known: &Known<'_>,
) -> Member {
    let interface = known.interfaces.get(&endpoint.id).cloned();
    let host_end = interface.as_ref().and_then(|interface| {
        known.links.iter().find(|link| {
            interface.leads_to(link)
                && bridge.is_some_and(|bridge| link.master == Some(bridge.index))
        })
    });
    let leads = |address: &IpAddr| {
        interface.as_ref().is_some_and(|interface| match address {
            IpAddr::V4(_) => interface.leads4,
            IpAddr::V6(_) => interface.leads6,
        })
    };
    let published = container.published.iter();
    Member {
        container: container.clone(),
        endpoint: endpoint.clone(),
        host_ifname: host_end.map_or_else(String::new, |link| link.name.clone()),
        published: published
            .filter(|port| leads(&port.host_ip))
            .cloned()
            .collect(),
        slot: None,
        left: match (&interface, host_end) {
            (None, _) => Some("its interface was not found in its namespace".into()),
            (_, None) => Some("its interface leads to no port of the bridge".into()),
            _ => None,
        },
        interface,
    }
}

/// None where ids or MAC addresses make no sense.
fn foreign(
    network: &DockerNetwork,
    member: &Member,
    bridge: &Link,
    known: &Known<'_>,
    slots: &mut BTreeMap<String, u32>,
) -> Option<ForeignEndpoint> {
    use endpoint_flags::{ICC, MASQUERADE, PUBLISHED, ROUTED4, ROUTED6};
    let interface = member.interface.as_ref()?;
    let translates = |address: &IpAddr| match address {
        IpAddr::V4(_) => network.is_translated(4) && known.rules.translates[0],
        IpAddr::V6(_) => network.is_translated(6) && known.rules.translates[1],
    };
    let masquerades = |address: &IpAddr| {
        let of_family = usize::from(address.is_ipv6());
        known.rules.masquerades[of_family].contains(&network.bridge())
    };
    let published: Vec<Publication> = member
        .published
        .iter()
        .filter(|port| {
            // A program of the host alone asks for it there.
            !port.host_ip.is_loopback()
                && translates(&port.host_ip)
                && !known.published.iter().any(|own| collide(own, port))
        })
        .cloned()
        .collect();
    let mut flags = ICC;
    let masquerade = !network.is_off("com.docker.network.bridge.enable_ip_masquerade");
    for (family, leads, routed) in [
        (IpAddr::from([0; 4]), interface.leads4, ROUTED4),
        (IpAddr::from([0; 16]), interface.leads6, ROUTED6),
    ] {
        if masquerade && translates(&family) && masquerades(&family) && leads {
            flags |= MASQUERADE;
        } else {
            flags |= routed;
        }
    }
    if !published.is_empty() {
        flags |= PUBLISHED;
    }
    let id: EndpointId = member.endpoint.id.parse().ok()?;
    let addresses = member.endpoint.addresses.iter();
    let endpoint = Endpoint {
        id,
        network: network.id.parse::<NetworkId>().ok()?,
        sandbox: member.container.id.parse::<SandboxId>().ok()?,
        index: 0,
        ifname: interface.ifname.clone(),
        mac: interface.mac,
        host_ifname: member.host_ifname.clone(),
        host_mac: MacAddr::try_from(bridge.mac).ok()?,
        addresses: addresses
            .filter(|address| translates(&address.net.addr()))
            .copied()
            .collect(),
        metric: None,
        has_published: !published.is_empty(),
        published,
        slot: slot(slots, &member.endpoint.id)?,
        aliases: Vec::new(),
        links: Vec::new(),
        allow: Vec::new(),
        direct: None,
        handover: None,
        offered_to: None,
        offered_in: None,
        list: None,
    };
    Some(ForeignEndpoint {
        endpoint,
        ifindex: interface.host_end,
        bridge: bridge.index,
        flags,
        sources: network.sources(),
    })
}

/// Whether both would take the same packets.
fn collide(one: &Publication, other: &Publication) -> bool {
    one.proto == other.proto
        && one.host_ports().meets(other.host_ports())
        && one.host_ip.is_ipv4() == other.host_ip.is_ipv4()
        && (one.host_ip == other.host_ip
            || one.host_ip.is_unspecified()
            || other.host_ip.is_unspecified())
}

/// The counters of an endpoint: those that it had, or the first that are free.
fn slot(slots: &mut BTreeMap<String, u32>, id: &str) -> Option<u32> {
    if let Some(slot) = slots.get(id) {
        return Some(*slot);
    }
    let taken: BTreeSet<u32> = slots.values().copied().collect();
    let slot = (0..MAX_ENDPOINTS).find(|slot| !taken.contains(slot))?;
    slots.insert(id.to_owned(), slot);
    Some(slot)
}
