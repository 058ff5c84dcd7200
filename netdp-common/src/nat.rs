//! Translation of a packet: which bytes to write, and what it does to the
//! checksums.

use crate::{
    addr::{Address, V4Addr, V6Addr, proto},
    checksum::{self, Sum},
    packet::{ETH_LEN, Packet, Transport, Tuple},
};

/// How the transport checksum changes. A part that doesn't change is 0; there
/// are no options inside, because the verifier refuses to compute with what
/// the compiler leaves unwritten behind a `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L4Change {
    /// Offset of the checksum field from the start of the packet, bytes.
    pub offset: usize,
    /// Change of the pseudo header.
    pub pseudo: Sum,
    /// Change of the transport header itself.
    pub header: Sum,
    /// UDP: 0 means that there is no checksum (RFC 768; over IPv6 only tunnels
    /// may send it, RFC 6935), and a sum of 0 is written as all ones.
    pub zero_means_none: bool,
}

/// What happens to the transport checksum when `packet`, which has ports, gets
/// the addresses and ports of `to`.
#[inline(always)]
pub fn l4_change<A: Address>(packet: &Packet<A>, to: &Tuple<A>) -> L4Change {
    let from = &packet.tuple;
    let mut change = L4Change {
        offset: packet.l4 + 16,
        pseudo: Sum::default(),
        header: Sum::default(),
        zero_means_none: packet.proto == proto::UDP,
    };
    if from.sport != to.sport || from.dport != to.dport {
        change.header = change
            .header
            .change16(from.sport.raw(), to.sport.raw())
            .change16(from.dport.raw(), to.dport.raw());
    }
    match packet.transport {
        Transport::Udp => change.offset = packet.l4 + 6,
        Transport::EchoRequest | Transport::EchoReply => {
            change.offset = packet.l4 + 2;
            // RFC 792: no pseudo header; RFC 4443: one.
            if packet.proto == proto::ICMP {
                return change;
            }
        }
        _ => {}
    }
    if from.saddr != to.saddr || from.daddr != to.daddr {
        change.pseudo = change
            .pseudo
            .change(from.saddr.words(), to.saddr.words())
            .change(from.daddr.words(), to.daddr.words());
    }
    change
}

/// The twelve bytes from the TTL to the end of the destination address of an
/// IPv4 header, as words in memory order, with their offset: what translation
/// and forwarding change. `field` is the header checksum in memory order.
#[inline(always)]
pub fn v4_header(
    packet: &Packet<V4Addr>,
    field: u16,
    to: &Tuple<V4Addr>,
    hop: bool,
) -> (usize, [u32; 3]) {
    let ttl = packet.ttl.saturating_sub(u8::from(hop));
    let old = u16::from_ne_bytes([packet.ttl, packet.proto]);
    let new = u16::from_ne_bytes([ttl, packet.proto]);
    let change = Sum::default()
        .change(
            &[packet.tuple.saddr.0, packet.tuple.daddr.0],
            &[to.saddr.0, to.daddr.0],
        )
        .change16(old, new);
    let checksum = checksum::update(field, change);
    let start = if cfg!(target_endian = "little") {
        u32::from(new) | u32::from(checksum) << 16
    } else {
        u32::from(new) << 16 | u32::from(checksum)
    };
    (ETH_LEN + 8, [start, to.saddr.0, to.daddr.0])
}

/// An IPv6 header as translation writes it, at [`ETH_LEN`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V6Header {
    /// Its first eight bytes, in memory order.
    pub start: u64,
    pub saddr: V6Addr,
    pub daddr: V6Addr,
}

