//! Which subnet a network gets if none is asked for.

use ipnet::{IpNet, Ipv4Net};

use super::Refusal;

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
    let IpNet::V4(v4) = subnet else {
        return Ok(());
    };
    if subnet != subnet.trunc() {
        return Err(Refusal::invalid(format!(
            "{subnet} is an address in a subnet: give the subnet, {}",
            subnet.trunc()
        )));
    }
    if !(8..=30).contains(&v4.prefix_len()) {
        return Err(Refusal::invalid(format!(
            "{subnet} can't be a bridge network: give a prefix length from 8 to 30"
        )));
    }
    let first = v4.network();
    if first.octets()[0] == 0
        || first.is_loopback()
        || first.is_link_local()
        || first.octets()[0] >= 224
    {
        return Err(Refusal::invalid(format!(
            "{subnet} has a meaning of its own (RFC 6890): \
             give a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        )));
    }
    Ok(())
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
}
