//! Which subnet a network gets if none is asked for.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Refusal;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub fn has(self, address: IpAddr) -> bool {
        Self::of(address) == self
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Pools in the order in which they are tried: 172.17.0.0/16 to 172.31.0.0/16,
/// then the /20s of 192.168.0.0/16.
pub fn pools() -> impl Iterator<Item = IpNet> {
    let large = (17..=31).map(|second| ([172, second, 0, 0], 16));
    let small = (0..=15).map(|part| ([192, 168, part << 4, 0], 20));
    large
        .chain(small)
        .map(|(network, length)| IpNet::V4(Ipv4Net::new_assert(network.into(), length)))
}

/// The first pool that overlaps none of `used`.
pub fn first_free(used: &[IpNet]) -> Option<IpNet> {
    pools().find(|pool| first_overlap(*pool, used).is_none())
}

/// The first /64 of an instance's unique local prefix that overlaps none of
/// `used` (RFC 4193, section 3.1: 8 bits fd, 40 of the global id, 16 of the
/// subnet).
///
/// `global_id`: its lower 40 bits are taken.
pub(super) fn first_free_local(global_id: u64, used: &[IpNet]) -> Option<IpNet> {
    let global = u128::from(global_id & 0xff_ffff_ffff) << 80;
    let prefix = (0xfd_u128 << 120) | global;
    // All zeros would be the prefix itself, which says little to people.
    (1..=u128::from(u16::MAX))
        .map(|subnet| Ipv6Addr::from(prefix | subnet << 64))
        .map(|network| IpNet::V6(Ipv6Net::new_assert(network, 64)))
        .find(|subnet| first_overlap(*subnet, used).is_none())
}

/// The first of `used` that shares an address with `subnet`. Default routes
/// lead to everything and so don't count.
pub fn first_overlap(subnet: IpNet, used: &[IpNet]) -> Option<IpNet> {
    used.iter()
        .copied()
        .filter(|other| other.prefix_len() > 0)
        .find(|other| overlap(subnet, *other))
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Checks that a subnet that was asked for can be one of a bridge network.
pub(super) fn check(subnet: IpNet) -> Result<(), Refusal> {
    if subnet != subnet.trunc() {
        return Err(Refusal::invalid(format!(
            "{subnet} is an address in a subnet: give the subnet, {}",
            subnet.trunc()
        )));
    }
    // The least that holds a gateway and an endpoint besides the addresses
    // that nobody has.
    let (lengths, special, usual) = match subnet {
        IpNet::V4(net) => (
            8..=30,
            is_special_v4(&net),
            "10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        ),
        IpNet::V6(net) => (
            8..=126,
            is_special_v6(&net),
            "fd00::/8, or one that leads to this host",
        ),
    };
    if special {
        return Err(Refusal::invalid(format!(
            "{subnet} has a meaning of its own (RFC 6890): give a part of {usual}"
        )));
    }
    if !lengths.contains(&subnet.prefix_len()) {
        return Err(Refusal::invalid(format!(
            "{subnet} can't be a bridge network: give a prefix length from {} to {}",
            lengths.start(),
            lengths.end()
        )));
    }
    Ok(())
}

fn is_special_v4(net: &Ipv4Net) -> bool {
    let first = net.network();
    // What is too large is refused for that.
    net.prefix_len() >= 8
        && (first.octets()[0] == 0
            || first.is_loopback()
            || first.is_link_local()
            || first.octets()[0] >= 224)
}

fn is_special_v6(net: &Ipv6Net) -> bool {
    let first = net.network();
    // ::/8 holds loopback, the unspecified address and those of IPv4.
    net.prefix_len() >= 8
        && (first.octets()[0] == 0 || first.is_unicast_link_local() || first.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn first(used: &[&str]) -> Option<String> {
        first_free(&nets(used)).map(|net| net.to_string())
    }

    #[test]
    fn the_first_that_is_free() {
        assert_eq!(first(&[]).unwrap(), "172.17.0.0/16");
        assert_eq!(first(&["0.0.0.0/0"]).unwrap(), "172.17.0.0/16");
        assert_eq!(first(&["172.17.3.0/24"]).unwrap(), "172.18.0.0/16");
        assert_eq!(first(&["172.16.0.0/14"]).unwrap(), "172.20.0.0/16");
        assert_eq!(first(&["172.16.0.0/12"]).unwrap(), "192.168.0.0/20");
        let used = ["172.16.0.0/12", "192.168.1.7/32", "fd00::/8"];
        assert_eq!(first(&used).unwrap(), "192.168.16.0/20");
        assert_eq!(first(&["172.16.0.0/12", "192.168.0.0/16"]), None);
    }

    #[test]
    fn subnets_that_can_be() {
        for good in [
            "10.0.0.0/8",
            "172.28.0.0/16",
            "192.168.9.0/30",
            "100.64.0.0/10",
        ] {
            assert!(check(good.parse().unwrap()).is_ok(), "{good}");
        }
        for bad in [
            "10.0.0.1/8",
            "0.0.0.0/0",
            "0.0.0.0/8",
            "10.0.0.0/7",
            "10.0.0.0/31",
            "10.0.0.1/32",
            "127.0.0.0/24",
            "169.254.1.0/24",
            "224.1.0.0/24",
            "255.255.255.0/24",
        ] {
            assert!(check(bad.parse().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn subnets_of_ipv6_that_can_be() {
        for good in ["fd00:1::/64", "2001:db8::/48", "fd00::/8", "fd00:1::4/126"] {
            assert!(check(good.parse().unwrap()).is_ok(), "{good}");
        }
        for bad in [
            "fd00:1::1/64",
            "::/0",
            "::/64",
            "::ffff:0:0/96",
            "fe80::/64",
            "ff02::/64",
            "fc00::/7",
            "fd00:1::/127",
            "fd00:1::1/128",
        ] {
            assert!(check(bad.parse().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn unique_local_subnets_are_of_the_instance() {
        let first = |used: &[&str]| {
            let subnet = first_free_local(0x0012_34ab_cdef_0123, &nets(used));
            subnet.map(|net| net.to_string())
        };
        assert_eq!(first(&[]).unwrap(), "fdab:cdef:123:1::/64");
        assert_eq!(first(&["::/0"]).unwrap(), "fdab:cdef:123:1::/64");
        assert_eq!(
            first(&["fdab:cdef:123:1::5/128", "fdab:cdef:123:2::/63"]).unwrap(),
            "fdab:cdef:123:4::/64"
        );
        assert_eq!(first(&["fdab::/16"]), None);
    }
}
