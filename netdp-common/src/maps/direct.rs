//! Direct ports: which of them the host's stack has a listener for, how programs
//! of a sandbox reach its own, and whom its sockets of UDP may send to.

use crate::addr::{Address, Be16, V4Addr, V6Addr};

/// Key of `own_ways`: a port of a sandbox whose socket is one of the host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnPort {
    /// Cookie of the sandbox's network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    pub port: Be16,
    /// [`proto`](crate::addr::proto).
    pub proto: u16,
    pub pad: u32,
}

impl OwnPort {
    #[inline(always)]
    pub const fn new(netns: u64, port: Be16, proto: u8) -> Self {
        Self {
            netns,
            port,
            proto: proto as u16,
            pad: 0,
        }
    }
}

/// Value of `own_ways`: where that socket is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnWay {
    pub v6: OwnPlace<V6Addr>,
    pub v4: OwnPlace<V4Addr>,
    pub pad: u32,
}

/// The same of one family.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnPlace<A: Address> {
    /// The sandbox's own address, or 0.
    pub own: A,
    /// Address of the host, or 0 where the socket isn't of the family.
    pub to: A,
    pub port: Be16,
    pub pad: u16,
    pub fill: A::Fill,
}

/// Value of `made_for`, of each direct socket of TCP that netdp made: what for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MadeFor {
    /// Of the host, in host order.
    pub port: u32,
    /// The sandbox's own addresses, or 0 where the socket isn't of the family.
    pub own4: V4Addr,
    pub own6: V6Addr,
}

/// Value of `known4`, per CPU: an address and port of the host to which every
/// packet of this protocol is the host's own, for a while.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known<A: Address> {
    pub daddr: A,
    pub dport: Be16,
    /// [`proto`](crate::addr::proto).
    pub proto: u16,
    /// [`Config::ports`](super::Config::ports) when that was found.
    pub ports: u32,
    /// The time then, in 16 ticks of the kernel (`jiffies`); 0 for an empty entry.
    pub tick: u32,
    pub fill: A::Fill,
}

/// Key of `clients4`: who has sent a datagram to a direct port.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientKey<A: Address> {
    pub client: A,
    /// The sandbox's own address.
    pub own: A,
    pub client_port: Be16,
    /// Of the host.
    pub port: Be16,
    pub pad: u32,
}

/// Value of `clients4`.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client<A: Address> {
    /// Address of the host that it sent to, where the stack would answer from
    /// another one; or 0.
    pub asked: A,
    /// 1 once the program has received what it sent.
    pub heard: u32,
    pub fill: A::Fill,
}

/// Value of `datagrams`, of each direct socket of UDP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Datagrams {
    /// The client of IPv4 that it received from last: address and port, as in
    /// the packet, in one number, so that it is read and written whole. 0 for
    /// none.
    pub last: u64,
}

/// Indices of `direct_seen`, whose values are 1 once something was seen, so that
/// hosts without don't look for it.
pub mod seen {
    /// A socket of UDP was handed out.
    pub const DATAGRAMS: u32 = 0;
    /// A sandbox's program sent to its own direct port of UDP.
    pub const OWN: u32 = 1;
    /// A client asked at an address that the stack doesn't answer from.
    pub const ASKED: u32 = 2;
    /// A socket of UDP lost its port.
    pub const CLOSED: u32 = 3;
    /// A socket of the host was sent to a container.
    pub const SENT: u32 = 4;
    /// A sandbox's program was connected to its own direct port.
    pub const CONNECTED: u32 = 5;
    /// A socket of UDP was handed out that not everybody may send to.
    pub const LIMITED: u32 = 6;
    pub const COUNT: u32 = 7;
}
