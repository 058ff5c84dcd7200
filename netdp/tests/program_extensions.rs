//! Extension headers of IPv6 (RFC 8200, section 4) under test_run. Needs root.

mod program_world;

use netdp_common::{addr::proto, drop::DropReason};
use program_world::{
    CLIENT, Container, DB, GATEWAY, HOST, REDIRECT, REMOTE, WEB, World, arriving,
    frame::{ACK, Frame, SYN, at, between, raw, transport_start},
    world6,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const NONE: u8 = 59;
const DESTINATION: u8 = 60;

/// Headers of options: padding (PadN), of 8 and of 24 bytes.
const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
const LONG_OPTIONS: [u8; 24] = [
    0, 2, 1, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// A routing header of type 2 that has done its work: no segments are left.
const ROUTED: [u8; 24] = [
    0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

type Chain<'a> = [(u8, &'a [u8])];

/// What netdp looks behind.
const CHAINS: [&Chain<'_>; 5] = [
    &[(HOP_BY_HOP, &OPTIONS)],
    &[(DESTINATION, &LONG_OPTIONS)],
    &[(ROUTING, &ROUTED)],
    &[
        (HOP_BY_HOP, &OPTIONS),
        (DESTINATION, &OPTIONS),
        (ROUTING, &ROUTED),
        (DESTINATION, &OPTIONS),
    ],
    &[
        (HOP_BY_HOP, &OPTIONS),
        (DESTINATION, &OPTIONS),
        (DESTINATION, &OPTIONS),
        (DESTINATION, &OPTIONS),
        (DESTINATION, &OPTIONS),
        (DESTINATION, &OPTIONS),
    ],
];

/// The packet with these headers before its transport's.
fn extended(bytes: &[u8], chain: &Chain<'_>) -> Vec<u8> {
    const NEXT_HEADER: usize = 14 + 6;
    const LENGTH: std::ops::Range<usize> = 14 + 4..14 + 6;
    let (before, transport) = bytes.split_at(transport_start());
    let mut packet = before.to_vec();
    let mut numbers = chain.iter().map(|(number, _)| *number);
    packet[NEXT_HEADER] = numbers.next().unwrap();
    for (_, header) in chain {
        packet.push(numbers.next().unwrap_or(bytes[NEXT_HEADER]));
        packet.extend(&header[1..]);
    }
    packet.extend(transport);
    let length = (packet.len() - transport_start()) as u16;
    packet[LENGTH].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Both are handed on by a program, the second as the first but for the chain.
#[track_caller]
fn alike(world: &mut World, frame: &Frame, chain: &Chain<'_>, from: Option<&Container>) -> Frame {
    let mut run = |bytes: &[u8]| match from {
        Some(container) => world.run_from_container(container, bytes),
        None => world.run_from_netdev(bytes),
    };
    let plain = run(&frame.bytes());
    let behind = run(&extended(&frame.bytes(), chain));
    let drops = world.drops();
    assert_eq!(
        (plain.action, behind.action),
        (REDIRECT, REDIRECT),
        "{drops:?}"
    );
    // The next hop's address is known to the second.
    assert_eq!(behind.packet[12..], extended(&plain.packet, chain)[12..]);
    Frame::of(&plain.packet)
}

#[test]
fn published_ports_and_masquerade_look_behind_extension_headers() {
    for chain in CHAINS {
        world6(|world| {
            let (web, db) = (world.web, world.db);
            for (frame, port) in [
                (Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST, 8080)), 80),
                (Frame::tcp(ACK, at(CLIENT, 40_000), at(HOST, 8080)), 80),
                (Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)), 53),
            ] {
                let asked = alike(world, &arriving(frame), chain, None);
                assert_eq!((asked.from, asked.to), (at(CLIENT, 40_000), at(WEB, port)));
                let answer = alike(world, &web.frame(asked.answer(ACK)), chain, Some(&web));
                let host_port = if port == 80 { 8080 } else { 5353 };
                assert_eq!((answer.from, answer.to), (at(HOST, host_port), asked.from));
            }
            for frame in [
                Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)),
                Frame::udp(at(DB, 40_000), at(REMOTE, 53)),
                Frame::echo_request(DB, REMOTE, 77),
            ] {
                let left = alike(world, &db.frame(frame.clone()), chain, Some(&db));
                assert_eq!((left.from.ip(), left.to), (&HOST, frame.to));
                let came = arriving(left.answer(SYN | ACK));
                let back = alike(world, &came, chain, None);
                assert_eq!((back.from, back.to), (frame.to, frame.from));
            }
            let direct = Frame::udp(at(DB, 40_000), at(WEB, 53));
            let seen = alike(world, &db.frame(direct.clone()), chain, Some(&db));
            assert_eq!((seen.from, seen.to), (direct.from, direct.to));
        });
    }
}

