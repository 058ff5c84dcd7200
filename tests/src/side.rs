//! One test for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6,
};
use nix::sys::socket::AddressFamily;

use crate::Container;

/// The addresses of one family in a world that has both
/// ([`Topology::with_ipv6`](crate::Topology::with_ipv6)).
#[derive(Clone, Copy, Debug)]
pub struct Side {
    pub any: IpAddr,
    pub host: IpAddr,
    pub client: IpAddr,
    pub outside: IpAddr,
    pub family: AddressFamily,
}

/// Each family.
pub const SIDES: [Side; 2] = [
    Side {
        any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host: IpAddr::V4(HOST_ADDRESS),
        client: IpAddr::V4(CLIENT_ADDRESS),
        outside: IpAddr::V4(OUTSIDE_ADDRESS),
        family: AddressFamily::Inet,
    },
    Side {
        any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        host: IpAddr::V6(HOST_ADDRESS6),
        client: IpAddr::V6(CLIENT_ADDRESS6),
        outside: IpAddr::V6(OUTSIDE_ADDRESS6),
        family: AddressFamily::Inet6,
    },
];

impl Side {
    pub fn is_v4(self) -> bool {
        self.any.is_ipv4()
    }

    /// A container's own address.
    #[track_caller]
    pub fn address(self, container: &Container) -> IpAddr {
        if self.is_v4() {
            container.address.into()
        } else {
            container.address6.expect("an IPv6 address").into()
        }
    }

    #[track_caller]
    pub fn gateway(self, container: &Container) -> IpAddr {
        if self.is_v4() {
            container.gateway.into()
        } else {
            container.gateway6.expect("an IPv6 gateway").into()
        }
    }

    /// A line for iproute2 that gives an interface an address, in a subnet as
    /// long as those of the world's wires.
    pub fn add_address(self, address: IpAddr, interface: &str) -> String {
        let how = if self.is_v4() { "" } else { " nodad" };
        format!(
            "addr add {address}/{} dev {interface}{how}\n",
            self.length()
        )
    }

    /// A line that takes it away again.
    pub fn del_address(self, address: IpAddr, interface: &str) -> String {
        format!("addr del {address}/{} dev {interface}\n", self.length())
    }

    /// A line that gives an interface a link-local address, without which the
    /// kernel asks for no neighbour on behalf of others (`ndisc_solicit`); IPv4
    /// needs none, and has none.
    pub fn add_link_local(self, number: u8, interface: &str) -> String {
        if self.is_v4() {
            return String::new();
        }
        format!("addr add fe80::{number}/64 dev {interface} nodad\n")
    }

    /// Bits of the subnets of wires.
    pub fn length(self) -> u8 {
        if self.is_v4() { 24 } else { 64 }
    }

    /// One of two values, by the family.
    pub fn of<T>(self, v4: T, v6: T) -> T {
        if self.is_v4() { v4 } else { v6 }
    }
}
