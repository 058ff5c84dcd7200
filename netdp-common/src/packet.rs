//! A packet's headers, parsed once: what the rest of the datapath decides by.

use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    drop::DropReason,
    fragment,
};

/// Length of an Ethernet header without VLAN tag; the IP header follows.
pub const ETH_LEN: usize = 14;

/// Bytes of a packet, from its start, that hold every header that is looked at:
/// Ethernet, IPv4 with options or IPv6 with extension headers, TCP without
/// options.
pub const REACH: usize = 192;

/// Ethertypes (IEEE 802 numbers), host order.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
}

/// TCP header flags (RFC 9293, section 3.1).
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// A piece of a packet, read as it lies there.
///
/// # Safety
/// Alignment 1, no padding, and any bytes are a valid value.
pub unsafe trait Wire: Copy {}

// SAFETY: bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: arrays of bytes.
unsafe impl<const N: usize, const M: usize> Wire for [[u8; N]; M] {}
// SAFETY: repr(C), of bytes and arrays of bytes.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Wire for UdpHdr {}
// SAFETY: as above.
unsafe impl Wire for TcpHeader {}

/// Bytes of a packet, from the start of its Ethernet header.
///
/// What is read has fields of their own for numbers and addresses: taken out
/// of one array of bytes, the compiler would load each byte by itself.
pub trait Bytes {
    /// What lies at `offset`, or nothing where the packet is shorter.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;

    /// The same, its bounds looked up anew: for functions out of line, which the
    /// compiler would otherwise hand the bounds as numbers.
    fn read_anew<T: Wire>(&self, offset: usize) -> Option<T> {
        self.read(offset)
    }
}

impl Bytes for [u8] {
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..)?.get(..size_of::<T>())?;
        // SAFETY: as many bytes as it takes, and any are valid.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// TCP header (RFC 9293, section 3.1), its flags in one byte.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source: [u8; 2],
    dest: [u8; 2],
    seq: [u8; 4],
    ack: [u8; 4],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    check: [u8; 2],
    urgent: [u8; 2],
}

/// What of a datagram this packet carries.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    #[default]
    Whole = 0,
    /// The first fragment: has the transport header.
    First,
    /// A later one: has none.
    Later,
    /// One that keeps the transport header, or a part of it, out of the first
    /// (RFC 1858, RFC 3128).
    Tiny,
    /// One that lies over what another has brought.
    Overlapping,
}

/// What the transport header says about flows.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// With its flags ([`tcp_flags`]).
    Tcp(u8) = 0,
    Udp,
    EchoRequest,
    EchoReply,
    /// An ICMP message about another packet (RFC 792).
    IcmpError,
    /// Any other ICMP message.
    IcmpOther,
    /// Of ICMPv6: neighbour or multicast listener discovery, which stays on its
    /// link ([`crate::nd`]).
    Neighbour,
    /// A protocol without ports that netdp knows of.
    Other,
    /// A later fragment: ports are those of its first fragment, or unknown.
    Later,
}

impl Transport {
    /// Whether ports (or an echo identifier) tell this packet's flow.
    #[inline(always)]
    pub const fn has_ports(self) -> bool {
        matches!(
            self,
            Self::Tcp(_) | Self::Udp | Self::EchoRequest | Self::EchoReply
        )
    }

    /// TCP or UDP, with its ports.
    #[inline(always)]
    pub const fn is_tcp_or_udp(self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Udp)
    }

    /// A TCP SYN without ACK: the first packet of a connection.
    #[inline(always)]
    pub const fn is_syn(self) -> bool {
        match self {
            Self::Tcp(flags) => flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN,
            _ => false,
        }
    }

    /// A TCP segment with one of these flags set.
    #[inline(always)]
    pub const fn has_flags(self, any: u8) -> bool {
        match self {
            Self::Tcp(flags) => flags & any != 0,
            _ => false,
        }
    }
}

/// Addresses and ports: what NAT changes.
///
/// An ICMP echo request has its identifier as source port and 0 as destination
/// port, a reply the other way round: so the two match as a TCP packet and its
/// answer do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tuple<A> {
    pub saddr: A,
    pub daddr: A,
    pub sport: Be16,
    pub dport: Be16,
}

