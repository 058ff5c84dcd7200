//! Sources that are blocked: how `blocked4` names them, and which can't be.

use crate::{
    addr::{Address, V4Addr, V6Addr},
    range::TrieKey,
};

/// Addresses that are blocked.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BlockPlace<A: Address> {
    pub addr: A,
    /// The value, which is counted in, follows in the kernel's memory: it has to
    /// lie at a multiple of eight bytes.
    pub pad: u32,
    pub fill: A::Fill,
}

/// Key of `blocked4`. The value counts the packets that were dropped.
pub type BlockKey<A> = TrieKey<BlockPlace<A>>;

impl<A: Address> TrieKey<BlockPlace<A>> {
    /// The addresses that begin as the first `bits` of `addr`, of which the
    /// others are 0.
    #[inline(always)]
    pub const fn of_prefix(addr: A, bits: u32) -> Self {
        Self {
            pad: 0,
            prefix: bits,
            place: BlockPlace {
                addr,
                pad: 0,
                fill: A::FILL,
            },
        }
    }

    /// To be looked up for this address.
    #[inline(always)]
    pub const fn of_source(addr: A) -> Self {
        Self::of_prefix(addr, 8 * size_of::<A>() as u32)
    }
}

/// What a host can't do without, or never hears from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserved {
    /// 0.0.0.0 or ::, from which hosts ask for an address (RFC 2131, section
    /// 4.1), or whether somebody has theirs (RFC 4862, section 5.4.2).
    Unspecified,
    /// 127.0.0.0/8 or ::1.
    Loopback,
    /// fe80::/10: routers, and neighbours that are asked for addresses.
    LinkLocal,
    /// 224.0.0.0/4 or ff00::/8, which are destinations.
    Multicast,
    /// ::ffff:0:0/96, which stands for IPv4 and is on no wire.
    Mapped,
}

/// An address family's reserved addresses.
pub trait Blockable: Address {
    /// By address, and bits of it that count.
    const RESERVED: &'static [(Self, u8, Reserved)];
}

impl Blockable for V4Addr {
    const RESERVED: &'static [(Self, u8, Reserved)] = &[
        (Self::new([0, 0, 0, 0]), 32, Reserved::Unspecified),
        (Self::new([127, 0, 0, 0]), 8, Reserved::Loopback),
        (Self::new([224, 0, 0, 0]), 4, Reserved::Multicast),
    ];
}

impl Blockable for V6Addr {
    const RESERVED: &'static [(Self, u8, Reserved)] = &[
        (Self::new([0; 16]), 128, Reserved::Unspecified),
        (v6(0, 1), 128, Reserved::Loopback),
        (v6(0, 0xffff << 32), 96, Reserved::Mapped),
        (v6(0xfe80 << 48, 0), 10, Reserved::LinkLocal),
        (v6(0xff00 << 48, 0), 8, Reserved::Multicast),
    ];
}

/// From its halves, in host order.
const fn v6(high: u64, low: u64) -> V6Addr {
    V6Addr::new((((high as u128) << 64) | low as u128).to_be_bytes())
}

/// The first reserved addresses that some of the addresses are which begin as
/// the first `bits` of `addr`.
pub fn reserved<A: Blockable>(addr: A, bits: u8) -> Option<Reserved> {
    let mut reserved = A::RESERVED.iter();
    let found = reserved.find(|(special, length, _)| {
        let common = bits.min(*length);
        // `shares_prefix` takes no bits for none.
        common == 0 || addr.shares_prefix(*special, common)
    });
    found.map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn of4(addr: &str, bits: u8) -> Option<Reserved> {
        reserved(V4Addr::from(addr.parse::<Ipv4Addr>().unwrap()), bits)
    }

    fn of6(addr: &str, bits: u8) -> Option<Reserved> {
        reserved(V6Addr::from(addr.parse::<Ipv6Addr>().unwrap()), bits)
    }

    #[test]
    fn what_a_host_needs_is_reserved_however_it_is_named() {
        for (addr, bits, what) in [
            ("0.0.0.0", 0, Some(Reserved::Unspecified)),
            ("0.0.0.0", 1, Some(Reserved::Unspecified)),
            ("0.1.0.0", 16, None),
            ("127.0.0.1", 32, Some(Reserved::Loopback)),
            ("112.0.0.0", 4, Some(Reserved::Loopback)),
            ("128.0.0.0", 1, Some(Reserved::Multicast)),
            ("239.1.2.3", 32, Some(Reserved::Multicast)),
            ("198.51.100.0", 24, None),
            ("169.254.0.0", 16, None),
            ("240.0.0.0", 4, None),
        ] {
            assert_eq!(of4(addr, bits), what, "{addr}/{bits}");
        }
        for (addr, bits, what) in [
            ("::", 0, Some(Reserved::Unspecified)),
            ("::", 8, Some(Reserved::Unspecified)),
            ("::1", 128, Some(Reserved::Loopback)),
            ("::ffff:192.0.2.7", 128, Some(Reserved::Mapped)),
            ("fe80::7", 128, Some(Reserved::LinkLocal)),
            ("fe00::", 7, Some(Reserved::LinkLocal)),
            ("fec0::", 10, None),
            ("ff02::1", 128, Some(Reserved::Multicast)),
            ("2001:db8::", 32, None),
            ("fc00::", 7, None),
        ] {
            assert_eq!(of6(addr, bits), what, "{addr}/{bits}");
        }
    }

    proptest! {
        /// A prefix is refused exactly if it has an address that is.
        #[test]
        fn a_prefix_is_reserved_if_an_address_of_it_is(addr: u32, bits in 0u8..=32, other: u32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let within = (addr & mask) | (other & !mask);
            let whole = reserved(V4Addr::new((addr & mask).to_be_bytes()), bits);
            let single = reserved(V4Addr::new(within.to_be_bytes()), 32);
            prop_assert!(single.is_none() || whole.is_some());
            if whole.is_some() && bits == 32 {
                prop_assert_eq!(single, whole);
            }
            let touches = V4Addr::RESERVED.iter().any(|(special, length, _)| {
                let special = u32::from_be_bytes(special.bytes());
                let common = bits.min(*length);
                let mask = u32::MAX.checked_shl(32 - u32::from(common)).unwrap_or(0);
                (addr ^ special) & mask == 0
            });
            prop_assert_eq!(whole.is_some(), touches);
        }

        #[test]
        fn the_families_agree_on_what_they_have_in_common(high: u64, low: u64, bits in 0u8..=128) {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let addr = ((u128::from(high) << 64) | u128::from(low)) & mask;
            let found = reserved(V6Addr::new(addr.to_be_bytes()), bits);
            let last = addr | !mask;
            let has = |wanted: u128| (addr..=last).contains(&wanted);
            if has(0) || has(1) || has(0xfe80 << 112) || has(0xff02 << 112) {
                prop_assert!(found.is_some());
            }
            if found.is_some() && bits == 128 {
                let single = Ipv6Addr::from(addr);
                prop_assert!(
                    single.is_unspecified()
                        || single.is_loopback()
                        || single.is_multicast()
                        || single.is_unicast_link_local()
                        || single.to_ipv4_mapped().is_some()
                );
            }
        }
    }
}
