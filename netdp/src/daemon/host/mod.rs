//! The host as netlink shows it: what requests must know, and the facts that
//! the planner goes by.

mod uplinks;

pub use uplinks::is_6to4;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    bpf::{self, Tables},
    model::{End, Endpoint, HostPorts, HostView, PortRange, PortTaken, Proto},
    netlink::{self, Link, Netlink, NetlinkError, RouteType, TABLE_MAIN},
    plan::{Clock, HOST_END, Hold, Neighbour, Observed, ObservedLink, Role, Route},
};

use super::{environment, hold, port_owner};

/// All that netlink says of the host's namespace at one moment.
#[derive(Debug)]
pub struct Host {
    links: Vec<Link>,
    addresses: Vec<netlink::Address>,
    routes: Vec<netlink::Route>,
    neighbours: Vec<netlink::Neighbour>,
    /// Why there is no IPv6, where there is none.
    no_ipv6: Option<&'static str>,
    has_netkit: bool,
}

impl Host {
    pub async fn read(netlink: &Netlink) -> Result<Self, NetlinkError> {
        Self::with_links(netlink.links().await?, netlink).await
    }

    /// With interfaces as they were just read.
    pub async fn with_links(links: Vec<Link>, netlink: &Netlink) -> Result<Self, NetlinkError> {
        Ok(Self {
            no_ipv6: environment::no_ipv6(),
            has_netkit: bpf::has_netkit(),
            links,
            addresses: netlink.addresses().await?,
            routes: netlink.routes().await?,
            neighbours: netlink.neighbours().await?,
        })
    }

    fn addresses_of(&self, link: &Link) -> impl Iterator<Item = IpNet> {
        self.addresses
            .iter()
            .filter(|address| address.ifindex == link.index)
            .map(|address| address.net)
            .filter(|net| !is_link_local(net.addr()))
    }

    /// What requests are checked against, with these options of new networks.
    ///
    /// `now`: seconds since the Unix epoch.
    pub fn view<'a>(
        &self,
        ports: &'a dyn HostPorts,
        network_options: &'a BTreeMap<String, String>,
        now: u64,
    ) -> HostView<'a> {
        let leads_somewhere = |route: &&netlink::Route| {
            !matches!(
                route.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast
            )
        };
        HostView {
            routes: self
                .routes
                .iter()
                .filter(leads_somewhere)
                .map(|route| route.dst)
                .collect(),
            addresses: self
                .addresses
                .iter()
                .map(|address| address.net.addr())
                .collect(),
            gateways: self
                .routes
                .iter()
                .filter(|route| route.is_default())
                .filter_map(|route| route.gateway)
                .collect(),
            interfaces: self.links.iter().map(|link| link.name.clone()).collect(),
            ports,
            no_ipv6: self.no_ipv6,
            has_netkit: self.has_netkit,
            network_options,
            now,
        }
    }

    /// Where the other end of an endpoint's pair is.
    pub fn far_end(&self, endpoint: &Endpoint) -> End {
        let id = endpoint.id.to_string();
        let own = |link: &&Link| {
            let alias = link.alias.as_deref();
            link.name == endpoint.host_ifname
                && (alias.is_some_and(|alias| alias.ends_with(&id))
                    || link.mac == endpoint.host_mac.bytes())
        };
        match self.links.iter().find(own) {
            None => End::Gone,
            Some(link) if link.peer_netnsid.is_some() => End::Away,
            Some(_) => End::Here,
        }
    }

    /// What the planner compares with, `attached` and `tables` being what the
    /// datapath holds.
    pub fn observed<'a>(
        &self,
        attached: BTreeMap<u32, Role>,
        tables: Tables,
        holds: impl Iterator<Item = &'a Hold>,
    ) -> Observed {
        let names: BTreeMap<u32, &str> = self
            .links
            .iter()
            .map(|link| (link.index, link.name.as_str()))
            .collect();
        let host_end = |index: u32| {
            let name = names.get(&index)?;
            name.starts_with(HOST_END).then(|| (*name).to_owned())
        };
        let links = self.links.iter().map(|link| {
            let observed = ObservedLink {
                ifindex: link.index,
                alias: link.alias.clone(),
                mac: link.mac,
                mtu: link.mtu,
                up: link.up,
                forwarding: link.forwarding,
                forwarding6: link.forwarding6,
                addresses: self.addresses_of(link).collect(),
                packet_limit: link.packet_limit,
            };
            (link.name.clone(), observed)
        });
        let routes = self.routes.iter().filter_map(|route| {
            let single = route.dst.prefix_len() == route.dst.max_prefix_len();
            if !single || route.table != TABLE_MAIN || route.gateway.is_some() {
                return None;
            }
            Some(Route {
                to: route.dst.addr(),
                ifname: host_end(route.oif?)?,
                src: route.src,
            })
        });
        let neighbours = self.neighbours.iter().filter_map(|neighbour| {
            if !neighbour.permanent {
                return None;
            }
            Some(Neighbour {
                address: neighbour.address,
                ifname: host_end(neighbour.ifindex)?,
                mac: neighbour.mac,
            })
        });
        Observed {
            links: links.collect(),
            routes: routes.collect(),
            neighbours: neighbours.collect(),
            attached,
            xdp: BTreeSet::new(),
            holds: holds.copied().collect(),
            tables,
            clock: Clock::default(),
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Finds out by binding, and names who is in the way.
#[derive(Clone, Copy, Debug)]
pub struct SocketProbe;

impl HostPorts for SocketProbe {
    fn probe(&self, address: IpAddr, port: u16, proto: Proto) -> Result<(), PortTaken> {
        let Some(ports) = PortRange::single(port) else {
            return Ok(());
        };
        let port = Hold {
            address,
            ports,
            proto,
            both: false,
            direct: false,
        };
        match hold::is_free(port) {
            Ok(true) => Ok(()),
            Ok(false) => Err(PortTaken {
                by: port_owner::find(&port).map(|owner| owner.to_string()),
            }),
            // Holding it will fail for the same reason, and say so.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