/// A parsed packet. All bytes zero are a valid value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Packet<A> {
    pub tuple: Tuple<A>,
    /// Protocol number of the transport.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    pub transport: Transport,
    pub fragment: Fragment,
    /// IPv4: the Don't Fragment bit. IPv6: always, routers don't fragment.
    pub dont_fragment: bool,
    /// Identification of the datagram, as raw bytes.
    pub id: u32,
    /// Where a fragment's bytes begin and end in the datagram, counted in bytes
    /// from the end of the network header.
    pub begin: u16,
    pub end: u16,
    /// Whether fragments of bytes behind these follow.
    pub more: bool,
    /// Offset of the transport header from the start of the packet, bytes.
    pub l4: usize,
}

/// The network header of one family.
pub trait Header: Sized {
    type Addr: Address;

    /// Protocol number of the family's ICMP.
    const ICMP: u8;

    /// Parses the network header at [`ETH_LEN`] into every field but the ports
    /// and the transport.
    ///
    /// # Errors
    /// [`DropReason::Malformed`], or [`DropReason::UnknownProtocol`] where the
    /// transport header is farther away than netdp looks.
    fn parse_network(
        bytes: &(impl Bytes + ?Sized),
        packet: &mut Packet<Self::Addr>,
    ) -> Result<(), DropReason>;

    /// What an ICMP message of this type is.
    fn icmp(kind: u8) -> Transport;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

impl Header for V4 {
    type Addr = V4Addr;
    const ICMP: u8 = proto::ICMP;

    #[inline(always)]
    fn parse_network(
        bytes: &(impl Bytes + ?Sized),
        packet: &mut Packet<V4Addr>,
    ) -> Result<(), DropReason> {
        const MORE_FRAGMENTS: u16 = 0x2000;
        const DONT_FRAGMENT: u16 = 0x4000;
        const OFFSET: u16 = 0x1fff;

        let header: Ipv4Hdr = bytes.read(ETH_LEN).ok_or(DropReason::Malformed)?;
        let length = usize::from(header.vihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(header.tot_len));
        // GSO packets above 64 KiB say 0 (BIG TCP, Linux 6.3).
        if header.vihl >> 4 != 4 || length < 20 || (total < length && total != 0) {
            return Err(DropReason::Malformed);
        }
        let fragment = u16::from_be_bytes(header.frags);
        packet.tuple.saddr = V4Addr::new(header.src_addr);
        packet.tuple.daddr = V4Addr::new(header.dst_addr);
        packet.proto = header.proto;
        packet.ttl = header.ttl;
        packet.fragment = match (fragment & MORE_FRAGMENTS != 0, fragment & OFFSET) {
            (false, 0) => Fragment::Whole,
            (true, 0) => Fragment::First,
            _ => Fragment::Later,
        };
        // At most 65,528: an offset has 13 bits.
        packet.begin = (fragment & OFFSET) * 8;
        packet.end = packet
            .begin
            .saturating_add(total.saturating_sub(length) as u16);
        packet.more = fragment & MORE_FRAGMENTS != 0;
        packet.dont_fragment = fragment & DONT_FRAGMENT != 0;
        packet.id = u32::from(u16::from_ne_bytes(header.id));
        packet.l4 = ETH_LEN + length;
        Ok(())
    }

    #[inline(always)]
    fn icmp(kind: u8) -> Transport {
        match kind {
            8 => Transport::EchoRequest,
            0 => Transport::EchoReply,
            // Destination unreachable, redirect, time exceeded, parameter
            // problem; source quench is obsolete (RFC 6633).
            3 | 5 | 11 | 12 => Transport::IcmpError,
            _ => Transport::IcmpOther,
        }
    }
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

/// Length of the IPv6 header without extension headers, bytes.
pub const V6_LEN: usize = 40;

impl Header for V6 {
    type Addr = V6Addr;
    const ICMP: u8 = proto::ICMPV6;

