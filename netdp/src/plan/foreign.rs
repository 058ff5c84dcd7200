//! Tables for containers of another engine, on bridges that aren't netdp's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Desired, DesiredBridge, Facts,
    desired::DesiredEndpoint,
    diff::{Change, diff},
    entries::entries,
    retract::{is_back, is_port},
};
use crate::{
    bpf::{Entry, Key, Tables},
    model::{Endpoint, Timeouts},
};

/// A bridge of another engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignBridge {
    pub ifname: String,
    pub ifindex: u32,
    /// The gateways, with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
}

/// A container on one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignEndpoint {
    /// As netdp would have made it; its host end is a port of the bridge, and
    /// its gateway's MAC address the bridge's.
    pub endpoint: Endpoint,
    /// Of its host end.
    pub ifindex: u32,
    /// Of the bridge: what the programs have as the network's number.
    pub bridge: u32,
    /// [`netdp_common::maps::endpoint_flags`].
    pub flags: u16,
    /// Addresses of the host to leave under, whatever the uplink's.
    pub sources: Vec<IpAddr>,
}

/// What the tables shall hold.
pub fn foreign(facts: &Facts, bridges: &[ForeignBridge], endpoints: &[ForeignEndpoint]) -> Tables {
    let gateways: BTreeSet<IpAddr> = bridges
        .iter()
        .flat_map(|bridge| bridge.addresses.iter().map(IpNet::addr))
        .collect();
    let mut desired = Desired::empty(facts);
    desired
        .addresses
        .retain(|fact| !gateways.contains(&fact.address));
    // Packets for a bridge don't come from outside.
    desired.uplinks.retain(|uplink| {
        let mut bridges = bridges.iter();
        bridges.all(|bridge| bridge.ifindex != uplink.ifindex)
    });
    desired.bridges = bridges
        .iter()
        .map(|bridge| {
            let desired = DesiredBridge {
                ifname: bridge.ifname.clone(),
                alias: String::new(),
                mac: [0; 6],
                mtu: 0,
                addresses: bridge.addresses.clone(),
            };
            (bridge.ifname.clone(), desired)
        })
        .collect();
    desired.endpoints = endpoints
        .iter()
        .map(|foreign| DesiredEndpoint {
            host_ifname: foreign.endpoint.host_ifname.clone(),
            endpoint: foreign.endpoint.clone(),
            network: foreign.bridge,
            flags: foreign.flags,
            sources: foreign.sources.clone(),
            timeouts: Timeouts::default(),
        })
        .collect();
    let live: BTreeMap<&str, u32> = bridges
        .iter()
        .map(|bridge| (bridge.ifname.as_str(), bridge.ifindex))
        .chain(
            endpoints
                .iter()
                .map(|foreign| (foreign.endpoint.host_ifname.as_str(), foreign.ifindex)),
        )
        .collect();
    entries(&desired, &live)
}

/// One write to the tables.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    Remove(Key),
    Put(Key, Entry),
}

/// How to get from what the tables hold to what they shall: ports go first and
/// come last, so that none leads where nothing is.
pub fn writes(have: &Tables, want: &Tables) -> Vec<Write> {
    let of = |tables: &Tables| tables.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
    let (mut gone, mut put) = (Vec::new(), Vec::new());
    for change in diff(of(have), of(want)) {
        match change {
            Change::Remove { key, .. } => gone.push(key),
            Change::Insert { key, want } | Change::Update { key, want, .. } => {
                put.push((key, want));
            }
        }
    }
    let rank = |key: &Key| match key {
        key if is_port(key) => 2,
        key if is_back(key) => 1,
        _ => 0,
    };
    gone.sort_by_key(|key| std::cmp::Reverse(rank(key)));
    put.sort_by_key(|(key, _)| rank(key));
    let gone = gone.into_iter().map(Write::Remove);
    gone.chain(put.into_iter().map(|(key, entry)| Write::Put(key, entry)))
        .collect()
}
