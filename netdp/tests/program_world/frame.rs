//! Packets as tests write and read them.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, NetHeaders,
    PacketBuilder, PacketHeaders, TransportHeader,
};

use super::family::{Family, embed, embedded};

pub type Mac = [u8; 6];

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

const ETHERNET: usize = Ethernet2Header::LEN;

/// What follows the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// With its flags.
    Tcp(u8),
    Udp,
    /// Without a checksum (RFC 768).
    UdpUnchecked,
    /// The identifier is the source port, as netdp counts.
    EchoRequest,
    /// The identifier is the destination port.
    EchoReply,
}

/// A packet over Ethernet, of the family that the world speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub source: Mac,
    pub destination: Mac,
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub ttl: u8,
    pub dont_fragment: bool,
    pub id: u16,
    /// Of the IPv4 header; a multiple of four bytes.
    pub options: Vec<u8>,
    pub body: Body,
    pub payload: Vec<u8>,
}

/// Where the transport header starts in a packet without options or extension
/// headers.
pub fn transport_start() -> usize {
    match Family::of_world() {
        Family::V4 => ETHERNET + 20,
        Family::V6 => BEFORE_V6,
    }
}

pub fn at(addr: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(addr, port)
}

impl Frame {
    /// With a payload of odd length, which checksums treat apart.
    pub fn new(body: Body, from: SocketAddrV4, to: SocketAddrV4) -> Self {
        Self {
            source: [0; 6],
            destination: [0; 6],
            from,
            to,
            ttl: 64,
            dont_fragment: false,
            id: 0x1234,
            options: Vec::new(),
            body,
            payload: b"some bytes of it".repeat(2)[..31].to_vec(),
        }
    }

    pub fn tcp(flags: u8, from: SocketAddrV4, to: SocketAddrV4) -> Self {
        Self::new(Body::Tcp(flags), from, to)
    }

    pub fn udp(from: SocketAddrV4, to: SocketAddrV4) -> Self {
        Self::new(Body::Udp, from, to)
    }

    pub fn echo_request(from: Ipv4Addr, to: Ipv4Addr, identifier: u16) -> Self {
        Self::new(Body::EchoRequest, at(from, identifier), at(to, 0))
    }

    pub fn echo_reply(from: Ipv4Addr, to: Ipv4Addr, identifier: u16) -> Self {
        Self::new(Body::EchoReply, at(from, 0), at(to, identifier))
    }

    pub fn between(mut self, source: Mac, destination: Mac) -> Self {
        (self.source, self.destination) = (source, destination);
        self
    }

    pub fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// What the other side answers with, `flags` if it is TCP.
    pub fn answer(&self, flags: u8) -> Self {
        let body = match self.body {
            Body::Tcp(_) => Body::Tcp(flags),
            Body::EchoRequest => Body::EchoReply,
            body => body,
        };
        Self {
            source: self.destination,
            destination: self.source,
            from: self.to,
            to: self.from,
            ttl: 64,
            body,
            ..self.clone()
        }
    }

    /// The packet, with all checksums computed.
    pub fn bytes(&self) -> Vec<u8> {
        let step =
            PacketBuilder::ethernet2(self.source, self.destination).ip(self.network_header());
        let (sport, dport) = (self.from.port(), self.to.port());
        let mut bytes = Vec::new();
        let written = match self.body {
            Body::Tcp(flags) => {
                let mut tcp = step.tcp(sport, dport, 1000, 4096);
                if flags & FIN != 0 {
                    tcp = tcp.fin();
                }
                if flags & SYN != 0 {
                    tcp = tcp.syn();
                }
                if flags & RST != 0 {
                    tcp = tcp.rst();
                }
                if flags & PSH != 0 {
                    tcp = tcp.psh();
                }
                if flags & ACK != 0 {
                    tcp = tcp.ack(2000);
                }
                tcp.write(&mut bytes, &self.payload)
            }
            Body::Udp | Body::UdpUnchecked => {
                step.udp(sport, dport).write(&mut bytes, &self.payload)
            }
            Body::EchoRequest if Family::is_v6_world() => step
                .icmpv6_echo_request(sport, 1)
                .write(&mut bytes, &self.payload),
            Body::EchoReply if Family::is_v6_world() => step
                .icmpv6_echo_reply(dport, 1)
                .write(&mut bytes, &self.payload),
            Body::EchoRequest => step
                .icmpv4_echo_request(sport, 1)
                .write(&mut bytes, &self.payload),
            Body::EchoReply => step
                .icmpv4_echo_reply(dport, 1)
                .write(&mut bytes, &self.payload),
        };
        written.unwrap();
        if self.body == Body::UdpUnchecked {
            let checksum = ETHERNET + self.network_header().header_len() + 6;
            bytes[checksum..checksum + 2].fill(0);
        }
        bytes
    }

