//! Packets that are right in most parts and wrong in any: what a program meets
//! from a peer that means harm, or whose memory is broken.

use std::{collections::VecDeque, net::Ipv4Addr};

use super::header::{ETHERNET, first, hops, least, octets, protocol, second, set_sums, transport};
use crate::program_world::{
    CLIENT, DB, Family, GATEWAY, HOST, HOST_2, LONER, LONER_GATEWAY, REMOTE, WEB,
    dice::Dice,
    frame::{ACK, FIN, Mac, RST, SYN},
};

/// Of containers, of the host, outside, and of nobody.
const ADDRESSES: [Ipv4Addr; 14] = [
    WEB,
    DB,
    LONER,
    GATEWAY,
    LONER_GATEWAY,
    HOST,
    HOST_2,
    CLIENT,
    REMOTE,
    Ipv4Addr::new(172, 20, 0, 99),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::BROADCAST,
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::LOCALHOST,
];
const OUTSIDE: [Ipv4Addr; 2] = [CLIENT, REMOTE];
/// Published, behind published ones, and others.
const PORTS: [u16; 9] = [80, 53, 8080, 5353, 9090, 40_000, 40_001, 0, 65_535];
const PROTOCOLS: [u8; 8] = [6, 6, 6, 17, 17, 17, 1, 1];

/// What is seen on the way, to be answered, repeated and quoted.
#[derive(Default)]
pub struct Seen(VecDeque<Vec<u8>>);

impl Seen {
    pub fn note(&mut self, packet: &[u8]) {
        if packet.len() >= ETHERNET + least() + 8 {
            self.0.push_back(packet[ETHERNET..].to_vec());
            if self.0.len() > 64 {
                self.0.pop_front();
            }
        }
    }

    /// The last packet for this container, or from the host for the outside.
    fn to(&self, container: Option<Ipv4Addr>) -> Option<&[u8]> {
        let is_to = |packet: &&Vec<u8>| match container {
            Some(addr) => packet[second()..].starts_with(&octets(addr)),
            None => packet[first()..].starts_with(&octets(HOST)),
        };
        self.0.iter().rev().find(is_to).map(Vec::as_slice)
    }

    fn one(&self, dice: &mut Dice) -> Option<&[u8]> {
        if self.0.is_empty() {
            return None;
        }
        Some(&self.0[dice.below(self.0.len())])
    }
}

/// A packet of `from`, or of anybody where nothing is said, with these MACs.
pub fn packet(dice: &mut Dice, seen: &Seen, from: Option<Ipv4Addr>, macs: (Mac, Mac)) -> Vec<u8> {
    let source = match from {
        Some(from) if !dice.percent(8) => from,
        None if !dice.percent(20) => dice.of(&OUTSIDE),
        _ => address(dice),
    };
    let mut ip = match seen.one(dice) {
        _ if dice.percent(5) && seen.to(from).is_some() => error(dice, seen, from),
        Some(known) if dice.percent(35) => answer(dice, known, from),
        Some(known) if dice.percent(5) => known.to_vec(),
        _ => fresh(dice, seen, source),
    };
    spoil(dice, &mut ip);
    let ethertype: [u8; 2] = if dice.percent(97) {
        match Family::of_world() {
            Family::V4 => [0x08, 0x00],
            Family::V6 => [0x86, 0xdd],
        }
    } else {
        dice.of(&[
            [0x86, 0xdd],
            [0x08, 0x00],
            [0x08, 0x06],
            [0x81, 0x00],
            [0, 46],
            [0xff, 0xff],
        ])
    };
    let (mut source, mut destination) = macs;
    if dice.percent(2) {
        source[dice.below(6)] ^= 1 << dice.below(8);
    }
    if dice.percent(2) {
        destination[dice.below(6)] ^= 1 << dice.below(8);
    }
    let mut bytes = [&destination[..], &source[..], &ethertype[..], &ip[..]].concat();
    if dice.percent(6) {
        bytes.truncate(ETHERNET + dice.below(bytes.len() - ETHERNET + 1));
    }
    bytes
}

fn address(dice: &mut Dice) -> Ipv4Addr {
    if dice.percent(5) {
        Ipv4Addr::from(dice.number() as u32)
    } else {
        dice.of(&ADDRESSES)
    }
}

fn port(dice: &mut Dice) -> u16 {
    if dice.percent(5) {
        dice.number() as u16
    } else {
        dice.of(&PORTS)
    }
}

/// From the IPv6 header on.
fn header6(
    protocol: u8,
    hops: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    body: &[u8],
) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((body.len() as u16).to_be_bytes());
    ip.extend([protocol, hops]);
    ip.extend(octets(source));
    ip.extend(octets(destination));
    ip.extend(body);
    set_sums(&mut ip);
    ip
}

