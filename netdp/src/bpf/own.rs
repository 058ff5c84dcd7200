//! The addresses of containers and of the host, the subnets of containers, and
//! published ports, as the programs' filter has them ([`netdp_common::own`]).

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData};
use netdp_common::{
    addr::{Address, V4Addr, V6Addr},
    maps::name,
    own::{self, INSIDE, OF_ADDRESSES, WORDS},
};

use super::{BpfError, Key, Tables};

/// A word of the filter, and a bit of it.
type Place = (u32, u64);

/// The bits of a table's entry.
fn places(key: &Key) -> Vec<Place> {
    match key {
        Key::Owner4(addr) | Key::Local4(addr) => vec![own::place(*addr)],
        Key::Owner6(addr) | Key::Local6(addr) => vec![own::place(*addr)],
        Key::Port4(key) => vec![own::place_of_port(key.port)],
        Key::Port6(key) => vec![own::place_of_port(key.port)],
        Key::Allow4(key) if key.place.set == INSIDE => {
            let addr = u128::from(u32::from_be(key.place.addr.0));
            let of = |addr: u128| V4Addr((addr as u32).to_be());
            of_subnet(addr, key.prefix - BEFORE, 32, 16, of)
        }
        Key::Allow6(key) if key.place.set == INSIDE => {
            let addr = u128::from_be_bytes(key.place.addr.bytes());
            let of = |addr: u128| V6Addr::new(addr.to_be_bytes());
            of_subnet(addr, key.prefix - BEFORE, 128, 48, of)
        }
        _ => Vec::new(),
    }
}

/// Bits of a set's key before those of the address.
const BEFORE: u32 = 64;

/// The places of a subnet of `bits` bits: that of a single address, or those of
/// the blocks that it is in or has; `all` bits has an address, `block` a block.
fn of_subnet<A: Address>(
    addr: u128,
    bits: u32,
    all: u32,
    block: u32,
    of: impl Fn(u128) -> A,
) -> Vec<Place> {
    /// Bits of the number of blocks from which on all bits are set: next to
    /// none would be clear.
    const MANY: u32 = 16;
    if bits == all {
        return vec![own::place(of(addr))];
    }
    let missing = block.saturating_sub(bits);
    if missing >= MANY {
        let words = 0..OF_ADDRESSES;
        return words
            .flat_map(|word| (0..u64::BITS).map(move |bit| (word, 1 << bit)))
            .collect();
    }
    (0..1u128 << missing)
        .map(|number| own::place(of(addr | number << (all - block)).block()))
        .collect()
}

/// The filter, kept in line with the tables: a bit is set before its address or port
/// is in a table, and cleared after it has gone.
pub struct Filter {
    map: Array<MapData, u64>,
    /// The table entries behind each bit.
    keys: BTreeMap<Place, BTreeSet<Key>>,
}

impl Filter {
    pub fn new(map: Array<MapData, u64>) -> Self {
        Self {
            map,
            keys: BTreeMap::new(),
        }
    }

    /// Takes over what the tables hold, whatever the filter held.
    pub fn fill(&mut self, tables: &Tables) -> Result<(), BpfError> {
        self.keys.clear();
        for key in tables.keys() {
            for place in places(key) {
                self.keys.entry(place).or_default().insert(*key);
            }
        }
        (0..WORDS).try_for_each(|word| self.write(word))
    }

    /// Before an entry is written.
    pub fn add(&mut self, key: &Key) -> Result<(), BpfError> {
        let mut changed = BTreeSet::new();
        for place in places(key) {
            let keys = self.keys.entry(place).or_default();
            if keys.is_empty() {
                changed.insert(place.0);
            }
            keys.insert(*key);
        }
        changed.into_iter().try_for_each(|word| self.write(word))
    }

    /// After an entry was removed.
    pub fn remove(&mut self, key: &Key) -> Result<(), BpfError> {
        let mut changed = BTreeSet::new();
        for place in places(key) {
            if let Some(keys) = self.keys.get_mut(&place) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&place);
                    changed.insert(place.0);
                }
            }
        }
        changed.into_iter().try_for_each(|word| self.write(word))
    }

    fn write(&mut self, word: u32) -> Result<(), BpfError> {
        let bits = self
            .keys
            .range((word, 0)..=(word, u64::MAX))
            .fold(0, |bits, ((_, bit), _)| bits | bit);
        self.map
            .set(word, bits, 0)
            .map_err(BpfError::map(name::OWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdp_common::{
        addr::{Be16, proto},
        maps::PortKey,
        range::AllowKey,
    };
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(subnet: &str, bits: u32) -> BTreeSet<Place> {
        let addr: Ipv4Addr = subnet.parse().unwrap();
        let key = Key::Allow4(AllowKey::new(INSIDE, addr.into(), bits));
        places(&key).into_iter().collect()
    }

    fn v6(subnet: &str, bits: u32) -> BTreeSet<Place> {
        let addr: Ipv6Addr = subnet.parse().unwrap();
        let key = Key::Allow6(AllowKey::new(INSIDE, addr.into(), bits));
        places(&key).into_iter().collect()
    }

    #[test]
    fn the_block_of_every_address_of_a_subnet_has_its_bit() {
        let block = |addr: &str| match addr.parse() {
            Ok(std::net::IpAddr::V4(addr)) => own::place(V4Addr::from(addr).block()),
            Ok(std::net::IpAddr::V6(addr)) => own::place(V6Addr::from(addr).block()),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(v4("172.17.0.0", 16), [block("172.17.255.1")].into());
        assert_eq!(v4("192.168.16.0", 20), [block("192.168.31.1")].into());
        let wide = v4("172.16.0.0", 12);
        assert_eq!(wide.len(), 16);
        assert!(wide.contains(&block("172.16.0.1")) && wide.contains(&block("172.31.9.9")));
        assert_eq!(v6("fd00:1:2:3::", 64), [block("fd00:1:2:ffff::1")].into());
        assert!(v6("fd00:1::", 40).contains(&block("fd00:1:ff:1::1")));
        assert_eq!(v6("fd00::", 8).len(), (OF_ADDRESSES * u64::BITS) as usize);
        assert_eq!(v6("2000::", 3).len(), (OF_ADDRESSES * u64::BITS) as usize);
    }

    #[test]
    fn a_published_port_has_a_bit_whatever_its_protocol() {
        let port = Be16::new(8080);
        for number in [proto::TCP, proto::UDP] {
            let key = Key::Port4(PortKey::new(V4Addr::ANY, port, number));
            assert_eq!(places(&key), [own::place_of_port(port)]);
        }
    }

    #[test]
    fn a_single_address_has_the_bit_of_its_own() {
        let addr = V4Addr::new([192, 0, 2, 255]);
        assert_eq!(v4("192.0.2.255", 32), [own::place(addr)].into());
        let other = Key::Allow4(AllowKey::new(7, addr, 32));
        assert!(places(&other).is_empty(), "of who may use a port");
    }
}
