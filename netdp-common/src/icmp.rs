//! ICMP errors: the packet that they quote, and what translation changes in it
//! (RFC 792, RFC 5508 sections 4.2 and 4.3).
//!
//! The quote keeps its place and length, so that what follows it, the
//! extensions of RFC 4884, stays where the length field says.

mod refusal;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    checksum::{self, Sum},
    packet::{Bytes, ETH_LEN, Header, Packet, Tuple, V4, V6, V6_LEN, extension},
};

pub use refusal::{Answer, Refusal, V6Refusal, v4_refusal, v6_refusal};

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
mod tests;
