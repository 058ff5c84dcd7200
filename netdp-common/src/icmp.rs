//! ICMP errors: the packet that they quote, and what translation changes in it
//! (RFC 792, RFC 5508 sections 4.2 and 4.3).
//!
//! The quote keeps its place and length, so that what follows it, the
//! extensions of RFC 4884, stays where the length field says.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    checksum::{self, Sum},
    drop::DropReason,
    packet::{Bytes, ETH_LEN, Header, Packet, Tuple, V4, V6, V6_LEN, extension},
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

/// What a container hears about a packet of its that was refused.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nothing.
    Silent = 0,
    /// Communication administratively prohibited: by policy, or for want of
    /// room (RFC 5508, REQ-8).
    Prohibited,
    /// No route to destination.
    NoRoute,
    /// Longer than a link on the way takes.
    TooBig,
    /// Hop limit exceeded.
    Expired,
}

impl Refusal {
    /// What is said about this reason. Forged and broken packets have no answer:
    /// it might not go to who sent them.
    #[inline(always)]
    pub const fn of(reason: DropReason) -> Self {
        match reason {
            DropReason::OtherNetwork
            | DropReason::Internal
            | DropReason::NoIcc
            | DropReason::PortExhausted
            | DropReason::TableFull
            | DropReason::UnknownProtocol
            | DropReason::NoUplinkAddress
            | DropReason::TupleTaken
            | DropReason::EndpointLimit => Self::Prohibited,
            DropReason::NoRoute => Self::NoRoute,
            DropReason::TooBig => Self::TooBig,
            DropReason::Expired => Self::Expired,
            _ => Self::Silent,
        }
    }

    /// Type and code of ICMP (RFC 792; RFC 1812, section 5.2.7.1).
    #[inline(always)]
    const fn v4_numbers(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [3, 0],
            Self::TooBig => [3, 4],
            Self::Expired => [11, 0],
            Self::Prohibited | Self::Silent => [3, 13],
        }
    }

    /// Type and code of ICMPv6 (RFC 4443, section 3).
    #[inline(always)]
    const fn v6_numbers(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [1, 0],
            Self::TooBig => [2, 0],
            Self::Expired => [3, 0],
            Self::Prohibited | Self::Silent => [1, 1],
        }
    }
}

/// An error for a container about a packet that it sent.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub refusal: Refusal,
    /// Of the link that the packet was too big for, bytes; otherwise 0.
    pub mtu: u32,
    /// Of the quote, bytes; a multiple of 4.
    pub length: u16,
    /// Over the quote.
    pub sum: Sum,
}

/// The headers of an error of IPv4, the packet that was refused following as it
/// came: IPv4 without options and ICMP, as they lie in memory.
#[inline(always)]
pub fn v4_refusal(gateway: V4Addr, container: V4Addr, answer: &Answer) -> [u16; 14] {
    let numbers = answer.refusal.v4_numbers();
    let [from, to] = [gateway, container].map(halves);
    let mut words = [
        0x4500u16.to_be(),
        (28 + answer.length).to_be(),
        0,
        // Don't fragment.
        0x4000u16.to_be(),
        (64u16 << 8 | proto::ICMP as u16).to_be(),
        0,
        from[0],
        from[1],
        to[0],
        to[1],
        u16::from_ne_bytes(numbers),
        0,
        0,
        // RFC 1191, section 4.
        (answer.mtu as u16).to_be(),
    ];
    let mut network = Sum::default();
    for word in &words[..10] {
        network = network.add(u32::from(*word));
    }
    words[5] = !network.fold();
    let message = answer.sum.add(u32::from(words[10]));
    words[11] = !message.add(u32::from(words[13])).fold();
    words
}

/// The headers of the same of IPv6: IPv6 and ICMPv6.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V6Refusal(pub [u32; 12]);

/// Those headers, see [`v4_refusal`].
#[inline(always)]
pub fn v6_refusal(gateway: V6Addr, container: V6Addr, answer: &Answer) -> V6Refusal {
    let [kind, code] = answer.refusal.v6_numbers();
    let payload = u32::from(answer.length) + 8;
    let next = u32::from(proto::ICMPV6);
    let [from, to] = [gateway.0, container.0];
    let mut sum = answer.sum.add(payload.to_be()).add(next.to_be());
    for (from, to) in from.iter().zip(&to) {
        sum = sum.add(*from).add(*to);
    }
    sum = sum.add(u32::from_ne_bytes([kind, code, 0, 0]));
    sum = sum.add(answer.mtu.to_be());
    let checksum = (!sum.fold()).to_ne_bytes();
    V6Refusal([
        (6u32 << 28).to_be(),
        (payload << 16 | next << 8 | 64).to_be(),
        from[0],
        from[1],
        from[2],
        from[3],
        to[0],
        to[1],
        to[2],
        to[3],
        u32::from_ne_bytes([kind, code, checksum[0], checksum[1]]),
        // RFC 4443, section 3.2.
        answer.mtu.to_be(),
    ])
}

