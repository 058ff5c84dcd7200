//! Neighbour discovery (RFC 4861) over Ethernet: what a container sends and what
//! the datapath answers.

use crate::{
    addr::{Address, Mac, V6Addr, proto},
    checksum::Sum,
    packet::{Bytes, Wire},
};

/// Types of ICMPv6 messages that belong to a link.
mod kind {
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
}

/// Options (RFC 4861, section 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// A solicitation or an advertisement without its options, as it lies in the
/// packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Solicited {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    reserved: [u8; 4],
    target: [u8; 16],
}

/// The option of a link-layer address, of Ethernet.
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkLayer {
    kind: u8,
    /// Of the whole option, in eight bytes.
    length: u8,
    mac: Mac,
}

// SAFETY: repr(C), of bytes and arrays of bytes.
unsafe impl Wire for Solicited {}
// SAFETY: as above.
unsafe impl Wire for LinkLayer {}

/// A message of a container about its neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// It asks for the MAC address of the target.
    Solicitation,
    /// The same, and it names a MAC address as the sender's that isn't.
    Spoofed,
    /// It says who has the target.
    Advertisement,
    /// It says that it is a router, or who is one.
    Router,
    /// It asks for routers, or says which groups it listens to.
    Other,
}

/// Reads the message at `l4`, of a sender that has this MAC address, and writes
/// its target where it has one; nothing where it is cut off.
///
/// Of a solicitation's options the first is looked at, which is where stacks
/// put the sender's address.
#[inline(always)]
pub fn parse(
    bytes: &(impl Bytes + ?Sized),
    l4: usize,
    mac: Mac,
    target: &mut V6Addr,
) -> Option<Message> {
    let [kind, _]: [u8; 2] = bytes.read(l4)?;
    match kind {
        kind::NEIGHBOUR_SOLICITATION | kind::NEIGHBOUR_ADVERTISEMENT => {}
        kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => return Some(Message::Router),
        _ => return Some(Message::Other),
    }
    let message: Solicited = bytes.read(l4)?;
    *target = V6Addr::new(message.target);
    if kind == kind::NEIGHBOUR_ADVERTISEMENT {
        return Some(Message::Advertisement);
    }
    match bytes.read::<LinkLayer>(l4 + size_of::<Solicited>()) {
        Some(option) if option.kind == SOURCE_LINK_LAYER && option.mac != mac => {
            Some(Message::Spoofed)
        }
        _ => Some(Message::Solicitation),
    }
}

/// Bytes of an [`Advertisement`].
pub const LEN: usize = 72;

/// A neighbour advertisement from the IPv6 header on. Its words lie so that it
/// can be kept on a program's stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// Version, payload length, next header, hop limit; memory order.
    start: [u32; 2],
    saddr: V6Addr,
    daddr: V6Addr,
    /// Type, code, checksum.
    icmp: u32,
    flags: u32,
    target: V6Addr,
    /// The target's link-layer address.
    option: [u32; 2],
}

const _: () = assert!(size_of::<Advertisement>() == LEN);

impl Advertisement {
    /// The answer to who asked for `target`: `mac` has it. `router` where it is
    /// the gateway.
    #[inline(always)]
    pub fn new(target: V6Addr, mac: Mac, to: V6Addr, router: bool) -> Self {
        // ICMPv6 behind the IPv6 header, without extension headers.
        const PAYLOAD: u16 = 32;
        /// Bits R, S and O (RFC 4861, section 4.4).
        const ROUTER: u8 = 0x80;
        const SOLICITED_OVERRIDE: u8 = 0x60;
        let [high, low] = PAYLOAD.to_be_bytes();
        let flags = SOLICITED_OVERRIDE | if router { ROUTER } else { 0 };
        let mut made = Self {
            start: [
                u32::from_ne_bytes([0x60, 0, 0, 0]),
                u32::from_ne_bytes([high, low, proto::ICMPV6, 255]),
            ],
            saddr: target,
            daddr: to,
            icmp: u32::from_ne_bytes([kind::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0]),
            flags: u32::from_ne_bytes([flags, 0, 0, 0]),
            target,
            option: [
                u32::from_ne_bytes([TARGET_LINK_LAYER, 1, mac[0], mac[1]]),
                u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]]),
            ],
        };
        let [low, high] = made.checksum().to_ne_bytes();
        made.icmp = u32::from_ne_bytes([kind::NEIGHBOUR_ADVERTISEMENT, 0, low, high]);
        made
    }

    /// In memory order (RFC 8200, section 8.1), the field itself being 0.
    #[inline(always)]
    fn checksum(&self) -> u16 {
        let mut sum = Sum::default()
            .add(u32::from(32u16.to_be()))
            .add(u32::from(u16::from(proto::ICMPV6).to_be()))
            .add(self.icmp)
            .add(self.flags)
            .add(self.option[0])
            .add(self.option[1]);
        for address in [&self.saddr, &self.daddr, &self.target] {
            for word in address.words() {
                sum = sum.add(*word);
            }
        }
        !sum.fold()
    }

    /// As it lies in the packet.
    pub fn bytes(&self) -> [u8; LEN] {
        // SAFETY: of the same size, without padding.
        unsafe { core::mem::transmute(*self) }
    }
}

