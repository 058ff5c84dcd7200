//! Fragments, and what is cut off, contradicts itself or means nothing, under
//! test_run. Needs root.

mod program_world;

use netdp::bpf::{TestPacket, TestRun};
use netdp_common::drop::DropReason;
use program_world::{
    CLIENT, DB, DROP, HOST, HOST_MAC, NEXT, REDIRECT, REMOTE, ROUTER_MAC, WEB, World, arriving,
    frame::{ACK, Frame, SYN, at},
    world,
};
use proptest::{prelude::*, test_runner::TestRunner};

/// Packets that each program would translate.
fn samples(world: &World) -> Vec<(&'static str, u32, Frame)> {
    let (web, db, uplink) = (world.web, world.db, world.uplink);
    vec![
        (
            "from_netdev",
            uplink,
            arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST, 8080))),
        ),
        (
            "from_netdev",
            uplink,
            arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353))),
        ),
        (
            "from_container",
            web.ifindex,
            web.frame(Frame::tcp(SYN | ACK, at(WEB, 80), at(CLIENT, 40_000))),
        ),
        (
            "from_container",
            db.ifindex,
            db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53))),
        ),
        (
            "from_container",
            db.ifindex,
            db.frame(Frame::echo_request(DB, REMOTE, 7)),
        ),
        (
            "from_container",
            db.ifindex,
            db.frame(Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80))),
        ),
        (
            "to_container",
            web.ifindex,
            Frame::tcp(SYN, at(HOST, 40_000), at(WEB, 80)).between(web.host_mac, web.mac),
        ),
        (
            "to_netdev",
            uplink,
            Frame::tcp(SYN, at(HOST, 40_000), at(REMOTE, 443)).between(HOST_MAC, ROUTER_MAC),
        ),
    ]
}

/// A packet in its direction: the host's own at the egress hooks.
fn packet<'a>(program: &str, bytes: &'a [u8], ifindex: u32) -> TestPacket<'a> {
    if program.starts_with("to_") {
        TestPacket::sent(bytes, ifindex)
    } else {
        TestPacket::received(bytes, ifindex)
    }
}

/// Runs a program; nothing where the kernel itself refuses the packet. From
/// 6.18 on, test_run takes none that says IPv4 and ends before that header
/// does (`bpf_prog_test_run_skb`).
fn run(world: &mut World, program: &str, bytes: &[u8], ifindex: u32) -> Option<TestRun> {
    let packet = packet(program, bytes, ifindex);
    let run = world.datapath.test_run(program, &packet);
    if bytes.len() < 14 + 20 {
        run.ok()
    } else {
        Some(run.unwrap())
    }
}

/// Bytes that every header needs to be read and translated.
fn headers(frame: &Frame) -> usize {
    let transport = match frame.body {
        program_world::frame::Body::Tcp(_) => 20,
        _ => 8,
    };
    14 + 20 + transport
}

#[test]
fn packets_cut_off_anywhere_are_passed_or_malformed() {
    world(|world| {
        for (program, ifindex, frame) in samples(world) {
            let whole = frame.bytes();
            for length in 14..=60.min(whole.len()) {
                let bytes = &whole[..length];
                let before = world.drops();
                let Some(run) = run(world, program, bytes, ifindex) else {
                    continue;
                };
                let cut = length < headers(&frame);
                let expected = match program {
                    "from_container" if cut => DROP,
                    "from_container" => REDIRECT,
                    "from_netdev" if !cut => REDIRECT,
                    _ => NEXT,
                };
                assert_eq!(run.action, expected, "{program} {frame:?} cut to {length}");
                assert_eq!(run.packet.len(), length);
                if expected != REDIRECT {
                    assert_eq!(run.packet, bytes, "{program} cut to {length}");
                }
                let dropped = world.drops();
                if expected == DROP {
                    assert!(
                        dropped
                            .iter()
                            .all(|(reason, _)| *reason == DropReason::Malformed),
                        "{program} cut to {length}: {dropped:?}"
                    );
                    assert_ne!(dropped, before);
                } else {
                    assert_eq!(dropped, before);
                }
            }
        }
    });
}

