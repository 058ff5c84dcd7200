//! ARP for IPv4 over Ethernet (RFC 826): requests of a container and what the
//! datapath answers.

use crate::{
    addr::{Mac, V4Addr},
    packet::{Bytes, ETH_LEN, Wire},
};

/// Length of an ARP packet for IPv4 over Ethernet, bytes.
pub const LEN: usize = 28;

/// The packet on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arp {
    header: [[u8; 2]; 4],
    sender_mac: Mac,
    sender: [u8; 4],
    target_mac: Mac,
    target: [u8; 4],
}

const _: () = assert!(size_of::<Arp>() == LEN);

// SAFETY: repr(C), of arrays of bytes.
unsafe impl Wire for Arp {}

/// An ARP request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub sender_mac: Mac,
    /// 0.0.0.0 in a probe for duplicates (RFC 5227).
    pub sender: V4Addr,
    pub target: V4Addr,
}

impl Request {
    /// Parses the packet behind the Ethernet header; nothing where it isn't a
    /// request for IPv4 over Ethernet.
    #[inline(always)]
    pub fn parse(bytes: &(impl Bytes + ?Sized)) -> Option<Self> {
        // Ethernet, IPv4, lengths 6 and 4, request.
        const HEADER: [[u8; 2]; 4] = [[0, 1], [8, 0], [6, 4], [0, 1]];
        let arp: Arp = bytes.read(ETH_LEN)?;
        let mut i = 0;
        while i < HEADER.len() {
            if u16::from_ne_bytes(arp.header[i]) != u16::from_ne_bytes(HEADER[i]) {
                return None;
            }
            i += 1;
        }
        Some(Self {
            sender_mac: arp.sender_mac,
            sender: V4Addr::new(arp.sender),
            target: V4Addr::new(arp.target),
        })
    }

    /// The whole frame that answers it: `mac` has the target's address.
    #[inline(always)]
    pub fn reply(&self, mac: Mac) -> [u8; ETH_LEN + LEN] {
        let to = self.sender_mac;
        let target = self.target.bytes();
        let sender = self.sender.bytes();
        [
            to[0], to[1], to[2], to[3], to[4], to[5], mac[0], mac[1], mac[2], mac[3], mac[4],
            mac[5], 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5],
            target[0], target[1], target[2], target[3], to[0], to[1], to[2], to[3], to[4], to[5],
            sender[0], sender[1], sender[2], sender[3],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0,
        0, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
    ];

    #[test]
    fn a_request_and_its_reply() {
        let request = Request::parse(FRAME.as_slice()).unwrap();
        assert_eq!(request.sender, V4Addr::new([10, 0, 0, 2]));
        assert_eq!(request.target, V4Addr::new([10, 0, 0, 1]));
        let reply = request.reply([2, 0, 0, 0, 0, 9]);
        assert_eq!(reply[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!(reply[22..32], [2, 0, 0, 0, 0, 9, 10, 0, 0, 1]);
        assert_eq!(reply[38..], [10, 0, 0, 2]);
    }

    #[test]
    fn what_is_no_request_is_none() {
        let mut reply = FRAME;
        reply[21] = 2;
        assert_eq!(Request::parse(reply.as_slice()), None);
        assert_eq!(Request::parse(&FRAME[..41]), None);
    }
}
