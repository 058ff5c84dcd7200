//! Where a packet of the world's family has what, and its checksums.

use std::net::Ipv4Addr;

use crate::program_world::{Family, family::embed};

pub const ETHERNET: usize = 14;

/// Length of a network header without options.
pub fn least() -> usize {
    match Family::of_world() {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Where a network header has its source.
pub fn first() -> usize {
    match Family::of_world() {
        Family::V4 => 12,
        Family::V6 => 8,
    }
}

/// The same of its destination.
pub fn second() -> usize {
    (first() + least()) / 2
}

/// The same of its TTL or hop limit.
pub fn hops() -> usize {
    match Family::of_world() {
        Family::V4 => 8,
        Family::V6 => 7,
    }
}

pub fn octets(addr: Ipv4Addr) -> Vec<u8> {
    match Family::of_world() {
        Family::V4 => addr.octets().to_vec(),
        Family::V6 => embed(addr).octets().to_vec(),
    }
}

/// The transport of a packet that has no other headers before it.
pub fn protocol(ip: &[u8]) -> u8 {
    match Family::of_world() {
        Family::V4 => ip[9],
        Family::V6 => ip[6],
    }
}

/// Where that begins.
pub fn transport(ip: &[u8]) -> usize {
    match Family::of_world() {
        Family::V4 => usize::from(ip[0] & 15) * 4,
        Family::V6 => 40,
    }
}

/// Computes the checksums of a packet from its IPv4 header on, where its
/// headers are whole.
pub fn set_sums(ip: &mut [u8]) {
    let header = transport(ip);
    if header < least() || ip.len() < header {
        return;
    }
    if !Family::is_v6_world() {
        ip[10..12].fill(0);
        let sum = !sum(0, &ip[..header]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let Some(at) = transport_sum(protocol(ip)) else {
        return;
    };
    let pseudo = pseudo(ip, ip.len() - header);
    let body = &mut ip[header..];
    if body.len() < at + 2 {
        return;
    }
    body[at..at + 2].fill(0);
    let sum = !sum(pseudo, body);
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Where a transport header has its checksum.
pub fn transport_sum(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(16),
        17 => Some(6),
        1 if !Family::is_v6_world() => Some(2),
        58 if Family::is_v6_world() => Some(2),
        _ => None,
    }
}

/// The pseudo header's part of a transport checksum: none for ICMP.
pub fn pseudo(ip: &[u8], length: usize) -> u32 {
    if protocol(ip) == 1 {
        return 0;
    }
    u32::from(sum(0, &ip[first()..least()])) + u32::from(protocol(ip)) + length as u32
}

/// RFC 1071, section 4.1.
pub fn sum(begin: u32, bytes: &[u8]) -> u16 {
    let mut sum = begin;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
