//! Containers among themselves: on one network, across networks, and by the
//! published ports of their own host.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netdp::demo::world::HOST_ADDRESS;
use netdp_tests::{
    Container, Listener, SILENCE, Topology, abort, connect, connect_from, connect_within, hears,
    listen, says_nothing, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A connection arrives, and comes from `source`.
#[track_caller]
fn reaches(from: &Container, to: (Ipv4Addr, u16), listener: &Listener, source: Ipv4Addr) {
    let near = connect(from, to);
    let (far, seen) = listener.accept();
    assert_eq!(near.peer_addr().unwrap(), SocketAddr::from(to));
    assert_eq!(seen.ip(), source);
    talk(&near, &far);
}

#[track_caller]
fn unreachable(from: &Container, to: (Ipv4Addr, u16)) {
    if connect_within(from, None, to, SILENCE).is_ok() {
        panic!("{to:?} answers {}", from.name);
    }
}

/// Datagrams arrive from `source`, and their answers from where they were sent.
#[track_caller]
fn asks(from: &Container, to: (Ipv4Addr, u16), server: &UdpSocket, source: Ipv4Addr) {
    let client = udp(from, ANY, 0);
    for words in [&b"first"[..], b"second", b"third"] {
        client.send_to(words, to).unwrap();
        let seen = hears(server, words);
        assert_eq!(seen.ip(), source);
        server.send_to(words, seen).unwrap();
        assert_eq!(hears(&client, words), to.into());
    }
}

#[test]
fn one_network_is_open_within() {
    let Some(topology) = Topology::start("con-one") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let server = listen(&other, ANY, 80);
    reaches(&one, (other.address, 80), &server, one.address);
    asks(
        &one,
        (other.address, 53),
        &udp(&other, ANY, 53),
        one.address,
    );
    let large: Vec<u8> = (0..4096_u32).map(|at| (at % 251) as u8).collect();
    let socket = udp(&other, ANY, 7);
    let client = udp(&one, ANY, 0);
    client.send_to(&large, (other.address, 7)).unwrap();
    hears(&socket, &large);
}

#[test]
fn without_icc_only_published_ports_are_open() {
    let Some(topology) = Topology::start("con-icc") else {
        return;
    };
    topology.netdp("network create apart --icc=false");
    let one = topology.container("one", "--network apart");
    let other = topology.container("other", "--network apart -p 8080:80");
    let server = listen(&other, ANY, 80);
    let before = topology.dropped("no-icc");
    unreachable(&one, (other.address, 80));
    server.assert_nobody_came();
    assert!(topology.dropped("no-icc") > before);
    reaches(&one, (HOST_ADDRESS, 8080), &server, one.address);
}

#[test]
fn networks_are_closed_to_each_other_but_for_published_ports() {
    let Some(topology) = Topology::start("con-networks") else {
        return;
    };
    topology.netdp("network create second");
    let one = topology.container("one", "");
    let other = topology.container("other", "--network second -p 8080:80 -p 5353:53/udp");
    let (server, dns) = (listen(&other, ANY, 80), udp(&other, ANY, 53));
    let before = topology.dropped("other-network");
    unreachable(&one, (other.address, 80));
    let client = udp(&one, ANY, 0);
    client.send_to(b"let me in", (other.address, 53)).unwrap();
    server.assert_nobody_came();
    says_nothing(&dns);
    assert!(topology.dropped("other-network") >= before + 2);

    reaches(&one, (HOST_ADDRESS, 8080), &server, one.address);
    asks(&one, (HOST_ADDRESS, 5353), &dns, one.address);

    // Until they share one.
    topology.netdp("connect second one");
    let near = connect(&one, (other.address, 80));
    talk(&near, &server.accept().0);
    topology.netdp("disconnect second one");
    unreachable(&one, (other.address, 80));
}

#[test]
fn an_internal_network_has_no_outside() {
    let Some(topology) = Topology::start("con-internal") else {
        return;
    };
    topology.netdp("network create inner --internal");
    let one = topology.container("one", "--network inner");
    let other = topology.container("other", "--network inner");
    let outside = listen(&topology.world.outside, ANY, 80);
    unreachable(&one, (netdp::demo::world::OUTSIDE_ADDRESS, 80));
    outside.assert_nobody_came();
    let server = listen(&other, ANY, 80);
    reaches(&one, (other.address, 80), &server, one.address);
}

#[test]
fn a_published_port_is_open_to_neighbours_and_to_oneself() {
    let Some(topology) = Topology::start("con-hairpin") else {
        return;
    };
    let one = topology.container("one", "");
    let other = topology.container("other", "-p 8080:80 -p 5353:53/udp");
    let (server, dns) = (listen(&other, ANY, 80), udp(&other, ANY, 53));
    for address in [HOST_ADDRESS, one.gateway] {
        reaches(&one, (address, 8080), &server, one.address);
        asks(&one, (address, 5353), &dns, one.address);
        // Its own address would be dropped as spoofed by its own stack.
        reaches(&other, (address, 8080), &server, other.gateway);
        asks(&other, (address, 5353), &dns, other.gateway);
    }
    // Directly and by the port at once, and again over the port.
    reaches(&one, (other.address, 80), &server, one.address);
    reaches(&one, (HOST_ADDRESS, 8080), &server, one.address);
}

/// As a kernel does with few ports left: the container then sees the same
/// addresses and ports as of the connection that is over.
#[test]
fn a_client_comes_back_another_way_from_the_same_port() {
    let Some(topology) = Topology::start("con-again") else {
        return;
    };
    let client = topology.container("guest", "");
    let server = topology.container("server", "-p 8080:80 -p 5353:53/udp");
    let (web, dns) = (listen(&server, ANY, 80), udp(&server, ANY, 53));
    let by_port = (HOST_ADDRESS, 8080);
    let by_gateway = (client.gateway, 8080);
    let directly = (server.address, 80);
    for (index, ways) in [
        [by_port, directly],
        [directly, by_port],
        [by_port, by_gateway],
        [by_gateway, directly],
    ]
    .into_iter()
    .enumerate()
    {
        for reset in [false, true] {
            let from = (ANY, 40_000 + 2 * index as u16 + u16::from(reset));
            for to in ways {
                let near = connect_from(&client, from, to);
                let (far, seen) = web.accept();
                assert_eq!(seen, SocketAddr::from((client.address, from.1)));
                talk(&near, &far);
                if reset {
                    abort(near);
                } else {
                    // The server first: the client's port is free at once.
                    drop(far);
                    drop(near);
                }
            }
        }
    }
    // The host, after the server itself, which its gateway's address stands in
    // for.
    for to in [by_port, by_gateway] {
        abort(connect_from(&server, (ANY, 41_000), to));
        drop(web.accept());
        let near = connect_from(&topology.host_program(), (ANY, 41_000), directly);
        talk(&near, &web.accept().0);
        abort(near);
    }
    let asker = udp(&client, ANY, 42_000);
    for to in [
        (HOST_ADDRESS, 5353),
        (server.address, 53),
        (client.gateway, 5353),
        (HOST_ADDRESS, 5353),
    ] {
        asker.send_to(b"unanswered", to).unwrap();
        hears(&dns, b"unanswered");
        asker.send_to(b"question", to).unwrap();
        let seen = hears(&dns, b"question");
        dns.send_to(b"answer", seen).unwrap();
        assert_eq!(hears(&asker, b"answer"), to.into());
    }
}

#[test]
fn services_of_the_host_are_open_at_the_gateway_and_the_hosts_address() {
    let Some(topology) = Topology::start("con-host") else {
        return;
    };
    let one = topology.container("one", "");
    let server = listen(&topology.world.host, ANY, 9000);
    let dns = udp(&topology.world.host, ANY, 9053);
    for address in [one.gateway, HOST_ADDRESS] {
        reaches(&one, (address, 9000), &server, one.address);
    }
    let client = udp(&one, ANY, 0);
    client.send_to(b"question", (one.gateway, 9053)).unwrap();
    let seen = hears(&dns, b"question");
    assert_eq!(seen.ip(), one.address);
    dns.send_to(b"answer", seen).unwrap();
    assert_eq!(hears(&client, b"answer"), (one.gateway, 9053).into());
    // The host reaches the container at its own address.
    let inside = listen(&one, ANY, 80);
    let near = connect(&topology.host_program(), (one.address, 80));
    talk(&near, &inside.accept().0);
}
