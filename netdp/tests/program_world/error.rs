//! ICMP errors as tests write and read them.

use std::net::Ipv4Addr;

use super::frame::{Frame, Mac, between, raw};

const ETHERNET: usize = 14;
const ICMP: usize = ETHERNET + 20;
const QUOTE: usize = ICMP + 8;

/// Destination unreachable, redirect, time exceeded (RFC 792).
pub const UNREACHABLE: u8 = 3;
pub const REDIRECT: u8 = 5;
pub const EXCEEDED: u8 = 11;

/// An ICMP error about another packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    pub source: Mac,
    pub destination: Mac,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub ttl: u8,
    pub kind: u8,
    pub code: u8,
    /// The second half of the ICMP header.
    pub rest: [u8; 4],
    /// The quoted packet from its IPv4 header on, and what follows it.
    pub quote: Vec<u8>,
}

impl Error {
    /// From `from` to the sender of `about`, whole.
    pub fn about(kind: u8, code: u8, from: Ipv4Addr, about: &Frame) -> Self {
        Self {
            source: [0; 6],
            destination: [0; 6],
            from,
            to: *about.from.ip(),
            ttl: 64,
            kind,
            code,
            rest: [0, 0, 5, 20],
            quote: about.bytes()[ETHERNET..].to_vec(),
        }
    }

    pub fn between(mut self, source: Mac, destination: Mac) -> Self {
        (self.source, self.destination) = (source, destination);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest);
        message.extend(&self.quote);
        let checksum = !sum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let bytes = raw(1, self.from, self.to, &message);
        between(bytes, self.source, self.destination)
    }

    /// Reads one, the checksums of its IPv4 header and of the message verified.
    pub fn of(bytes: &[u8]) -> Self {
        assert_eq!(sum(&bytes[ETHERNET..ICMP]), 0xffff, "the IPv4 header's sum");
        assert_eq!(sum(&bytes[ICMP..]), 0xffff, "the message's sum");
        let addr = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        Self {
            source: bytes[6..12].try_into().unwrap(),
            destination: bytes[..6].try_into().unwrap(),
            from: addr(ETHERNET + 12),
            to: addr(ETHERNET + 16),
            ttl: bytes[ETHERNET + 8],
            kind: bytes[ICMP],
            code: bytes[ICMP + 1],
            rest: bytes[ICMP + 4..QUOTE].try_into().unwrap(),
            quote: bytes[QUOTE..].to_vec(),
        }
    }

    /// The quoted packet, all of its checksums verified.
    pub fn quoted(&self) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00]);
        bytes.extend(&self.quote);
        Frame::of(&bytes)
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
