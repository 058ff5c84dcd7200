//! ICMP errors as tests write and read them.

use std::net::Ipv4Addr;

use super::{
    family::Family,
    frame::{Frame, Mac, between, embedded_at, raw, transport_start},
};

const ETHERNET: usize = 14;
/// Of the ICMP header; the quote follows.
const HEADER: usize = 8;

/// What an error says (RFC 792, RFC 4443).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    NoRoute,
    Prohibited,
    Port,
    /// Fragmentation needed, or packet too big.
    TooBig,
    Exceeded,
    /// A field of the header is wrong.
    Parameter,
    /// About a route, not about a packet.
    Redirect,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::NoRoute,
        Self::Prohibited,
        Self::Port,
        Self::TooBig,
        Self::Exceeded,
        Self::Parameter,
        Self::Redirect,
    ];

    /// Type and code.
    pub fn numbers(self) -> [u8; 2] {
        match (Family::of_world(), self) {
            (Family::V4, Self::NoRoute) => [3, 0],
            (Family::V4, Self::Prohibited) => [3, 13],
            (Family::V4, Self::Port) => [3, 3],
            (Family::V4, Self::TooBig) => [3, 4],
            (Family::V4, Self::Exceeded) => [11, 0],
            (Family::V4, Self::Parameter) => [12, 0],
            (Family::V4, Self::Redirect) => [5, 1],
            (Family::V6, Self::NoRoute) => [1, 0],
            (Family::V6, Self::Prohibited) => [1, 1],
            (Family::V6, Self::Port) => [1, 4],
            (Family::V6, Self::TooBig) => [2, 0],
            (Family::V6, Self::Exceeded) => [3, 0],
            (Family::V6, Self::Parameter) => [4, 1],
            (Family::V6, Self::Redirect) => [137, 0],
        }
    }
}

/// An ICMP error about another packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    pub source: Mac,
    pub destination: Mac,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub ttl: u8,
    pub kind: Kind,
    /// The second half of the ICMP header.
    pub rest: [u8; 4],
    /// The quoted packet from its network header on, and what follows it.
    pub quote: Vec<u8>,
}

impl Error {
    /// From `from` to the sender of `about`, whole.
    pub fn about(kind: Kind, from: Ipv4Addr, about: &Frame) -> Self {
        Self {
            source: [0; 6],
            destination: [0; 6],
            from,
            to: *about.from.ip(),
            ttl: 64,
            kind,
            rest: match kind {
                // The next link's MTU.
                Kind::TooBig => [0, 0, 5, 20],
                _ => [0; 4],
            },
            quote: about.bytes()[ETHERNET..].to_vec(),
        }
    }

    /// Says how long the quote is, which is padded to that with zeros
    /// (RFC 4884, sections 4.1 and 4.4).
    pub fn with_length(mut self, length: usize) -> Self {
        self.quote.resize(length, 0);
        match Family::of_world() {
            Family::V4 => self.rest[1] = (length / 4) as u8,
            Family::V6 => self.rest[0] = (length / 8) as u8,
        }
        self
    }

    pub fn between(mut self, source: Mac, destination: Mac) -> Self {
        (self.source, self.destination) = (source, destination);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut message = self.kind.numbers().to_vec();
        message.extend([0, 0]);
        message.extend(self.rest);
        message.extend(&self.quote);
        let protocol = protocol();
        let mut bytes = raw(protocol, self.from, self.to, &message);
        let checksum = !sum(&[&pseudo(&bytes)[..], &message].concat());
        let start = transport_start();
        bytes[start + 2..start + 4].copy_from_slice(&checksum.to_be_bytes());
        between(bytes, self.source, self.destination)
    }

    /// Reads one, the checksums of its network header and of the message
    /// verified.
    pub fn of(bytes: &[u8]) -> Self {
        let start = transport_start();
        let header = &bytes[ETHERNET..start];
        let message = &bytes[start..];
        let (from, to, ttl) = match Family::of_world() {
            Family::V4 => {
                assert_eq!(sum(header), 0xffff, "the IPv4 header's sum");
                assert_eq!(header[9], protocol());
                (12, 16, 8)
            }
            Family::V6 => {
                assert_eq!(header[6], protocol());
                let payload = u16::from_be_bytes([header[4], header[5]]);
                assert_eq!(usize::from(payload), message.len());
                (8, 24, 7)
            }
        };
        let summed = [&pseudo(bytes)[..], message].concat();
        assert_eq!(sum(&summed), 0xffff, "the message's sum");
        let numbers = [message[0], message[1]];
        Self {
            source: bytes[6..12].try_into().unwrap(),
            destination: bytes[..6].try_into().unwrap(),
            from: embedded_at(&header[from..]),
            to: embedded_at(&header[to..]),
            ttl: header[ttl],
            kind: Kind::ALL
                .into_iter()
                .find(|kind| kind.numbers() == numbers)
                .unwrap_or_else(|| panic!("type and code {numbers:?}")),
            rest: message[4..HEADER].try_into().unwrap(),
            quote: message[HEADER..].to_vec(),
        }
    }

    /// The quoted packet, all of its checksums verified.
    pub fn quoted(&self) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend(match Family::of_world() {
            Family::V4 => [0x08, 0x00],
            Family::V6 => [0x86, 0xdd],
        });
        bytes.extend(&self.quote);
        Frame::of(&bytes)
    }
}

/// ICMP's number.
pub fn protocol() -> u8 {
    match Family::of_world() {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// What is summed of the network header: of IPv4 nothing (RFC 792).
fn pseudo(bytes: &[u8]) -> Vec<u8> {
    match Family::of_world() {
        Family::V4 => Vec::new(),
        Family::V6 => {
            let length = (bytes.len() - transport_start()) as u32;
            let mut pseudo = bytes[ETHERNET + 8..ETHERNET + 40].to_vec();
            pseudo.extend(length.to_be_bytes());
            pseudo.extend(u32::from(protocol()).to_be_bytes());
            pseudo
        }
    }
}

/// RFC 1071, section 4.1.
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
