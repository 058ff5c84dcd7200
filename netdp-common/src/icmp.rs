//! ICMP errors: the packet that they quote, and what translation changes in it
//! (RFC 792, RFC 5508 sections 4.2 and 4.3).
//!
//! The quote keeps its place and length, so that what follows it, the
//! extensions of RFC 4884, stays where the length field says.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    checksum::{self, Sum},
    packet::{Bytes, ETH_LEN, Header, Packet, Tuple, V4, V6, V6_LEN},
};

/// Length of an ICMP header, in bytes; the quoted packet follows.
const HEADER_LEN: usize = 8;
/// Bytes of the quoted transport header that every error has (RFC 792): ports,
/// or an echo's identifier.
const TRANSPORT: usize = 8;

/// The packet that an ICMP error is about. All bytes zero are a valid value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quote<A> {
    /// Addresses and ports as the quote has them, see [`Tuple`].
    pub tuple: Tuple<A>,
    /// Protocol number of the quoted transport.
    pub proto: u8,
    /// Offset of the quoted network header from the start of the packet,
    /// bytes.
    pub l3: usize,
    /// The same of the quoted transport header.
    pub l4: usize,
    /// The same of the end of the quote; what follows are extensions.
    pub end: usize,
}

/// The network header of one family, quoted.
pub trait Quoting: Header {
    /// Whether errors of this type are about a packet of a flow. A redirect
    /// isn't: it is for the host that has routes.
    fn is_about_flow(kind: u8) -> bool;

    /// Length of the quote in bytes by the ICMP header, 0 where it doesn't say
    /// (RFC 4884, section 4).
    fn quote_length(header: &[u8; 8]) -> usize;

    /// Offset of the datagram's end from the start of the packet, bytes; what
    /// follows is padding.
    fn datagram_end(bytes: &(impl Bytes + ?Sized)) -> usize;

    /// Parses the network header at `quote.l3` into addresses, protocol and
    /// the transport's offset. False where there is none, or one of a later
    /// fragment, which has no ports.
    fn parse_quoted(bytes: &(impl Bytes + ?Sized), quote: &mut Quote<Self::Addr>) -> bool;

    /// Whether a quoted transport of this protocol and type is an echo request.
    fn is_echo_request(proto: u8, kind: u8) -> bool;

    /// How the sum over the quoted network header changes with its addresses.
    fn network_change(quote: &Quote<Self::Addr>, to: &Tuple<Self::Addr>) -> Sum;

    /// How the pseudo header of the error itself changes.
    fn pseudo_change(packet: &Packet<Self::Addr>, to: &Tuple<Self::Addr>) -> Sum;
}

