//! ICMP errors for a container about what it sent and netdp refused.

use crate::{
    addr::{V4Addr, V6Addr, proto},
    checksum::Sum,
    drop::DropReason,
};

/// What a container hears about a packet of its that was refused.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nothing.
    Silent = 0,
    /// Communication administratively prohibited: by policy, or for want of
    /// room (RFC 5508, REQ-8).
    Prohibited,
    /// No route to destination.
    NoRoute,
    /// Longer than a link on the way takes.
    TooBig,
    /// Hop limit exceeded.
    Expired,
}

impl Refusal {
    /// What is said about this reason. Forged and broken packets have no answer:
    /// it might not go to who sent them.
    #[inline(always)]
    pub const fn of(reason: DropReason) -> Self {
        match reason {
            DropReason::OtherNetwork
            | DropReason::Internal
            | DropReason::NoIcc
            | DropReason::PortExhausted
            | DropReason::TableFull
            | DropReason::UnknownProtocol
            | DropReason::NoUplinkAddress
            | DropReason::TupleTaken
            | DropReason::EndpointLimit => Self::Prohibited,
            DropReason::NoRoute => Self::NoRoute,
            DropReason::TooBig => Self::TooBig,
            DropReason::Expired => Self::Expired,
            _ => Self::Silent,
        }
    }

    /// Type and code of ICMP (RFC 792; RFC 1812, section 5.2.7.1).
    #[inline(always)]
    const fn v4_numbers(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [3, 0],
            Self::TooBig => [3, 4],
            Self::Expired => [11, 0],
            Self::Prohibited | Self::Silent => [3, 13],
        }
    }

    /// Type and code of ICMPv6 (RFC 4443, section 3).
    #[inline(always)]
    const fn v6_numbers(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [1, 0],
            Self::TooBig => [2, 0],
            Self::Expired => [3, 0],
            Self::Prohibited | Self::Silent => [1, 1],
        }
    }
}

/// An error for a container about a packet that it sent.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub refusal: Refusal,
    /// Of the link that the packet was too big for, bytes; otherwise 0.
    pub mtu: u32,
    /// Of the quote, bytes; a multiple of 4.
    pub length: u16,
    /// Over the quote.
    pub sum: Sum,
}

/// The headers of an error of IPv4, the packet that was refused following as it
/// came: IPv4 without options and ICMP, as they lie in memory.
#[inline(always)]
pub fn v4_refusal(gateway: V4Addr, container: V4Addr, answer: &Answer) -> [u16; 14] {
    let numbers = answer.refusal.v4_numbers();
    let [from, to] = [gateway, container].map(halves);
    let mut words = [
        0x4500u16.to_be(),
        (28 + answer.length).to_be(),
        0,
        // Don't fragment.
        0x4000u16.to_be(),
        (64u16 << 8 | proto::ICMP as u16).to_be(),
        0,
        from[0],
        from[1],
        to[0],
        to[1],
        u16::from_ne_bytes(numbers),
        0,
        0,
        // RFC 1191, section 4.
        (answer.mtu as u16).to_be(),
    ];
    let mut network = Sum::default();
    for word in &words[..10] {
        network = network.add(u32::from(*word));
    }
    words[5] = !network.fold();
    let message = answer.sum.add(u32::from(words[10]));
    words[11] = !message.add(u32::from(words[13])).fold();
    words
}

/// The headers of the same of IPv6: IPv6 and ICMPv6.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V6Refusal(pub [u32; 12]);

/// Those headers, see [`v4_refusal`].
#[inline(always)]
pub fn v6_refusal(gateway: V6Addr, container: V6Addr, answer: &Answer) -> V6Refusal {
    let [kind, code] = answer.refusal.v6_numbers();
    let payload = u32::from(answer.length) + 8;
    let next = u32::from(proto::ICMPV6);
    let [from, to] = [gateway.0, container.0];
    let mut sum = answer.sum.add(payload.to_be()).add(next.to_be());
    for (from, to) in from.iter().zip(&to) {
        sum = sum.add(*from).add(*to);
    }
    sum = sum.add(u32::from_ne_bytes([kind, code, 0, 0]));
    sum = sum.add(answer.mtu.to_be());
    let checksum = (!sum.fold()).to_ne_bytes();
    V6Refusal([
        (6u32 << 28).to_be(),
        (payload << 16 | next << 8 | 64).to_be(),
        from[0],
        from[1],
        from[2],
        from[3],
        to[0],
        to[1],
        to[2],
        to[3],
        u32::from_ne_bytes([kind, code, checksum[0], checksum[1]]),
        // RFC 4443, section 3.2.
        answer.mtu.to_be(),
    ])
}

/// An address as it lies in memory.
#[inline(always)]
fn halves(addr: V4Addr) -> [u16; 2] {
    let [a, b, c, d] = addr.0.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}