/// The IPv6 header that starts with `start` after translation and forwarding.
/// It has no checksum.
#[inline(always)]
pub fn v6_header(packet: &Packet<V6Addr>, start: u64, to: &Tuple<V6Addr>, hop: bool) -> V6Header {
    let mut start = start.to_ne_bytes();
    start[7] = packet.ttl.saturating_sub(u8::from(hop));
    V6Header {
        start: u64::from_ne_bytes(start),
        saddr: to.saddr,
        daddr: to.daddr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::Be16,
        packet::{Bytes, V4, parse},
    };
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Translates bytes as the programs do, the kernel's checksum helper
    /// replaced by the arithmetic that it is documented to do.
    fn translate(bytes: &mut [u8], to: &Tuple<V4Addr>, hop: bool) {
        let packet = parse::<V4>(&*bytes).unwrap();
        let field = u16::from_ne_bytes(bytes.read(ETH_LEN + 10).unwrap());
        let (at, header) = v4_header(&packet, field, to, hop);
        for (word, place) in header.iter().zip(bytes[at..at + 12].chunks_mut(4)) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[packet.l4..packet.l4 + 2].copy_from_slice(&to.sport.raw().to_ne_bytes());
        bytes[packet.l4 + 2..packet.l4 + 4].copy_from_slice(&to.dport.raw().to_ne_bytes());
        let change = l4_change(&packet, to);
        let old = u16::from_ne_bytes(bytes.read(change.offset).unwrap());
        let new = checksum::update(checksum::update(old, change.pseudo), change.header);
        bytes[change.offset..change.offset + 2].copy_from_slice(&new.to_ne_bytes());
    }

    fn sum(bytes: &[u8], start: u32) -> u16 {
        let mut sum = start;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// RFC 9293, section 3.1: with the pseudo header and the field itself the
    /// sum is all ones.
    fn is_intact(bytes: &[u8]) -> bool {
        let tcp = &bytes[ETH_LEN + 20..];
        let pseudo = u32::from(sum(&bytes[ETH_LEN + 12..ETH_LEN + 20], 0)) + 6 + tcp.len() as u32;
        sum(&bytes[ETH_LEN..ETH_LEN + 20], 0) == 0xffff && sum(tcp, pseudo) == 0xffff
    }

    fn packet(tuple: &Tuple<V4Addr>, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = std::vec![0u8; ETH_LEN];
        out.extend([0x45, 0]);
        out.extend(((40 + payload.len()) as u16).to_be_bytes());
        out.extend([0, 0, 0x40, 0, ttl, 6, 0, 0]);
        out.extend(tuple.saddr.bytes());
        out.extend(tuple.daddr.bytes());
        let ip = !sum(&out[ETH_LEN..], 0);
        out[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&ip.to_be_bytes());
        out.extend(tuple.sport.raw().to_ne_bytes());
        out.extend(tuple.dport.raw().to_ne_bytes());
        out.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        out.extend(payload);
        let tcp = &out[ETH_LEN + 20..];
        let pseudo = u32::from(sum(&out[ETH_LEN + 12..ETH_LEN + 20], 0)) + 6 + tcp.len() as u32;
        let field = !sum(tcp, pseudo);
        out[ETH_LEN + 36..ETH_LEN + 38].copy_from_slice(&field.to_be_bytes());
        out
    }

    fn tuples() -> impl Strategy<Value = Tuple<V4Addr>> {
        any::<(u32, u32, u16, u16)>().prop_map(|(saddr, daddr, sport, dport)| Tuple {
            saddr: V4Addr(saddr),
            daddr: V4Addr(daddr),
            sport: Be16::new(sport),
            dport: Be16::new(dport),
        })
    }

    proptest! {
        #[test]
        fn checksums_stay_right_and_the_way_back_is_the_identity(
            from in tuples(), to in tuples(), ttl in 2u8..,
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let original = packet(&from, ttl, &payload);
            prop_assert!(is_intact(&original));
            let mut bytes = original.clone();
            translate(&mut bytes, &to, false);
            prop_assert!(is_intact(&bytes));
            prop_assert_eq!(parse::<V4>(bytes.as_slice()).unwrap().tuple, to);
            translate(&mut bytes, &from, false);
            prop_assert_eq!(&bytes, &original);
            translate(&mut bytes, &to, true);
            prop_assert!(is_intact(&bytes));
            prop_assert_eq!(parse::<V4>(bytes.as_slice()).unwrap().ttl, ttl - 1);
        }
    }
}
