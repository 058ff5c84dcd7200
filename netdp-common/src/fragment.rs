//! Fragments that a filter or a NAT must not be fooled by: those that keep the
//! transport header out of the first fragment, and those that write over what
//! it had (RFC 1858, RFC 3128; RFC 5722 for IPv6).
//!
//! What a datagram's fragments have brought is kept as one span from its start
//! and one island beyond a gap, so fragments in order, and those of which some
//! overtake others, are followed exactly; of a second island nothing is known.
//! What the first fragment brought is always known, and with it the transport
//! header.

use crate::{
    addr::{Address, proto},
    drop::DropReason,
    maps::{Frag, FragKey},
    packet::{Bytes, Fragment, Packet, Transport},
};

/// Seconds after which an identification may stand for another datagram, and
/// what waits for its first fragment waits no longer: as long as Linux waits
/// for the rest of an IPv4 datagram (`net.ipv4.ipfrag_time`).
pub const LIFETIME: u32 = 30;

/// Seconds in which a first fragment is not taken for one of another datagram.
/// Identifications of IPv4 come round again in less than [`LIFETIME`] where
/// some 2,200 datagrams a second are sent (RFC 4963).
pub const REPEAT: u32 = 2;

impl<A: Address> FragKey<A> {
    /// A number made of the key, never 0.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        // Identifications follow one another: spread them.
        let mut tag = (self.id ^ self.proto << 24).wrapping_mul(0x9e37_79b1);
        for word in self.saddr.words() {
            tag = tag.rotate_left(5) ^ *word;
        }
        for word in self.daddr.words() {
            tag = tag.rotate_left(5) ^ *word;
        }
        if tag == 0 { 1 } else { tag }
    }

    /// A number made of the addresses alone.
    #[inline(always)]
    pub fn spread(&self) -> u32 {
        let mut spread = 0u32;
        for word in self.saddr.words() {
            spread = spread.rotate_left(5) ^ *word;
        }
        for word in self.daddr.words() {
            spread = spread.rotate_left(5) ^ *word;
        }
        spread.wrapping_mul(0x9e37_79b1) >> 16
    }
}

/// Whether a fragment that comes now is of another datagram than this one: all
/// of this has been seen, or it is too old.
#[inline(always)]
pub const fn is_done(known: &Frag, now: u32) -> bool {
    known.total != 0 && known.seen >= known.total || is_over(known.since, now)
}

/// Whether a first fragment that comes now lies over the one that is known, of
/// the same datagram.
#[inline(always)]
pub const fn is_repeated(known: &Frag, now: u32) -> bool {
    known.again == 0 && !is_done(known, now) && now.wrapping_sub(known.since) <= REPEAT
}

/// Whether so much time has passed since the first fragment.
#[inline(always)]
pub const fn is_over(since: u32, now: u32) -> bool {
    now.wrapping_sub(since) > LIFETIME
}

/// Bytes that the first fragment has to have of a transport header.
#[inline(always)]
pub const fn least(protocol: u8) -> u16 {
    match protocol {
        proto::TCP => 20,
        proto::UDP | proto::ICMP | proto::ICMPV6 => 8,
        _ => 0,
    }
}

/// A first fragment that has fewer. Its ports, if it has those, tell whose it
/// is.
///
/// # Errors
/// [`DropReason::Malformed`] where the packet ends before they do.
#[inline(always)]
pub fn parse_tiny<A>(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet<A>,
) -> Result<(), DropReason> {
    packet.fragment = Fragment::Tiny;
    packet.transport = Transport::Later;
    if packet.end >= 4 && (packet.proto == proto::TCP || packet.proto == proto::UDP) {
        let ports: [[u8; 2]; 2] = bytes.read(packet.l4 & 0xff).ok_or(DropReason::Malformed)?;
        packet.ports(ports[0], ports[1]);
    }
    Ok(())
}

/// What is known of a datagram by its first fragment.
#[inline(always)]
pub fn begin<A>(packet: &Packet<A>, now: u32) -> Frag {
    Frag {
        sport: packet.tuple.sport,
        dport: packet.tuple.dport,
        island: 0,
        island_end: 0,
        seen: packet.end,
        total: 0,
        since: now,
        proto: packet.proto.into(),
        again: 0,
    }
}

/// What a later fragment is, as far as the datagram is known, and adds it to
/// that.
#[inline(always)]
pub fn add<A>(known: &mut Frag, packet: &Packet<A>) -> Fragment {
    let (begin, end) = (packet.begin, packet.end);
    if begin < least(packet.proto) {
        return Fragment::Tiny;
    }
    let has_island = known.island_end != 0;
    if begin < known.seen || has_island && begin < known.island_end && end > known.island {
        return Fragment::Overlapping;
    }
    if !packet.more {
        known.total = end;
    }
    if begin == known.seen {
        known.seen = end;
        if has_island && end == known.island {
            known.seen = known.island_end;
            known.island = 0;
            known.island_end = 0;
        }
    } else if !has_island {
        known.island = begin;
        known.island_end = end;
    } else if begin == known.island_end {
        known.island_end = end;
    } else if end == known.island {
        known.island = begin;
    }
    Fragment::Later
}

