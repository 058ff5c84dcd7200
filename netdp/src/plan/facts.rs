//! What the host has by itself.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Driver;
use crate::{bpf::Xdp, netlink::PacketLimit};

/// An interface that leads outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uplink {
    pub ifname: String,
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// The main one of a family first; without link-local and loopback ones.
    pub addresses: Vec<IpAddr>,
    /// Those that the kernel broadcasts to by this interface.
    pub broadcasts: Vec<Ipv4Addr>,
    pub reach4: Reach,
    pub reach6: Reach,
    /// A bridge that leads no further: containers of others are on it.
    pub beside: bool,
    /// How large its packets may be.
    pub packet_limit: PacketLimit,
    /// Its driver takes packets of BIG TCP.
    pub takes_big: bool,
    pub driver: Driver,
}

impl Uplink {
    /// Whether it lets packets of BIG TCP pass, or will when it is told to.
    pub(super) fn may_be_big(&self) -> bool {
        match self.packet_limit {
            PacketLimit::OtherBig => true,
            PacketLimit::Other | PacketLimit::Mixed(_) => false,
            PacketLimit::Legacy | PacketLimit::Big | PacketLimit::BigUplink => self.takes_big,
        }
    }
}

/// What an uplink leads to, in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// On the link itself, by the subnet of the main address.
    pub subnet: Option<IpNet>,
    /// Where the default route by this uplink leads, in whatever table it is
    /// and whatever its metric.
    pub gateway: Option<IpAddr>,
    /// It is up to the route which of several addresses a conversation gets.
    pub by_route: bool,
}

/// An address of the host and the interface that has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostAddress {
    pub address: IpAddr,
    pub ifindex: u32,
}

/// What the host has by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// In the order of preference.
    pub uplinks: Vec<Uplink>,
    /// Interfaces that would be uplinks if their frames had an Ethernet header.
    pub headerless: Vec<String>,
    /// All addresses of the host; those on loopback addresses and on netdp's
    /// own bridges may be among them.
    pub addresses: Vec<HostAddress>,
    /// The host has no IPv6: what is of it waits until it has.
    pub no_ipv6: bool,
    /// The kernel makes netkit devices.
    pub has_netkit: bool,
    /// Whether packets are dropped in the drivers of uplinks.
    pub xdp: Xdp,
}
