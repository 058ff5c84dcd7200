//! What ADD answers: what earlier plugins of the list made, and netdp's
//! interface after it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rscni_plugin::{
    error::Error,
    types::{CNIResult, Dns, Interface, IpConfig, NetConf, Route},
};

use super::{Target, config::Config, error::changed};
use crate::api::types::{Attached, Endpoint, Network, Sandbox};

/// Refuses an interface that an earlier plugin of the list has made.
pub fn check_previous(previous: Option<&CNIResult>, target: &Target) -> Result<(), Error> {
    let interfaces = previous.map_or(&[][..], |previous| &previous.interfaces);
    match interfaces.iter().find(|it| is_containers(it, target)) {
        None => Ok(()),
        Some(_) => Err(Error::InvalidNetworkConfig(format!(
            "another plugin of the list has made {} already: netdp makes the container's \
             interface itself, so it takes that plugin's place",
            target.interface
        ))),
    }
}

/// Whether an interface is the one that is asked for, in the container.
pub fn is_containers(interface: &Interface, target: &Target) -> bool {
    interface.name == target.interface
        && interface
            .sandbox
            .as_deref()
            .is_some_and(|it| !it.is_empty())
}

pub fn of(
    conf: &NetConf,
    config: &Config,
    target: &Target,
    attached: &Attached,
) -> Result<CNIResult, Error> {
    let Attached {
        network,
        sandbox,
        endpoint,
    } = attached;
    let mut endpoints = sandbox.endpoints.iter();
    let endpoint = endpoints
        .find(|it| it.id == *endpoint)
        .ok_or_else(|| changed(format!("{} was removed at once", target.interface)))?;
    let mut result = conf.prev_result.clone().unwrap_or_default();
    let netns = target.netns.to_string_lossy().into_owned();
    let on_host = |name: &str| Interface {
        name: name.to_owned(),
        mac: String::new(),
        mtu: network.mtu,
        sandbox: None,
        socket_path: None,
        pci_id: None,
    };
    let bridge = network.interface.iter().map(|name| on_host(name));
    result.interfaces.extend(bridge);
    result.interfaces.push(on_host(&endpoint.host_interface));
    let index = u32::try_from(result.interfaces.len()).ok();
    result.interfaces.push(Interface {
        mac: endpoint.mac.to_string(),
        sandbox: Some(netns),
        ..on_host(&endpoint.interface)
    });
    result.ips.extend(ips(endpoint, index));
    result.routes.extend(routes(endpoint, network));
    result.dns = Some(dns(config, sandbox, result.dns.take()));
    Ok(result)
}

fn ips(endpoint: &Endpoint, interface: Option<u32>) -> impl Iterator<Item = IpConfig> {
    endpoint.addresses.iter().map(move |address| IpConfig {
        interface,
        address: *address,
        gateway: gateway(endpoint, address.addr()),
    })
}

fn gateway(endpoint: &Endpoint, address: IpAddr) -> Option<IpAddr> {
    let mut gateways = endpoint.gateways.iter().copied();
    gateways.find(|gateway| gateway.is_ipv4() == address.is_ipv4())
}

/// An internal network leads nowhere.
fn routes(endpoint: &Endpoint, network: &Network) -> impl Iterator<Item = Route> {
    let gateways = endpoint.gateways.iter().filter(|_| !network.internal);
    gateways.filter_map(|gateway| {
        let everywhere: IpAddr = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Some(Route {
            dst: IpNet::new(everywhere, 0).ok()?,
            gw: Some(*gateway),
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        })
    })
}

/// What is configured counts, then what an earlier plugin said, then netdp's
/// own resolver.
fn dns(config: &Config, sandbox: &Sandbox, previous: Option<Dns>) -> Dns {
    let previous = previous.unwrap_or_default();
    let mut dns = config.dns.clone().unwrap_or_default();
    if dns.nameservers.is_empty() {
        dns.nameservers = previous.nameservers;
    }
    if dns.nameservers.is_empty() {
        dns.nameservers = sandbox.resolver.iter().map(ToString::to_string).collect();
    }
    dns.domain = dns.domain.or(previous.domain);
    dns.search = dns.search.or(previous.search);
    dns.options = dns.options.or(previous.options);
    dns
}