    #[inline(always)]
    fn parse_network(
        bytes: &(impl Bytes + ?Sized),
        packet: &mut Packet<V6Addr>,
    ) -> Result<(), DropReason> {
        let header: Ipv6Hdr = bytes.read(ETH_LEN).ok_or(DropReason::Malformed)?;
        if header.vcf[0] >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        packet.tuple.saddr = V6Addr::new(header.src_addr);
        packet.tuple.daddr = V6Addr::new(header.dst_addr);
        packet.proto = header.next_hdr;
        packet.ttl = header.hop_limit;
        packet.fragment = Fragment::Whole;
        packet.more = false;
        packet.begin = 0;
        packet.end = 0;
        packet.dont_fragment = true;
        packet.id = 0;
        packet.l4 = ETH_LEN + V6_LEN;
        if extension::is_one(header.next_hdr) {
            return extension::walk(bytes, packet, u16::from_be_bytes(header.payload_len));
        }
        Ok(())
    }

    #[inline(always)]
    fn icmp(kind: u8) -> Transport {
        match kind {
            128 => Transport::EchoRequest,
            129 => Transport::EchoReply,
            // Destination unreachable, packet too big, time exceeded, parameter
            // problem (RFC 4443).
            1..=4 => Transport::IcmpError,
            // RFC 2710, RFC 4861, RFC 3810.
            130..=137 | 143 => Transport::Neighbour,
            _ => Transport::IcmpOther,
        }
    }
}

/// Extension headers of IPv6 (RFC 8200, section 4).
pub(crate) mod extension {
    use super::{Bytes, ETH_LEN, Fragment, Packet, REACH, TcpHeader, V6_LEN, V6Addr};
    use crate::{drop::DropReason, fragment, icmp::Quote};

    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    /// How many extension headers are looked through.
    const LIMIT: usize = 6;
    /// Where the transport header may start at most.
    const LAST: usize = REACH - size_of::<TcpHeader>();

    /// Whether a header of this number is one that is looked behind. Not that
    /// of authentication (RFC 4302), which covers what translation changes.
    #[inline(always)]
    pub const fn is_one(number: u8) -> bool {
        matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
    }

    /// Looks for the transport header behind the first extension header, whose
    /// number is the packet's protocol.
    ///
    /// Out of line: hardly any packet has one.
    #[inline(never)]
    pub fn walk(
        bytes: &(impl Bytes + ?Sized),
        packet: &mut Packet<V6Addr>,
        payload: u16,
    ) -> Result<(), DropReason> {
        let mut offset = ETH_LEN + V6_LEN;
        let mut number = packet.proto;
        // Where the part of the datagram begins that is in fragments.
        let mut begin = offset;
        let mut i = 0;
        while i < LIMIT {
            // The next header, and what each has of its own.
            let header: [[u8; 2]; 4] = bytes.read_anew(offset).ok_or(DropReason::Malformed)?;
            let [next, length] = header[0];
            let length = match number {
                // Only the first may be one.
                HOP_BY_HOP if i != 0 => return Err(DropReason::Malformed),
                // Type 0 is deprecated (RFC 5095). With segments left, the
                // packet is for another destination than it says.
                ROUTING if header[1][0] == 0 || header[1][1] != 0 => {
                    return Err(DropReason::Malformed);
                }
                FRAGMENT => 8,
                _ => (usize::from(length) + 1) * 8,
            };
            if number == FRAGMENT {
                let fragment = u16::from_be_bytes(header[1]);
                let end = ETH_LEN + V6_LEN + usize::from(payload);
                packet.more = fragment & 1 != 0;
                packet.begin = fragment & !7;
                packet.end = packet
                    .begin
                    .saturating_add(end.saturating_sub(offset + 8) as u16);
                packet.id = u32::from(u16::from_ne_bytes(header[2]))
                    | u32::from(u16::from_ne_bytes(header[3])) << 16;
                packet.fragment = match (packet.more, fragment >> 3) {
                    // A datagram of one fragment (RFC 6946).
                    (false, 0) => Fragment::Whole,
                    (true, 0) => Fragment::First,
                    _ => Fragment::Later,
                };
                begin = offset + 8;
            }
            offset += length;
            if offset > LAST {
                return Err(DropReason::UnknownProtocol);
            }
            number = next;
            if packet.fragment == Fragment::Later || !is_one(number) {
                // GSO packets above 64 KiB say 0 (BIG TCP, Linux 6.3).
                if payload != 0 && offset > ETH_LEN + V6_LEN + usize::from(payload) {
                    return Err(DropReason::Malformed);
                }
                packet.proto = number;
                packet.l4 = offset;
                // RFC 7112: the first has all headers.
                let least = (offset - begin) as u16 + fragment::least(number);
                if packet.fragment == Fragment::First && packet.end < least {
                    packet.fragment = Fragment::Tiny;
                }
                return Ok(());
            }
            i += 1;
        }
        Err(DropReason::UnknownProtocol)
    }

