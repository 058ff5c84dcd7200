//! What a request must know of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::spec::Proto;

/// A port of the host that a socket has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortTaken {
    /// Whose socket it is, like "process nginx (pid 12)", if that is known.
    pub by: Option<String>,
}

/// Tells which ports sockets of the host have.
pub trait HostPorts {
    /// Whether a socket could be bound to `port` of `address` now; the
    /// unspecified address asks for every address of the host.
    ///
    /// # Errors
    /// [`PortTaken`] if a socket is in the way. Ports that netdp itself holds
    /// for publications of the state are never asked for.
    fn probe(&self, address: IpAddr, port: u16, proto: Proto) -> Result<(), PortTaken>;
}

/// The host as it is when a request comes.
pub struct HostView<'a> {
    /// Destinations of the host's routes, those of netdp's networks may be
    /// among them.
    pub routes: Vec<IpNet>,
    /// Addresses of the host, loopback included.
    pub addresses: Vec<IpAddr>,
    /// Where its default routes lead.
    pub gateways: Vec<IpAddr>,
    /// Names of the host's interfaces.
    pub interfaces: BTreeSet<String>,
    pub ports: &'a dyn HostPorts,
    /// Why the host has no IPv6, where it has none.
    pub no_ipv6: Option<&'static str>,
    /// Whether its kernel makes netkit devices.
    pub has_netkit: bool,
    /// Options of new networks that say nothing of them themselves.
    pub network_options: &'a BTreeMap<String, String>,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

impl<'a> HostView<'a> {
    /// The same host, with its ports as `ports` tells them.
    pub fn with_ports<'b>(&self, ports: &'b dyn HostPorts) -> HostView<'b>
    where
        'a: 'b,
    {
        HostView {
            routes: self.routes.clone(),
            addresses: self.addresses.clone(),
            gateways: self.gateways.clone(),
            interfaces: self.interfaces.clone(),
            ports,
            no_ipv6: self.no_ipv6,
            has_netkit: self.has_netkit,
            network_options: self.network_options,
            now: self.now,
        }
    }

    /// What a new subnet must not overlap.
    pub(super) fn used_subnets(&self) -> impl Iterator<Item = IpNet> {
        self.routes
            .iter()
            .copied()
            .chain(self.addresses.iter().copied().map(IpNet::from))
    }
}
