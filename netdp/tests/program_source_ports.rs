//! Source ports of masqueraded flows under test_run: which are taken, what a
//! flow gets instead, and the host's own sockets, which give way at
//! `to_netdev`. Needs root.

mod program_world;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

use netdp_common::{addr::proto, drop::DropReason, maps::Config};
use nix::sys::socket::{setsockopt, sockopt};
use program_world::{
    CLIENT, Container, DB, HOST, HOST_2, HOST_MAC, NEXT, REMOTE, ROUTER_MAC, WEB, arriving, family,
    frame::{ACK, Body, FIN, Frame, PSH, RST, SYN, at},
    impatient, worlds, worlds_with,
};

/// A segment of a container for a web server outside.
fn segment(container: &Container, flags: u8, sport: u16) -> Frame {
    container.frame(Frame::tcp(
        flags,
        at(container.addr, sport),
        at(REMOTE, 443),
    ))
}

/// What the outside answers to a packet that left.
fn answer(left: &Frame, flags: u8) -> Frame {
    arriving(left.answer(flags))
}

#[test]
fn two_containers_with_one_tuple_get_two_ports() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let first = world.leaves(&db, &segment(&db, SYN, 40_000));
        let second = world.leaves(&web, &segment(&web, SYN, 40_000));
        assert_eq!(first.from, at(HOST, 40_000));
        assert_eq!(*second.from.ip(), HOST);
        assert_ne!(second.from.port(), 40_000);
        assert!(second.from.port() >= 1024);
        world.holds(0, 3);
        let again = world.leaves(&web, &segment(&web, SYN, 40_000));
        assert_eq!(again.from, second.from);
        let seen = world.enters(&answer(&second, SYN | ACK), &web);
        assert_eq!(seen.to, at(WEB, 40_000));
        world.holds(2, 1);
        let seen = world.enters(&answer(&first, SYN | ACK), &db);
        assert_eq!(seen.to, at(DB, 40_000));
        world.holds(3, 0);
        for (container, port) in [(&db, 40_000), (&web, second.from.port())] {
            let left = world.leaves(container, &segment(container, ACK, 40_000));
            assert_eq!(left.from, at(HOST, port));
            let seen = world.enters(&answer(&left, ACK), container);
            assert_eq!(seen.to, at(container.addr, 40_000));
        }
        world.holds(3, 0);
        // Another peer is another tuple.
        let other = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(CLIENT, 443)));
        assert_eq!(world.leaves(&db, &other).from.port(), 40_000);
    });
}

#[test]
fn ports_of_the_host_are_not_taken() {
    worlds(|world| {
        let db = world.db;
        let tcp = TcpListener::bind((family::ip(HOST), 40_000)).unwrap();
        let udp = UdpSocket::bind((family::ip(Ipv4Addr::UNSPECIFIED), 40_001)).unwrap();
        let left = world.leaves(&db, &segment(&db, SYN, 40_000));
        assert_ne!(left.from.port(), 40_000, "a socket listens there");
        let query = db.frame(Frame::udp(at(DB, 40_001), at(REMOTE, 53)));
        let left = world.leaves(&db, &query);
        assert_ne!(left.from.port(), 40_001, "a socket is bound there");
        assert_eq!(left.from.port() % 2, 1, "UDP keeps the parity");
        let seen = world.enters(&answer(&left, 0), &db);
        assert_eq!(seen.to, at(DB, 40_001));
        // Published ports are taken, too, and of the protocol only.
        let left = world.leaves(&db, &segment(&db, SYN, 8080));
        assert_ne!(left.from.port(), 8080);
        let udp_8080 = db.frame(Frame::udp(at(DB, 8080), at(REMOTE, 53)));
        assert_eq!(world.leaves(&db, &udp_8080).from.port(), 8080);
        drop((tcp, udp));
    });
}

#[test]
fn udp_keeps_parity_whatever_the_port_drawn() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        for port in 40_000..40_032 {
            let from = |container: &Container| {
                container.frame(Frame::udp(at(container.addr, port), at(REMOTE, 53)))
            };
            world.leaves(&db, &from(&db));
            let left = world.leaves(&web, &from(&web));
            assert_ne!(left.from.port(), port);
            assert_eq!(left.from.port() % 2, port % 2);
        }
    });
}

/// Who has seen some of the ports can't tell the next (RFC 7857, section 9;
/// RFC 6056, section 3.3). What is asked of them is true of ports drawn at
/// random but for once in more than 10^12 runs.
#[test]
fn ports_are_drawn_at_random() {
    worlds(|world| {
        let (db, web, loner) = (world.db, world.web, world.loner);
        for body in [Body::Tcp(SYN), Body::Udp] {
            let mut draw = |container: &Container| -> Vec<u16> {
                (2000..2400)
                    .map(|sport| Frame::new(body, at(container.addr, sport), at(REMOTE, 443)))
                    .map(|frame| world.leaves(container, &container.frame(frame)))
                    .map(|left| left.from.port())
                    .collect()
            };
            let own = draw(&db);
            assert_eq!(own, (2000..2400).collect::<Vec<_>>());
            let drawn = [draw(&web), draw(&loner)];
            let [first, second] = &drawn;
            let same = first.iter().zip(second).filter(|(a, b)| a == b).count();
            assert!(same < 20, "twice the same: {drawn:?}");
            for ports in &drawn {
                is_random(ports);
            }
        }
    });
}

