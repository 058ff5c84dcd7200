//! Addresses that nobody outside has, and no container or host either.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use netdp_common::{own::INSIDE, range::AllowKey};

use super::Desired;
use crate::bpf::{Entry, Key, Tables};

/// Adds the subnets of containers, and the broadcast addresses of each uplink:
/// Linux takes neither for a source from outside (`fib_validate_source` in
/// net/ipv4/fib_frontend.c, 6.12).
pub(super) fn add_to(tables: &mut Tables, desired: &Desired) {
    let subnets = desired.bridges.values().flat_map(|bridge| {
        let addresses = bridge.addresses.iter();
        addresses.map(IpNet::trunc)
    });
    let broadcasts = desired.uplinks.iter().flat_map(|uplink| &uplink.broadcasts);
    let broadcasts = broadcasts.map(|address| Ipv4Net::from(*address).into());
    for net in subnets.chain(broadcasts) {
        let bits = u32::from(net.prefix_len());
        let key = match net.network() {
            IpAddr::V4(addr) => Key::Allow4(AllowKey::new(INSIDE, addr.into(), bits)),
            IpAddr::V6(addr) => Key::Allow6(AllowKey::new(INSIDE, addr.into(), bits)),
        };
        tables.insert(key, Entry::Allow(1));
    }
}
