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

pub(crate) mod extension;
pub mod plain;

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
unsafe impl Wire for V6Fields {}
// SAFETY: as above.
unsafe impl<H: Wire> Wire for Glance<H> {}
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

/// IPv6 header (RFC 8200, section 3), its addresses by words.
#[repr(C)]
#[derive(Clone, Copy)]
struct V6Fields {
    version: u8,
    class_and_label: [u8; 3],
    length: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: [[u8; 4]; 4],
    destination: [[u8; 4]; 4],
}

/// A network header and the ports behind it: source and destination.
#[repr(C)]
#[derive(Clone, Copy)]
struct Glance<H> {
    header: H,
    ports: [[u8; 2]; 2],
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

    /// Addresses and ports of a whole TCP segment or UDP datagram that follows a
    /// network header without options or extension headers, and which of the two
    /// it is; nothing of all other packets.
    fn glance(bytes: &(impl Bytes + ?Sized)) -> Option<(u8, Tuple<Self::Addr>)>;

    /// What an ICMP message of this type is.
    fn icmp(kind: u8) -> Transport;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

/// Of the field with flags and fragment offset (RFC 791, section 3.1).
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

impl Header for V4 {
    type Addr = V4Addr;
    const ICMP: u8 = proto::ICMP;

    #[inline(always)]
    fn parse_network(
        bytes: &(impl Bytes + ?Sized),
        packet: &mut Packet<V4Addr>,
    ) -> Result<(), DropReason> {
        const DONT_FRAGMENT: u16 = 0x4000;

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
    fn glance(bytes: &(impl Bytes + ?Sized)) -> Option<(u8, Tuple<V4Addr>)> {
        let Glance { header, ports }: Glance<Ipv4Hdr> = bytes.read_anew(ETH_LEN)?;
        let fragment = u16::from_be_bytes(header.frags);
        if header.vihl != 0x45
            || header.proto != proto::TCP && header.proto != proto::UDP
            || fragment & (MORE_FRAGMENTS | OFFSET) != 0
        {
            return None;
        }
        let tuple = Tuple {
            saddr: V4Addr::new(header.src_addr),
            daddr: V4Addr::new(header.dst_addr),
            sport: Be16::from_raw(u16::from_ne_bytes(ports[0])),
            dport: Be16::from_raw(u16::from_ne_bytes(ports[1])),
        };
        Some((header.proto, tuple))
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
        let header: V6Fields = bytes.read(ETH_LEN).ok_or(DropReason::Malformed)?;
        if header.version >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        put(&mut packet.tuple.saddr, header.source);
        put(&mut packet.tuple.daddr, header.destination);
        packet.proto = header.next_header;
        packet.ttl = header.hop_limit;
        packet.fragment = Fragment::Whole;
        packet.more = false;
        packet.begin = 0;
        packet.end = 0;
        packet.dont_fragment = true;
        packet.id = 0;
        packet.l4 = ETH_LEN + V6_LEN;
        if extension::is_one(header.next_header) {
            return extension::walk(bytes, packet, u16::from_be_bytes(header.length));
        }
        Ok(())
    }

    #[inline(always)]
    fn glance(bytes: &(impl Bytes + ?Sized)) -> Option<(u8, Tuple<V6Addr>)> {
        let Glance { header, ports }: Glance<V6Fields> = bytes.read_anew(ETH_LEN)?;
        let proto = header.next_header;
        if header.version >> 4 != 6 || proto != proto::TCP && proto != proto::UDP {
            return None;
        }
        let mut tuple = Tuple {
            saddr: V6Addr::ANY,
            daddr: V6Addr::ANY,
            sport: Be16::from_raw(u16::from_ne_bytes(ports[0])),
            dport: Be16::from_raw(u16::from_ne_bytes(ports[1])),
        };
        put(&mut tuple.saddr, header.source);
        put(&mut tuple.daddr, header.destination);
        Some((proto, tuple))
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

/// Word by word: as a whole, the compiler would have it copied byte by byte.
#[inline(always)]
fn put(to: &mut V6Addr, from: [[u8; 4]; 4]) {
    for (index, word) in from.into_iter().enumerate() {
        // SAFETY: a word of an address that lives on.
        unsafe { (&raw mut to.0[index]).write_volatile(u32::from_ne_bytes(word)) };
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
mod tests;