    fn network_header(&self) -> IpHeaders {
        match Family::of_world() {
            Family::V4 => IpHeaders::Ipv4(
                Ipv4Header {
                    identification: self.id,
                    dont_fragment: self.dont_fragment,
                    time_to_live: self.ttl,
                    source: self.from.ip().octets(),
                    destination: self.to.ip().octets(),
                    options: Ipv4Options::try_from(self.options.as_slice()).unwrap(),
                    ..Ipv4Header::default()
                },
                Ipv4Extensions::default(),
            ),
            Family::V6 => {
                assert!(self.options.is_empty(), "options are IPv4's");
                let header = Ipv6Header {
                    // What translation has to leave as it is.
                    traffic_class: 0x28,
                    flow_label: Ipv6FlowLabel::try_new(0x12345).unwrap(),
                    hop_limit: self.ttl,
                    source: embed(*self.from.ip()).octets(),
                    destination: embed(*self.to.ip()).octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Ipv6Extensions::default())
            }
        }
    }

    /// The same as two fragments, the first with `length` bytes behind the
    /// IP header, a multiple of 8.
    pub fn fragments(&self, length: u16) -> [Vec<u8>; 2] {
        let whole = self.bytes();
        if Family::is_v6_world() {
            return fragments_v6(&whole, length, self.id);
        }
        let (header, rest) = Ipv4Header::from_slice(&whole[ETHERNET..]).unwrap();
        let (first, later) = rest.split_at(length.into());
        [
            (first, true, IpFragOffset::ZERO),
            (later, false, (length / 8).try_into().unwrap()),
        ]
        .map(|(part, more_fragments, fragment_offset)| {
            let mut header = Ipv4Header {
                more_fragments,
                fragment_offset,
                ..header.clone()
            };
            header.set_payload_len(part.len()).unwrap();
            header.header_checksum = header.calc_header_checksum();
            [&whole[..ETHERNET], &header.to_bytes(), part].concat()
        })
    }

