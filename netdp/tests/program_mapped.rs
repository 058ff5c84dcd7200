//! Endpoint-independent mapping and filtering (RFC 4787) under test_run: one
//! port outside towards every peer, and who may send to it. Needs root.

mod program_world;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{Config, endpoint_flags, flow_kind},
};
use program_world::{
    CLIENT, CLIENT_MAC, Container, DB, HOST, HOST_2, HOST_MAC, NEXT, REDIRECT, REMOTE, ROUTER_MAC,
    World, arriving,
    error::{Error, Kind},
    family::ip,
    frame::{Frame, SYN, at},
    impatient, worlds, worlds_with,
};

/// An address outside that no container has sent to.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// A container whose network asks for endpoint-independent mapping.
fn mapped(world: &mut World, container: Container) -> Container {
    flagged(world, container, endpoint_flags::MAPPED)
}

/// The same, and filtering too.
fn open(world: &mut World, container: Container) -> Container {
    flagged(
        world,
        container,
        endpoint_flags::MAPPED | endpoint_flags::OPEN,
    )
}

fn flagged(world: &mut World, mut container: Container, flags: u16) -> Container {
    container.flags |= flags;
    world.connect(&container);
    container
}

fn datagram(container: &Container, sport: u16, to: (Ipv4Addr, u16)) -> Frame {
    container.frame(Frame::udp(at(container.addr, sport), at(to.0, to.1)))
}

/// A datagram from outside for a port of the host.
fn from_outside(from: (Ipv4Addr, u16), port: u16) -> Frame {
    arriving(Frame::udp(at(from.0, from.1), at(HOST, port)))
}

#[test]
fn every_peer_sees_one_port_also_where_it_was_changed() {
    worlds(|world| {
        let web = world.web;
        let db = mapped(world, world.db);
        // Another container has the port towards one of the peers.
        world.leaves(&web, &datagram(&web, 40_000, (REMOTE, 53)));
        // The port is a listener's.
        let listener = UdpSocket::bind((ip(HOST), 40_001)).unwrap();
        for sport in [40_001, 40_002] {
            let seen: Vec<_> = [(CLIENT, 7), (REMOTE, 53), (REMOTE, 54), (STRANGER, 9)]
                .into_iter()
                .map(|peer| world.leaves(&db, &datagram(&db, sport, peer)).from)
                .collect();
            assert_eq!(seen[0].port() == sport, sport == 40_002);
            assert_eq!(seen[0].port() % 2, sport % 2);
            assert!(seen.iter().all(|from| *from == seen[0]), "{seen:?}");
        }
        // Taken towards one peer, it is kept towards the others.
        let taken = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 54)));
        assert_eq!(taken.from.port(), 40_000);
        let towards = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        assert_ne!(towards.from.port(), 40_000);
        world.enters(&arriving(towards.answer(0)), &db);
        drop(listener);
    });
}

#[test]
fn an_open_mapping_takes_datagrams_from_everybody() {
    worlds(|world| {
        let db = open(world, world.db);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        world.holds(0, 1);
        for stranger in [(STRANGER, 9), (CLIENT, 40_000), (REMOTE, 1)] {
            let seen = world.enters(&from_outside(stranger, left.from.port()), &db);
            assert_eq!(seen.from, at(stranger.0, stranger.1));
            assert_eq!(seen.to, at(DB, 40_000));
            let answer = world.leaves(&db, &datagram(&db, 40_000, stranger));
            assert_eq!(answer.from, left.from);
        }
        world.holds(1, 0);
        assert_eq!(world.flows()[0].flow.kind, flow_kind::MAPPING_OPEN);
        let spoofed = from_outside((world.web.addr, 9), 40_000).bytes();
        assert_eq!(world.is_kept_out(&spoofed), DropReason::SpoofedSource);
        let spoofed = from_outside((HOST_2, 9), 40_000).bytes();
        assert_eq!(world.is_kept_out(&spoofed), DropReason::SpoofedSource);
        // At this address and port, and of UDP only.
        world.passes(&from_outside((STRANGER, 9), 40_001).bytes());
        let mut elsewhere = from_outside((STRANGER, 9), 40_000);
        elsewhere.to = at(HOST_2, 40_000);
        world.passes(&elsewhere.bytes());
        let segment = Frame::tcp(SYN, at(STRANGER, 9), at(HOST, 40_000));
        world.passes(&arriving(segment).bytes());
    });
}

