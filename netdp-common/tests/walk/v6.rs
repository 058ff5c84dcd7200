//! The same for IPv6, judged by a reading of its own.

use netdp_common::{
    addr::{Be16, V6Addr, proto},
    icmp, nat,
    packet::{self, Bytes, ETH_LEN, Fragment, Packet, Transport, Tuple, V6},
};

use super::{chosen, half, is_right, same, sum, transport, write_quote, write_transport};

/// End of the IPv6 header.
const HEADER: usize = ETH_LEN + 40;

pub fn ipv6(bytes: &[u8]) {
    let Ok(packet) = packet::parse::<V6>(bytes) else {
        return;
    };
    assert_eq!(bytes[ETH_LEN] >> 4, 6, "version");
    assert_eq!(packet.tuple.saddr.bytes(), bytes[22..38], "source");
    assert_eq!(packet.tuple.daddr.bytes(), bytes[38..54], "destination");
    assert_eq!(packet.ttl, bytes[21], "hop limit");
    if matches!(packet.fragment, Fragment::Later | Fragment::Tiny) {
        return;
    }
    if packet.transport.has_ports() || packet.transport == Transport::IcmpError {
        let (l4, proto) = behind_extensions(bytes);
        assert_eq!((packet.l4, packet.proto), (l4, proto), "extension headers");
        transport(bytes, &packet, (proto::ICMPV6, 128, 129));
    }
    if packet.transport.has_ports() {
        translated(bytes, &packet);
    }
    if packet.transport == Transport::IcmpError {
        quoted(bytes, &packet);
    }
}

/// Where the transport begins, and which one it is (RFC 8200, section 4).
fn behind_extensions(bytes: &[u8]) -> (usize, u8) {
    let (mut at, mut kind) = (HEADER, bytes[20]);
    loop {
        let length = match kind {
            0 | 43 | 60 => 8 + usize::from(bytes[at + 1]) * 8,
            44 => 8,
            _ => return (at, kind),
        };
        kind = bytes[at];
        at += length;
    }
}

fn wide(bytes: &[u8]) -> Tuple<V6Addr> {
    let tuple = chosen(bytes);
    let embed = |high: u8, low: [u8; 4]| {
        let mut octets = [high; 16];
        octets[12..].copy_from_slice(&low);
        V6Addr::new(octets)
    };
    Tuple {
        saddr: embed(0x20, tuple.saddr.bytes()),
        daddr: embed(0xfd, tuple.daddr.bytes()),
        sport: tuple.sport,
        dport: tuple.dport,
    }
}

fn translated(bytes: &[u8], packet: &Packet<V6Addr>) {
    let mut to = wide(bytes);
    match packet.transport {
        Transport::EchoRequest => to.dport = Be16::default(),
        Transport::EchoReply => to.sport = Be16::default(),
        _ => {}
    }
    let out = translate(bytes, packet, &to, true);
    assert_eq!(out[21], bytes[21].saturating_sub(1), "hop limit");
    assert_eq!(out[..21], bytes[..21], "what comes before it");
    let total = HEADER + usize::from(half(bytes, 18));
    let offset = nat::l4_change(packet, &packet.tuple).offset;
    let none = packet.transport == Transport::Udp && half(bytes, offset) == 0;
    if packet.fragment == Fragment::Whole
        && total <= bytes.len()
        && total >= packet.l4 + 8
        && total >= offset + 2
        && !none
    {
        let right = |bytes: &[u8]| is_right(transport_sum(bytes, packet, total));
        assert_eq!(right(bytes), right(&out), "sum of the transport");
    }
    let back = translate(bytes, packet, &packet.tuple, false);
    same(bytes, &back, &[offset]);
    let there = translate(bytes, packet, &to, false);
    let seen = packet::parse::<V6>(&there[..]).expect("a packet as before");
    assert_eq!(
        (seen.tuple, seen.transport, seen.l4),
        (to, packet.transport, packet.l4)
    );
    let back = translate(&there, &seen, &packet.tuple, false);
    same(bytes, &back, &[offset]);
}

fn translate(bytes: &[u8], packet: &Packet<V6Addr>, to: &Tuple<V6Addr>, hop: bool) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let start: [u8; 8] = bytes.read(ETH_LEN).unwrap();
    let header = nat::v6_header(packet, u64::from_ne_bytes(start), to, hop);
    out[ETH_LEN..ETH_LEN + 8].copy_from_slice(&header.start.to_ne_bytes());
    out[ETH_LEN + 8..ETH_LEN + 24].copy_from_slice(&header.saddr.bytes());
    out[ETH_LEN + 24..HEADER].copy_from_slice(&header.daddr.bytes());
    write_transport(bytes, &mut out, packet, to);
    out
}

/// RFC 8200, section 8.1.
fn transport_sum(bytes: &[u8], packet: &Packet<V6Addr>, total: usize) -> u16 {
    let body = &bytes[packet.l4..total];
    let pseudo = u32::from(sum(0, &bytes[22..HEADER])) + u32::from(packet.proto);
    sum(pseudo + body.len() as u32, body)
}

/// A quote with a new tuple leaves the message's checksum as right as it was.
fn quoted(bytes: &[u8], packet: &Packet<V6Addr>) {
    let mut quote = icmp::Quote::default();
    if !icmp::parse_quote::<V6>(bytes, packet, &mut quote) {
        return;
    }
    assert!([1, 2, 3, 4].contains(&bytes[packet.l4]), "about no flow");
    assert_eq!(quote.l3, packet.l4 + 8);
    assert!(quote.l4 >= quote.l3 + 40 && quote.l4 + 8 <= bytes.len());
    assert!(quote.l4 + 8 <= quote.end, "a quote without its ports");
    assert_eq!(quote.tuple.saddr.bytes(), bytes[quote.l3 + 8..][..16]);
    assert_eq!(quote.tuple.daddr.bytes(), bytes[quote.l3 + 24..][..16]);
    let total = HEADER + usize::from(half(bytes, 18));
    if total > bytes.len() || !(total - packet.l4).is_multiple_of(2) {
        // What the last octet of an odd length counts is its own affair.
        return;
    }
    let mut to = wide(bytes);
    if quote.proto == proto::ICMPV6 {
        to.dport = Be16::default();
    }
    let mut out = bytes.to_vec();
    out[quote.l3 + 8..][..16].copy_from_slice(&to.saddr.bytes());
    out[quote.l3 + 24..][..16].copy_from_slice(&to.daddr.bytes());
    write_quote::<V6>(bytes, &mut out, packet, &quote, &to);
    let right = |bytes: &[u8]| is_right(transport_sum(bytes, packet, total));
    // A quoted transport that is odd aligned within the message is not met: all
    // headers are of even length.
    assert_eq!(right(bytes), right(&out), "sum of the message");
}