    /// Puts fragments in order together, their own headers verified.
    pub fn of_fragments(fragments: &[Vec<u8>]) -> Self {
        if Family::is_v6_world() {
            return Self::of(&whole_v6(fragments));
        }
        let mut whole = Vec::new();
        for bytes in fragments {
            let (mut header, part) = Ipv4Header::from_slice(&bytes[ETHERNET..]).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            if whole.is_empty() {
                header.more_fragments = false;
                whole = [&bytes[..ETHERNET], &header.to_bytes()].concat();
            }
            whole.extend(part);
        }
        let (mut header, rest) = Ipv4Header::from_slice(&whole[ETHERNET..]).unwrap();
        header.set_payload_len(rest.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let whole = [&whole[..ETHERNET], &header.to_bytes(), rest].concat();
        Self::of(&whole)
    }

    /// Reads a packet, every checksum verified by computing it anew.
    pub fn of(bytes: &[u8]) -> Self {
        let packet = PacketHeaders::from_ethernet_slice(bytes).unwrap();
        let ip = packet.net.as_ref().expect("an IP packet");
        let network = Network::of(ip);
        let payload = packet.payload.slice();
        let (checksum, computed, sport, dport, body) = match &packet.transport {
            Some(TransportHeader::Tcp(tcp)) => {
                let flags = [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack]
                    .iter()
                    .enumerate()
                    .fold(0, |flags, (bit, set)| flags | u8::from(*set) << bit);
                let computed = match ip {
                    NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, payload),
                    NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, payload),
                    NetHeaders::Arp(_) => unreachable!(),
                }
                .unwrap();
                let (sport, dport) = (tcp.source_port, tcp.destination_port);
                (tcp.checksum, computed, sport, dport, Body::Tcp(flags))
            }
            Some(TransportHeader::Udp(udp)) => {
                let (sport, dport) = (udp.source_port, udp.destination_port);
                if udp.checksum == 0 {
                    (0, 0, sport, dport, Body::UdpUnchecked)
                } else {
                    let computed = match ip {
                        NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, payload),
                        NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload),
                        NetHeaders::Arp(_) => unreachable!(),
                    }
                    .unwrap();
                    (udp.checksum, computed, sport, dport, Body::Udp)
                }
            }
            Some(TransportHeader::Icmpv4(icmp)) => {
                let computed = icmp.icmp_type.calc_checksum(payload);
                match &icmp.icmp_type {
                    etherparse::Icmpv4Type::EchoRequest(echo) => {
                        (icmp.checksum, computed, echo.id, 0, Body::EchoRequest)
                    }
                    etherparse::Icmpv4Type::EchoReply(echo) => {
                        (icmp.checksum, computed, 0, echo.id, Body::EchoReply)
                    }
                    other => panic!("no echo: {other:?}"),
                }
            }
            Some(TransportHeader::Icmpv6(icmp)) => {
                let NetHeaders::Ipv6(ip, _) = ip else {
                    panic!("ICMPv6 over {ip:?}")
                };
                let computed = icmp
                    .icmp_type
                    .calc_checksum(ip.source, ip.destination, payload)
                    .unwrap();
                match &icmp.icmp_type {
                    etherparse::Icmpv6Type::EchoRequest(echo) => {
                        (icmp.checksum, computed, echo.id, 0, Body::EchoRequest)
                    }
                    etherparse::Icmpv6Type::EchoReply(echo) => {
                        (icmp.checksum, computed, 0, echo.id, Body::EchoReply)
                    }
                    other => panic!("no echo: {other:?}"),
                }
            }
            other => panic!("no transport that tests send: {other:?}"),
        };
        assert_eq!(checksum, computed, "checksum of the transport header");
        let ethernet = packet.link.unwrap().ethernet2().unwrap();
        Self {
            source: ethernet.source,
            destination: ethernet.destination,
            from: at(network.from, sport),
            to: at(network.to, dport),
            ttl: network.ttl,
            dont_fragment: network.dont_fragment,
            id: network.id,
            options: network.options,
            body,
            payload: payload.to_vec(),
        }
    }
}

/// What a [`Frame`] has of the network header.
struct Network {
    from: Ipv4Addr,
    to: Ipv4Addr,
    ttl: u8,
    dont_fragment: bool,
    id: u16,
    options: Vec<u8>,
}

impl Network {
    /// Reads it; in a world of IPv6, of such a header without what it doesn't
    /// have.
    fn of(header: &NetHeaders) -> Self {
        match header {
            NetHeaders::Ipv4(ip, _) => {
                assert_eq!(
                    ip.header_checksum,
                    ip.calc_header_checksum(),
                    "checksum of the IPv4 header"
                );
                Self {
                    from: ip.source.into(),
                    to: ip.destination.into(),
                    ttl: ip.time_to_live,
                    dont_fragment: ip.dont_fragment,
                    id: ip.identification,
                    options: ip.options.to_vec(),
                }
            }
            NetHeaders::Ipv6(ip, _) => {
                assert_eq!((ip.traffic_class, ip.flow_label.value()), (0x28, 0x12345));
                Self {
                    from: embedded(ip.source.into()),
                    to: embedded(ip.destination.into()),
                    ttl: ip.hop_limit,
                    dont_fragment: false,
                    id: 0x1234,
                    options: Vec::new(),
                }
            }
            NetHeaders::Arp(_) => panic!("no IP packet"),
        }
    }
}

/// Bytes before an IPv6 packet's payload.
const BEFORE_V6: usize = ETHERNET + Ipv6Header::LEN;