/// Why a fragment of a datagram that netdp carries is refused.
///
/// # Errors
/// [`DropReason::FragmentTiny`], [`DropReason::FragmentOverlap`].
#[inline(always)]
pub const fn check(fragment: Fragment) -> Result<(), DropReason> {
    match fragment {
        Fragment::Tiny => Err(DropReason::FragmentTiny),
        Fragment::Overlapping => Err(DropReason::FragmentOverlap),
        Fragment::Whole | Fragment::First | Fragment::Later => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::V4Addr;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn piece(begin: u16, end: u16) -> Packet<V4Addr> {
        Packet {
            begin,
            end,
            more: true,
            proto: proto::UDP,
            ..Packet::default()
        }
    }

    fn follow(first: u16, pieces: &[(u16, u16)]) -> Vec<Fragment> {
        let mut known = begin(&piece(0, first), 0);
        let add = |(begin, end): &(u16, u16)| add(&mut known, &piece(*begin, *end));
        pieces.iter().map(add).collect()
    }

    #[test]
    fn any_order_of_three_is_followed() {
        use Fragment::Later;
        assert_eq!(follow(16, &[(16, 32), (32, 40)]), [Later; 2]);
        assert_eq!(follow(16, &[(32, 40), (16, 32)]), [Later; 2]);
        assert_eq!(
            follow(16, &[(48, 56), (32, 48), (16, 32), (56, 60)]),
            [Later; 4]
        );
        assert_eq!(
            follow(16, &[(32, 48), (48, 56), (16, 32), (56, 60)]),
            [Later; 4]
        );
    }

    #[test]
    fn what_was_seen_is_not_written_over() {
        use Fragment::{Later, Overlapping};
        assert_eq!(follow(16, &[(8, 24)]), [Overlapping]);
        assert_eq!(follow(32, &[(24, 40), (32, 40)]), [Overlapping, Later]);
        assert_eq!(
            follow(16, &[(16, 32), (16, 32)]),
            [Later, Overlapping],
            "twice"
        );
        assert_eq!(follow(16, &[(32, 48), (40, 56)]), [Later, Overlapping]);
        assert_eq!(follow(16, &[(32, 48), (24, 40)]), [Later, Overlapping]);
        assert_eq!(follow(16, &[(32, 48), (24, 64)]), [Later, Overlapping]);
        assert_eq!(
            follow(16, &[(32, 48), (16, 32), (40, 48)]),
            [Later, Later, Overlapping],
            "the gap is closed"
        );
    }

    #[test]
    fn a_datagram_is_done_with_all_of_it_or_after_its_time() {
        let mut known = begin(&piece(0, 16), 100);
        let mut last = piece(32, 40);
        last.more = false;
        assert_eq!(add(&mut known, &last), Fragment::Later);
        assert!(!is_done(&known, 100 + LIFETIME));
        assert!(is_done(&known, 101 + LIFETIME));
        assert_eq!(add(&mut known, &piece(16, 32)), Fragment::Later);
        assert!(is_done(&known, 100));
    }

    #[test]
    fn a_first_fragment_comes_once() {
        let mut known = begin(&piece(0, 16), 100);
        assert!(is_repeated(&known, 100) && is_repeated(&known, 100 + REPEAT));
        assert!(!is_repeated(&known, 101 + REPEAT), "of another datagram");
        known.again = 1;
        assert!(!is_repeated(&known, 100), "sent in once more by netdp");
        known.again = 0;
        let mut last = piece(16, 24);
        last.more = false;
        add(&mut known, &last);
        assert!(!is_repeated(&known, 100), "the datagram is whole");
    }

    #[test]
    fn a_transport_header_is_never_in_two() {
        let mut known = begin(&piece(0, 8), 0);
        let mut segment = piece(8, 64);
        segment.proto = proto::TCP;
        assert_eq!(add(&mut known, &segment), Fragment::Tiny);
        assert_eq!(check(Fragment::Tiny), Err(DropReason::FragmentTiny));
        assert_eq!(
            check(Fragment::Overlapping),
            Err(DropReason::FragmentOverlap)
        );
        assert_eq!(check(Fragment::Later), Ok(()));
    }

    proptest! {
        /// Against every byte remembered, for as long as one island is enough.
        #[test]
        fn what_is_admitted_overlaps_nothing_admitted_before(
            first in 1u16..10, pieces in proptest::collection::vec((0u16..30, 1u16..8), 1..4),
        ) {
            let mut known = begin(&piece(0, first * 8), 0);
            let mut bytes = std::vec![false; 40];
            bytes[..usize::from(first)].fill(true);
            let mut islands = 1;
            for (at, length) in pieces {
                let span = usize::from(at)..usize::from(at + length);
                let is_over = bytes[span.clone()].iter().any(|seen| *seen);
                let is_tiny = at == 0;
                let fragment = add(&mut known, &piece(at * 8, (at + length) * 8));
                if is_tiny {
                    prop_assert_eq!(fragment, Fragment::Tiny);
                    continue;
                }
                prop_assert_eq!(fragment == Fragment::Overlapping, is_over);
                if !is_over {
                    bytes[span].fill(true);
                }
                islands = bytes.split(|seen| !seen).filter(|run| !run.is_empty()).count();
                prop_assume!(islands <= 2);
            }
            prop_assert!(islands <= 2);
        }
    }
}