/// An address as it lies in memory.
#[inline(always)]
fn halves(addr: V4Addr) -> [u16; 2] {
    let [a, b, c, d] = addr.0.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The network header of one family, quoted.
pub trait Quoting: Header {
    /// Bytes of a packet that its refusal quotes at most; a multiple of 4.
    const MAX_QUOTE: u32;

    /// Bytes of the headers that go before it.
    const REFUSAL_LEN: usize;

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
    /// As long as the error has no more than 576 bytes (RFC 1812, section
    /// 4.3.2.3).
    const MAX_QUOTE: u32 = 576 - 28;
    const REFUSAL_LEN: usize = 28;

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
    /// As long as the error has no more than the least MTU (RFC 4443, section
    /// 3.1).
    const MAX_QUOTE: u32 = 1280 - 48;
    const REFUSAL_LEN: usize = 48;

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
        !extension::is_one(quote.proto) || extension::walk_quoted(bytes, quote)
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

    /// An IPv6 packet.
    fn ipv6(next: u8, tuple: &Tuple<V6Addr>, payload: &[u8]) -> Vec<u8> {
        let mut out = std::vec![0x60, 0, 0, 0];
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend([next, 61]);
        out.extend(tuple.saddr.bytes());
        out.extend(tuple.daddr.bytes());
        out.extend(payload);
        out
    }

    /// The same with the checksum at `field` of its payload right.
    fn ipv6_summed(next: u8, tuple: &Tuple<V6Addr>, payload: &[u8], field: usize) -> Vec<u8> {
        let mut out = ipv6(next, tuple, payload);
        let field = V6_LEN + field;
        out[field..field + 2].fill(0);
        let checksum = match !sum_v6(&out, next) {
            0 if next == proto::UDP => 0xffff,
            checksum => checksum,
        };
        out[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// RFC 8200, section 8.1.
    fn sum_v6(packet: &[u8], next: u8) -> u16 {
        let length = (packet.len() - V6_LEN) as u32;
        let mut summed = packet[8..V6_LEN].to_vec();
        summed.extend(length.to_be_bytes());
        summed.extend(u32::from(next).to_be_bytes());
        summed.extend(&packet[V6_LEN..]);
        sum(&summed)
    }

    fn tuple_v6() -> impl Strategy<Value = Tuple<V6Addr>> {
        any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(saddr, daddr, sport, dport)| Tuple {
            saddr: V6Addr::new(saddr),
            daddr: V6Addr::new(daddr),
            sport: Be16::new(sport),
            dport: Be16::new(dport),
        })
    }

    proptest! {
        #[test]
        fn a_quote_of_ipv6_is_part_of_what_is_summed(
            from in tuple_v6(), to in tuple_v6(), error_to in tuple_v6(),
            (next, field) in prop_oneof![
                Just((proto::TCP, 16)), Just((proto::UDP, 6)), Just((proto::ICMPV6, 2)),
            ],
            rest in proptest::collection::vec(any::<u8>(), 20..60),
        ) {
            let payload = |tuple: &Tuple<V6Addr>| {
                let mut payload = rest.clone();
                let (sport, dport) = (tuple.sport.raw().to_ne_bytes(), tuple.dport.raw().to_ne_bytes());
                if next == proto::ICMPV6 {
                    payload[..2].copy_from_slice(&[128, 0]);
                    payload[4..6].copy_from_slice(&sport);
                } else {
                    payload[..2].copy_from_slice(&sport);
                    payload[2..4].copy_from_slice(&dport);
                }
                payload
            };
            let (mut from, mut to) = (from, to);
            if next == proto::ICMPV6 {
                (from.dport, to.dport) = (Be16::default(), Be16::default());
            }
            let [old, new] = [from, to].map(|tuple| ipv6_summed(next, &tuple, &payload(&tuple), field));
            let outer = Tuple { daddr: from.saddr, ..error_to };
            let error = |outer: &Tuple<V6Addr>, quote: &[u8]| {
                let message = [&[1, 4, 0, 0, 0, 0, 0, 0], quote].concat();
                let mut bytes = std::vec![0; ETH_LEN];
                bytes.extend(ipv6_summed(proto::ICMPV6, outer, &message, 2));
                bytes
            };
            let bytes = error(&outer, &old);
            let packet = parse::<V6>(bytes.as_slice()).unwrap();
            let mut quote = Quote::default();
            prop_assert!(parse_quote::<V6>(bytes.as_slice(), &packet, &mut quote));
            prop_assert_eq!((quote.tuple, quote.proto), (from, next));
            let field_of = |bytes: &[u8], at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            let old_sum = field_of(&old, V6_LEN + field);
            let new_sum = transport_checksum(&quote, old_sum, &to);
            // 0 and all ones are the same sum; only UDP tells them apart.
            let same = |one: u16, other: u16| one == other || !one == other && (one == 0 || other == 0);
            prop_assert!(same(new_sum, field_of(&new, V6_LEN + field)));
            let outer_to = Tuple { daddr: to.saddr, ..outer };
            let change = message_change::<V6>(&quote, &to, old_sum, new_sum);
            let change = V6::pseudo_change(&packet, &outer_to).add(change.wsum());
            let updated = checksum::update(field_of(&bytes, packet.l4 + 2), change);
            let expected = error(&outer_to, &new);
            prop_assert!(same(updated, field_of(&expected, packet.l4 + 2)));
        }

        #[test]
        fn a_refusal_has_right_checksums(
            tuple in tuple(), tuple_v6 in tuple_v6(),
            mut quote in proptest::collection::vec(any::<u8>(), 4..100), mtu in 1280u16..,
            (refusal, v4_numbers, v6_numbers) in prop_oneof![
                Just((Refusal::Prohibited, [3, 13], [1, 1])),
                Just((Refusal::NoRoute, [3, 0], [1, 0])),
                Just((Refusal::TooBig, [3, 4], [2, 0])),
                Just((Refusal::Expired, [11, 0], [3, 0])),
            ],
        ) {
            quote.truncate(quote.len() & !3);
            let answer = Answer {
                refusal,
                mtu: mtu.into(),
                length: quote.len() as u16,
                sum: Sum::default().add(u32::from(sum(&quote).to_be())),
            };
            let mtu = mtu.to_be_bytes();
            let header = v4_refusal(tuple.saddr, tuple.daddr, &answer);
            let mut bytes = std::vec![0; ETH_LEN];
            bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(&quote);
            prop_assert_eq!(bytes.len(), ETH_LEN + V4::REFUSAL_LEN + quote.len());
            let packet = parse::<V4>(bytes.as_slice()).unwrap();
            prop_assert_eq!(packet.transport, crate::packet::Transport::IcmpError);
            prop_assert_eq!((packet.tuple.saddr, packet.tuple.daddr), (tuple.saddr, tuple.daddr));
            prop_assert_eq!(sum(&bytes[ETH_LEN..ETH_LEN + 20]), 0xffff);
            prop_assert_eq!(sum(&bytes[ETH_LEN + 20..]), 0xffff);
            prop_assert_eq!(&bytes[ETH_LEN + 20..ETH_LEN + 22], &v4_numbers);
            prop_assert_eq!(&bytes[ETH_LEN + 24..ETH_LEN + 28], &[0, 0, mtu[0], mtu[1]]);

            let tuple = tuple_v6;
            let header = v6_refusal(tuple.saddr, tuple.daddr, &answer);
            let mut bytes = std::vec![0; ETH_LEN];
            bytes.extend(header.0.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(&quote);
            prop_assert_eq!(bytes.len(), ETH_LEN + V6::REFUSAL_LEN + quote.len());
            let packet = parse::<V6>(bytes.as_slice()).unwrap();
            prop_assert_eq!(packet.transport, crate::packet::Transport::IcmpError);
            prop_assert_eq!((packet.tuple.saddr, packet.tuple.daddr), (tuple.saddr, tuple.daddr));
            prop_assert_eq!(V6::datagram_end(bytes.as_slice()), bytes.len());
            prop_assert_eq!(sum_v6(&bytes[ETH_LEN..], proto::ICMPV6), 0xffff);
            let icmp = &bytes[ETH_LEN + V6_LEN..];
            prop_assert_eq!(&icmp[..2], &v6_numbers);
            prop_assert_eq!(&icmp[4..8], &[0, 0, mtu[0], mtu[1]]);
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
