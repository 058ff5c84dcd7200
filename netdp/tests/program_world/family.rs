//! The family that a world speaks. Tests write IPv4 addresses; where the world
//! speaks IPv6, each stands for the one that embeds it, as RFC 6052 does.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

thread_local! {
    static FAMILY: Cell<Family> = const { Cell::new(Family::V4) };
}

impl Family {
    /// That of the world that this thread has.
    pub fn of_world() -> Self {
        FAMILY.get()
    }

    pub fn is_v6_world() -> bool {
        Self::of_world() == Self::V6
    }

    pub fn set_for_world(self) {
        FAMILY.set(self);
    }
}

/// 2001:db8::/96; ff0e::/96 for those of many, fe80::/96 for those of a link,
/// ::/96 for those of 0.0.0.0/8, and ::1.
pub fn embed(addr: Ipv4Addr) -> Ipv6Addr {
    if addr.is_loopback() {
        return Ipv6Addr::LOCALHOST;
    }
    let low = u128::from(addr.to_bits());
    let high = if addr.octets()[0] == 0 {
        0
    } else if addr.is_link_local() {
        0xfe80 << 112
    } else if addr.is_multicast() || addr.is_broadcast() {
        0xff0e << 112
    } else {
        0x2001_0db8 << 96
    };
    Ipv6Addr::from_bits(high | low)
}

/// An address as sockets of the world's family have it.
pub fn ip(addr: Ipv4Addr) -> IpAddr {
    match Family::of_world() {
        Family::V4 => addr.into(),
        Family::V6 => embed(addr).into(),
    }
}

/// The address that was embedded.
pub fn embedded(addr: Ipv6Addr) -> Ipv4Addr {
    if addr.is_loopback() {
        return Ipv4Addr::LOCALHOST;
    }
    let embedded = Ipv4Addr::from_bits(addr.to_bits() as u32);
    assert_eq!(embed(embedded), addr, "no address of the tests' world");
    embedded
}