    /// Looks for the transport header of a quoted packet, whose first extension
    /// header lies at `quote.l4` and has the number `quote.proto`. False where
    /// netdp would not have looked so far, or where the quote is of a later
    /// fragment.
    #[inline(never)]
    pub fn walk_quoted(bytes: &(impl Bytes + ?Sized), quote: &mut Quote<V6Addr>) -> bool {
        let mut offset = quote.l4;
        let mut number = quote.proto;
        let mut i = 0;
        while i < LIMIT {
            let Some(header) = bytes.read_anew::<[[u8; 2]; 4]>(offset) else {
                return false;
            };
            let [next, length] = header[0];
            offset += match number {
                HOP_BY_HOP if i != 0 => return false,
                ROUTING if header[1][1] != 0 => return false,
                FRAGMENT if u16::from_be_bytes(header[1]) >> 3 != 0 => return false,
                FRAGMENT => 8,
                _ => (usize::from(length) + 1) * 8,
            };
            number = next;
            if !is_one(number) {
                quote.proto = number;
                quote.l4 = offset;
                return true;
            }
            i += 1;
        }
        false
    }
}

/// Parses network and transport header.
///
/// # Errors
/// [`DropReason::Malformed`] where the packet is shorter than its headers, and
/// what [`Header::parse_network`] says.
pub fn parse<H: Header>(bytes: &(impl Bytes + ?Sized)) -> Result<Packet<H::Addr>, DropReason> {
    let mut packet = Packet::default();
    parse_into::<H>(bytes, &mut packet)?;
    Ok(packet)
}

/// The same in place, whatever was there before. A failure leaves anything.
///
/// # Errors
/// As [`parse`].
#[inline(always)]
pub fn parse_into<H: Header>(
    bytes: &(impl Bytes + ?Sized),
    packet: &mut Packet<H::Addr>,
) -> Result<(), DropReason> {
    H::parse_network(bytes, packet)?;
    packet.tuple.sport = Be16::default();
    packet.tuple.dport = Be16::default();
    packet.transport = Transport::Other;
    if packet.fragment == Fragment::Later {
        packet.transport = Transport::Later;
        return Ok(());
    }
    if packet.fragment == Fragment::Tiny
        || packet.fragment == Fragment::First && packet.end < fragment::least(packet.proto)
    {
        return fragment::parse_tiny(bytes, packet);
    }
    // No bits are lost: the verifier has to see a bound.
    const { assert!(REACH <= 0x100) };
    let l4 = packet.l4 & 0xff;
    match packet.proto {
        proto::TCP => {
            // All of the fixed part: translation also writes the checksum.
            let header: TcpHeader = bytes.read(l4).ok_or(DropReason::Malformed)?;
            packet.ports(header.source, header.dest);
            packet.transport = Transport::Tcp(header.flags);
        }
        proto::UDP => {
            let header: UdpHdr = bytes.read(l4).ok_or(DropReason::Malformed)?;
            packet.ports(header.src, header.dst);
            packet.transport = Transport::Udp;
        }
        number if number == H::ICMP => {
            // Type and code, checksum, identifier, sequence number.
            let header: [[u8; 2]; 4] = bytes.read(l4).ok_or(DropReason::Malformed)?;
            let identifier = Be16::from_raw(u16::from_ne_bytes(header[2]));
            packet.transport = H::icmp(header[0][0]);
            match packet.transport {
                Transport::EchoRequest => packet.tuple.sport = identifier,
                Transport::EchoReply => packet.tuple.dport = identifier,
                _ => {}
            }
        }
        _ => {}
    }
    Ok(())
}

impl Default for Transport {
    /// That of a packet of zeros.
    fn default() -> Self {
        Self::Tcp(0)
    }
}

impl<A> Packet<A> {
    #[inline(always)]
    pub(crate) fn ports(&mut self, source: [u8; 2], destination: [u8; 2]) {
        self.tuple.sport = Be16::from_raw(u16::from_ne_bytes(source));
        self.tuple.dport = Be16::from_raw(u16::from_ne_bytes(destination));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn ipv4(proto: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = std::vec![0u8; ETH_LEN];
        out.extend([0x45, 0, 0, (20 + payload.len()) as u8, 0xab, 0xcd]);
        out.extend(fragment.to_be_bytes());
        out.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        out.extend(payload);
        out
    }

    #[test]
    fn tcp() {
        let mut tcp = [0u8; 20];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x50]);
        tcp[13] = tcp_flags::SYN;
        let packet = parse::<V4>(ipv4(proto::TCP, 0x4000, &tcp).as_slice()).unwrap();
        assert_eq!(packet.tuple.saddr, V4Addr::new([10, 0, 0, 1]));
        assert_eq!(packet.tuple.sport.get(), 40000);
        assert_eq!(packet.tuple.dport.get(), 80);
        assert!(packet.transport.is_syn());
        assert!(packet.dont_fragment);
        assert_eq!(packet.l4, 34);
    }

