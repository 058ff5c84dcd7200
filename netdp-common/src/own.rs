//! A filter that tells which addresses may be the host's own, a container's, or
//! of a container's subnet.
//!
//! One bit for each hash of an address, or of the [block](Address::block) that
//! a subnet is in: where it is clear the address is none of them, where it is
//! set the tables say. So a program asks them only about addresses of this
//! host, about those that share a block with a subnet of it, and about one in
//! [`BITS`] of the others for each bit that is set.
//!
//! Behind these, one bit for each port that is published by itself, of whatever
//! protocol and address: most packets from outside that are none of a published
//! port's answer a container.

use crate::addr::{Address, Be16};

/// Number of the set, among those of `allow4` and `allow6`, of addresses that
/// nobody outside has: the subnets of containers and the broadcast addresses of
/// uplinks. No port is published to it.
pub const INSIDE: u32 = u32::MAX;

/// Words of 64 bits that are of addresses: 8 KiB together.
pub const OF_ADDRESSES: u32 = 1024;
/// Bits of addresses.
pub const BITS: u32 = OF_ADDRESSES * u64::BITS;
/// Words of the filter, those of ports included.
pub const WORDS: u32 = OF_ADDRESSES + (u16::MAX as u32 + 1) / u64::BITS;

/// The word of an address and its bit in it.
#[inline(always)]
pub fn place<A: Address>(addr: A) -> (u32, u64) {
    // Knuth's multiplicative hash; its high bits are the good ones.
    let mixed = addr
        .words()
        .iter()
        .fold(0u32, |hash, word| (hash ^ *word).wrapping_mul(0x9e37_79b1));
    let bit = mixed >> 16;
    (bit / u64::BITS, 1 << (bit % u64::BITS))
}

/// The same of a port.
#[inline(always)]
pub fn place_of_port(port: Be16) -> (u32, u64) {
    let bit = u32::from(port.get());
    (OF_ADDRESSES + bit / u64::BITS, 1 << (bit % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{V4Addr, V6Addr};
    use proptest::prelude::*;
    use std::{collections::BTreeSet, vec::Vec};

    proptest! {
        #[test]
        fn every_address_has_one_bit(v4: u32, v6: [u32; 4]) {
            for (word, bit) in [place(V4Addr(v4)), place(V6Addr(v6))] {
                prop_assert!(word < OF_ADDRESSES);
                prop_assert_eq!(bit.count_ones(), 1);
            }
        }
    }

    #[test]
    fn ports_have_bits_of_their_own() {
        let places: BTreeSet<_> = (0..=u16::MAX)
            .map(|port| place_of_port(Be16::new(port)))
            .collect();
        assert_eq!(places.len(), 1 << 16);
        let words = places.iter().map(|(word, _)| *word);
        assert_eq!(words.clone().min(), Some(OF_ADDRESSES));
        assert_eq!(words.max(), Some(WORDS - 1));
    }

    #[test]
    fn neighbours_have_bits_of_their_own() {
        let subnet = (0..=255).map(|host| V4Addr::new([172, 17, 0, host]));
        let places: BTreeSet<_> = subnet.map(place).collect();
        assert!(places.len() > 250, "{}", places.len());
        let subnet = (0..=255u8).map(|host| {
            let mut bytes = [0; 16];
            (bytes[0], bytes[15]) = (0xfd, host);
            V6Addr::new(bytes)
        });
        let places: Vec<_> = subnet
            .map(place)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        assert!(places.len() > 250, "{}", places.len());
    }
}
