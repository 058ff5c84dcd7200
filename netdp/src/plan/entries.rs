//! What the tables shall hold, once the interfaces have their numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use netdp_common::{
    addr::{Be16, V4Addr, V6Addr},
    maps::{self, Back, Delivery, Local, Owner, PortKey, Published, local_flags},
};

use super::{Desired, Observed, desired::DesiredEndpoint};
use crate::{
    bpf::{Entry, Key, Tables},
    model::{Endpoint, Proto, Publication},
};

/// The tables for `desired`, as far as its links are among `live` (index by
/// name): what has no interface has no entries.
pub(super) fn entries(desired: &Desired, live: &BTreeMap<&str, u32>) -> Tables {
    let mut tables = Tables::new();
    for uplink in &desired.uplinks {
        let value = maps::Uplink {
            mac: uplink.mac,
            addr4: main_v4(&uplink.addresses).map_or(V4Addr(0), V4Addr::from),
            ..maps::Uplink::default()
        };
        tables.insert(Key::Uplink(uplink.ifindex), Entry::Uplink(value));
    }
    for fact in &desired.addresses {
        local(&mut tables, fact.address, fact.ifindex, 0);
    }
    for bridge in desired.bridges.values() {
        if let Some(&ifindex) = live.get(bridge.ifname.as_str()) {
            for address in &bridge.addresses {
                local(&mut tables, address.addr(), ifindex, local_flags::GATEWAY);
            }
        }
    }
    let outside = desired
        .uplinks
        .iter()
        .find_map(|uplink| main_v4(&uplink.addresses));
    for endpoint in &desired.endpoints {
        if let Some(&ifindex) = live.get(endpoint.host_ifname.as_str()) {
            add_endpoint(&mut tables, endpoint, ifindex, outside);
        }
    }
    tables
}

/// The links of `desired` that are there and ours.
pub(super) fn live<'a>(desired: &'a Desired, observed: &Observed) -> BTreeMap<&'a str, u32> {
    let bridges = desired.bridges.values().map(|b| (&b.ifname, &b.alias));
    let veths = desired.veths.values().map(|v| (&v.host_ifname, &v.alias));
    bridges
        .chain(veths)
        .filter_map(|(ifname, alias)| {
            let link = observed.links.get(ifname)?;
            (link.alias.as_ref() == Some(alias)).then_some((ifname.as_str(), link.ifindex))
        })
        .collect()
}

fn main_v4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

/// The first interface that has an address counts.
fn local(tables: &mut Tables, address: IpAddr, ifindex: u32, flags: u32) {
    if let IpAddr::V4(address) = address {
        tables
            .entry(Key::Local4(address.into()))
            .or_insert(Entry::Local4(Local { ifindex, flags }));
    }
}

fn add_endpoint(
    tables: &mut Tables,
    desired: &DesiredEndpoint,
    ifindex: u32,
    outside: Option<Ipv4Addr>,
) {
    let endpoint = &desired.endpoint;
    let to = Delivery {
        ifindex,
        slot: endpoint.slot,
        mac: endpoint.mac.bytes(),
        host_mac: endpoint.host_mac.bytes(),
    };
    let value = maps::Endpoint {
        mac: to.mac,
        flags: desired.flags,
        host_mac: to.host_mac,
        pad: 0,
        network: desired.network,
        slot: to.slot,
        addr4: endpoint.v4().map_or(V4Addr(0), V4Addr::from),
        gateway4: endpoint.gateway4().map_or(V4Addr(0), V4Addr::from),
        addr6: V6Addr::default(),
        gateway6: V6Addr::default(),
    };
    tables.insert(Key::Endpoint(ifindex), Entry::Endpoint(value));
    let Some(address) = endpoint.v4() else {
        return;
    };
    let address = V4Addr::from(address);
    let owner = Owner {
        to,
        network: desired.network,
        flags: desired.flags.into(),
    };
    tables.insert(Key::Owner4(address), Entry::Owner4(owner));
    let ways_back = ways_back(endpoint, outside);
    for publication in &endpoint.published {
        let IpAddr::V4(host_ip) = publication.host_ip else {
            continue;
        };
        let proto = publication.proto.number();
        let host_port = Be16::new(publication.host_port);
        let port = Be16::new(publication.container_port);
        let back = ways_back.get(publication).copied();
        let published = Published {
            addr: address,
            port,
            pad: 0,
            to,
            back_addr: back.unwrap_or(V4Addr(0)),
        };
        let key = PortKey::new(V4Addr::from(host_ip), host_port, proto);
        tables.insert(Key::Port4(key), Entry::Port4(published));
        if let Some(addr) = back {
            let key = PortKey::new(address, port, proto);
            let back = Back::new(addr, host_port);
            tables.insert(Key::Back4(key), Entry::Back4(back));
        }
    }
}

/// For each published container port the mapping that answers go back by when
/// no flow says otherwise, and the host address of it. Never a loopback
/// address: nobody outside uses it.
fn ways_back(endpoint: &Endpoint, outside: Option<Ipv4Addr>) -> BTreeMap<Publication, V4Addr> {
    let mut chosen: BTreeSet<(u16, Proto)> = BTreeSet::new();
    let mut ways = BTreeMap::new();
    for publication in &endpoint.published {
        let address = match publication.host_ip {
            IpAddr::V4(address) if address.is_unspecified() => outside,
            IpAddr::V4(address) if !address.is_loopback() => Some(address),
            _ => None,
        };
        if let Some(address) = address
            && chosen.insert((publication.container_port, publication.proto))
        {
            ways.insert(*publication, address.into());
        }
    }
    ways
}
