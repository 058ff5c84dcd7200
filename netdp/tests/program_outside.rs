//! What comes from outside and has no business here, under test_run. Needs
//! root.

mod program_world;

use std::net::Ipv4Addr;

use netdp::bpf::Key;
use netdp_common::{
    addr::{V4Addr, V6Addr, proto},
    drop::DropReason,
    own,
    packet::tcp_flags::ACK,
    range::AllowKey,
};
use program_world::{
    BROADCAST, CLIENT, CLIENT_MAC, DB, GATEWAY, HOST, HOST_2, HOST_MAC, LONER, LONER_GATEWAY,
    REDIRECT, REMOTE, WEB, arriving,
    error::{Error, Kind},
    family::{Family, embed},
    frame::{Frame, SYN, at},
    world6, worlds,
};

/// Sources that have no place outside.
const NOBODYS: [Ipv4Addr; 12] = [
    WEB,
    DB,
    LONER,
    GATEWAY,
    LONER_GATEWAY,
    HOST,
    HOST_2,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::BROADCAST,
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::new(0, 1, 2, 3),
];
/// Sources that nothing has, and that are like none outside once a daemon has
/// said so.
const INSIDE: [Ipv4Addr; 4] = [
    Ipv4Addr::new(172, 20, 0, 99),
    Ipv4Addr::new(172, 20, 255, 255),
    Ipv4Addr::new(172, 21, 0, 77),
    BROADCAST,
];
/// Outside, beside those.
const BESIDE: [Ipv4Addr; 3] = [
    Ipv4Addr::new(172, 22, 0, 99),
    Ipv4Addr::new(172, 21, 1, 77),
    Ipv4Addr::new(192, 0, 2, 254),
];
const PORT: u16 = 40_000;

#[test]
fn a_published_port_takes_nothing_from_a_source_that_is_nobodys_outside() {
    worlds(|world| {
        for source in NOBODYS {
            let from = at(source, PORT);
            let fragmented = arriving(Frame::udp(from, at(HOST, 5353))).fragments(16);
            let packets = [
                Frame::tcp(SYN, from, at(HOST, 8080)),
                Frame::tcp(ACK, from, at(HOST, 8080)),
                Frame::tcp(SYN, from, at(HOST_2, 8080)),
                Frame::udp(from, at(HOST, 5353)),
                Frame::udp(from, at(HOST_2, 5353)),
            ]
            .map(|frame| arriving(frame).bytes());
            for packet in packets.iter().chain(&fragmented) {
                assert_eq!(
                    world.is_kept_out(packet),
                    DropReason::SpoofedSource,
                    "{source}"
                );
            }
        }
        world.holds(0, 0);
    });
}

#[test]
fn a_published_port_takes_nothing_from_the_subnets_of_containers() {
    worlds(|world| {
        let web = world.web;
        let frames = |source| {
            [
                Frame::tcp(SYN, at(source, PORT), at(HOST, 8080)),
                Frame::udp(at(source, PORT), at(HOST, 5353)),
            ]
            .map(arriving)
        };
        for source in INSIDE {
            for frame in frames(source) {
                world.enters(&frame, &web);
            }
        }
        world.know_subnets();
        for source in INSIDE {
            for frame in frames(source) {
                let reason = world.is_kept_out(&frame.bytes());
                assert_eq!(reason, DropReason::SpoofedSource, "{source}");
            }
        }
        for source in BESIDE {
            for frame in frames(source) {
                world.enters(&frame, &web);
            }
        }
        // A network that is gone is anybody's.
        let [unassigned, ..] = INSIDE;
        let net = Ipv4Addr::new(172, 20, 0, 0);
        let key = match Family::of_world() {
            Family::V4 => Key::Allow4(AllowKey::new(own::INSIDE, net.into(), 16)),
            Family::V6 => Key::Allow6(AllowKey::new(own::INSIDE, embed(net).into(), 112)),
        };
        world.datapath.remove(&key).unwrap();
        for frame in frames(unassigned) {
            world.enters(&frame, &web);
        }
    });
}

/// Of ::/96 and ::ffff:0:0/96, which stand for IPv4 addresses; and of what only
/// looks like them.
#[test]
fn a_published_port_takes_nothing_from_addresses_that_stand_for_ipv4() {
    let client = |high: u128| (high << 32 | u128::from(CLIENT.to_bits())).to_be_bytes();
    world6(|world| {
        for frame in [
            Frame::tcp(SYN, at(CLIENT, PORT), at(HOST, 8080)),
            Frame::udp(at(CLIENT, PORT), at(HOST, 5353)),
        ] {
            let packet = arriving(frame).bytes();
            for (high, nobodys) in [(0, true), (0xffff, true), (0xffff_0000, false)] {
                let mut packet = packet.clone();
                packet[22..38].copy_from_slice(&client(high));
                if nobodys {
                    assert_eq!(world.is_kept_out(&packet), DropReason::SpoofedSource);
                } else {
                    assert_eq!(world.run_from_netdev(&packet).action, REDIRECT);
                }
            }
        }
    });
}