    #[test]
    fn echo_request_and_its_reply_mirror_each_other() {
        let request = parse::<V4>(ipv4(1, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]).as_slice()).unwrap();
        let reply = parse::<V4>(ipv4(1, 0, &[0, 0, 0, 0, 0x12, 0x34, 0, 1]).as_slice()).unwrap();
        assert_eq!(request.tuple.sport.get(), 0x1234);
        assert_eq!(reply.tuple.dport.get(), 0x1234);
        assert_eq!(request.tuple.dport, reply.tuple.sport);
    }

    #[test]
    fn fragments() {
        let udp = [0u8, 1, 0, 2, 0, 8, 0, 0];
        let first = parse::<V4>(ipv4(17, 0x2000, &udp).as_slice()).unwrap();
        assert_eq!(first.fragment, Fragment::First);
        assert_eq!(first.tuple.dport.get(), 2);
        let later = parse::<V4>(ipv4(17, 0x0003, &[1, 2]).as_slice()).unwrap();
        assert_eq!(later.transport, Transport::Later);
        assert_eq!(later.tuple.dport.get(), 0);
    }

    #[test]
    fn too_short_is_malformed() {
        let whole = ipv4(proto::TCP, 0, &[0; 20]);
        for length in 0..ETH_LEN + 20 + 20 {
            assert_eq!(
                parse::<V4>(&whole[..length]),
                Err(DropReason::Malformed),
                "{length} bytes"
            );
        }
        assert!(parse::<V4>(&whole[..ETH_LEN + 40]).is_ok());
    }

    #[test]
    fn contradicting_lengths_are_malformed() {
        let mut bytes = ipv4(proto::UDP, 0, &[0; 8]);
        bytes[ETH_LEN] = 0x44;
        assert_eq!(parse::<V4>(bytes.as_slice()), Err(DropReason::Malformed));
        bytes[ETH_LEN] = 0x46;
        bytes[ETH_LEN + 3] = 20;
        assert_eq!(parse::<V4>(bytes.as_slice()), Err(DropReason::Malformed));
    }

    /// An IPv6 packet with these extension headers (number, bytes) before the
    /// transport's.
    fn ipv6(extensions: &[(u8, &[u8])], proto: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = std::vec![0u8; ETH_LEN];
        let length: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        let first = extensions.first().map_or(proto, |(number, _)| *number);
        out.extend([0x60, 0, 0, 0]);
        out.extend(((length + payload.len()) as u16).to_be_bytes());
        out.extend([first, 64]);
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        for (i, (_, bytes)) in extensions.iter().enumerate() {
            out.push(extensions.get(i + 1).map_or(proto, |(number, _)| *number));
            out.extend(&bytes[1..]);
        }
        out.extend(payload);
        out
    }

