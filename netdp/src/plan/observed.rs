//! What is there.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{ALIAS, Hold, Neighbour, Op, Route};
pub use crate::bpf::Role;
use crate::{
    bpf::{Key, Tables},
    netlink::{Family, PacketLimit},
};

/// A link of the host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObservedLink {
    pub ifindex: u32,
    pub alias: Option<String>,
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Forwards the IPv4 packets that come in.
    pub forwarding: bool,
    /// The same of IPv6.
    pub forwarding6: bool,
    /// Without link-local ones.
    pub addresses: Vec<IpNet>,
    pub packet_limit: PacketLimit,
}

/// What netlink and the pinned maps say.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    /// All links of the host's namespace, by name.
    pub links: BTreeMap<String, ObservedLink>,
    /// Routes of the main table to single addresses over links whose name
    /// begins with [`HOST_END`](crate::plan::HOST_END).
    pub routes: BTreeSet<Route>,
    /// Permanent neighbours on such links.
    pub neighbours: BTreeSet<Neighbour>,
    /// Interfaces that have programs, by ifindex.
    pub attached: BTreeMap<u32, Role>,
    /// Those whose driver drops packets.
    pub xdp: BTreeSet<u32>,
    pub holds: BTreeSet<Hold>,
    pub tables: Tables,
    pub clock: Clock,
}

/// Seconds of `CLOCK_MONOTONIC`, by which programs and planner agree on how
/// long a port that was published is kept from answering.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    pub now: u32,
    /// For how many seconds: as long as a flow that nobody closed.
    pub quiet: u32,
}

impl Observed {
    /// How many links were made by a daemon whose state had another
    /// [instance](crate::model::State).
    pub fn of_other_states(&self, instance: &str) -> usize {
        let own = format!("{ALIAS}{instance}:");
        let aliases = self.links.values().filter_map(|link| link.alias.as_ref());
        aliases
            .filter(|alias| alias.starts_with(ALIAS) && !alias.starts_with(&own))
            .count()
    }

    /// Notes that `op` was done, so that the next plan needs no new look at the
    /// host. `created` is the index of the link that [`Op::CreateBridge`] or
    /// [`Op::CreateEndpoint`] made.
    pub fn applied(&mut self, op: &Op, created: Option<u32>) {
        match op {
            Op::CreateBridge(bridge) => {
                let link = ObservedLink {
                    ifindex: created.unwrap_or_default(),
                    alias: Some(bridge.alias.clone()),
                    mac: bridge.mac,
                    mtu: bridge.mtu,
                    up: true,
                    forwarding: false,
                    forwarding6: false,
                    addresses: bridge.addresses.clone(),
                    packet_limit: PacketLimit::Legacy,
                };
                self.links.insert(bridge.ifname.clone(), link);
            }
            Op::CreateEndpoint(pair) => {
                let link = ObservedLink {
                    ifindex: created.unwrap_or_default(),
                    alias: Some(pair.alias.clone()),
                    mac: pair.host_mac,
                    mtu: pair.mtu,
                    up: false,
                    forwarding: true,
                    forwarding6: pair.ipv6,
                    addresses: Vec::new(),
                    packet_limit: pair.packet_limit,
                };
                self.links.insert(pair.host_ifname.clone(), link);
            }
            Op::DeleteLink { ifname } => self.lose(std::slice::from_ref(ifname)),
            Op::DeleteLinks { ifnames } => self.lose(ifnames),
            Op::SetLink { ifname, mac, mtu } => {
                if let Some(link) = self.links.get_mut(ifname) {
                    link.mac = mac.unwrap_or(link.mac);
                    link.mtu = mtu.unwrap_or(link.mtu);
                }
            }
            Op::SetPacketLimit { ifname, limit } => {
                if let Some(link) = self.links.get_mut(ifname) {
                    link.packet_limit = *limit;
                }
            }
            Op::SetLinkUp { ifname } => {
                if let Some(link) = self.links.get_mut(ifname) {
                    link.up = true;
                }
            }
            Op::EnableForwarding { ifname, family } => {
                if let Some(link) = self.links.get_mut(ifname) {
                    match family {
                        Family::V4 => link.forwarding = true,
                        Family::V6 => link.forwarding6 = true,
                    }
                }
            }
            Op::AddAddress { ifname, address } => {
                if let Some(link) = self.links.get_mut(ifname) {
                    link.addresses.push(*address);
                }
            }
            Op::RemoveAddress { ifname, address } => {
                if let Some(link) = self.links.get_mut(ifname) {
                    link.addresses.retain(|other| other != address);
                }
            }
            Op::AddRoute(route) => {
                self.routes.insert(route.clone());
            }
            Op::RemoveRoute(route) => {
                self.routes.remove(route);
            }
            Op::AddNeighbour(neighbour) => {
                self.neighbours.insert(neighbour.clone());
            }
            Op::RemoveNeighbour(neighbour) => {
                self.neighbours.remove(neighbour);
            }
            Op::Attach { ifindex, role, .. } => {
                self.attached.insert(*ifindex, *role);
            }
            Op::Detach { ifindex, .. } => {
                self.attached.remove(ifindex);
            }
            Op::AttachXdp { ifindex, .. } => {
                self.xdp.insert(*ifindex);
            }
            Op::DetachXdp { ifindex } => {
                self.xdp.remove(ifindex);
            }
            // They are not looked at.
            Op::EndSockets(_) => {}
            Op::HoldPort(hold) => {
                self.holds.insert(*hold);
            }
            Op::ReleasePort(hold) => {
                self.holds.remove(hold);
            }
            Op::Put(key, entry) => {
                self.tables.insert(*key, *entry);
            }
            Op::Remove(key) => {
                self.tables.remove(key);
            }
            Op::RemoveEndpoints(indexes) => {
                for ifindex in indexes {
                    self.tables.remove(&Key::Endpoint(*ifindex));
                }
            }
        }
    }

    /// Links are gone, and with them what was theirs.
    fn lose(&mut self, ifnames: &[String]) {
        let gone: BTreeSet<&String> = ifnames.iter().collect();
        self.links.retain(|ifname, _| !gone.contains(ifname));
        self.routes.retain(|route| !gone.contains(&route.ifname));
        self.neighbours
            .retain(|entry| !gone.contains(&entry.ifname));
    }
}
