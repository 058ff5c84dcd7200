//! Endpoints: attachments of sandboxes to networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    EndpointId, Handover, Link, MacAddr, Name, NetworkId, PidNamespace, Process, Publication,
    SandboxId, subnets::Family,
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

/// The name of an endpoint's host end.
pub(super) fn host_ifname(id: EndpointId) -> String {
    format!("{HOST_IFNAME}{}", &id.short()[..HOST_IFNAME_DIGITS])
}

/// An address of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    /// The address with the prefix length of its subnet.
    pub net: IpNet,
    pub gateway: IpAddr,
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
    /// Whether ports that are published here are direct, where they can be; none:
    /// as the network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// How far an engine is with the container's end, where it puts that into
    /// the sandbox; none: netdp does.
    #[serde(default)]
    pub handover: Option<Handover>,
    /// The engine's process that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_to: Option<Process>,
    /// Where that process was seen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_in: Option<PidNamespace>,
    /// Name of the engine's configuration by which it was attached.
    #[serde(default)]
    pub list: Option<String>,
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
