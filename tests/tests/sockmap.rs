//! TCP between sockets of one host, joined past the stack: who is joined, and who
//! isn't.

mod sockmap_world;

use std::env;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use netdp::api::types::JoinedCounters;
use netdp::demo::world::ip;
use netdp_tests::{
    Listener, PATIENCE, Place, Reached, SIDES, SILENCE, Topology, connect, connect_bound, listen,
    talk,
};
use sockmap_world::{ANY, Pair};

#[track_caller]
fn reaches(place: &impl Place, to: impl Into<SocketAddr>, listener: &Listener) {
    let near = connect(place, to);
    let (far, _) = listener.accept();
    talk(&near, &far);
    talk(&far, &near);
}

#[test]
fn words_go_from_socket_to_socket() {
    for mode in ["auto", "on"] {
        let name = format!("sockmap-{mode}");
        let Some(pair) = Pair::start(&name, &format!("--opt sockmap={mode}")) else {
            return;
        };
        for side in SIDES {
            let listener = listen(&pair.other(), side.any, 80);
            let before = pair.joined();
            reaches(&pair.one(), (side.address(&pair.other), 80), &listener);
            let loopback: IpAddr = side.of("127.0.0.1", "::1").parse().unwrap();
            reaches(&pair.host(), (loopback, 8080), &listener);
            let after = pair.joined();
            assert_eq!(after.connections, before.connections + 2, "{side:?}");
            assert_eq!(after.messages, before.messages + 8);
            assert_eq!(after.bytes, before.bytes + 80);
        }
        let shown = pair.topology.netdp("network inspect short");
        assert!(
            shown.contains(&format!("\"sockmap\": \"{mode}\"")),
            "{shown}"
        );
        assert!(pair.topology.netdp("stats").contains("JOINED CONNECTIONS"));
    }
}

#[test]
fn a_socket_of_ipv6_that_speaks_ipv4_is_joined() {
    let Some(pair) = Pair::start("sockmap-mapped", "--opt sockmap=auto") else {
        return;
    };
    let place = pair.other();
    let socket = place.open_family(
        nix::sys::socket::AddressFamily::Inet6,
        nix::sys::socket::SockType::Stream,
        None,
    );
    let any = nix::sys::socket::SockaddrStorage::from(SocketAddr::from(([0u16; 8], 80)));
    nix::sys::socket::bind(socket.as_raw_fd(), &any).unwrap();
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let near = connect(&pair.one(), (pair.other.address, 80));
    let (far, _) = listener.accept().unwrap();
    talk(&near, &far);
    talk(&near, &far);
    assert_eq!(pair.joined().messages, 4);
}

#[test]
fn nothing_is_joined_unless_it_was_asked_for() {
    // `cargo xtask test --network-opt sockmap=on` has it asked for everywhere.
    let is_everywhere =
        env::var("NETDP_DEFAULT_NETWORK_OPTS").is_ok_and(|options| options.contains("sockmap"));
    let options: &[&str] = match is_everywhere {
        true => &["--opt sockmap=off"],
        false => &["", "--opt sockmap=off"],
    };
    for options in options {
        let Some(pair) = Pair::start("sockmap-off", options) else {
            return;
        };
        let (near, far) = pair.connected();
        talk(&near, &far);
        assert_eq!(pair.joined(), JoinedCounters::default());
    }
}

#[test]
fn another_value_is_refused() {
    let Some(topology) = Topology::start("sockmap-value") else {
        return;
    };
    let refused = topology.refused("network create short --opt sockmap=maybe");
    assert!(refused.contains("one of auto, on, off"), "{refused}");
}

#[test]
fn who_is_taken_off_the_network_is_not_heard_any_more() {
    let Some(pair) = Pair::start("sockmap-leave", "--opt sockmap=auto") else {
        return;
    };
    pair.topology.netdp("network create second");
    pair.topology.netdp("connect second other");
    let (near, far) = pair.connected();
    talk(&near, &far);
    assert_eq!(pair.joined().messages, 2);
    pair.topology.netdp("disconnect short other");
    { &near }.write_all(b"words").unwrap();
    { &far }.write_all(b"words").unwrap();
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let heard = { socket }.read(&mut [0; 5]);
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[test]
fn where_containers_may_not_speak_they_are_not_joined() {
    let Some(pair) = Pair::start("sockmap-icc", "--icc=false --opt sockmap=auto") else {
        return;
    };
    let listener = listen(&pair.other(), ANY, 80);
    reaches(&pair.host(), (Ipv4Addr::LOCALHOST, 8080), &listener);
    assert_eq!(pair.joined().messages, 4);
    pair.topology
        .netdp("network create apart --opt sockmap=auto");
    let apart = pair.topology.container("apart", "--network apart");
    let place = Reached::new(&pair.topology.world, &apart.namespace);
    let reached = connect_bound(&place, None, (pair.other.address, 80), SILENCE);
    assert!(reached.is_err());
    listener.assert_nobody_came();
}

/// A namespace that has taken both addresses holds a connection between them
/// that looks like another's.
#[test]
fn a_namespace_that_nobody_attached_is_nobody() {
    let Some(pair) = Pair::start("sockmap-forged", "--opt sockmap=auto") else {
        return;
    };
    let forged = pair.topology.world.add_namespace("forged").unwrap();
    let (one, other) = (pair.one.address, pair.other.address);
    ip(
        &forged,
        &format!("link set lo up\naddr add {one}/32 dev lo\naddr add {other}/32 dev lo\n"),
    )
    .unwrap();
    let place = Reached::new(&pair.topology.world, &forged);
    let listener = listen(&place, ANY, 80);
    let from = SocketAddr::from((one, 40_000));
    let to = SocketAddr::from((other, 80));
    let near = connect_bound(&place, Some(from), to, PATIENCE).unwrap();
    let (far, _) = listener.accept();

    let real = listen(&pair.other(), ANY, 80);
    let real_near = connect_bound(&pair.one(), Some(from), to, PATIENCE).unwrap();
    let (real_far, _) = real.accept();
    talk(&near, &far);
    talk(&real_near, &real_far);
    talk(&far, &near);
    assert_eq!(pair.joined().messages, 2);
}

#[test]
fn connections_go_on_without_the_daemon() {
    let Some(mut pair) = Pair::start("sockmap-restart", "--opt sockmap=auto") else {
        return;
    };
    let (near, far) = pair.connected();
    talk(&near, &far);
    pair.topology.world.kill_daemon();
    talk(&near, &far);
    let (young_near, young_far) = pair.connected();
    talk(&young_near, &young_far);
    { &near }.write_all(b"kept over the start").unwrap();
    pair.topology.start_daemon();
    let mut heard = [0; 19];
    { &far }.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"kept over the start");
    talk(&near, &far);
    talk(&young_near, &young_far);
    let (last_near, last_far) = pair.connected();
    talk(&last_near, &last_far);
    let joined = pair.joined();
    assert_eq!((joined.connections, joined.messages), (3, 13));
}

#[test]
fn the_last_network_takes_the_program_off_the_group() {
    let Some(topology) = Topology::start("sockmap-none") else {
        return;
    };
    let link = topology.world.bpffs().join("netdp/links/cgroup-join");
    assert!(!link.exists());
    topology.netdp("network create short --opt sockmap=auto");
    let _container = topology.container("one", "--network short");
    assert!(link.exists());
    topology.netdp("rm one");
    assert!(!link.exists());
}