#[test]
fn headers_that_contradict_themselves_are_passed_or_malformed() {
    world(|world| {
        let inbound = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST, 8080))).bytes();
        let db = world.db;
        let outbound = db
            .frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)))
            .bytes();
        let length = 16..18;
        let changes: [(&str, std::ops::Range<usize>, &[u8]); 7] = [
            ("version 6", 14..15, &[0x65]),
            ("version 0", 14..15, &[0x05]),
            ("a header of no words", 14..15, &[0x40]),
            ("a header of four words", 14..15, &[0x44]),
            ("a header longer than the packet", 14..15, &[0x4f]),
            ("a packet of one byte", length.clone(), &[0, 1]),
            ("a packet shorter than its header", length, &[0, 19]),
        ];
        for (what, at, with) in changes {
            let mut bytes = inbound.clone();
            bytes[at.clone()].copy_from_slice(with);
            bytes.truncate(60);
            world.passes(&bytes);
            let mut bytes = outbound.clone();
            bytes[at].copy_from_slice(with);
            bytes.truncate(60);
            assert_eq!(
                world.is_refused(&db, &bytes),
                DropReason::Malformed,
                "{what}"
            );
        }
        world.holds(0, 0);
    });
}

#[test]
fn fragments_from_outside_follow_their_first() {
    world(|world| {
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = (0..200).collect();
        let [first, later] = query.fragments(64);
        // Nothing is known of it: the stack may reassemble it.
        world.passes(&later);
        let seen = [&first, &later].map(|bytes| {
            let run = world.run_from_netdev(bytes);
            assert_eq!(run.action, REDIRECT);
            run.packet
        });
        for bytes in &seen {
            assert_eq!(bytes[..6], world.web.mac);
        }
        let whole = Frame::of_fragments(&seen);
        assert_eq!((whole.from, whole.to), (at(CLIENT, 40_000), at(WEB, 53)));
        assert_eq!(whole.payload, query.payload);
        // Those of another datagram are another's.
        query.id += 1;
        world.passes(&query.fragments(64)[1]);
    });
}

#[test]
fn fragments_of_a_container_follow_their_first() {
    world(|world| {
        let (db, web) = (world.db, world.web);
        for (container, to, left) in [
            (db, REMOTE, at(HOST, 40_000)),
            (db, WEB, at(DB, 40_000)),
            (web, CLIENT, at(HOST, 5353)),
        ] {
            let sport = if container.addr == WEB { 53 } else { 40_000 };
            let mut datagram = container.frame(Frame::udp(at(container.addr, sport), at(to, 7)));
            datagram.payload = (0..200).collect();
            let [first, later] = datagram.fragments(64);
            assert_eq!(
                world.is_refused(&container, &later),
                DropReason::FragmentWithoutFirst
            );
            let seen = [&first, &later].map(|bytes| {
                let run = world.run_from_container(&container, bytes);
                assert_eq!(run.action, REDIRECT);
                run.packet
            });
            let whole = Frame::of_fragments(&seen);
            assert_eq!((whole.from, whole.to), (left, at(to, 7)));
            assert_eq!(whole.payload, datagram.payload);
        }
    });
}