#[test]
fn a_filtering_mapping_takes_those_of_addresses_it_has_sent_to() {
    worlds(|world| {
        let db = mapped(world, world.db);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        let port = left.from.port();
        world.passes(&from_outside((STRANGER, 53), port).bytes());
        world.passes(&from_outside((CLIENT, 53), port).bytes());
        // Any port of an address that was sent to.
        for from in [(REMOTE, 53), (REMOTE, 9_999)] {
            let seen = world.enters(&from_outside(from, port), &db);
            assert_eq!((seen.from, seen.to), (at(from.0, from.1), at(DB, 40_000)));
        }
        world.leaves(&db, &datagram(&db, 40_000, (STRANGER, 7)));
        world.enters(&from_outside((STRANGER, 53), port), &db);
        // What one port was sent from opens no other.
        world.leaves(&db, &datagram(&db, 40_001, (CLIENT, 53)));
        world.passes(&from_outside((CLIENT, 53), port).bytes());
    });
}

#[test]
fn a_changed_port_lets_in_as_the_own_one_does() {
    worlds(|world| {
        let listener = UdpSocket::bind((ip(HOST), 40_000)).unwrap();
        let db = mapped(world, world.db);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        let port = left.from.port();
        assert_ne!(port, 40_000);
        world.passes(&from_outside((STRANGER, 53), port).bytes());
        let seen = world.enters(&from_outside((REMOTE, 9), port), &db);
        assert_eq!(seen.to, at(DB, 40_000));
        let again = world.leaves(&db, &datagram(&db, 40_000, (CLIENT, 1)));
        assert_eq!(again.from, left.from);
        drop(listener);
    });
}

#[test]
fn without_the_option_the_port_is_the_peers_alone() {
    worlds(|world| {
        let db = world.db;
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        for stranger in [(REMOTE, 54), (STRANGER, 53)] {
            world.passes(&from_outside(stranger, left.from.port()).bytes());
        }
        world.enters(&from_outside((REMOTE, 53), left.from.port()), &db);
        // TCP is as before also with it.
        let db = open(world, world.db);
        let segment = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)));
        world.leaves(&db, &segment);
        let stranger = Frame::tcp(SYN, at(STRANGER, 443), at(HOST, 40_000));
        world.passes(&arriving(stranger).bytes());
    });
}

#[test]
fn no_two_mappings_share_a_port() {
    worlds(|world| {
        let (db, web) = (open(world, world.db), mapped(world, world.web));
        let first = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        let second = world.leaves(&web, &datagram(&web, 40_000, (CLIENT, 7)));
        assert_ne!(first.from, second.from);
        // Nor does another flow take a mapping's.
        let mut loner = world.loner;
        loner.flags &= !endpoint_flags::PUBLISHED;
        let third = world.leaves(&loner, &datagram(&loner, 40_000, (STRANGER, 7)));
        assert!(![first.from, second.from].contains(&third.from));
        let seen = world.enters(&from_outside((STRANGER, 8), first.from.port()), &db);
        assert_eq!(seen.to, at(DB, 40_000));
        let seen = world.enters(&from_outside((STRANGER, 7), third.from.port()), &loner);
        assert_eq!(seen.to, at(loner.addr, 40_000));
    });
}

/// RFC 4787, REQ-9: as seen from outside.
#[test]
fn mappings_are_reached_from_inside_by_their_outside_address() {
    worlds(|world| {
        let db = open(world, world.db);
        for web in [
            mapped(world, world.web),
            flagged(world, world.loner, endpoint_flags::MAPPED),
            Container {
                flags: world.web.flags & !endpoint_flags::MAPPED,
                ..world.web
            },
        ] {
            world.connect(&web);
            let mapping = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53))).from;
            let to = (*mapping.ip(), mapping.port());
            let seen = world.leaves(&web, &datagram(&web, 41_000, to));
            assert_eq!(seen.to, at(DB, 40_000));
            assert_eq!(seen.destination, db.mac);
            assert_eq!(*seen.from.ip(), HOST);
            let back = (HOST, seen.from.port());
            let answer = world.leaves(&db, &datagram(&db, 40_000, back));
            assert_eq!(answer.from, mapping);
            assert_eq!(answer.to, at(web.addr, 41_000));
            assert_eq!(answer.destination, web.mac);
            // And once more each way.
            let again = world.leaves(&web, &datagram(&web, 41_000, to));
            assert_eq!(again.from, seen.from);
            let answer = world.leaves(&db, &datagram(&db, 40_000, back));
            assert_eq!(answer.from, mapping);
        }
        // What is nobody's is the host's.
        world.is_for_the_stack(&db, &datagram(&db, 40_000, (HOST, 9)).bytes());
    });
}