/// A packet of IPv6 without extension headers as two fragments.
fn fragments_v6(whole: &[u8], length: u16, id: u16) -> [Vec<u8>; 2] {
    let (length, end) = (length.into(), whole.len() - BEFORE_V6);
    [(0, length), (length, end)].map(|(begin, end)| piece_v6(whole, begin, end, id))
}

/// Bytes `begin..end` of its payload as a fragment.
pub fn piece_v6(whole: &[u8], begin: usize, end: usize, id: u16) -> Vec<u8> {
    let payload = &whole[BEFORE_V6..];
    let next = IpNumber(whole[ETHERNET + 6]);
    let offset = (begin as u16 / 8).try_into().unwrap();
    let fragment = Ipv6FragmentHeader::new(next, offset, end < payload.len(), id.into());
    let mut packet = [
        &whole[..BEFORE_V6],
        &fragment.to_bytes(),
        &payload[begin..end],
    ]
    .concat();
    set_payload_v6(&mut packet, IpNumber::IPV6_FRAGMENTATION_HEADER);
    packet
}

/// A packet of IPv6 with one more extension header, right behind IPv6's: of
/// this number, with `rest` behind the number of the next.
pub fn with_extension(packet: &[u8], number: u8, rest: &[u8]) -> Vec<u8> {
    let next = packet[ETHERNET + 6];
    let (before, payload) = packet.split_at(BEFORE_V6);
    let mut packet = [before, &[next], rest, payload].concat();
    set_payload_v6(&mut packet, IpNumber(number));
    packet
}

/// The same packet without the first `length` bytes of its extension headers,
/// whose last one names `next`.
pub fn without_extensions(packet: &[u8], length: usize, next: u8) -> Vec<u8> {
    let mut packet = [&packet[..BEFORE_V6], &packet[BEFORE_V6 + length..]].concat();
    set_payload_v6(&mut packet, IpNumber(next));
    packet
}

/// Puts such fragments, in order, together.
fn whole_v6(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0][..BEFORE_V6].to_vec();
    let mut next = IpNumber(0);
    for bytes in fragments {
        let (fragment, part) = Ipv6FragmentHeader::from_slice(&bytes[BEFORE_V6..]).unwrap();
        next = fragment.next_header;
        whole.extend(part);
    }
    set_payload_v6(&mut whole, next);
    whole
}

/// Writes the number of the first header behind IPv6's, and the length.
fn set_payload_v6(packet: &mut [u8], next: IpNumber) {
    let length = (packet.len() - BEFORE_V6) as u16;
    packet[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
    packet[ETHERNET + 6] = next.0;
}

/// The address that `bytes` begin with.
pub fn embedded_at(bytes: &[u8]) -> Ipv4Addr {
    match Family::of_world() {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..4]).unwrap()),
        Family::V6 => embedded(<[u8; 16]>::try_from(&bytes[..16]).unwrap().into()),
    }
}

/// A packet of any protocol, with a right header checksum where there is one.
pub fn raw(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().try_into().unwrap();
    let mut bytes = Vec::new();
    let mut ethernet = Ethernet2Header {
        ether_type: EtherType::IPV4,
        ..Ethernet2Header::default()
    };
    if Family::is_v6_world() {
        let header = Ipv6Header {
            payload_length: length,
            next_header: IpNumber(protocol),
            hop_limit: 64,
            source: embed(from).octets(),
            destination: embed(to).octets(),
            ..Ipv6Header::default()
        };
        ethernet.ether_type = EtherType::IPV6;
        ethernet.write(&mut bytes).unwrap();
        header.write(&mut bytes).unwrap();
    } else {
        let (from, to) = (from.octets(), to.octets());
        let header = Ipv4Header::new(length, 64, IpNumber(protocol), from, to).unwrap();
        ethernet.write(&mut bytes).unwrap();
        header.write(&mut bytes).unwrap();
    }
    bytes.extend(payload);
    bytes
}

/// Gives a packet other MAC addresses.
pub fn between(mut bytes: Vec<u8>, source: Mac, destination: Mac) -> Vec<u8> {
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    bytes
}
