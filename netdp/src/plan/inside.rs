//! Addresses that nobody outside has, and no container or host either.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use netdp_common::{own::INSIDE, range::AllowKey};

use super::Desired;
use crate::bpf::{Entry, Key, Tables};

/// Adds the subnets of containers, and the broadcast address of each uplink's
/// main one: Linux takes neither for a source from outside
/// (`fib_validate_source` in net/ipv4/fib_frontend.c, 6.12).
pub(super) fn add_to(tables: &mut Tables, desired: &Desired) {
    let subnets = desired.bridges.values().flat_map(|bridge| {
        let addresses = bridge.addresses.iter();
        addresses.map(IpNet::trunc)
    });
    let on_links = desired
        .uplinks
        .iter()
        .filter_map(|uplink| uplink.reach4.subnet);
    for net in subnets.chain(on_links.filter_map(broadcast)) {
        let bits = u32::from(net.prefix_len());
        let key = match net.network() {
            IpAddr::V4(addr) => Key::Allow4(AllowKey::new(INSIDE, addr.into(), bits)),
            IpAddr::V6(addr) => Key::Allow6(AllowKey::new(INSIDE, addr.into(), bits)),
        };
        tables.insert(key, Entry::Allow(1));
    }
}

/// None where the two addresses of a link are both hosts' (RFC 3021).
fn broadcast(subnet: IpNet) -> Option<IpNet> {
    match subnet {
        IpNet::V4(net) if net.prefix_len() > 0 && net.prefix_len() < 31 => {
            Some(Ipv4Net::from(net.broadcast()).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_a_broadcast_address_where_it_has_room_for_one() {
        let of = |subnet: &str| broadcast(subnet.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(of("192.0.2.0/24").unwrap(), "192.0.2.255/32");
        assert_eq!(of("192.0.2.4/30").unwrap(), "192.0.2.7/32");
        for none in ["192.0.2.4/31", "192.0.2.4/32", "0.0.0.0/0", "2001:db8::/64"] {
            assert_eq!(of(none), None);
        }
    }
}