/// Both addresses of an Ethernet header, as words in memory order: on a
/// program's stack the second would not lie at a multiple of four.
#[inline(always)]
pub fn ethernet(destination: Mac, source: Mac) -> [u32; 3] {
    let (to, from) = (destination, source);
    [
        u32::from_ne_bytes([to[0], to[1], to[2], to[3]]),
        u32::from_ne_bytes([to[4], to[5], from[0], from[1]]),
        u32::from_ne_bytes([from[2], from[3], from[4], from[5]]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ETH_LEN, Transport, V6, parse as parse_packet};
    use core::net::Ipv6Addr;
    use std::vec::Vec;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const HOST_MAC: Mac = [2, 0, 0, 0, 1, 1];

    fn addr(text: &str) -> V6Addr {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    /// A frame from the IPv6 header on, as `ndisc6` sends it.
    fn solicitation(mac: Option<Mac>) -> Vec<u8> {
        let mut frame = std::vec![0u8; ETH_LEN];
        frame.extend([
            0x60,
            0,
            0,
            0,
            0,
            if mac.is_some() { 32 } else { 24 },
            58,
            255,
        ]);
        frame.extend(addr("fd00::2").bytes());
        frame.extend(addr("ff02::1:ff00:1").bytes());
        frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(addr("fd00::1").bytes());
        if let Some(mac) = mac {
            frame.extend([SOURCE_LINK_LAYER, 1]);
            frame.extend(mac);
        }
        frame
    }

    #[test]
    fn solicitations() {
        for (mac, message) in [
            (Some(MAC), Message::Solicitation),
            (Some(HOST_MAC), Message::Spoofed),
            (None, Message::Solicitation),
        ] {
            let frame = solicitation(mac);
            let packet = parse_packet::<V6>(frame.as_slice()).unwrap();
            assert_eq!(packet.transport, Transport::Neighbour);
            let mut target = V6Addr::ANY;
            let read = parse(frame.as_slice(), packet.l4, MAC, &mut target);
            assert_eq!((read, target), (Some(message), addr("fd00::1")));
            let cut = &frame[..packet.l4 + 23];
            assert_eq!(parse(cut, packet.l4, MAC, &mut target), None);
        }
    }

    #[test]
    fn claims_and_the_rest() {
        let mut frame = solicitation(None);
        for (kind, message) in [
            (134, Message::Router),
            (137, Message::Router),
            (136, Message::Advertisement),
            (130, Message::Other),
            (131, Message::Other),
            (132, Message::Other),
            (133, Message::Other),
            (143, Message::Other),
        ] {
            frame[54] = kind;
            let mut target = V6Addr::ANY;
            let read = parse(frame.as_slice(), 54, MAC, &mut target);
            assert_eq!(read, Some(message));
            let named = if kind == 136 { "fd00::1" } else { "::" };
            assert_eq!(target, addr(named));
        }
    }

    #[test]
    fn an_advertisement_byte_by_byte() {
        let (target, to) = (addr("fd00::1"), addr("fe80::ff:fe00:1"));
        let made = Advertisement::new(target, HOST_MAC, to, true).bytes();
        let mut expected = Vec::new();
        expected.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
        expected.extend(target.bytes());
        expected.extend(to.bytes());
        // The ones' complement sum of 0020 003a, fd00 0001 twice, fe80 00ff fe00
        // 0001, 8800 e000 and 0201 0200 0000 0101 is 64e3.
        expected.extend([136, 0, 0x9b, 0x1c, 0xe0, 0, 0, 0]);
        expected.extend(target.bytes());
        expected.extend([TARGET_LINK_LAYER, 1, 2, 0, 0, 0, 1, 1]);
        assert_eq!(made.as_slice(), expected);
        assert_eq!(
            Advertisement::new(target, HOST_MAC, to, false).bytes()[44],
            0x60
        );
    }
}