impl Quoting for V4 {
    #[inline(always)]
    fn is_about_flow(kind: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn quote_length(header: &[u8; 8]) -> usize {
        usize::from(header[5]) * 4
    }

    #[inline(always)]
    fn datagram_end(bytes: &(impl Bytes + ?Sized)) -> usize {
        match bytes.read::<[u8; 2]>(ETH_LEN + 2) {
            Some(total) => ETH_LEN + usize::from(u16::from_be_bytes(total)),
            None => 0,
        }
    }

    #[inline(always)]
    fn parse_quoted(bytes: &(impl Bytes + ?Sized), quote: &mut Quote<V4Addr>) -> bool {
        const OFFSET: u16 = 0x1fff;
        let Some(header) = bytes.read::<Ipv4Hdr>(quote.l3) else {
            return false;
        };
        let length = usize::from(header.vihl & 0x0f) * 4;
        let is_later = u16::from_be_bytes(header.frags) & OFFSET != 0;
        if header.vihl >> 4 != 4 || length < 20 || is_later {
            return false;
        }
        quote.tuple.saddr = V4Addr::new(header.src_addr);
        quote.tuple.daddr = V4Addr::new(header.dst_addr);
        quote.proto = header.proto;
        quote.l4 = quote.l3 + length;
        true
    }

    #[inline(always)]
    fn is_echo_request(proto: u8, kind: u8) -> bool {
        proto == proto::ICMP && kind == 8
    }

    /// The header's own checksum makes up for its addresses.
    #[inline(always)]
    fn network_change(_quote: &Quote<V4Addr>, _to: &Tuple<V4Addr>) -> Sum {
        Sum::default()
    }

    /// RFC 792: there is none.
    #[inline(always)]
    fn pseudo_change(_packet: &Packet<V4Addr>, _to: &Tuple<V4Addr>) -> Sum {
        Sum::default()
    }
}

impl Quoting for V6 {
    #[inline(always)]
    fn is_about_flow(kind: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter
        // problem (RFC 4443).
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn quote_length(header: &[u8; 8]) -> usize {
        // RFC 4884, section 4.4: of these two types alone.
        match header[0] {
            1 | 3 => usize::from(header[4]) * 8,
            _ => 0,
        }
    }

    #[inline(always)]
    fn datagram_end(bytes: &(impl Bytes + ?Sized)) -> usize {
        match bytes.read::<[u8; 2]>(ETH_LEN + 4) {
            Some(payload) => ETH_LEN + V6_LEN + usize::from(u16::from_be_bytes(payload)),
            None => 0,
        }
    }

    /// A quote with extension headers is not looked through.
    #[inline(always)]
    fn parse_quoted(bytes: &(impl Bytes + ?Sized), quote: &mut Quote<V6Addr>) -> bool {
        let Some(header) = bytes.read::<Ipv6Hdr>(quote.l3) else {
            return false;
        };
        if header.vcf[0] >> 4 != 6 {
            return false;
        }
        quote.tuple.saddr = V6Addr::new(header.src_addr);
        quote.tuple.daddr = V6Addr::new(header.dst_addr);
        quote.proto = header.next_hdr;
        quote.l4 = quote.l3 + V6_LEN;
        true
    }

    #[inline(always)]
    fn is_echo_request(proto: u8, kind: u8) -> bool {
        proto == proto::ICMPV6 && kind == 128
    }

    /// No checksum of its own makes up for its addresses.
    #[inline(always)]
    fn network_change(quote: &Quote<V6Addr>, to: &Tuple<V6Addr>) -> Sum {
        addresses_change(&quote.tuple, to)
    }

    #[inline(always)]
    fn pseudo_change(packet: &Packet<V6Addr>, to: &Tuple<V6Addr>) -> Sum {
        addresses_change(&packet.tuple, to)
    }
}

/// Reads what the ICMP error `packet` is about. False where that can't belong
/// to a flow: another kind of message, a protocol without ports, or a quote
/// that ends before them.
#[inline(always)]
pub fn parse_quote<Q: Quoting>(
    bytes: &(impl Bytes + ?Sized),
    packet: &Packet<Q::Addr>,
    quote: &mut Quote<Q::Addr>,
) -> bool {
    let Some(icmp) = bytes.read::<[u8; HEADER_LEN]>(packet.l4) else {
        return false;
    };
    if !Q::is_about_flow(icmp[0]) {
        return false;
    }
    quote.l3 = packet.l4 + HEADER_LEN;
    quote.end = Q::datagram_end(bytes);
    let length = Q::quote_length(&icmp);
    if length != 0 && quote.l3 + length < quote.end {
        quote.end = quote.l3 + length;
    }
    if !Q::parse_quoted(bytes, quote) || quote.l4 + TRANSPORT > quote.end {
        return false;
    }
    // Two ports; or type and code, checksum, identifier.
    let Some(halves) = bytes.read::<[[u8; 2]; 4]>(quote.l4) else {
        return false;
    };
    let half = |index: usize| Be16::from_raw(u16::from_ne_bytes(halves[index]));
    quote.tuple.sport = Be16::default();
    quote.tuple.dport = Be16::default();
    match quote.proto {
        proto::TCP | proto::UDP => {
            quote.tuple.sport = half(0);
            quote.tuple.dport = half(1);
            true
        }
        _ if Q::is_echo_request(quote.proto, halves[0][0]) => {
            quote.tuple.sport = half(2);
            true
        }
        _ => false,
    }
}

/// Offset of the quoted transport's checksum from the start of the packet,
/// bytes; 0 where the quote ends before it.
#[inline(always)]
pub const fn checksum_offset<A>(quote: &Quote<A>) -> usize {
    let offset = quote.l4
        + match quote.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => 2,
        };
    if offset + 2 > quote.end {
        return 0;
    }
    offset
}

/// The quoted transport's checksum (memory order) once the quote has the
/// addresses and ports of `to`.
#[inline(always)]
pub fn transport_checksum<A: Address>(quote: &Quote<A>, field: u16, to: &Tuple<A>) -> u16 {
    let is_udp = quote.proto == proto::UDP;
    if is_udp && field == 0 {
        return 0;
    }
    let mut change = ports_change(&quote.tuple, to);
    // RFC 792: no pseudo header; RFC 4443: one.
    if quote.proto != proto::ICMP {
        change = change.add(addresses_change(&quote.tuple, to).wsum());
    }
    match checksum::update(field, change) {
        0 if is_udp => 0xffff,
        field => field,
    }
}

/// How the sum over the ICMP message changes when its quote gets the addresses
/// and ports of `to` and its transport's checksum `old` becomes `new` (memory
/// order; the same where the quote has none).
#[inline(always)]
pub fn message_change<Q: Quoting>(
    quote: &Quote<Q::Addr>,
    to: &Tuple<Q::Addr>,
    old: u16,
    new: u16,
) -> Sum {
    let network = Q::network_change(quote, to).wsum();
    let ports = ports_change(&quote.tuple, to).wsum();
    Sum::default().add(network).add(ports).change16(old, new)
}

/// An echo has its identifier once, the other port being 0 on both sides.
#[inline(always)]
fn ports_change<A>(from: &Tuple<A>, to: &Tuple<A>) -> Sum {
    Sum::default()
        .change16(from.sport.raw(), to.sport.raw())
        .change16(from.dport.raw(), to.dport.raw())
}

#[inline(always)]
fn addresses_change<A: Address>(from: &Tuple<A>, to: &Tuple<A>) -> Sum {
    Sum::default()
        .change(from.saddr.words(), to.saddr.words())
        .change(from.daddr.words(), to.daddr.words())
}

/// Checksum and addresses of the quoted IPv4 header, which follow each other
/// 10 bytes from its start, after a change to those of `to`. `field` is the
/// checksum (memory order) as it was.
#[inline(always)]
pub fn v4_quoted(quote: &Quote<V4Addr>, field: u16, to: &Tuple<V4Addr>) -> (u16, [u32; 2]) {
    let change = Sum::default().change(
        &[quote.tuple.saddr.0, quote.tuple.daddr.0],
        &[to.saddr.0, to.daddr.0],
    );
    (checksum::update(field, change), [to.saddr.0, to.daddr.0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// An IPv4 packet, its header's checksum right.
    fn ipv4(protocol: u8, tuple: &Tuple<V4Addr>, payload: &[u8]) -> Vec<u8> {
        let mut out = std::vec![0x45, 0];
        out.extend(((20 + payload.len()) as u16).to_be_bytes());
        out.extend([0, 7, 0x40, 0, 61, protocol, 0, 0]);
        out.extend(tuple.saddr.bytes());
        out.extend(tuple.daddr.bytes());
        let checksum = !sum(&out);
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
        out.extend(payload);
        out
    }

    /// An error from a router about `quote`, with the length that it gives.
    fn error(kind: u8, length: u8, quote: &[u8]) -> Vec<u8> {
        let mut message = std::vec![kind, 4, 0, 0, 0, length, 5, 0];
        message.extend(quote);
        let checksum = !sum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let tuple = Tuple {
            saddr: V4Addr::new([203, 0, 113, 1]),
            daddr: V4Addr::new([192, 0, 2, 1]),
            ..Tuple::default()
        };
        let mut out = std::vec![0; ETH_LEN];
        out.extend(ipv4(proto::ICMP, &tuple, &message));
        out
    }

    /// A datagram or a segment of this tuple.
    fn transport(protocol: u8, tuple: &Tuple<V4Addr>, rest: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(tuple.sport.raw().to_ne_bytes());
        out.extend(tuple.dport.raw().to_ne_bytes());
        out.extend(rest);
        let field = if protocol == proto::TCP { 16 } else { 6 };
        if out.len() < field + 2 {
            return out;
        }
        out[field..field + 2].fill(0);
        let pseudo: Vec<u8> = [tuple.saddr.bytes(), tuple.daddr.bytes()].concat();
        let start = u32::from(sum(&pseudo)) + u32::from(protocol) + out.len() as u32;
        let total = start + u32::from(sum(&out));
        let checksum = !((total & 0xffff) + (total >> 16)) as u16;
        let checksum = if checksum == 0 && protocol == proto::UDP {
            0xffff
        } else {
            checksum
        };
        out[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    fn quote_of(bytes: &[u8]) -> Option<Quote<V4Addr>> {
        let packet = parse::<V4>(bytes).unwrap();
        let mut quote = Quote::default();
        parse_quote::<V4>(bytes, &packet, &mut quote).then_some(quote)
    }

    /// Rewrites a quote as the programs do.
    fn rewrite(bytes: &mut [u8], to: &Tuple<V4Addr>) {
        let quote = quote_of(bytes).unwrap();
        let packet = parse::<V4>(&*bytes).unwrap();
        let put16 = |bytes: &mut [u8], at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        };
        let get16 =
            |bytes: &[u8], at: usize| u16::from_ne_bytes(bytes.read::<[u8; 2]>(at).unwrap());
        let (checksum, addresses) = v4_quoted(&quote, get16(bytes, quote.l3 + 10), to);
        put16(bytes, quote.l3 + 10, checksum);
        for (index, word) in addresses.iter().enumerate() {
            let at = quote.l3 + 12 + 4 * index;
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        put16(bytes, quote.l4, to.sport.raw());
        put16(bytes, quote.l4 + 2, to.dport.raw());
        let (mut old, mut new) = (0, 0);
        let offset = checksum_offset(&quote);
        if offset != 0 {
            old = get16(bytes, offset);
            new = transport_checksum(&quote, old, to);
            put16(bytes, offset, new);
        }
        let change = message_change::<V4>(&quote, to, old, new);
        let field = checksum::update(get16(bytes, packet.l4 + 2), change);
        put16(bytes, packet.l4 + 2, field);
    }

    fn tuple() -> impl Strategy<Value = Tuple<V4Addr>> {
        any::<(u32, u32, u16, u16)>().prop_map(|(saddr, daddr, sport, dport)| Tuple {
            saddr: V4Addr(saddr),
            daddr: V4Addr(daddr),
            sport: Be16::new(sport),
            dport: Be16::new(dport),
        })
    }

    proptest! {
        #[test]
        fn a_rewritten_quote_is_the_packet_of_the_other_tuple(
            from in tuple(), to in tuple(), tcp: bool,
            rest in proptest::collection::vec(any::<u8>(), 4..60),
            extension in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let protocol = if tcp { proto::TCP } else { proto::UDP };
            let [old, new] = [from, to].map(|tuple| {
                ipv4(protocol, &tuple, &transport(protocol, &tuple, &rest))
            });
            // A multiple of the unit that lengths are counted in.
            let length = if extension.is_empty() { 0 } else { old.len() / 4 };
            let mut bytes = error(3, length as u8, &[&old[..], &extension].concat());
            prop_assert_eq!(quote_of(&bytes).unwrap().tuple, from);
            rewrite(&mut bytes, &to);
            prop_assert_eq!(quote_of(&bytes).unwrap().tuple, to);
            prop_assert_eq!(sum(&bytes[ETH_LEN + 20..]), 0xffff);
            let quoted = &bytes[ETH_LEN + 28..];
            // What the length field cuts off may have held the checksum.
            if length == 0 || length * 4 == old.len() {
                prop_assert_eq!(&quoted[..new.len()], &new[..]);
            }
            prop_assert_eq!(&quoted[new.len()..], &extension[..]);
        }

        #[test]
        fn any_message_is_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 20..100), kind in 0u8..20,
        ) {
            if let Some(quote) = quote_of(&error(kind, bytes[0], &bytes)) {
                prop_assert!(matches!(kind, 3 | 11 | 12));
                prop_assert!(quote.l4 + 8 <= quote.end);
                prop_assert!(quote.end <= ETH_LEN + 28 + bytes.len());
            }
        }
    }

    #[test]
    fn an_echo_request_has_its_identifier_as_source_port() {
        let tuple = Tuple {
            saddr: V4Addr::new([192, 0, 2, 1]),
            daddr: V4Addr::new([198, 51, 100, 1]),
            ..Tuple::default()
        };
        let echo = |kind| ipv4(proto::ICMP, &tuple, &[kind, 0, 1, 2, 0x12, 0x34, 0, 1]);
        let quote = quote_of(&error(11, 0, &echo(8))).unwrap();
        assert_eq!(
            (quote.tuple.sport.get(), quote.tuple.dport.get()),
            (0x1234, 0)
        );
        assert_eq!(
            quote_of(&error(11, 0, &echo(0))),
            None,
            "a reply is no flow's"
        );
    }

    #[test]
    fn a_datagram_without_checksum_gets_none() {
        let quote: Quote<V4Addr> = Quote {
            proto: proto::UDP,
            ..Quote::default()
        };
        let to = Tuple {
            sport: Be16::new(7),
            ..Tuple::default()
        };
        assert_eq!(transport_checksum(&quote, 0, &to), 0);
        assert_ne!(transport_checksum(&quote, 1, &to), 1);
    }
}
