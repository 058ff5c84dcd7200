//! Direct ports: which of them the host's stack has a listener for, and how
//! programs of a sandbox reach its own.

use crate::addr::{Address, Be16, V4Addr, V6Addr};

/// Key of `own_ways`: a port of a sandbox whose socket is one of the host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnPort {
    /// Cookie of the sandbox's network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    pub port: Be16,
    pub pad: [u16; 3],
}

impl OwnPort {
    #[inline(always)]
    pub const fn new(netns: u64, port: Be16) -> Self {
        Self {
            netns,
            port,
            pad: [0; 3],
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

/// Value of `known4`, per CPU: an address and port of the host to which every
/// packet of TCP is the host's own, for a while.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known<A: Address> {
    pub daddr: A,
    pub dport: Be16,
    pub pad: u16,
    /// [`Config::ports`](super::Config::ports) when that was found.
    pub ports: u32,
    /// The time then, in 2^27 ns; 0 for an empty entry.
    pub tick: u32,
    pub fill: A::Fill,
}
