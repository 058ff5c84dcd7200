//! A filter that tells which addresses may be the host's own, a container's, or
//! of a container's subnet.
//!
//! One bit for each hash of an address, or of the [block](Address::block) that
//! a subnet is in: where it is clear the address is none of them, where it is
//! set the tables say. So a program asks them only about addresses of this
//! host, about those that share a block with a subnet of it, and about one in
//! [`BITS`] of the others for each bit that is set.

use crate::addr::Address;

/// Number of the set, among those of `allow4` and `allow6`, of addresses that
/// nobody outside has: the subnets of containers and the broadcast addresses of
/// uplinks. No port is published to it.
pub const INSIDE: u32 = u32::MAX;

/// Words of 64 bits: 8 KiB together.
pub const WORDS: u32 = 1024;
/// Bits of the filter.
pub const BITS: u32 = WORDS * u64::BITS;

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
                prop_assert!(word < WORDS);
                prop_assert_eq!(bit.count_ones(), 1);
            }
        }
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