    const UDP_HEADER: [u8; 8] = [0, 1, 0, 2, 0, 8, 0, 0];
    const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    const LONG_OPTIONS: [u8; 24] = [
        0, 2, 1, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    /// Of type 2, without segments left.
    const ROUTED: [u8; 8] = [0, 0, 2, 0, 0, 0, 0, 0];
    const AUTHENTICATED: [u8; 24] = [
        0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn ipv6_without_extension_headers() {
        let mut tcp = [0u8; 20];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x50]);
        tcp[13] = tcp_flags::SYN;
        let packet = parse::<V6>(ipv6(&[], proto::TCP, &tcp).as_slice()).unwrap();
        assert_eq!(std::format!("{:?}", packet.tuple.saddr), "fd00::1");
        assert_eq!(std::format!("{:?}", packet.tuple.daddr), "fd00::2");
        assert_eq!(
            (packet.tuple.sport.get(), packet.tuple.dport.get()),
            (40000, 80)
        );
        assert!(packet.transport.is_syn());
        assert!(packet.dont_fragment);
        assert_eq!((packet.ttl, packet.l4), (64, 54));
    }

    #[test]
    fn the_transport_is_found_behind_extension_headers() {
        let chains: &[&[(u8, &[u8])]] = &[
            &[(0, &OPTIONS)],
            &[(60, &LONG_OPTIONS)],
            &[(43, &ROUTED)],
            &[(0, &OPTIONS), (60, &OPTIONS), (43, &ROUTED), (60, &OPTIONS)],
        ];
        for chain in chains {
            let bytes = ipv6(chain, proto::UDP, &UDP_HEADER);
            let packet = parse::<V6>(bytes.as_slice()).unwrap();
            assert_eq!(packet.l4, bytes.len() - 8, "{chain:?}");
            assert_eq!(packet.proto, proto::UDP);
            assert_eq!(packet.transport, Transport::Udp);
            assert_eq!(packet.tuple.dport.get(), 2);
            for length in 0..bytes.len() {
                assert_eq!(
                    parse::<V6>(&bytes[..length]),
                    Err(DropReason::Malformed),
                    "{length} bytes"
                );
            }
        }
    }

    #[test]
    fn what_is_authenticated_is_not_looked_into() {
        for chain in [
            &[(51, AUTHENTICATED.as_slice())][..],
            &[(0, &OPTIONS), (51, &AUTHENTICATED)],
        ] {
            let bytes = ipv6(chain, proto::UDP, &UDP_HEADER);
            let packet = parse::<V6>(bytes.as_slice()).unwrap();
            assert_eq!((packet.proto, packet.transport), (51, Transport::Other));
        }
    }

    #[test]
    fn fragments_of_ipv6() {
        let of = |fragment: &[u8; 8], extension: &[(u8, &[u8])]| {
            let mut chain: Vec<(u8, &[u8])> = std::vec![(44, fragment.as_slice())];
            chain.extend(extension);
            parse::<V6>(ipv6(&chain, proto::UDP, &UDP_HEADER).as_slice()).unwrap()
        };
        let atomic = of(&[0, 0, 0, 0, 1, 2, 3, 4], &[]);
        assert_eq!(
            (atomic.fragment, atomic.tuple.dport.get()),
            (Fragment::Whole, 2)
        );
        let first = of(&[0, 0, 0, 1, 1, 2, 3, 4], &[(60, &OPTIONS)]);
        assert_eq!(
            (first.fragment, first.tuple.dport.get()),
            (Fragment::First, 2)
        );
        assert_eq!(first.id.to_ne_bytes(), [1, 2, 3, 4]);
        let later = of(&[0, 0, 0, 8, 1, 2, 3, 4], &[]);
        assert_eq!(
            (later.fragment, later.transport),
            (Fragment::Later, Transport::Later)
        );
        assert_eq!((later.tuple.dport.get(), later.id), (0, first.id));
    }

    #[test]
    fn the_first_fragment_has_all_headers() {
        let of = |length: usize| {
            let mut tcp = [0u8; 20];
            tcp[3] = 80;
            let first = [0, 0, 0, 1, 1, 2, 3, 4];
            let chain: [(u8, &[u8]); 2] = [(44, &first), (60, &LONG_OPTIONS)];
            let bytes = ipv6(&chain, proto::TCP, &tcp[..length]);
            // What fills the frame up is no header.
            let padded = [&bytes[..], &[0; 20]].concat();
            parse::<V6>(padded.as_slice()).unwrap()
        };
        assert_eq!(of(20).fragment, Fragment::First);
        for length in [0, 4, 16, 19] {
            let packet = of(length);
            assert_eq!(packet.fragment, Fragment::Tiny, "{length} bytes");
            assert_eq!(packet.transport, Transport::Later);
        }
        assert_eq!(of(4).tuple.dport.get(), 80);
    }

