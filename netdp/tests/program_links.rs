//! Links under test_run: the ports of a container that another one may use in
//! a network without icc. Needs root.

mod program_world;

use netdp::bpf::{Entry, Key, TestPacket};
use netdp_common::{
    addr::{Be16, proto},
    drop::DropReason,
    maps::{LinkKey, endpoint_flags},
};
use program_world::{
    Container, DB, GATEWAY, HOST, REDIRECT, WEB, World,
    error::{Error, Kind},
    family::{Family, embed},
    frame::{ACK, FIN, Frame, PSH, RST, SYN, at},
    worlds,
};

fn link(port: u16, proto: u8) -> Key {
    let port = Be16::new(port);
    match Family::of_world() {
        Family::V4 => Key::Link4(LinkKey::new(DB.into(), WEB.into(), port, proto)),
        Family::V6 => {
            let (db, web) = (embed(DB).into(), embed(WEB).into());
            Key::Link6(LinkKey::new(db, web, port, proto))
        }
    }
}

/// DB is linked to port 80 of WEB over TCP, and to port 53 over UDP.
fn linked(world: &mut World) {
    for container in [&mut world.web, &mut world.db] {
        container.flags &= !endpoint_flags::ICC;
        container.flags |= endpoint_flags::LINKED;
    }
    for container in [world.web, world.db] {
        world.connect(&container);
    }
    world.put(link(80, proto::TCP), Entry::Link(1));
    world.put(link(53, proto::UDP), Entry::Link(1));
}

/// A packet of one of them reaches the other as it is.
#[track_caller]
fn reaches(world: &mut World, from: &Container, frame: Frame, to: &Container) -> Frame {
    let frame = from.frame(frame);
    let seen = world.leaves(from, &frame);
    assert_eq!((seen.destination, seen.source), (to.mac, to.host_mac));
    assert_eq!((seen.from, seen.to), (frame.from, frame.to));
    seen
}

#[track_caller]
fn no_icc(world: &mut World, from: &Container, frame: Frame) {
    let bytes = from.frame(frame).bytes();
    assert_eq!(world.is_refused(from, &bytes), DropReason::NoIcc);
}

#[test]
fn a_link_opens_ports_to_its_client_alone() {
    worlds(|world| {
        linked(world);
        let (web, db) = (world.web, world.db);
        for flags in [SYN, ACK, PSH | ACK, FIN | ACK, RST] {
            let asked = Frame::tcp(flags, at(DB, 40_000), at(WEB, 80));
            let seen = reaches(world, &db, asked, &web);
            let back = if flags == SYN { SYN | ACK } else { flags };
            reaches(world, &web, seen.answer(back), &db);
        }
        let asked = Frame::udp(at(DB, 40_000), at(WEB, 53));
        let seen = reaches(world, &db, asked, &web);
        reaches(world, &web, seen.answer(0), &db);

        let closed = [
            Frame::tcp(SYN, at(DB, 40_000), at(WEB, 81)),
            Frame::tcp(SYN, at(DB, 40_000), at(WEB, 53)),
            Frame::udp(at(DB, 40_000), at(WEB, 80)),
            // From the port that is open to it: DB serves nothing.
            Frame::tcp(SYN | ACK, at(DB, 80), at(WEB, 40_000)),
            Frame::udp(at(DB, 53), at(WEB, 40_000)),
            Frame::echo_request(DB, WEB, 80),
        ];
        for frame in closed {
            no_icc(world, &db, frame);
        }
        let closed = [
            // An answer opens nothing.
            Frame::tcp(SYN, at(WEB, 80), at(DB, 40_000)),
            Frame::tcp(SYN, at(WEB, 40_000), at(DB, 80)),
            Frame::tcp(SYN | ACK, at(WEB, 81), at(DB, 40_000)),
            Frame::udp(at(WEB, 40_000), at(DB, 53)),
            Frame::echo_request(WEB, DB, 80),
        ];
        for frame in closed {
            no_icc(world, &web, frame);
        }
        world.holds(0, 0);
    });
}

#[test]
fn a_link_that_is_gone_opens_nothing() {
    worlds(|world| {
        linked(world);
        let (web, db) = (world.web, world.db);
        let asked = Frame::tcp(ACK, at(DB, 40_000), at(WEB, 80));
        let answer = Frame::tcp(ACK, at(WEB, 80), at(DB, 40_000));
        reaches(world, &db, asked.clone(), &web);
        world.datapath.remove(&link(80, proto::TCP)).unwrap();
        no_icc(world, &db, asked.clone());
        no_icc(world, &web, answer.clone());

        // Nobody looks where no link is said to be.
        world.put(link(80, proto::TCP), Entry::Link(1));
        for mut container in [web, db] {
            container.flags &= !endpoint_flags::LINKED;
            world.connect(&container);
        }
        no_icc(world, &db, asked);
        no_icc(world, &web, answer);
    });
}

#[test]
fn errors_pass_where_the_packet_that_they_quote_may() {
    worlds(|world| {
        linked(world);
        let (web, db) = (world.web, world.db);
        let about = |from, to| Frame::udp(from, to);
        let asked = db.frame(about(at(DB, 40_000), at(WEB, 53)));
        let error = Error::about(Kind::Port, WEB, &asked);
        let bytes = error.between(web.mac, web.host_mac).bytes();
        let packet = TestPacket::received(&bytes, web.ifindex);
        let run = world.datapath.test_run("from_container", &packet).unwrap();
        assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
        assert_eq!(Error::of(&run.packet).destination, db.mac);

        let closed = db.frame(about(at(DB, 40_000), at(WEB, 54)));
        let error = Error::about(Kind::Port, WEB, &closed);
        let bytes = error.between(web.mac, web.host_mac).bytes();
        assert_eq!(world.is_refused(&web, &bytes), DropReason::NoIcc);
    });
}

#[test]
fn fragments_pass_with_their_first() {
    worlds(|world| {
        linked(world);
        let (web, db) = (world.web, world.db);
        for (port, opens) in [(53, true), (54, false)] {
            let mut frame = db.frame(Frame::udp(at(DB, 40_000), at(WEB, port)));
            frame.id = port;
            frame.payload = vec![7; 64];
            for bytes in frame.fragments(32) {
                if opens {
                    let run = world.run_from_container(&db, &bytes);
                    assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
                } else {
                    assert_eq!(world.is_refused(&db, &bytes), DropReason::NoIcc);
                }
            }
        }
        let _ = web;
    });
}

#[test]
fn published_ports_stay_open_beside_a_link() {
    worlds(|world| {
        linked(world);
        let (web, db) = (world.web, world.db);
        // By the link and by the host, at once.
        for (from, to, seen_from) in [
            (at(DB, 40_000), at(WEB, 80), at(WEB, 80)),
            (at(DB, 40_001), at(HOST, 8080), at(HOST, 8080)),
            (at(DB, 40_002), at(GATEWAY, 8080), at(GATEWAY, 8080)),
        ] {
            let seen = world.leaves(&db, &db.frame(Frame::tcp(SYN, from, to)));
            assert_eq!((seen.from, seen.to), (from, at(WEB, 80)));
            for flags in [SYN | ACK, ACK] {
                let back = world.leaves(&web, &web.frame(seen.answer(flags)));
                assert_eq!((back.from, back.to), (seen_from, from));
            }
        }
    });
}