/// 400 ports of 1024 to 65535, of any parity.
fn is_random(ports: &[u16]) {
    let steps = ports.windows(2);
    let short = steps.filter(|step| step[0].abs_diff(step[1]) <= 64).count();
    assert!(short < 20, "one next to the other: {ports:?}");
    let blocks: BTreeSet<u16> = ports.iter().map(|port| port >> 12).collect();
    assert!(blocks.len() >= 12, "from {blocks:?} alone: {ports:?}");
    // The lowest is UDP's parity.
    for bit in 1..12 {
        let set = ports.iter().filter(|port| *port >> bit & 1 != 0).count();
        assert!((120..=280).contains(&set), "bit {bit}: {ports:?}");
    }
}

#[test]
fn a_range_without_a_free_port_refuses_new_flows_only() {
    let config = Config {
        port_first: 50_000,
        port_last: 50_001,
        ..Config::default()
    };
    worlds_with(config, 1024, |world| {
        let (db, web) = (world.db, world.web);
        let held: Vec<_> = [40_000, 50_000, 50_001]
            .iter()
            .map(|port| world.leaves(&db, &segment(&db, SYN, *port)))
            .collect();
        let refused = segment(&web, SYN, 40_000).bytes();
        assert_eq!(world.is_refused(&web, &refused), DropReason::PortExhausted);
        for left in &held {
            assert_eq!(
                world.enters(&answer(left, SYN | ACK), &db).to,
                at(DB, left.from.port())
            );
        }
    });
}

/// Programs that take their listening port as source port, as libp2p does.
#[test]
fn a_container_may_open_connections_from_a_port_that_it_publishes() {
    worlds(|world| {
        let web = world.web;
        let left = world.leaves(&web, &segment(&web, SYN, 80));
        assert_eq!(left.from, at(HOST, 80), "80 isn't taken, 8080 is");
        world.enters(&answer(&left, SYN | ACK), &web);
        assert_eq!(world.leaves(&web, &segment(&web, ACK, 80)).from, left.from);
        world.holds(1, 0);
    });
}

#[test]
fn also_where_the_host_has_the_same_port() {
    worlds(|world| {
        let web = world.web;
        world.publish(None, 80, &web, 80, proto::TCP, Some(HOST));
        let left = world.leaves(&web, &segment(&web, SYN, 80));
        assert_ne!(left.from.port(), 80);
        world.enters(&answer(&left, SYN | ACK), &web);
        world.holds(2, 0);
        for flags in [ACK, PSH | ACK, FIN | ACK, RST] {
            let next = world.leaves(&web, &segment(&web, flags, 80));
            assert_eq!(next.from, left.from, "flags {flags:#x}");
        }
        world.holds(2, 0);
    });
}

/// The outside's side of a flow is gone after its reset, the container's is
/// not.
#[test]
fn a_reset_flow_with_another_port_can_be_opened_anew() {
    worlds_with(impatient(), 1024, |world| {
        let (db, web) = (world.db, world.web);
        let first = world.leaves(&db, &segment(&db, SYN, 40_000));
        world.enters(&answer(&first, SYN | ACK), &db);
        world.leaves(&db, &segment(&db, ACK, 40_000));
        let second = world.leaves(&web, &segment(&web, SYN, 40_000));
        world.enters(&answer(&second, SYN | ACK), &web);
        world.leaves(&web, &segment(&web, ACK, 40_000));
        world.holds(3, 0);
        world.enters(&answer(&second, RST | ACK), &web);
        let port = second.from.port();
        world.let_pass(2);
        world.sweep_until(|world| {
            world
                .flows()
                .iter()
                .all(|flow| flow.key.local_port.get() != port)
        });
        let anew = world.leaves(&web, &segment(&web, SYN, 40_000));
        let seen = world.enters(&answer(&anew, SYN | ACK), &web);
        assert_eq!(seen.to, at(WEB, 40_000));
    });
}

/// A segment of a socket of the host's own.
fn host_segment(flags: u8, sport: u16) -> Frame {
    Frame::tcp(flags, at(HOST, sport), at(REMOTE, 443)).between(HOST_MAC, ROUTER_MAC)
}

