//! What is cut off, contradicts itself or means nothing, under test_run. Needs
//! root.

mod program_world;

use netdp::bpf::{TestPacket, TestRun};
use netdp_common::drop::DropReason;
use program_world::{
    CLIENT, DB, DROP, HOST, HOST_MAC, NEXT, REDIRECT, REMOTE, ROUTER_MAC, WEB, World, arriving,
    frame::{self, ACK, Frame, SYN, at},
    world, worlds,
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
/// 6.18 on, test_run takes none that says IPv4 or IPv6 and ends before that header
/// does (`bpf_prog_test_run_skb`).
fn run(world: &mut World, program: &str, bytes: &[u8], ifindex: u32) -> Option<TestRun> {
    let packet = packet(program, bytes, ifindex);
    let run = world.datapath.test_run(program, &packet);
    if bytes.len() < frame::transport_start() {
        run.ok()
    } else {
        Some(run.unwrap())
    }
}

/// Bytes that every header needs to be read and translated.
fn headers(frame: &Frame) -> usize {
    let transport = match frame.body {
        frame::Body::Tcp(_) => 20,
        _ => 8,
    };
    frame::transport_start() + transport
}

#[test]
fn packets_cut_off_anywhere_are_passed_or_malformed() {
    worlds(|world| {
        for (program, ifindex, frame) in samples(world) {
            let whole = frame.bytes();
            for length in 14..=headers(&frame) + 6 {
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

/// Whatever bytes come, a program answers with an action that it knows, and
/// what it passes stays as it is.
#[test]
fn any_bytes_are_handled() {
    worlds(|world| {
        let samples = samples(world);
        let changes = proptest::collection::vec((14usize..80, any::<u8>()), 1..6);
        let cases = (0..samples.len(), changes, 14usize..120);
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
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = with;
                    }
                }
                bytes.truncate(length);
                let Some(run) = run(&mut world.borrow_mut(), program, &bytes, *ifindex) else {
                    return Ok(());
                };
                match run.action {
                    NEXT => prop_assert_eq!(run.packet, bytes),
                    // A first fragment's bytes serve those that have waited.
                    DROP => {}
                    REDIRECT => {
                        // The same packet, or the error about it.
                        let refusal = frame::transport_start() + 8 + ((bytes.len() - 14) & !3);
                        prop_assert!([bytes.len(), refusal].contains(&run.packet.len()));
                    }
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
