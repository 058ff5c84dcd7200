//! What a container hears of packets that are refused, under test_run. Needs
//! root.

mod program_world;

use std::net::Ipv4Addr;

use netdp_common::{
    drop::DropReason,
    maps::{Config, endpoint_flags},
};
use program_world::{
    CLIENT, Container, DB, DROP, GATEWAY, LONER, REDIRECT, REMOTE, WEB, World,
    error::{Error, Kind},
    family::Family,
    frame::{ACK, Frame, SYN, at, transport_start},
    impatient, world6, worlds, worlds_with,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// A packet is refused for this reason, and its sender told; gives the error.
#[track_caller]
fn told(world: &mut World, container: &Container, bytes: &[u8], reason: DropReason) -> Error {
    let before = world.drops();
    let refused = world.datapath.stats(container.slot).unwrap().drops;
    let run = world.run_from_container(container, bytes);
    assert_eq!(run.action, REDIRECT);
    assert_ne!(world.drops(), before);
    assert!(world.drops().iter().any(|(of, _)| *of == reason));
    assert_eq!(
        world.datapath.stats(container.slot).unwrap().drops,
        refused + 1
    );
    let error = Error::of(&run.packet);
    if error.kind == Kind::TooBig {
        // The uplink's.
        assert_eq!(error.rest, 1500u32.to_be_bytes());
    } else {
        assert_eq!(error.rest, [0; 4]);
    }
    assert_eq!((error.from, error.to), (container.gateway, container.addr));
    assert_eq!(
        (error.source, error.destination),
        (container.host_mac, container.mac)
    );
    let packet = &bytes[14..];
    assert!(packet.starts_with(&error.quote));
    // No larger than any host takes (RFC 1812, section 4.3.2.3; RFC 4443,
    // section 3.1).
    let most = match Family::of_world() {
        Family::V4 => 576 - 20 - 8,
        Family::V6 => 1280 - 40 - 8,
    };
    assert_eq!(error.quote.len(), most.min(packet.len() & !3));
    error
}

#[test]
fn what_policy_refuses_is_answered() {
    worlds(|world| {
        let mut db = world.db;
        for payload in [0, 1, 3, 31, 500, 530, 1400] {
            let mut frame = db.frame(Frame::udp(at(DB, 40_000), at(LONER, 53)));
            frame.payload = vec![7; payload];
            let error = told(world, &db, &frame.bytes(), DropReason::OtherNetwork);
            assert_eq!(error.kind, Kind::Prohibited);
        }
        db.flags &= !endpoint_flags::ICC;
        world.connect(&db);
        let frame = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80)));
        let error = told(world, &db, &frame.bytes(), DropReason::NoIcc);
        assert_eq!(error.kind, Kind::Prohibited);
        db.flags &= !endpoint_flags::MASQUERADE;
        world.connect(&db);
        let mut frame = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 80)));
        if Family::of_world() == Family::V4 {
            frame.options = vec![1; 8];
        }
        let error = told(world, &db, &frame.bytes(), DropReason::Internal);
        assert_eq!(error.kind, Kind::Prohibited);
        world.holds(0, 0);
    });
}

#[test]
fn want_of_room_is_answered() {
    let config = Config {
        port_first: 50_000,
        port_last: 50_000,
        ..impatient()
    };
    worlds_with(config, 1024, |world| {
        let (db, web) = (world.db, world.web);
        let segment = |container: &Container, port| {
            container.frame(Frame::tcp(SYN, at(container.addr, port), at(REMOTE, 443)))
        };
        world.leaves(&db, &segment(&db, 40_000));
        world.leaves(&db, &segment(&db, 50_000));
        let refused = segment(&web, 40_000).bytes();
        let error = told(world, &web, &refused, DropReason::PortExhausted);
        assert_eq!(error.kind, Kind::Prohibited);
        // Ports come free again.
        world.let_pass(2);
        world.sweep_until(|world| world.pending().is_empty());
        world.leaves(&web, &segment(&web, 40_000));
    });
}

/// Of IPv4, what may be fragmented: the sender has to do that, and hears how.
#[test]
fn what_the_uplink_does_not_take_is_answered() {
    worlds(|world| {
        let db = world.db;
        let mut big = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        big.payload = vec![7; 1600];
        let error = told(world, &db, &big.bytes(), DropReason::TooBig);
        assert_eq!(error.kind, Kind::TooBig);
        let [first, _] = big.fragments(1560);
        let error = told(world, &db, &first, DropReason::TooBig);
        assert_eq!(error.kind, Kind::TooBig);
    });
}

/// Of IPv6: no stack before Linux 6.17 would.
#[test]
fn the_last_hop_of_ipv6_is_answered() {
    world6(|world| {
        let db = world.db;
        for frame in [
            Frame::udp(at(DB, 40_000), at(REMOTE, 53)),
            Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 80)),
            Frame::echo_request(DB, REMOTE, 7),
        ] {
            let last = db.frame(frame.clone()).with_ttl(1);
            let error = told(world, &db, &last.bytes(), DropReason::Expired);
            assert_eq!(error.kind, Kind::Exceeded);
            let left = world.leaves(&db, &db.frame(frame).with_ttl(2));
            assert_eq!(left.ttl, 1);
        }
        // Within the host there is no hop.
        world.leaves(
            &db,
            &db.frame(Frame::udp(at(DB, 40_000), at(WEB, 53)))
                .with_ttl(1),
        );
    });
}

#[test]
fn some_refusals_have_no_answer() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let refused = db.frame(Frame::udp(at(DB, 40_000), at(LONER, 53)));
        let mut long = refused.clone();
        long.payload = vec![0; 200];
        let [first, later] = long.fragments(64);
        told(world, &db, &first, DropReason::OtherNetwork);
        let about = Frame::udp(at(LONER, 53), at(DB, 40_000));
        let error = Error::about(Kind::Port, DB, &about).between(db.mac, db.host_mac);
        let spoofed = db.frame(Frame::udp(at(WEB, 40_000), at(LONER, 53)));
        let no_flow = web.frame(Frame::tcp(ACK, at(WEB, 80), at(CLIENT, 1)));
        let to_many = db.frame(Frame::udp(at(DB, 40_000), at(GROUP, 53)));
        // On the link, to all of it.
        let mut shouted = refused.clone();
        shouted.destination = [0xff; 6];
        let mut cut = no_flow.bytes();
        cut.truncate(transport_start() + 6);
        for (container, bytes) in [
            (db, later),
            (db, error.bytes()),
            (db, spoofed.bytes()),
            (db, to_many.bytes()),
            (db, shouted.bytes()),
            (web, cut),
        ] {
            assert_eq!(world.run_from_container(&container, &bytes).action, DROP);
        }
    });
}

#[test]
fn answers_are_few() {
    const PER_SECOND: usize = 16;
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let refused = db.frame(Frame::udp(at(DB, 40_000), at(LONER, 53))).bytes();
        let told_of = |world: &mut World| {
            (0..100)
                .filter(|_| world.run_from_container(&db, &refused).action == REDIRECT)
                .count()
        };
        // A second may end meanwhile.
        let answers = told_of(world);
        assert!(
            (PER_SECOND..=2 * PER_SECOND).contains(&answers),
            "{answers}"
        );
        assert_eq!(world.drops(), [(DropReason::OtherNetwork, 100)]);
        // Another's are its own.
        let other = web
            .frame(Frame::udp(at(WEB, 40_000), at(LONER, 53)))
            .bytes();
        let error = told(world, &web, &other, DropReason::OtherNetwork);
        assert_eq!(error.from, GATEWAY);
    });
}
