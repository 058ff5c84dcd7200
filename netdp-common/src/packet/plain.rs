//! Whole segments and datagrams behind a network header without options: what is
//! needed of one is read at one look, and what changes is written as one piece.

use super::{
    Bytes, ETH_LEN, Header, MORE_FRAGMENTS, OFFSET, TcpHeader, Transport, Tuple, V4, V6, V6_LEN,
    Wire, ethertype, put,
};
use crate::{
    addr::{Address, Be16, Mac, V4Addr, V6Addr, proto},
    checksum::{self, Sum},
    nat::L4Change,
};

/// Bytes before the Ethernet header among the words of [`headers`]: behind it,
/// words are aligned then.
pub const LEAD: usize = 2;

/// How many words those are at most.
pub const WORDS: usize = (LEAD + ETH_LEN + V6_LEN + PORTS) / 4;

/// Length of both ports, bytes.
const PORTS: usize = 4;

/// A plain packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain<A> {
    pub tuple: Tuple<A>,
    /// [`proto::TCP`] or [`proto::UDP`].
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Of TCP or UDP.
    pub transport: Transport,
    /// The first eight bytes of the network header, as words in memory order.
    pub start: [u32; 2],
    /// IPv4: the header's checksum, in memory order.
    pub check: u16,
}

/// A family's plain packets.
pub trait Framed: Header {
    /// Bytes from the start of the packet to the end of its ports.
    const HEADERS: usize;
    /// Host order.
    const ETHERTYPE: u16;

    /// Nothing where the packet isn't plain.
    fn plain(bytes: &(impl Bytes + ?Sized)) -> Option<Plain<Self::Addr>>;

    /// Hands out the words of the network header, numbered from 0, with the
    /// addresses of `to` and the TTL or hop limit `ttl`; `change` is that of the
    /// addresses. Gives what a sum of the packet changes by that no checksum in
    /// it makes up for.
    fn network(
        plain: &Plain<Self::Addr>,
        to: &Tuple<Self::Addr>,
        ttl: u8,
        change: Sum,
        put: impl FnMut(usize, u32),
    ) -> Sum;
}

/// What a plain packet becomes with other addresses and ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub l4: L4Change,
    /// See [`Framed::network`].
    pub unmade: Sum,
}

/// Hands out the words, numbered from 0 and in memory order, of [`LEAD`] bytes, an
/// Ethernet header with these addresses (destination, source), and the headers of a
/// plain packet up to its ports, with the addresses and ports of `to` and this TTL.
#[inline(always)]
pub fn headers<H: Framed>(
    plain: &Plain<H::Addr>,
    to: &Tuple<H::Addr>,
    macs: (Mac, Mac),
    ttl: u8,
    mut put: impl FnMut(usize, u32),
) -> Change {
    const NETWORK: usize = (LEAD + ETH_LEN) / 4;
    let from = &plain.tuple;
    let half = |mac: Mac, at: usize| u16::from_ne_bytes([mac[at], mac[at + 1]]);
    let (destination, source) = macs;
    put(0, word(0, half(destination, 0)));
    put(1, word(half(destination, 2), half(destination, 4)));
    put(2, word(half(source, 0), half(source, 2)));
    put(3, word(half(source, 4), H::ETHERTYPE.to_be()));
    let change = Sum::default()
        .change(from.saddr.words(), to.saddr.words())
        .change(from.daddr.words(), to.daddr.words())
        .or_nothing(from.saddr.words().len() + from.daddr.words().len());
    let unmade = H::network(plain, to, ttl, change, |at, word| put(NETWORK + at, word));
    put(
        (LEAD + H::HEADERS) / 4 - 1,
        word(to.sport.raw(), to.dport.raw()),
    );
    let l4 = L4Change {
        offset: H::HEADERS - PORTS + if plain.proto == proto::TCP { 16 } else { 6 },
        pseudo: change,
        header: ports(from, to),
        zero_means_none: plain.proto == proto::UDP,
    };
    Change { l4, unmade }
}

#[inline(always)]
fn ports<A>(from: &Tuple<A>, to: &Tuple<A>) -> Sum {
    if from.sport == to.sport && from.dport == to.dport {
        return Sum::default();
    }
    Sum::default()
        .change16(from.sport.raw(), to.sport.raw())
        .change16(from.dport.raw(), to.dport.raw())
}