/// The default route would take them out.
#[test]
fn nothing_leaves_for_an_address_that_nobody_has() {
    worlds(|world| {
        let db = world.db;
        for to in [Ipv4Addr::new(0, 1, 2, 3), Ipv4Addr::UNSPECIFIED] {
            for frame in [
                Frame::tcp(SYN, at(DB, PORT), at(to, 80)),
                Frame::udp(at(DB, PORT), at(to, 53)),
                Frame::echo_request(DB, to, 7),
            ] {
                let packet = db.frame(frame).bytes();
                assert_eq!(world.is_refused(&db, &packet), DropReason::NoRoute, "{to}");
            }
        }
        world.holds(0, 0);
    });
    world6(|world| {
        let db = world.db;
        let mut packet = db.frame(Frame::udp(at(DB, PORT), at(REMOTE, 53))).bytes();
        packet[38..54].fill(0);
        packet[48..54].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 2]);
        assert_eq!(world.is_refused(&db, &packet), DropReason::NoRoute);
    });
}

#[test]
fn a_published_port_takes_nothing_from_a_link_local_source() {
    world6(|world| {
        let from = at(Ipv4Addr::new(169, 254, 0, 7), PORT);
        for frame in [
            Frame::tcp(SYN, from, at(HOST, 8080)),
            Frame::udp(from, at(HOST, 5353)),
        ] {
            let packet = arriving(frame).bytes();
            assert_eq!(world.is_kept_out(&packet), DropReason::SpoofedSource);
        }
        // The host itself speaks with it.
        let packet = arriving(Frame::tcp(SYN, from, at(HOST, 22)));
        world.passes(&packet.bytes());
    });
}

#[test]
fn an_error_is_not_taken_from_such_a_source_either() {
    worlds(|world| {
        let web = world.web;
        let answer = world.web.frame(Frame::udp(at(WEB, 53), at(CLIENT, PORT)));
        let sent = world.leaves(&web, &answer);
        for source in NOBODYS {
            let error = Error::about(Kind::Port, source, &sent).between(CLIENT_MAC, HOST_MAC);
            assert_eq!(
                world.is_kept_out(&error.bytes()),
                DropReason::SpoofedSource,
                "{source}"
            );
        }
    });
}

#[test]
fn the_host_itself_hears_nothing_from_outside_in_a_containers_name() {
    worlds(|world| {
        for source in [WEB, DB, LONER] {
            for frame in [
                Frame::tcp(SYN, at(source, PORT), at(HOST, 22)),
                Frame::udp(at(source, PORT), at(GATEWAY, 53)),
                Frame::echo_request(source, HOST, 7),
            ] {
                let mut packet = arriving(frame).bytes();
                assert_eq!(world.is_kept_out(&packet), DropReason::SpoofedSource);
                // To all or some on the link, of which the host is one.
                for group in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
                    packet[..6].copy_from_slice(&group);
                    assert_eq!(world.is_kept_out(&packet), DropReason::SpoofedSource);
                }
            }
        }
        // For the kernel to judge.
        for source in [HOST_2, Ipv4Addr::LOCALHOST] {
            let packet = arriving(Frame::tcp(SYN, at(source, PORT), at(HOST, 22)));
            world.passes(&packet.bytes());
        }
    });
}

/// An address outside that shares its bit of the filter with WEB's.
fn look_alike() -> Ipv4Addr {
    let place = |addr| match Family::of_world() {
        Family::V4 => own::place(V4Addr::from(addr)),
        Family::V6 => own::place(V6Addr::from(embed(addr))),
    };
    (0..)
        .map(|number| Ipv4Addr::from(0x0b00_0000_u32 + number))
        .find(|addr| place(*addr) == place(WEB))
        .unwrap()
}

#[test]
fn an_address_that_looks_like_a_containers_is_not_taken_for_it() {
    worlds(|world| {
        let web = world.web;
        let from = at(look_alike(), PORT);
        let frame = arriving(Frame::tcp(SYN, from, at(HOST, 8080)));
        let seen = world.enters(&frame, &web);
        assert_eq!(seen.from, from);
    });
}

#[test]
fn an_address_is_anybodys_once_its_container_is_gone() {
    worlds(|world| {
        let web = world.web;
        let frame = arriving(Frame::tcp(SYN, at(DB, PORT), at(HOST, 8080)));
        assert_eq!(world.is_kept_out(&frame.bytes()), DropReason::SpoofedSource);
        let owner = match Family::of_world() {
            Family::V4 => Key::Owner4(DB.into()),
            Family::V6 => Key::Owner6(embed(DB).into()),
        };
        world.datapath.remove(&owner).unwrap();
        world.enters(&frame, &web);
    });
}

#[test]
fn a_port_published_on_loopback_is_not_there_for_the_outside() {
    worlds(|world| {
        let web = world.web;
        let loopback = Ipv4Addr::LOCALHOST;
        for (port, proto) in [(9000, proto::TCP), (9001, proto::UDP)] {
            world.publish(Some(loopback), port, &web, 90, proto, None);
        }
        for to in [loopback, HOST, HOST_2, GATEWAY] {
            for frame in [
                Frame::tcp(SYN, at(CLIENT, PORT), at(to, 9000)),
                Frame::udp(at(CLIENT, PORT), at(to, 9001)),
            ] {
                // The kernel takes none for 127.0.0.0/8 from a wire (RFC 1122,
                // section 3.2.1.3), and nothing of the host is at the others.
                world.passes(&arriving(frame).bytes());
            }
        }
    });
}