#[test]
fn a_filtering_mapping_filters_from_inside_too() {
    worlds(|world| {
        let (db, web) = (mapped(world, world.db), mapped(world, world.web));
        let mapping = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53))).from;
        let uninvited = datagram(&web, 41_000, (HOST, mapping.port())).bytes();
        world.is_for_the_stack(&web, &uninvited);
        // It has made the way in the other direction, and that makes its own.
        let seen = world.leaves(&db, &datagram(&db, 40_000, (HOST, 41_000)));
        assert_eq!((seen.from, seen.to), (mapping, at(web.addr, 41_000)));
        let seen = world.leaves(&web, &datagram(&web, 41_000, (HOST, mapping.port())));
        assert_eq!((seen.from, seen.to), (at(HOST, 41_000), at(DB, 40_000)));
    });
}

/// A socket at the port of one that was closed: for a moment, a process that another
/// test starts has that, too.
fn bind_again(addr: SocketAddrV4) -> UdpSocket {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match UdpSocket::bind((ip(*addr.ip()), addr.port())) {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < end, "{addr}: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_socket_of_the_host_takes_its_port_back() {
    worlds(|world| {
        let db = open(world, world.db);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        assert_eq!(left.from.port(), 40_000);
        // Connected, it has its peer's datagrams alone.
        let connected = UdpSocket::bind((ip(HOST), 40_000)).unwrap();
        connected.connect((ip(CLIENT), 53)).unwrap();
        world.passes(&from_outside((CLIENT, 53), 40_000).bytes());
        world.enters(&from_outside((STRANGER, 53), 40_000), &db);
        drop(connected);
        let bound = bind_again(at(HOST, 40_000));
        world.passes(&from_outside((STRANGER, 53), 40_000).bytes());
        let moved = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        assert_ne!(moved.from.port(), 40_000);
        world.enters(&from_outside((STRANGER, 53), moved.from.port()), &db);
        // The host's own datagrams keep the port.
        let own = Frame::udp(at(HOST, 40_000), at(REMOTE, 53)).between(HOST_MAC, ROUTER_MAC);
        let run = world.run_to_netdev(&own.bytes());
        assert_eq!((run.action, run.packet), (NEXT, own.bytes()));
        drop(bound);
    });
}

#[test]
fn a_published_port_takes_its_port_back() {
    worlds_with(impatient(), 1024, |world| {
        let (db, web) = (open(world, world.db), world.web);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        assert_eq!(left.from.port(), 40_000);
        world.publish(None, 40_000, &web, 53, proto::UDP, Some(HOST));
        world.enters(&from_outside((REMOTE, 53), 40_000), &web);
        // Looked at once a second.
        world.let_pass(1);
        let moved = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        assert_ne!(moved.from.port(), 40_000);
    });
}

#[test]
fn a_stranger_does_not_keep_a_mapping_alive() {
    worlds(|world| {
        let db = open(world, world.db);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        let stray = from_outside((STRANGER, 9), left.from.port()).bytes();
        // The first answer moves it to the main table.
        world.run_from_netdev(&stray);
        let part = Config::default().udp * 2 / 3;
        world.let_pass(part);
        assert_eq!(world.run_from_netdev(&stray).action, REDIRECT);
        world.let_pass(part);
        world.sweep_until(|world| world.all_flows().is_empty());
        world.passes(&stray);
    });
}

#[test]
fn errors_about_mapped_datagrams_reach_the_container() {
    worlds(|world| {
        let db = open(world, world.db);
        let left = world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        let error = Error::about(Kind::Port, REMOTE, &left).between(CLIENT_MAC, HOST_MAC);
        let run = world.run_from_netdev(&error.bytes());
        assert_eq!(run.action, REDIRECT);
        let seen = Error::of(&run.packet);
        assert_eq!(seen.to, DB);
        assert_eq!(seen.quoted().from, at(DB, 40_000));
        // And the container's own, about a stranger's datagram.
        let stray = from_outside((STRANGER, 9), left.from.port());
        let inside = world.enters(&stray, &db);
        let error = Error::about(Kind::Port, DB, &inside).between(db.mac, db.host_mac);
        let run = world.run_from_container(&db, &error.bytes());
        assert_eq!(run.action, REDIRECT);
        let seen = Error::of(&run.packet);
        assert_eq!((seen.from, seen.to), (HOST, STRANGER));
        assert_eq!(seen.quoted().to, stray.to);
    });
}

#[test]
fn a_share_that_is_full_lets_nobody_else_in() {
    let config = Config {
        flows_per_endpoint: 4,
        pending_per_endpoint: 3,
        ..Config::default()
    };
    worlds_with(config, 1024, |world| {
        let db = mapped(world, world.db);
        world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 53)));
        world.leaves(&db, &datagram(&db, 40_000, (CLIENT, 53)));
        let bytes = datagram(&db, 40_000, (STRANGER, 53)).bytes();
        assert_eq!(world.is_refused(&db, &bytes), DropReason::EndpointLimit);
        world.leaves(&db, &datagram(&db, 40_000, (REMOTE, 54)));
    });
}
