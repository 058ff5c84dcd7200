//! The inside of a sandbox: everything its interface needs to carry traffic.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{Family, Netlink, NetlinkError, Route, Sysctl, SysctlError};
use crate::netns::Namespace;

/// Long enough for a kernel that takes its time to notice a carrier.
const READY_LIMIT: Duration = Duration::from_secs(2);

/// What an endpoint looks like from inside its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxInterface {
    /// Of an interface that is in the sandbox already.
    pub name: String,
    pub mac: [u8; 6],
    /// Each with the prefix of its network.
    pub addresses: Vec<IpNet>,
    /// At most one of each family.
    pub gateways: Vec<IpAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Whether traffic to everywhere may go through the gateways.
    pub default_route: bool,
    /// Further destinations, each through the gateway of its family or, where
    /// there is none, straight onto the link.
    pub routes: Vec<IpNet>,
}

/// Brings loopback and the interface up, with addresses and routes. A default
/// route that the sandbox has through another endpoint keeps the traffic: the
/// new one gets a higher metric and takes over when the first is gone. Doing
/// it again changes nothing.
///
/// # Errors
/// When the interface isn't in the namespace or the kernel refuses a step.
pub async fn configure_sandbox(
    namespace: &Namespace,
    interface: &SandboxInterface,
) -> Result<(), NetlinkError> {
    let name = interface.name.as_str();
    let netlink = Netlink::open_in(namespace)?;
    netlink.set_up("lo").await?;
    let link = netlink
        .link(name)
        .await?
        .ok_or_else(|| NetlinkError::NoSuchLink(format!("{name} in {}", path(namespace))))?;
    if link.mac != interface.mac {
        netlink.set_mac(name, interface.mac).await?;
    }
    if link.mtu != interface.mtu {
        netlink.set_mtu(name, interface.mtu).await?;
    }
    let ipv6 = set_ipv6(namespace, interface)?;
    let carried = |address: IpAddr| ipv6 || address.is_ipv4();
    for address in &interface.addresses {
        if carried(address.addr()) {
            netlink.add_address(link.index, *address).await?;
        }
    }
    netlink.set_up(name).await?;
    for destination in &interface.routes {
        let gateway = gateway_for(interface, *destination);
        let route = match gateway {
            Some(gateway) => Route::via(destination.trunc(), gateway, link.index),
            None => Route::on_link(*destination, link.index),
        };
        netlink.add_route(&route).await?;
    }
    if interface.default_route {
        for gateway in &interface.gateways {
            if carried(*gateway) {
                add_default_route(&netlink, *gateway, link.index).await?;
            }
        }
    }
    // Else the program's first packets would be lost, and sent again a second
    // later.
    if !netlink.wait_ready(name, READY_LIMIT).await? {
        tracing::debug!("{name} in {} is not ready yet", path(namespace));
    }
    Ok(())
}

fn path(namespace: &Namespace) -> std::path::Display<'_> {
    namespace.path().display()
}

fn gateway_for(interface: &SandboxInterface, destination: IpNet) -> Option<IpAddr> {
    interface
        .gateways
        .iter()
        .copied()
        .find(|gateway| gateway.is_ipv4() == destination.addr().is_ipv4())
}

/// An interface without IPv6 addresses stays silent; one that has them takes
/// no others from router advertisements. Nobody else can have its addresses,
/// the link-local one included, so it doesn't wait to find out. False where it
/// has none, or the kernel no IPv6.
fn set_ipv6(namespace: &Namespace, interface: &SandboxInterface) -> Result<bool, SysctlError> {
    let wanted = interface.addresses.iter().any(|net| net.addr().is_ipv6());
    let settings: &[(&str, &str)] = if wanted {
        &[
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("accept_dad", "0"),
            ("disable_ipv6", "0"),
        ]
    } else {
        &[("disable_ipv6", "1")]
    };
    namespace.run(|| {
        for (key, value) in settings {
            match Sysctl::interface(Family::V6, &interface.name, key)?.set(value) {
                Err(error) if error.is_absent() => return Ok(false),
                result => result?,
            }
        }
        Ok(wanted)
    })?
}

async fn add_default_route(
    netlink: &Netlink,
    gateway: IpAddr,
    ifindex: u32,
) -> Result<(), NetlinkError> {
    let mut route = Route::default_via(gateway, ifindex);
    let present: Vec<Route> = netlink
        .routes()
        .await?
        .into_iter()
        .filter(|found| found.is_default() && found.dst == route.dst)
        .collect();
    let is_there = |found: &Route| found.oif == route.oif && found.gateway == route.gateway;
    if present.iter().any(is_there) {
        return Ok(());
    }
    if let Some(last) = present.iter().map(|found| found.priority).max() {
        route.priority = last.saturating_add(1);
    }
    netlink.add_route(&route).await
}