/// A first fragment too small for its transport header (RFC 1858) hides its
/// flags.
#[test]
fn a_transport_header_must_be_in_the_first_fragment() {
    world(|world| {
        let db = world.db;
        let to_published = arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST, 8080)));
        let outbound = db.frame(Frame::tcp(SYN, at(DB, 1), at(REMOTE, 443)));
        for length in [8, 16] {
            let [first, later] = to_published.fragments(length);
            assert_eq!(world.is_kept_out(&first), DropReason::FragmentTiny);
            // Also where the link fills the frame up.
            let padded = [&first[..], &[0; 20]].concat();
            assert_eq!(world.is_kept_out(&padded), DropReason::FragmentTiny);
            // Nobody knows whose it is.
            world.passes(&later);
            let [first, _] = outbound.fragments(length);
            assert_eq!(world.is_refused(&db, &first), DropReason::FragmentTiny);
        }
        // The host's own are the host's business.
        let to_host = arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST, 22)));
        world.passes(&to_host.fragments(8)[0]);
        world.holds(0, 0);
    });
}

/// Bytes `begin..end` of a datagram, counted from the end of its IPv4 header.
fn piece(datagram: &Frame, begin: usize, end: usize) -> Vec<u8> {
    const HEADERS: usize = 14 + 20;
    let whole = datagram.bytes();
    let mut bytes = whole[..HEADERS].to_vec();
    bytes.extend(&whole[HEADERS + begin..HEADERS + end]);
    let total = (20 + end - begin) as u16;
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    let more = u16::from(HEADERS + end < whole.len()) << 13;
    bytes[20..22].copy_from_slice(&(more | (begin / 8) as u16).to_be_bytes());
    bytes[24..26].fill(0);
    let sum: u32 = bytes[14..HEADERS]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn fragments_that_overlap_are_refused() {
    world(|world| {
        let db = world.db;
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = (0..200).collect();
        let mut own = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        own.payload = query.payload.clone();
        let end = 8 + 200;
        for (begin, stop) in [(0, 64), (128, 160), (64, 128), (160, end)] {
            let from_netdev = world.run_from_netdev(&piece(&query, begin, stop));
            assert_eq!(from_netdev.action, REDIRECT, "{begin}");
            let from_container = world.run_from_container(&db, &piece(&own, begin, stop));
            assert_eq!(from_container.action, REDIRECT, "{begin}");
            // Over the ports, over what is there, or the same again.
            for (begin, stop) in [(8, 72), (56, 64), (begin.max(8), stop)] {
                let over = piece(&query, begin, stop);
                assert_eq!(world.is_kept_out(&over), DropReason::FragmentOverlap);
                let over = piece(&own, begin, stop);
                assert_eq!(world.is_refused(&db, &over), DropReason::FragmentOverlap);
            }
        }
        // The host's own are the host's business.
        let mut to_host = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 53)));
        to_host.payload = query.payload.clone();
        for (begin, stop) in [(0, 64), (8, 72)] {
            world.passes(&piece(&to_host, begin, stop));
        }
    });
}

/// Whatever bytes come, a program answers with an action that it knows, and
/// what it doesn't send on stays as it is.
#[test]
fn any_bytes_are_handled() {
    world(|world| {
        let samples = samples(world);
        let changes = proptest::collection::vec((14usize..60, any::<u8>()), 1..6);
        let cases = (0..samples.len(), changes, 14usize..100);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 3000,
            // A failure is shown whole; there is no file of old ones.
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let world = std::cell::RefCell::new(world);
        runner
            .run(&cases, |(sample, changes, length)| {
                let (program, ifindex, frame) = &samples[sample];
                let mut bytes = frame.bytes();
                for (at, with) in changes {
                    bytes[at] = with;
                }
                bytes.truncate(length);
                let Some(run) = run(&mut world.borrow_mut(), program, &bytes, *ifindex) else {
                    return Ok(());
                };
                match run.action {
                    NEXT | DROP => prop_assert_eq!(run.packet, bytes),
                    REDIRECT => prop_assert_eq!(run.packet.len(), bytes.len()),
                    action => prop_assert!(false, "action {}", action),
                }
                Ok(())
            })
            .unwrap();
        let world = world.borrow();
        let unexpected = world
            .drops()
            .into_iter()
            .find(|(reason, _)| *reason == DropReason::HelperFailed);
        assert_eq!(unexpected, None);
    });
}
