//! What `from_netkit` takes out by itself, under test_run, and what it leaves
//! to `from_container`. Needs root.

mod program_world;

use netdp_common::{addr::proto, maps::endpoint_flags};
use program_world::{
    CLIENT, Container, DB, GATEWAY, HOST, LONER, REDIRECT, REMOTE, WEB, World, arriving,
    fast::{clear, is_clear, open_outward, open_published},
    frame::{ACK, FIN, Frame, PSH, SYN, at, transport_start},
    netkit, worlds,
};

/// A conversation's packets leave by `from_netkit`, the first one included.
fn leaves_early(world: &mut World, container: &Container, frame: &Frame) -> Frame {
    let before = world.datapath.stats(container.slot).unwrap();
    let run = world.forestalled(container, &frame.bytes());
    let run = run.expect("it is left to from_container");
    let after = world.datapath.stats(container.slot).unwrap();
    assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
    assert_eq!(after.tx_packets, before.tx_packets + 1);
    assert_eq!(after.tx_bytes, before.tx_bytes + frame.bytes().len() as u64);
    Frame::of(&run.packet)
}

/// Packets that `from_netkit` has no part in, and counts nothing of.
fn goes_on(world: &mut World, container: &Container, bytes: &[u8]) {
    let counted = |world: &World| {
        let stats = world.datapath.stats(container.slot).unwrap();
        (stats.tx_packets, stats.drops, world.drops())
    };
    let before = counted(world);
    assert_eq!(world.forestalled(container, bytes), None);
    assert_eq!(counted(world), before);
}

#[test]
fn a_conversation_with_the_outside_leaves_early() {
    netkit::try_it();
    worlds(|world| {
        let db = world.db;
        let segment = |flags| db.frame(Frame::tcp(flags, at(DB, 40_000), at(REMOTE, 443)));
        let left = leaves_early(world, &db, &segment(SYN));
        assert_eq!((left.from, left.to), (at(HOST, 40_000), at(REMOTE, 443)));
        assert_eq!(left.ttl, 63);
        world.holds(0, 1);
        world.enters(&arriving(left.answer(SYN | ACK)), &db);
        for flags in [ACK, PSH | ACK, FIN | ACK] {
            let left = leaves_early(world, &db, &segment(flags));
            assert_eq!(left.from, at(HOST, 40_000));
        }
        world.holds(1, 0);
        let echo = db.frame(Frame::echo_request(DB, REMOTE, 7));
        assert_eq!(leaves_early(world, &db, &echo).from, at(HOST, 7));
    });
}

#[test]
fn answers_of_a_published_port_leave_early() {
    netkit::try_it();
    worlds(|world| {
        let web = world.web;
        for (port, own, proto) in [(8080, 80, proto::TCP), (5353, 53, proto::UDP)] {
            let request = |flags| match proto {
                proto::TCP => Frame::tcp(flags, at(CLIENT, 50_000), at(HOST, port)),
                _ => Frame::udp(at(CLIENT, 50_000), at(HOST, port)),
            };
            for flags in [SYN, ACK] {
                let seen = world.enters(&arriving(request(flags)), &web);
                assert_eq!(seen.to, at(WEB, own));
                let left = leaves_early(world, &web, &seen.answer(flags | ACK));
                assert_eq!((left.from, left.to), (at(HOST, port), at(CLIENT, 50_000)));
            }
        }
    });
}

#[test]
fn what_is_not_for_the_outside_goes_on_as_it_came() {
    netkit::try_it();
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        for to in [WEB, LONER, GATEWAY, HOST] {
            for frame in [
                Frame::tcp(SYN, at(DB, 40_000), at(to, 8080)),
                Frame::udp(at(DB, 40_000), at(to, 5353)),
                Frame::echo_request(DB, to, 7),
            ] {
                goes_on(world, &db, &db.frame(frame).bytes());
            }
        }
        world.holds(0, 0);
        // Of another's addresses.
        let outside = |from| Frame::tcp(SYN, at(from, 40_000), at(REMOTE, 443));
        goes_on(world, &db, &db.frame(outside(WEB)).bytes());
        goes_on(world, &db, &web.frame(outside(DB)).bytes());
        // What the sender hears of.
        goes_on(world, &db, &db.frame(outside(DB)).with_ttl(1).bytes());
        let mut silent = db;
        silent.flags = endpoint_flags::ICC;
        world.connect(&silent);
        goes_on(world, &db, &db.frame(outside(DB)).bytes());
        world.holds(0, 0);
        // ARP, and a frame that is none.
        let mut frame = db.frame(outside(DB)).bytes();
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        goes_on(world, &db, &frame);
        let cut = transport_start() + 4;
        goes_on(world, &db, &db.frame(outside(DB)).bytes()[..cut]);
    });
}

/// By `from_netkit` alone, without what the full way notes of a packet: by the second
/// try, the way out is known.
fn leaves_fast(world: &mut World, container: &Container, frame: &Frame) -> bool {
    (0..4).any(|_| {
        clear(world);
        leaves_early(world, container, frame);
        is_clear(world)
    })
}

#[test]
fn open_connections_leave_by_the_fast_path() {
    netkit::try_it();
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let (data, _) = open_outward(world);
        assert!(leaves_fast(world, &db, &data));
        let (_, back) = open_published(world);
        assert!(leaves_fast(world, &web, &back));
        let answer = web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000)));
        assert!(leaves_fast(world, &web, &answer));
    });
}