#[test]
fn a_socket_of_the_host_gives_way_to_a_container() {
    worlds(|world| {
        let db = world.db;
        let container = world.leaves(&db, &segment(&db, SYN, 40_000));
        let run = world.run_to_netdev(&host_segment(SYN, 40_000).bytes());
        assert_eq!(run.action, NEXT);
        let host = Frame::of(&run.packet);
        assert_eq!(*host.from.ip(), HOST);
        assert_ne!(host.from.port(), 40_000);
        assert_eq!(host.ttl, 64, "the host is no hop of its own packets");

        // The answers find their ways.
        let bytes = answer(&host, SYN | ACK).bytes();
        let run = world.run_from_netdev(&bytes);
        assert_eq!(run.action, NEXT);
        let seen = Frame::of(&run.packet);
        assert_eq!(seen.to, at(HOST, 40_000));
        assert_eq!(seen.ttl, 64);
        let seen = world.enters(&answer(&container, SYN | ACK), &db);
        assert_eq!(seen.to, at(DB, 40_000));

        for flags in [ACK, PSH | ACK, FIN | ACK] {
            let run = world.run_to_netdev(&host_segment(flags, 40_000).bytes());
            assert_eq!(run.action, NEXT);
            assert_eq!(Frame::of(&run.packet).from, host.from);
        }
        world.holds(3, 0);
    });
}

#[test]
fn other_traffic_of_the_host_is_left_alone() {
    worlds(|world| {
        let db = world.db;
        world.leaves(&db, &segment(&db, SYN, 40_000));
        let frames = [
            host_segment(SYN, 40_001),
            Frame::tcp(SYN, at(HOST_2, 40_000), at(REMOTE, 443)),
            Frame::tcp(SYN, at(HOST, 40_000), at(REMOTE, 80)),
            Frame::udp(at(HOST, 40_000), at(REMOTE, 443)),
            Frame::echo_request(HOST, REMOTE, 7),
        ];
        for frame in frames {
            let bytes = frame.bytes();
            let run = world.run_to_netdev(&bytes);
            assert_eq!((run.action, run.packet), (NEXT, bytes), "{frame:?}");
        }
        world.holds(0, 1);
    });
}

/// As the kernel's own test for it does (`port_shadow` of
/// tools/testing/selftests/net/netfilter/nft_nat.sh): a container sends from
/// the port of a service to a client's, and waits for the client.
#[test]
fn a_flow_does_not_shadow_a_service_that_begins_after_it() {
    worlds(|world| {
        let db = world.db;
        let client = at(REMOTE, 41_404);
        // Unanswered, and after an answer.
        for (port, answered) in [(1_405, false), (1_406, true)] {
            let fake = db.frame(Frame::udp(at(DB, port), client));
            let request = arriving(Frame::udp(client, at(HOST, port)));
            assert_eq!(world.leaves(&db, &fake).from.port(), port);
            if answered {
                world.enters(&request, &db);
            }
            let _service = UdpSocket::bind((family::ip(HOST), port)).unwrap();
            world.passes(&request.bytes());
            assert_ne!(world.leaves(&db, &fake).from.port(), port);
            world.passes(&request.bytes());
        }
        for (port, answer) in [(1_405, None), (1_406, Some(RST | ACK))] {
            let fake = db.frame(Frame::tcp(SYN, at(DB, port), client));
            let request = arriving(Frame::tcp(SYN, client, at(HOST, port)));
            let left = world.leaves(&db, &fake);
            assert_eq!(left.from.port(), port);
            if let Some(flags) = answer {
                world.enters(&arriving(left.answer(flags)), &db);
            }
            let _service = TcpListener::bind((family::ip(HOST), port)).unwrap();
            world.passes(&request.bytes());
            assert_ne!(world.leaves(&db, &fake).from.port(), port);
            world.passes(&request.bytes());
        }
        // In what is established the listener has no part.
        let segment = |flags| db.frame(Frame::tcp(flags, at(DB, 1_407), client));
        let left = world.leaves(&db, &segment(SYN));
        world.enters(&arriving(left.answer(SYN | ACK)), &db);
        world.leaves(&db, &segment(ACK));
        let _service = TcpListener::bind((family::ip(HOST), 1_407)).unwrap();
        world.enters(&arriving(left.answer(ACK)), &db);
    });
}

/// Sockets of both families at once, and of one interface alone.
#[test]
fn sockets_of_every_kind_keep_their_port() {
    worlds(|world| {
        let db = world.db;
        let both = UdpSocket::bind("[::]:1405").unwrap();
        let listening = TcpListener::bind("[::]:1405").unwrap();
        let datagram = db.frame(Frame::udp(at(DB, 1_405), at(REMOTE, 41_404)));
        assert_ne!(world.leaves(&db, &datagram).from.port(), 1_405);
        let syn = db.frame(Frame::tcp(SYN, at(DB, 1_405), at(REMOTE, 41_404)));
        assert_ne!(world.leaves(&db, &syn).from.port(), 1_405);
        drop((both, listening));
        // A DHCP client's, for one: it is not seen from the container's side.
        let bound = UdpSocket::bind((family::ip(Ipv4Addr::UNSPECIFIED), 68)).unwrap();
        setsockopt(&bound, sockopt::BindToDevice, &"wire0".into()).unwrap();
        let datagram = db.frame(Frame::udp(at(DB, 68), at(REMOTE, 67)));
        let left = world.leaves(&db, &datagram);
        world.passes(&arriving(left.answer(0)).bytes());
    });
}
