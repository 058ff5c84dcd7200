//! CHECK: whether a container still has what ADD gave it.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_plugin::{
    error::Error,
    types::{CNIResult, NetConf},
};

use super::{Target, config::Config, error::changed, result::is_containers, wait};
use crate::{
    api::types::{Endpoint, Port, Sandbox},
    model::{MacAddr, PortSpec},
    netlink::{Netlink, NetlinkError},
    netns::Namespace,
};

/// An interface as it is in the container.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    mac: [u8; 6],
    up: bool,
    addresses: Vec<IpNet>,
    /// Where its default routes lead.
    gateways: Vec<IpAddr>,
}

/// Compares the result of ADD, what the daemon holds, and what is there.
pub fn whole(
    conf: &NetConf,
    config: &Config,
    target: &Target,
    sandbox: &Sandbox,
) -> Result<(), Error> {
    let previous = conf.prev_result.as_ref().ok_or_else(|| {
        Error::InvalidNetworkConfig("CHECK needs the result of ADD: prevResult is missing".into())
    })?;
    let mut endpoints = sandbox.endpoints.iter();
    let endpoint = endpoints
        .find(|it| it.interface == target.interface && it.network == config.network)
        .ok_or_else(|| changed(format!("{} is gone", target.interface)))?;
    if sandbox.netns != target.netns {
        return Err(changed(format!(
            "container {} is in the namespace {}, not {}",
            target.container,
            sandbox.netns.display(),
            target.netns.display()
        )));
    }
    fits_result(previous, target, endpoint)?;
    let all: Vec<&Port> = sandbox.endpoints.iter().flat_map(|it| &it.ports).collect();
    if let Some(port) = config.ports().iter().find(|port| !is_among(port, &all)) {
        return Err(changed(format!("{port} is not published")));
    }
    let seen = wait(look(target))?.map_err(|error| Error::IOFailure(error.to_string()))?;
    let led = previous.routes.iter().filter_map(|route| route.gw);
    let gateways: Vec<IpAddr> = led.filter(|it| endpoint.gateways.contains(it)).collect();
    match difference(endpoint, &gateways, seen.as_ref()) {
        None => Ok(()),
        Some(what) => Err(changed(format!("{}: {what}", target.interface))),
    }
}

fn fits_result(previous: &CNIResult, target: &Target, endpoint: &Endpoint) -> Result<(), Error> {
    let name = &target.interface;
    let mut interfaces = previous.interfaces.iter().enumerate();
    let Some((index, interface)) = interfaces.find(|(_, it)| is_containers(it, target)) else {
        return Err(Error::InvalidNetworkConfig(format!(
            "prevResult has no interface {name} of the container"
        )));
    };
    let mac: Option<MacAddr> = interface.mac.parse().ok();
    if mac.is_some_and(|mac| mac != endpoint.mac) {
        return Err(changed(format!(
            "{name} had the MAC address {}, and has {}",
            interface.mac, endpoint.mac
        )));
    }
    let own = previous
        .ips
        .iter()
        .filter(|ip| ip.interface.and_then(|it| usize::try_from(it).ok()) == Some(index));
    for ip in own {
        if !endpoint.addresses.contains(&ip.address) {
            return Err(changed(format!("{name} hasn't {} any more", ip.address)));
        }
    }
    Ok(())
}

fn is_among(spec: &PortSpec, ports: &[&Port]) -> bool {
    ports.iter().any(|port| {
        port.protocol == spec.proto
            && spec.container_ports.holds(port.container_port)
            && spec.host_ip.is_none_or(|address| address == port.host_ip)
            && spec
                .host_ports
                .is_none_or(|ports| ports.holds(port.host_port))
    })
}

async fn look(target: &Target) -> Result<Option<Seen>, NetlinkError> {
    let netlink = Netlink::open_in(&Namespace::open(&target.netns)?)?;
    let Some(link) = netlink.link(&target.interface).await? else {
        return Ok(None);
    };
    let addresses = netlink.addresses().await?;
    let routes = netlink.routes().await?;
    Ok(Some(Seen {
        mac: link.mac,
        up: link.up,
        addresses: addresses
            .into_iter()
            .filter(|address| address.ifindex == link.index)
            .map(|address| address.net)
            .collect(),
        gateways: routes
            .into_iter()
            .filter(|route| route.is_default() && route.oif == Some(link.index))
            .filter_map(|route| route.gateway)
            .collect(),
    }))
}

