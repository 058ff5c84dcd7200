//! What a packet says, read apart from the programs as far as that goes.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netdp_common::{
    addr::proto,
    packet::{self, Fragment, Packet, Transport, V4, V6},
};

use super::header::{ETHERNET, first, hops, least, protocol, pseudo, second, sum, transport_sum};
use crate::program_world::{Family, family::embed, frame::Mac};

/// Protocol, remote address and port, the address and port that it sees.
pub type Known = (u8, Ipv4Addr, u16, Ipv4Addr, u16);

/// Addresses and ports of a packet, or of a packet that is quoted.
#[derive(Clone, Copy, Debug)]
pub struct Tuple {
    pub protocol: u8,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub sport: u16,
    pub dport: u16,
}
impl Tuple {
    /// As whoever received it knows it.
    pub fn received(&self) -> Known {
        (self.protocol, self.from, self.sport, self.to, self.dport)
    }

    /// As whoever sent it does.
    pub fn sent(&self) -> Known {
        (self.protocol, self.to, self.dport, self.from, self.sport)
    }
}

pub fn mac(bytes: &[u8], at: usize) -> Mac {
    bytes[at..at + 6].try_into().unwrap()
}

/// A packet as netdp reads it.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub tuple: Tuple,
    pub transport: Transport,
    pub fragment: Fragment,
    pub id: u32,
    pub l4: usize,
}

pub fn parse(bytes: &[u8]) -> Result<Read, String> {
    fn read<A: Into<IpAddr>>(packet: Packet<A>) -> Read {
        Read {
            tuple: Tuple {
                protocol: packet.proto,
                from: plain(packet.tuple.saddr.into()),
                to: plain(packet.tuple.daddr.into()),
                sport: packet.tuple.sport.get(),
                dport: packet.tuple.dport.get(),
            },
            transport: packet.transport,
            fragment: packet.fragment,
            id: packet.id,
            l4: packet.l4,
        }
    }
    let parsed = match Family::of_world() {
        Family::V4 => packet::parse::<V4>(bytes).map(read),
        Family::V6 => packet::parse::<V6>(bytes).map(read),
    };
    parsed.map_err(|why| format!("passed though {why:?}"))
}

/// The address of IPv4 that stands for it; of those of nobody, one for each.
fn plain(addr: IpAddr) -> Ipv4Addr {
    match addr {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(addr) => {
            let low = if addr.is_loopback() {
                Ipv4Addr::LOCALHOST
            } else {
                Ipv4Addr::from_bits(addr.to_bits() as u32)
            };
            if embed(low) == addr {
                return low;
            }
            let mut hash = DefaultHasher::new();
            addr.hash(&mut hash);
            Ipv4Addr::from_bits(0xf000_0000 | hash.finish() as u32 >> 4)
        }
    }
}

/// One address of a packet, from this place of it on.
fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    match Family::of_world() {
        Family::V4 => {
            let octets: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            octets.into()
        }
        Family::V6 => {
            let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
            plain(Ipv6Addr::from(octets).into())
        }
    }
}

pub fn source(bytes: &[u8]) -> Ipv4Addr {
    address(bytes, ETHERNET + first())
}

pub fn destination(bytes: &[u8]) -> Ipv4Addr {
    address(bytes, ETHERNET + second())
}

pub fn addresses(bytes: &[u8]) -> &[u8] {
    &bytes[ETHERNET + first()..ETHERNET + least()]
}

pub fn ttl(bytes: &[u8]) -> u8 {
    bytes[ETHERNET + hops()]
}

pub fn is_of_family(bytes: &[u8]) -> bool {
    ethertype(bytes)
        == if Family::is_v6_world() {
            0x86dd
        } else {
            0x0800
        }
}

pub fn ethertype(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[12], bytes[13]])
}

/// Where the transport of a quoted packet begins, and which one it is.
fn behind_extensions(quote: &[u8]) -> Option<(usize, u8)> {
    let (mut at, mut kind) = (40, *quote.get(6)?);
    loop {
        let length = match kind {
            0 | 43 | 60 => 8 + usize::from(*quote.get(at + 1)?) * 8,
            44 => 8,
            _ => return Some((at, kind)),
        };
        kind = *quote.get(at)?;
        at += length;
    }
}

/// The packet that an ICMP error quotes, where enough of it is there.
pub fn quoted(bytes: &[u8], l4: usize) -> Option<Tuple> {
    let quote = bytes.get(l4 + 8..)?;
    let (header, protocol, request) = match Family::of_world() {
        Family::V4 => (usize::from(quote.first()? & 15) * 4, *quote.get(9)?, 8),
        Family::V6 => {
            let (header, protocol) = behind_extensions(quote)?;
            (header, protocol, 128)
        }
    };
    let ports = quote.get(header..header + 8)?;
    if header < least() {
        return None;
    }
    let (mut sport, mut dport) = (
        u16::from_be_bytes([ports[0], ports[1]]),
        u16::from_be_bytes([ports[2], ports[3]]),
    );
    if protocol == proto::ICMP || protocol == proto::ICMPV6 {
        let identifier = u16::from_be_bytes([ports[4], ports[5]]);
        (sport, dport) = if ports[0] == request {
            (identifier, 0)
        } else {
            (0, identifier)
        };
    }
    Some(Tuple {
        protocol,
        from: address(quote, first()),
        to: address(quote, second()),
        sport,
        dport,
    })
}

/// Whether every checksum of a packet is right; nothing where it isn't all
/// there.
pub fn sums_are_right(bytes: &[u8]) -> Option<bool> {
    let ip = &bytes[ETHERNET..];
    let half = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *ip.get(at)?,
            *ip.get(at + 1)?,
        ])))
    };
    let (header, total, right, fragment) = match Family::of_world() {
        Family::V4 => {
            let header = usize::from(ip.first()? & 15) * 4;
            let total = half(2)?;
            if header < 20 || total < header || ip.len() < total {
                return None;
            }
            let right = sum(0, &ip[..header]) == 0xffff;
            (header, total, right, half(6)? & 0x3fff != 0)
        }
        // Where other headers follow, nothing is said.
        Family::V6 => (40, 40 + half(4)?, true, false),
    };
    let Some(at) = transport_sum(protocol(ip)) else {
        return Some(right);
    };
    if fragment {
        return Some(right);
    }
    if ip.len() < total || total < header + at + 2 {
        return None;
    }
    let body = &ip[header..total];
    if protocol(ip) == proto::UDP && body[6..8] == [0, 0] {
        return Some(right);
    }
    Some(right && sum(pseudo(ip, body.len()), body) == 0xffff)
}
