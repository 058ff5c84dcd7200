//! Where a container's interfaces lead: their other ends on the host, and which
//! of them is the way outside.

use std::{net::IpAddr, path::PathBuf};

use crate::{
    model::MacAddr,
    netlink::{Link, Netlink, NetlinkError},
    netns::Namespace,
};

use super::view::{DockerContainer, DockerEndpoint};

/// A container's interface on a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub ifname: String,
    /// In the container's namespace.
    pub index: u32,
    /// The host's number for that namespace.
    pub netnsid: i32,
    pub mac: MacAddr,
    /// Index of the host end, in the namespace of the host.
    pub host_end: u32,
    /// It has the default route of IPv4.
    pub leads4: bool,
    /// The same of IPv6.
    pub leads6: bool,
}

/// Path of a process' network namespace.
pub fn namespace(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

impl Interface {
    /// Whether a link of the host is its other end. The host's link has to say so
    /// too: a container may have made a pair of its own with any index.
    pub fn leads_to(&self, link: &Link) -> bool {
        link.index == self.host_end
            && link.kind.as_deref() == Some("veth")
            && link.peer_index == Some(self.index)
            && link.peer_netnsid == Some(self.netnsid)
    }
}

/// The interfaces of a container, by its endpoints; those that aren't there are
/// left out. `host` speaks for the host's namespace.
pub async fn interfaces(
    container: &DockerContainer,
    host: &Netlink,
) -> Result<Vec<(String, Interface)>, NetlinkError> {
    let namespace = Namespace::open(&namespace(container.pid))?;
    let netlink = Netlink::open_in(&namespace)?;
    let Some(netnsid) = host.number_of(&namespace).await? else {
        return Ok(Vec::new());
    };
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let routes = netlink.routes().await?;
    // Of several default routes the one with the lowest metric counts.
    let leads = |of: fn(&IpAddr) -> bool| {
        routes
            .iter()
            .filter(|route| route.is_default() && of(&route.dst.addr()))
            .min_by_key(|route| route.priority)
            .and_then(|route| route.oif)
    };
    let (leads4, leads6) = (leads(IpAddr::is_ipv4), leads(IpAddr::is_ipv6));
    let interface = |endpoint: &DockerEndpoint| {
        let link = links.iter().find(|link| {
            link.peer_index.is_some()
                && addresses.iter().any(|address| {
                    let mut own = endpoint.addresses.iter();
                    address.ifindex == link.index
                        && own.any(|own| own.net.addr() == address.net.addr())
                })
        })?;
        let interface = Interface {
            ifname: link.name.clone(),
            index: link.index,
            netnsid,
            mac: MacAddr::try_from(link.mac).ok()?,
            host_end: link.peer_index?,
            leads4: leads4 == Some(link.index),
            leads6: leads6 == Some(link.index),
        };
        Some((endpoint.id.clone(), interface))
    };
    Ok(container.endpoints.iter().filter_map(interface).collect())
}