/// What isn't there of what should be, with default routes by `gateways`.
fn difference(endpoint: &Endpoint, gateways: &[IpAddr], seen: Option<&Seen>) -> Option<String> {
    let Some(seen) = seen else {
        return Some("there is no such interface in the container".to_owned());
    };
    if seen.mac != endpoint.mac.bytes() {
        return Some(format!("its MAC address isn't {} any more", endpoint.mac));
    }
    let mut addresses = endpoint.addresses.iter();
    if let Some(missing) = addresses.find(|address| !seen.addresses.contains(address)) {
        return Some(format!("address {missing} is missing"));
    }
    if !seen.up {
        return Some("it is down".to_owned());
    }
    let mut gateways = gateways.iter();
    let missing = gateways.find(|gateway| !seen.gateways.contains(gateway))?;
    Some(format!("the default route by {missing} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            id: String::new(),
            network: "mine".to_owned(),
            interface: "eth0".to_owned(),
            host_interface: "vn0".to_owned(),
            mac: "02:00:00:00:00:07".parse().unwrap(),
            addresses: vec!["10.9.0.7/24".parse().unwrap()],
            gateways: vec!["10.9.0.1".parse().unwrap()],
            aliases: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_inside_is_told() {
        let endpoint = endpoint();
        let whole = Seen {
            mac: endpoint.mac.bytes(),
            up: true,
            addresses: endpoint.addresses.clone(),
            gateways: endpoint.gateways.clone(),
        };
        let told = |seen: Option<&Seen>| difference(&endpoint, &endpoint.gateways, seen);
        assert_eq!(told(Some(&whole)), None);
        assert!(told(None).unwrap().contains("no such interface"));
        for (change, why) in [
            ((|it| it.mac = [2; 6]) as fn(&mut Seen), "MAC address"),
            (|it| it.up = false, "down"),
            (|it| it.addresses.clear(), "address 10.9.0.7/24"),
            (|it| it.gateways.clear(), "route by 10.9.0.1"),
        ] {
            let mut seen = whole.clone();
            change(&mut seen);
            assert!(told(Some(&seen)).unwrap().contains(why), "{seen:?}");
        }
        // An internal network has no default route.
        let inside = Seen {
            gateways: Vec::new(),
            ..whole
        };
        assert_eq!(difference(&endpoint, &[], Some(&inside)), None);
    }

    #[test]
    fn the_result_of_add_has_to_be_of_this_interface() {
        let endpoint = endpoint();
        let target = Target {
            container: "c1".to_owned(),
            interface: "eth0".to_owned(),
            netns: "/run/netns/c1".into(),
        };
        let previous = |mac: &str, address: &str| -> CNIResult {
            serde_json::from_value(serde_json::json!({
                "interfaces": [
                    {"name": "mine"},
                    {"name": "eth0", "mac": mac, "sandbox": "/run/netns/c1"},
                ],
                "ips": [
                    {"interface": 1, "address": address},
                    {"interface": 0, "address": "192.0.2.1/24"},
                ],
            }))
            .unwrap()
        };
        let told = |previous: CNIResult| fits_result(&previous, &target, &endpoint);
        told(previous("02:00:00:00:00:07", "10.9.0.7/24")).unwrap();
        let mac = told(previous("02:00:00:00:00:08", "10.9.0.7/24")).unwrap_err();
        assert!(mac.details().contains("02:00:00:00:00:08"), "{mac}");
        let address = told(previous("02:00:00:00:00:07", "10.9.0.8/24")).unwrap_err();
        assert!(address.details().contains("10.9.0.8/24"), "{address}");
        let none = told(CNIResult::default()).unwrap_err();
        assert_eq!(u32::from(&none), 7);
    }
}