#[test]
fn fragments_follow_their_first_behind_extension_headers() {
    /// Bytes of a datagram's part that can be fragmented.
    const FIRST: usize = 32;
    world6(|world| {
        let web = world.web;
        let frame = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        let whole = frame.bytes();
        // Options of the destination alone lie behind the fragment's header.
        let body = extended(&whole, &[(DESTINATION, &OPTIONS)])[transport_start()..].to_vec();
        let piece = |range: std::ops::Range<usize>| {
            let more = u16::from(range.end < body.len());
            let [high, low] = (range.start as u16 | more).to_be_bytes();
            let fragment = [0, 0, high, low, 0, 0, 0x12, 0x34];
            let mut chain = extended(
                &raw(DESTINATION, CLIENT, HOST, &body[range]),
                &[(HOP_BY_HOP, &OPTIONS), (FRAGMENT, &fragment)],
            );
            chain[..14].copy_from_slice(&whole[..14]);
            chain
        };
        for bytes in [piece(0..FIRST), piece(FIRST..body.len())] {
            let run = world.run_from_netdev(&bytes);
            assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
            assert_eq!(run.packet[..6], web.mac);
            assert_eq!(run.packet.len(), bytes.len());
        }
        // What follows the packet is none of it: the ports are elsewhere.
        for end in [8, 12] {
            let mut tiny = piece(0..end);
            tiny.extend(&body[end..]);
            assert_eq!(world.is_kept_out(&tiny), DropReason::FragmentTiny);
        }
    });
}

#[test]
fn chains_without_an_end_in_reach_carry_no_ports() {
    let authenticated = [0u8; 24];
    let seven: Vec<(u8, &[u8])> = vec![(DESTINATION, &OPTIONS[..]); 7];
    let long: Vec<(u8, &[u8])> = vec![(DESTINATION, &LONG_OPTIONS[..]); 5];
    let authentication: &Chain<'_> = &[(AUTHENTICATION, &authenticated)];
    world6(|world| {
        let db = world.db;
        let ask = Frame::udp(at(CLIENT, 40_000), at(HOST, 5353));
        let send = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        for chain in [&seven[..], &long, authentication] {
            world.passes(&extended(&arriving(ask.clone()).bytes(), chain));
            assert_eq!(
                world.is_refused(&db, &extended(&send.bytes(), chain)),
                DropReason::UnknownProtocol
            );
        }
        for number in [ESP, NONE, proto::ICMP] {
            let sent = raw(number, DB, REMOTE, &[0; 32]);
            let sent = between(sent, db.mac, db.host_mac);
            assert_eq!(world.is_refused(&db, &sent), DropReason::UnknownProtocol);
        }
        world.holds(0, 0);
    });
}

#[test]
fn nobody_is_sent_on_by_a_routing_header() {
    world6(|world| {
        let db = world.db;
        // Type 0 (RFC 5095), with nothing left, and others with a segment left.
        for (kind, left) in [(0, 0), (0, 1), (2, 1), (4, 1)] {
            let mut routing = ROUTED;
            (routing[2], routing[3]) = (kind, left);
            let chain: &Chain<'_> = &[(ROUTING, &routing)];
            for to in [REMOTE, WEB, GATEWAY] {
                let sent = db.frame(Frame::udp(at(DB, 40_000), at(to, 53))).bytes();
                assert_eq!(
                    world.is_refused(&db, &extended(&sent, chain)),
                    DropReason::Malformed
                );
            }
            let came = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353))).bytes();
            world.passes(&extended(&came, chain));
        }
        world.holds(0, 0);
    });
}

#[test]
fn a_chain_that_contradicts_itself_is_malformed() {
    world6(|world| {
        let db = world.db;
        let sent = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53))).bytes();
        // Options for each hop come first.
        let chain: &Chain<'_> = &[(DESTINATION, &OPTIONS), (HOP_BY_HOP, &OPTIONS)];
        assert_eq!(
            world.is_refused(&db, &extended(&sent, chain)),
            DropReason::Malformed
        );
        // Longer than the packet says that it is.
        let mut short = extended(&sent, &[(DESTINATION, &OPTIONS)]);
        short[14 + 4..14 + 6].copy_from_slice(&7u16.to_be_bytes());
        assert_eq!(world.is_refused(&db, &short), DropReason::Malformed);
        world.holds(0, 0);
    });
}
