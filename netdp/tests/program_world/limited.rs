//! A limit on new conversations, and what begins them.

use std::net::Ipv4Addr;

use netdp::bpf::{Entry, Key};
use netdp_common::{
    drop::DropReason,
    limit::Limit,
    maps::{Uplink, name},
};

use super::{
    CLIENT, HOST, HOST_MAC, World, arriving,
    family::Family,
    frame::{Frame, SYN, at},
};

/// `XDP_DROP` and `XDP_PASS` of `include/uapi/linux/bpf.h`.
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
/// `lo`, by which the kernel has frames arrive at an XDP program that is tried.
pub const LO: u32 = 1;
pub const PORT: u16 = 40_000;
pub const BURST: u32 = 3;
/// Nanoseconds.
pub const HOUR: u64 = 3600 * 1_000_000_000;

/// A limit under which no source gets anything back within a test.
pub fn limit(world: &mut World) {
    let limit = Limit {
        interval: HOUR,
        depth: u64::from(BURST) * HOUR,
    };
    world.put(Key::Limit, Entry::Limit(limit));
}

pub fn syn(source: Ipv4Addr, port: u16) -> Frame {
    arriving(Frame::tcp(SYN, at(source, port), at(HOST, 8080)))
}

pub fn datagram(source: Ipv4Addr, port: u16) -> Frame {
    arriving(Frame::udp(at(source, port), at(HOST, 5353)))
}

/// The client begins all that it may.
pub fn exhaust(world: &mut World) {
    let web = world.web;
    for port in 0..BURST as u16 {
        world.enters(&syn(CLIENT, 1000 + port), &web);
    }
}

pub fn exhaust_all_but_one(world: &mut World) {
    let web = world.web;
    for port in 1..BURST as u16 {
        world.enters(&syn(CLIENT, 2000 + port), &web);
    }
}

/// A packet from a source that has nothing in common with the client.
pub fn of_another(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    match Family::of_world() {
        Family::V4 => {}
        // The last bit of its /64.
        Family::V6 => bytes[14 + 8 + 7] ^= 1,
    }
    bytes
}

#[track_caller]
pub fn is_limited(world: &mut World, frame: &Frame) {
    assert_eq!(world.is_kept_out(&frame.bytes()), DropReason::SourceLimit);
}

/// An uplink for what arrives by `lo`.
pub fn serve_lo(world: &mut World) {
    let uplink = Uplink {
        mac: HOST_MAC,
        ..Uplink::default()
    };
    world.put(Key::Uplink(LO), Entry::Uplink(uplink));
}

pub fn limited_drops(world: &World) -> u64 {
    let drops = world.drops();
    let mut of_limit = drops
        .iter()
        .filter(|(it, _)| *it == DropReason::SourceLimit);
    of_limit.next().map_or(0, |(_, count)| *count)
}

pub fn buckets() -> &'static str {
    match Family::of_world() {
        Family::V4 => name::BUCKETS4,
        Family::V6 => name::BUCKETS6,
    }
}