/// As [`fresh`], of IPv6: with headers between it and the transport, or in
/// fragments.
fn fresh6(dice: &mut Dice, seen: &Seen, source: Ipv4Addr) -> Vec<u8> {
    let protocol = if dice.percent(95) {
        dice.of(&[6, 6, 6, 17, 17, 17, 58, 58])
    } else {
        dice.of(&[0, 1, 4, 41, 43, 47, 50, 51, 59, 60, 132, 135, 255])
    };
    let body = match protocol {
        6 => tcp(dice),
        17 => udp(dice),
        58 => icmp(dice, seen),
        _ => {
            let length = dice.below(40);
            dice.bytes(length)
        }
    };
    let destination = address(dice);
    let hops = dice.of(&[64, 64, 64, 255, 2, 1, 0]);
    let mut ip = header6(protocol, hops, source, destination, &body);
    if dice.percent(12) {
        // A fragment header (RFC 8200, section 4.5).
        let mut fragment = vec![protocol, 0];
        fragment.extend(dice.of(&[0u16, 1, 1, 8, 9, 24, 0xfff8, 2]).to_be_bytes());
        fragment.extend((dice.number() as u32 % 8).to_be_bytes());
        put_before(&mut ip, 44, &fragment);
    }
    if dice.percent(8) {
        let kind = dice.of(&[0, 43, 60, 60, 51]);
        let next = ip[6];
        put_before(&mut ip, kind, &[next, 0, 1, 4, 0, 0, 0, 0]);
    }
    ip
}

/// Puts an extension header behind the IPv6 header.
fn put_before(ip: &mut Vec<u8>, kind: u8, header: &[u8]) {
    let length = u16::from_be_bytes([ip[4], ip[5]]) + header.len() as u16;
    ip[4..6].copy_from_slice(&length.to_be_bytes());
    ip[6] = kind;
    ip.splice(40..40, header.iter().copied());
}