    #[test]
    fn chains_that_nobody_has_to_follow() {
        let parse = |chain: &[(u8, &[u8])]| {
            parse::<V6>(ipv6(chain, proto::UDP, &UDP_HEADER).as_slice()).map(|packet| packet.l4)
        };
        fn repeated(count: usize, bytes: &[u8]) -> Vec<(u8, &[u8])> {
            std::vec![(60, bytes); count]
        }
        assert!(parse(&repeated(6, &OPTIONS)).is_ok());
        assert_eq!(
            parse(&repeated(7, &OPTIONS)),
            Err(DropReason::UnknownProtocol)
        );
        assert_eq!(
            parse(&repeated(6, &LONG_OPTIONS)),
            Err(DropReason::UnknownProtocol)
        );
        assert_eq!(
            parse(&[(60, &OPTIONS), (0, &OPTIONS)]),
            Err(DropReason::Malformed)
        );
        // Type 0, and with segments left.
        for routed in [[0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 2, 1, 0, 0, 0, 0]] {
            assert_eq!(parse(&[(43, &routed)]), Err(DropReason::Malformed));
        }
        let mut short = ipv6(&[(60, &OPTIONS)], proto::UDP, &UDP_HEADER);
        short[ETH_LEN + 5] = 7;
        assert_eq!(
            super::parse::<V6>(short.as_slice()),
            Err(DropReason::Malformed)
        );
        short[ETH_LEN] = 0x45;
        assert_eq!(
            super::parse::<V6>(short.as_slice()),
            Err(DropReason::Malformed)
        );
    }

    #[test]
    fn icmpv6() {
        let kind = |kind| {
            let bytes = ipv6(&[], proto::ICMPV6, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
            parse::<V6>(bytes.as_slice()).unwrap()
        };
        assert_eq!(kind(128).transport, Transport::EchoRequest);
        assert_eq!(kind(128).tuple.sport.get(), 0x1234);
        assert_eq!(kind(129).transport, Transport::EchoReply);
        assert_eq!(kind(129).tuple.dport.get(), 0x1234);
        assert_eq!(kind(2).transport, Transport::IcmpError);
        assert_eq!(kind(135).transport, Transport::Neighbour);
        assert_eq!(kind(8).transport, Transport::IcmpOther);
        // ICMP of the other family is none of this.
        let bytes = ipv6(&[], proto::ICMP, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!(
            parse::<V6>(bytes.as_slice()).unwrap().transport,
            Transport::Other
        );
        let bytes = ipv4(proto::ICMPV6, 0, &[128, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!(
            parse::<V4>(bytes.as_slice()).unwrap().transport,
            Transport::Other
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(packet) = parse::<V4>(bytes.as_slice()) {
                prop_assert!(packet.l4 <= ETH_LEN + 60);
            }
        }

        #[test]
        fn any_chain_is_followed_or_refused(
            numbers in proptest::collection::vec(
                (prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
                 any::<[u8; 16]>()),
                0..9),
            cut in 0usize..256,
        ) {
            let chain: Vec<(u8, &[u8])> = numbers
                .iter()
                .map(|(number, bytes)| (*number, bytes.as_slice()))
                .collect();
            let bytes = ipv6(&chain, proto::UDP, &UDP_HEADER);
            let bytes = &bytes[..cut.min(bytes.len())];
            match parse::<V6>(bytes) {
                Ok(packet) => {
                    prop_assert!(packet.l4 >= ETH_LEN + 40 && packet.l4 + 20 <= REACH);
                    prop_assert!(
                        packet.fragment == Fragment::Later || !extension::is_one(packet.proto)
                    );
                }
                Err(reason) => prop_assert!(
                    matches!(reason, DropReason::Malformed | DropReason::UnknownProtocol)
                ),
            }
        }
    }
}
