//! Tables that are asked for the longest prefix (LPM tries): ranges of ports,
//! and addresses that may use a port.
//!
//! A range has one entry whatever its size: at the longest prefix that its
//! first and its last port have in common. Of disjoint ranges no two have the
//! same one, because all that have it reach over its middle. The longest entry
//! that a port matches may be that of a range beside it; then the next shorter
//! one is asked, and so on, which is nearly always the first or second: each
//! further one is a range that encloses the last one's place.

use crate::addr::{Address, Be16};

/// Key of a trie as a program keeps it on its stack: what the kernel takes for
/// the key begins with `prefix`, and `place` is aligned to eight bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TrieKey<P> {
    pub pad: u32,
    /// How many bits of `place` count, the first byte's highest first.
    pub prefix: u32,
    pub place: P,
}

/// Ports of an address: in `ranges4` of the host (0 for every address), in
/// `back_ranges4` of a container.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RangePlace<A: Address> {
    /// TCP or UDP, by its protocol number, in host order.
    pub proto: u32,
    pub pad: u32,
    pub addr: A,
    pub port: Be16,
    pub pad2: u16,
    pub fill: A::Fill,
}

/// Key of `ranges4` and `back_ranges4`.
pub type RangeKey<A> = TrieKey<RangePlace<A>>;

impl<A: Address> TrieKey<RangePlace<A>> {
    /// Bits before those of the port.
    const BEFORE: u32 = 64 + 8 * size_of::<A>() as u32;

    /// That of the range from port `first` to `last`, in host order.
    pub const fn of_range(addr: A, proto: u8, first: u16, last: u16) -> Self {
        let common = (first ^ last).leading_zeros();
        let mask = if common == 0 {
            0
        } else {
            u16::MAX << (u16::BITS - common)
        };
        let mut key = Self::of_port(addr, proto, Be16::new(first & mask));
        key.prefix = Self::BEFORE + common;
        key
    }

    /// To be looked up for this port.
    #[inline(always)]
    pub const fn of_port(addr: A, proto: u8, port: Be16) -> Self {
        Self {
            pad: 0,
            prefix: Self::BEFORE + u16::BITS,
            place: RangePlace {
                proto: proto as u32,
                pad: 0,
                addr,
                port,
                pad2: 0,
                fill: A::FILL,
            },
        }
    }
}

/// How many entries one after the other can match a port: one for each length
/// of a prefix, and none.
pub const LONGEST_SEARCH: u32 = u16::BITS + 2;

/// Whether `port` is one of the `span` ports that follow `first`, or `first`.
#[inline(always)]
pub const fn contains(first: Be16, span: u16, port: Be16) -> bool {
    port.get().wrapping_sub(first.get()) <= span
}

/// The port as far from `to` as `port` is from `from`: how a range leads to
/// another of the same size.
#[inline(always)]
pub const fn shifted(port: Be16, from: Be16, to: Be16) -> Be16 {
    Be16::new(to.get().wrapping_add(port.get()).wrapping_sub(from.get()))
}

/// Addresses that a set allows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AllowPlace<A: Address> {
    /// Number of the set, never 0, in host order.
    pub set: u32,
    pub pad: u32,
    pub addr: A,
    pub pad2: u32,
    pub fill: A::Fill,
}

/// Key of `allow4`. The value is always 1.
pub type AllowKey<A> = TrieKey<AllowPlace<A>>;

impl<A: Address> TrieKey<AllowPlace<A>> {
    /// The addresses that begin as the first `bits` of `addr`, of which the
    /// others are 0.
    #[inline(always)]
    pub const fn new(set: u32, addr: A, bits: u32) -> Self {
        Self {
            pad: 0,
            prefix: 64 + bits,
            place: AllowPlace {
                set,
                pad: 0,
                addr,
                pad2: 0,
                fill: A::FILL,
            },
        }
    }

    /// To be looked up for this address.
    #[inline(always)]
    pub const fn of_address(set: u32, addr: A) -> Self {
        Self::new(set, addr, 8 * size_of::<A>() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::V4Addr;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, vec::Vec};

    type Key = RangeKey<V4Addr>;

    /// The range of a port as the programs look for it.
    fn find(trie: &BTreeMap<(u32, u16), (u16, u16)>, port: u16) -> Option<(u16, u16)> {
        let mut prefix = 16;
        for _ in 0..LONGEST_SEARCH {
            // What the kernel finds: the longest that is no longer than this.
            let (length, range) = (0..=prefix).rev().find_map(|length| {
                let mask = u16::MAX.checked_shl(16 - length).unwrap_or(0);
                let range = trie.get(&(length, port & mask))?;
                Some((length, *range))
            })?;
            if contains(Be16::new(range.0), range.1 - range.0, Be16::new(port)) {
                return Some(range);
            }
            prefix = length.checked_sub(1)?;
        }
        panic!("a longer search for {port} in {trie:?}");
    }

    fn disjoint(mut ends: Vec<u16>) -> Vec<(u16, u16)> {
        ends.sort_unstable();
        ends.dedup();
        ends.chunks_exact(2).map(|two| (two[0], two[1])).collect()
    }

    proptest! {
        #[test]
        fn each_port_finds_its_range_and_no_other(
            ends in prop::collection::vec(1u16.., 0..40),
            others in prop::collection::vec(any::<u16>(), 0..20),
        ) {
            let ranges = disjoint(ends.clone());
            let mut trie = BTreeMap::new();
            for &(first, last) in &ranges {
                let key = Key::of_range(V4Addr(0), 6, first, last);
                let place = (key.prefix - Key::BEFORE, key.place.port.get());
                prop_assert_eq!(trie.insert(place, (first, last)), None, "a place of its own");
            }
            let near = ends.iter().flat_map(|end| [end - 1, *end, end.saturating_add(1)]);
            for port in near.chain(others) {
                let wanted = ranges.iter().find(|(first, last)| (*first..=*last).contains(&port));
                prop_assert_eq!(find(&trie, port), wanted.copied(), "port {}", port);
            }
        }
    }

    #[test]
    fn ports_of_a_range_lead_to_those_of_another() {
        let [from, to] = [20_000, 80].map(Be16::new);
        assert_eq!(shifted(Be16::new(20_000), from, to).get(), 80);
        assert_eq!(shifted(Be16::new(20_009), from, to).get(), 89);
        assert!(contains(from, 9, Be16::new(20_009)));
        assert!(!contains(from, 9, Be16::new(20_010)));
        assert!(!contains(from, 9, Be16::new(19_999)));
    }

    #[test]
    fn a_search_begins_with_all_bits_of_the_port() {
        let key = Key::of_port(V4Addr(0), 6, Be16::new(80));
        assert_eq!(key.prefix, 64 + 32 + 16);
        assert_eq!(Key::of_range(V4Addr(0), 6, 80, 80), key);
        let all = Key::of_range(V4Addr(0), 6, 1, u16::MAX);
        assert_eq!((all.prefix, all.place.port.get()), (64 + 32, 0));
    }
}