/// From the network header on, headers and sums right.
fn fresh(dice: &mut Dice, seen: &Seen, source: Ipv4Addr) -> Vec<u8> {
    if Family::is_v6_world() {
        return fresh6(dice, seen, source);
    }
    let protocol = if dice.percent(95) {
        dice.of(&PROTOCOLS)
    } else {
        dice.of(&[0, 2, 4, 41, 47, 50, 58, 132, 255])
    };
    let destination = address(dice);
    let words = if dice.percent(90) { 0 } else { dice.below(11) };
    let (mut flags, id) = (dice.of(&[0u16, 0x4000]), dice.number() as u16 % 8);
    if dice.percent(12) {
        flags = dice.of(&[0x2000, 0x2001, 0x2003, 3, 1, 2, 0x1fff, 0x8000, 0x6000]);
    }
    let body = match protocol {
        6 => tcp(dice),
        17 => udp(dice),
        1 => icmp(dice, seen),
        _ => {
            let length = dice.below(40);
            dice.bytes(length)
        }
    };
    let length = 20 + 4 * words + body.len();
    let mut ip = vec![0x45 + words as u8, 0];
    ip.extend((length as u16).to_be_bytes());
    ip.extend(id.to_be_bytes());
    ip.extend(flags.to_be_bytes());
    ip.extend([dice.of(&[64, 64, 64, 255, 2, 1, 0]), protocol, 0, 0]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    ip.extend(dice.bytes(4 * words));
    ip.extend(body);
    set_sums(&mut ip);
    ip
}

fn tcp(dice: &mut Dice) -> Vec<u8> {
    let mut body = [port(dice).to_be_bytes(), port(dice).to_be_bytes()].concat();
    body.extend(dice.bytes(8));
    let flags = match dice.below(10) {
        0..4 => SYN,
        4 => SYN | ACK,
        5 | 6 => ACK,
        7 => FIN | ACK,
        8 => RST,
        _ => dice.byte(),
    };
    body.extend([if dice.percent(90) { 0x50 } else { dice.byte() }, flags]);
    body.extend([0x10, 0, 0, 0, 0, 0]);
    let length = dice.below(24);
    body.extend(dice.bytes(length));
    body
}

fn udp(dice: &mut Dice) -> Vec<u8> {
    let length = dice.below(24);
    let mut body = [port(dice).to_be_bytes(), port(dice).to_be_bytes()].concat();
    body.extend((8 + length as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(dice.bytes(length));
    body
}

fn icmp(dice: &mut Dice, seen: &Seen) -> Vec<u8> {
    let kind = match Family::of_world() {
        Family::V4 => dice.of(&[0, 8, 8, 8, 3, 3, 3, 11, 12, 5, 4, 13, 17]),
        Family::V6 => dice.of(&[
            129, 128, 128, 128, 1, 1, 2, 2, 3, 4, 133, 134, 135, 136, 137, 143, 5, 200,
        ]),
    };
    let mut body = vec![kind, dice.of(&[0, 1, 3, 4, 13, 255]), 0, 0];
    body.extend(port(dice).to_be_bytes());
    body.extend(dice.of(&[0u16, 576, 1500]).to_be_bytes());
    match seen.one(dice) {
        Some(known) if [1, 2, 3, 4, 5, 11, 12].contains(&kind) => {
            let length = if dice.percent(60) {
                known.len()
            } else {
                dice.below(known.len() + 1)
            };
            body.extend(&known[..length]);
        }
        _ => {
            let length = dice.below(60);
            body.extend(dice.bytes(length));
        }
    }
    body
}

/// An ICMP error about a packet that was seen.
fn error(dice: &mut Dice, seen: &Seen, from: Option<Ipv4Addr>) -> Vec<u8> {
    let known = seen.to(from).unwrap().to_vec();
    let shortest = transport(&known) + 8;
    let least = shortest.min(known.len());
    let length = least + dice.below(known.len() - least + 1);
    let from = octets(from.unwrap_or(REMOTE));
    let to = &known[first()..second()];
    let (mut ip, kinds, code) = match Family::of_world() {
        Family::V4 => (
            vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0],
            [3, 11, 12],
            dice.of(&[0, 1, 4]),
        ),
        Family::V6 => (
            vec![0x60, 0, 0, 0, 0, 0, 58, 64],
            [1, 2, 3],
            dice.of(&[0, 1, 4]),
        ),
    };
    ip.extend(from);
    ip.extend(to);
    ip.extend([dice.of(&kinds), code, 0, 0, 0, 0, 5, 0xdc]);
    ip.extend(&known[..length]);
    match Family::of_world() {
        Family::V4 => {
            let length = ip.len() as u16;
            ip[2..4].copy_from_slice(&length.to_be_bytes());
        }
        Family::V6 => {
            let length = (ip.len() - 40) as u16;
            ip[4..6].copy_from_slice(&length.to_be_bytes());
        }
    }
    set_sums(&mut ip);
    ip
}

/// What the other side might say to a packet that was seen.
fn answer(dice: &mut Dice, known: &[u8], from: Option<Ipv4Addr>) -> Vec<u8> {
    let mut ip = known.to_vec();
    let header = transport(&ip);
    let width = second() - first();
    let (source, destination) = (&known[first()..second()], &known[second()..][..width]);
    ip[first()..second()].copy_from_slice(destination);
    ip[second()..][..width].copy_from_slice(source);
    if let Some(from) = from
        && dice.percent(80)
    {
        ip[first()..second()].copy_from_slice(&octets(from));
    }
    ip[hops()] = 64;
    let whole = ip.len() >= header + 8;
    match protocol(&ip) {
        6 | 17 if whole => {
            for byte in 0..2 {
                ip.swap(header + byte, header + 2 + byte);
            }
        }
        1 if whole && ip[header] == 8 => ip[header] = 0,
        58 if whole && ip[header] == 128 => ip[header] = 129,
        _ => {}
    }
    if protocol(&ip) == 6 && ip.len() >= header + 20 {
        ip[header + 13] = dice.of(&[SYN | ACK, ACK, ACK, ACK | FIN, RST, RST | ACK, SYN]);
    }
    set_sums(&mut ip);
    ip
}

/// Makes one in three wrong somewhere.
fn spoil(dice: &mut Dice, ip: &mut Vec<u8>) {
    match dice.below(24) {
        // Any bits of headers.
        0 | 1 => {
            for _ in 0..=dice.below(4) {
                let at = dice.below(ip.len().min(60));
                ip[at] ^= 1 << dice.below(8);
            }
        }
        // A length that isn't that of the packet.
        2 => {
            let length = dice.of(&[0, 1, 19, 20, 21, 27, 28, 39, 60, 1500, 65_535u16]);
            let at = if Family::is_v6_world() { 4 } else { 2 };
            ip[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        3 => ip[0] = dice.of(&[0x40, 0x44, 0x46, 0x4f, 0x65, 0x05, 0xff]),
        // A length in the UDP header, an offset in TCP's.
        4 => {
            let at = least() + 4 + dice.below(10);
            if at < ip.len() {
                ip[at] = dice.byte();
            }
        }
        5 => {
            let more = dice.below(40);
            ip.extend(dice.bytes(more));
        }
        6 => {
            let left = dice.below(ip.len());
            ip.truncate(left.max(1));
        }
        // UDP without a checksum.
        7 if protocol(ip) == 17 && ip.len() >= least() + 8 => {
            ip[least() + 6..least() + 8].fill(0);
        }
        _ => {}
    }
}