/// Two halves in memory order.
#[inline(always)]
fn word(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The first bytes of a plain packet behind its Ethernet header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Start<H> {
    network: H,
    ports: [[u8; 2]; 2],
    /// As long as a UDP header is (RFC 768).
    rest: [u8; 4],
}

/// IPv4 header (RFC 791, section 3.1), by words.
#[repr(C)]
#[derive(Clone, Copy)]
struct V4Words {
    start: [[u8; 4]; 2],
    ttl: u8,
    proto: u8,
    check: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

/// IPv6 header (RFC 8200, section 3), by words.
#[repr(C)]
#[derive(Clone, Copy)]
struct V6Words {
    start: [[u8; 4]; 2],
    source: [[u8; 4]; 4],
    destination: [[u8; 4]; 4],
}

// SAFETY: repr(C), of bytes and arrays of bytes.
unsafe impl Wire for V4Words {}
// SAFETY: as above.
unsafe impl Wire for V6Words {}
// SAFETY: as above.
unsafe impl<H: Wire> Wire for Start<H> {}

/// What the header at `at` is; nothing of other protocols and where its fixed part
/// isn't there.
#[inline(always)]
fn transport(bytes: &(impl Bytes + ?Sized), at: usize, proto: u8) -> Option<Transport> {
    match proto {
        proto::TCP => {
            let header: TcpHeader = bytes.read_anew(at)?;
            Some(Transport::Tcp(header.flags))
        }
        proto::UDP => Some(Transport::Udp),
        _ => None,
    }
}

#[inline(always)]
fn raw(ports: [u8; 2]) -> Be16 {
    Be16::from_raw(u16::from_ne_bytes(ports))
}

impl Framed for V4 {
    const HEADERS: usize = ETH_LEN + 20 + PORTS;
    const ETHERTYPE: u16 = ethertype::IPV4;

    #[inline(always)]
    fn plain(bytes: &(impl Bytes + ?Sized)) -> Option<Plain<V4Addr>> {
        let Start { network, ports, .. }: Start<V4Words> = bytes.read_anew(ETH_LEN)?;
        let [version, _, a, b] = network.start[0];
        let [_, _, c, d] = network.start[1];
        let total = u16::from_be_bytes([a, b]);
        // GSO packets above 64 KiB say 0 (BIG TCP, Linux 6.3).
        if version != 0x45
            || u16::from_be_bytes([c, d]) & (MORE_FRAGMENTS | OFFSET) != 0
            || total < 20 && total != 0
        {
            return None;
        }
        Some(Plain {
            tuple: Tuple {
                saddr: V4Addr::new(network.source),
                daddr: V4Addr::new(network.destination),
                sport: raw(ports[0]),
                dport: raw(ports[1]),
            },
            proto: network.proto,
            ttl: network.ttl,
            transport: transport(bytes, Self::HEADERS - PORTS, network.proto)?,
            start: network.start.map(u32::from_ne_bytes),
            check: u16::from_ne_bytes(network.check),
        })
    }

    #[inline(always)]
    fn network(
        plain: &Plain<V4Addr>,
        to: &Tuple<V4Addr>,
        ttl: u8,
        change: Sum,
        mut put: impl FnMut(usize, u32),
    ) -> Sum {
        let old = u16::from_ne_bytes([plain.ttl, plain.proto]);
        let new = u16::from_ne_bytes([ttl, plain.proto]);
        put(0, plain.start[0]);
        put(1, plain.start[1]);
        put(
            2,
            word(
                new,
                checksum::update(plain.check, change.change16(old, new)),
            ),
        );
        put(3, to.saddr.0);
        put(4, to.daddr.0);
        Sum::default()
    }
}

impl Framed for V6 {
    const HEADERS: usize = ETH_LEN + V6_LEN + PORTS;
    const ETHERTYPE: u16 = ethertype::IPV6;

    #[inline(always)]
    fn plain(bytes: &(impl Bytes + ?Sized)) -> Option<Plain<V6Addr>> {
        let Start { network, ports, .. }: Start<V6Words> = bytes.read_anew(ETH_LEN)?;
        let [_, _, proto, ttl] = network.start[1];
        if network.start[0][0] >> 4 != 6 {
            return None;
        }
        let mut plain = Plain {
            tuple: Tuple {
                saddr: V6Addr::ANY,
                daddr: V6Addr::ANY,
                sport: raw(ports[0]),
                dport: raw(ports[1]),
            },
            proto,
            ttl,
            transport: transport(bytes, Self::HEADERS - PORTS, proto)?,
            start: network.start.map(u32::from_ne_bytes),
            check: 0,
        };
        put(&mut plain.tuple.saddr, network.source);
        put(&mut plain.tuple.daddr, network.destination);
        Some(plain)
    }

    #[inline(always)]
    fn network(
        plain: &Plain<V6Addr>,
        to: &Tuple<V6Addr>,
        ttl: u8,
        change: Sum,
        mut put: impl FnMut(usize, u32),
    ) -> Sum {
        let [a, b, c, _] = plain.start[1].to_ne_bytes();
        let second = u32::from_ne_bytes([a, b, c, ttl]);
        put(0, plain.start[0]);
        put(1, second);
        for (at, word) in to.saddr.words().iter().enumerate() {
            put(2 + at, *word);
        }
        for (at, word) in to.daddr.words().iter().enumerate() {
            put(6 + at, *word);
        }
        change.change(&[plain.start[1]], &[second])
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::packet::{
        Fragment, parse,
        tests::{ipv4, ipv6},
    };

    /// What a program makes of a packet, and the kernel's helper of its checksum.
    fn rewritten<H: Framed>(bytes: &[u8], to: &Tuple<H::Addr>, ttl: u8) -> (Vec<u8>, Sum) {
        let plain = H::plain(bytes).unwrap();
        let mut words = [0u8; WORDS * 4];
        let macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let Change { l4, unmade } = headers::<H>(&plain, to, macs, ttl, |at, word| {
            words[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        });
        let mut made = bytes.to_vec();
        made[..H::HEADERS].copy_from_slice(&words[LEAD..LEAD + H::HEADERS]);
        let field = u16::from_ne_bytes(made.as_slice().read(l4.offset).unwrap());
        let sum = checksum::update(checksum::update(field, l4.pseudo), l4.header);
        made[l4.offset..l4.offset + 2].copy_from_slice(&sum.to_ne_bytes());
        (made, unmade)
    }

    fn sum(bytes: &[u8]) -> Sum {
        let words = bytes.chunks(2).map(|pair| {
            let second = pair.get(1).copied().unwrap_or_default();
            u32::from(u16::from_ne_bytes([pair[0], second]))
        });
        words.fold(Sum::default(), Sum::add)
    }

    /// The sum over a segment and its pseudo header, which has to stay the same.
    fn transport_sum<H: Framed>(bytes: &[u8]) -> u16 {
        let packet = parse::<H>(bytes).unwrap();
        let Tuple { saddr, daddr, .. } = packet.tuple;
        let mut total = sum(&bytes[packet.l4..]);
        for word in saddr.words().iter().chain(daddr.words()) {
            total = total.add(*word);
        }
        total.fold()
    }

    fn check<H: Framed>(bytes: &[u8], to: Tuple<H::Addr>, ttl: u8) -> Result<(), TestCaseError> {
        let (made, unmade) = rewritten::<H>(bytes, &to, ttl);
        prop_assert_eq!(made[..6].to_vec(), vec![2, 0, 0, 0, 0, 1]);
        prop_assert_eq!(made[6..12].to_vec(), vec![2, 0, 0, 0, 0, 2]);
        prop_assert_eq!(made[12..14].to_vec(), H::ETHERTYPE.to_be_bytes().to_vec());
        let (before, after) = (parse::<H>(bytes).unwrap(), parse::<H>(&made[..]).unwrap());
        prop_assert_eq!(after.tuple, to);
        prop_assert_eq!(after.ttl, ttl);
        let same = crate::packet::Packet {
            tuple: before.tuple,
            ttl: before.ttl,
            ..after
        };
        prop_assert_eq!(same, before);
        prop_assert_eq!(
            transport_sum::<H>(&made) % 0xffff,
            transport_sum::<H>(bytes) % 0xffff
        );
        // What hardware has summed up (`CHECKSUM_COMPLETE`) follows from what is
        // told of it: the transport's checksum makes up for the pseudo header.
        let whole = |bytes: &[u8]| sum(&bytes[ETH_LEN..]);
        prop_assert_eq!(
            checksum::update(!whole(bytes).fold(), unmade) % 0xffff,
            checksum::update(!whole(&made).fold(), pseudo::<H>(bytes, &to)) % 0xffff
        );
        Ok(())
    }

    /// By how much the transport's checksum makes up for the addresses where
    /// nothing else does.
    fn pseudo<H: Framed>(bytes: &[u8], to: &Tuple<H::Addr>) -> Sum {
        let from = parse::<H>(bytes).unwrap().tuple;
        Sum::default()
            .change(from.saddr.words(), to.saddr.words())
            .change(from.daddr.words(), to.daddr.words())
    }

    fn segment(ports: [u8; 4], flags: u8, data: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0u8; 20];
        tcp[..4].copy_from_slice(&ports);
        tcp[12] = 0x50;
        tcp[13] = flags;
        tcp[16] = 0x12;
        tcp.extend_from_slice(data);
        tcp
    }

    proptest! {
        #[test]
        fn whole_segments_and_datagrams_are_rewritten(
            tcp: bool,
            ports: [u8; 4],
            to_ports: [u8; 4],
            flags: u8,
            addresses: [[u8; 16]; 2],
            ttl: u8,
            data in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let number = if tcp { proto::TCP } else { proto::UDP };
            let segment = segment(ports, flags, &data);
            let [saddr, daddr] = addresses;
            let [sport, dport] = [[to_ports[0], to_ports[1]], [to_ports[2], to_ports[3]]].map(raw);
            let v4 = |it: [u8; 16]| V4Addr::new([it[0], it[1], it[2], it[3]]);
            let mut bytes = ipv4(number, 0x4000, &segment);
            let total = (bytes.len() - ETH_LEN) as u16;
            bytes[ETH_LEN + 2..ETH_LEN + 4].copy_from_slice(&total.to_be_bytes());
            let to = Tuple { saddr: v4(saddr), daddr: v4(daddr), sport, dport };
            check::<V4>(&bytes, to, ttl)?;
            let plain = V4::plain(bytes.as_slice()).unwrap();
            let packet = parse::<V4>(bytes.as_slice()).unwrap();
            prop_assert_eq!(plain.transport, packet.transport);
            let header = sum(&rewritten::<V4>(&bytes, &to, ttl).0[ETH_LEN..ETH_LEN + 20]).fold();
            prop_assert_eq!(header % 0xffff, sum(&bytes[ETH_LEN..ETH_LEN + 20]).fold() % 0xffff);

            let v6 = |it: [u8; 16]| V6Addr::new(it);
            let bytes = ipv6(&[], number, &segment);
            let to = Tuple { saddr: v6(saddr), daddr: v6(daddr), sport, dport };
            check::<V6>(&bytes, to, ttl)?;
        }

        #[test]
        fn what_is_plain_is_whole(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.get_mut(ETH_LEN) {
                *first = 0x45;
            }
            if let Some(plain) = V4::plain(bytes.as_slice()) {
                let packet = parse::<V4>(bytes.as_slice()).unwrap();
                prop_assert_eq!(packet.fragment, Fragment::Whole);
                prop_assert_eq!(packet.tuple, plain.tuple);
                prop_assert_eq!(packet.l4, V4::HEADERS - PORTS);
                prop_assert_eq!(packet.transport, plain.transport);
            }
        }
    }

    #[test]
    fn what_has_options_or_is_cut_off_is_not_plain() {
        let tcp = segment([0x9c, 0x40, 0, 80], 0x10, &[]);
        let whole = ipv4(proto::TCP, 0x4000, &tcp);
        assert!(V4::plain(whole.as_slice()).is_some());
        assert_eq!(V4::plain(&whole[..whole.len() - 1]), None);
        for fragment in [0x2000, 1] {
            assert_eq!(V4::plain(ipv4(proto::TCP, fragment, &tcp).as_slice()), None);
        }
        assert_eq!(V4::plain(ipv4(proto::ICMP, 0, &tcp).as_slice()), None);
        let mut options = whole.clone();
        options[ETH_LEN] = 0x46;
        assert_eq!(V4::plain(options.as_slice()), None);
        let datagram = ipv4(proto::UDP, 0, &tcp[..8]);
        assert!(V4::plain(datagram.as_slice()).is_some());
        assert_eq!(V4::plain(&datagram[..datagram.len() - 1]), None);

        let whole = ipv6(&[], proto::TCP, &tcp);
        assert!(V6::plain(whole.as_slice()).is_some());
        assert_eq!(V6::plain(&whole[..whole.len() - 1]), None);
        let extended = ipv6(&[(60, &[0; 8])], proto::TCP, &tcp);
        assert_eq!(V6::plain(extended.as_slice()), None);
        assert_eq!(V6::plain(ipv6(&[], proto::ICMPV6, &tcp).as_slice()), None);
    }
}
