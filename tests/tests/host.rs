//! Programs of the host that use published ports.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netdp::demo::world::HOST_ADDRESS;
use netdp_tests::{
    Listener, SILENCE, Topology, connect, connect_within, hears, listen, says_nothing, talk,
    transfer, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[track_caller]
fn reaches(topology: &Topology, to: (Ipv4Addr, u16), listener: &Listener) {
    let near = connect(&topology.host_program(), to);
    let (far, _) = listener.accept();
    assert_eq!(near.peer_addr().unwrap(), SocketAddr::from(to));
    talk(&near, &far);
    transfer(&near, &far, 1 << 20);
}

/// The server's answer comes from where the client sent to.
#[track_caller]
fn asks(client: &UdpSocket, to: (Ipv4Addr, u16), server: &UdpSocket, words: &[u8]) {
    client.send_to(words, to).unwrap();
    let seen = hears(server, words);
    server.send_to(words, seen).unwrap();
    assert_eq!(hears(client, words), to.into());
}

#[test]
fn tcp_reaches_a_published_port_at_each_address_of_the_host() {
    let Some(topology) = Topology::start("host-tcp") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80");
    let listener = listen(&web, ANY, 80);
    let other_loopback = Ipv4Addr::new(127, 0, 0, 9);
    for address in [
        Ipv4Addr::LOCALHOST,
        other_loopback,
        HOST_ADDRESS,
        web.gateway,
    ] {
        reaches(&topology, (address, 8080), &listener);
    }
}

#[test]
fn a_port_on_one_address_is_there_alone() {
    let Some(topology) = Topology::start("host-address") else {
        return;
    };
    let web = topology.container(
        "web",
        &format!("-p {HOST_ADDRESS}:8080:80 -p 127.0.0.1:8081:80"),
    );
    let listener = listen(&web, ANY, 80);
    reaches(&topology, (HOST_ADDRESS, 8080), &listener);
    reaches(&topology, (Ipv4Addr::LOCALHOST, 8081), &listener);
    for to in [
        (Ipv4Addr::LOCALHOST, 8080),
        (HOST_ADDRESS, 8081),
        (web.gateway, 8080),
    ] {
        let connected = connect_within(&topology.host_program(), None, to, SILENCE);
        assert!(connected.is_err(), "{to:?} answers");
    }
    listener.assert_nobody_came();
}

#[test]
fn udp_is_answered_from_the_address_that_was_asked() {
    let Some(topology) = Topology::start("host-udp") else {
        return;
    };
    let dns = topology.container("dns", "-p 5353:53/udp -p 5454:54/udp");
    let (server, second) = (udp(&dns, ANY, 53), udp(&dns, ANY, 54));
    // One unconnected socket that speaks to all of them in turn.
    let client = udp(&topology.host_program(), ANY, 0);
    for _ in 0..2 {
        for address in [Ipv4Addr::LOCALHOST, HOST_ADDRESS, dns.gateway] {
            asks(&client, (address, 5353), &server, b"question");
            asks(&client, (address, 5454), &second, b"another");
        }
    }
    let connected = udp(&topology.host_program(), ANY, 0);
    connected.connect((Ipv4Addr::LOCALHOST, 5353)).unwrap();
    assert_eq!(
        connected.peer_addr().unwrap(),
        (Ipv4Addr::LOCALHOST, 5353).into()
    );
    connected.send(b"question").unwrap();
    let seen = hears(&server, b"question");
    server.send_to(b"answer", seen).unwrap();
    assert_eq!(
        hears(&connected, b"answer"),
        (Ipv4Addr::LOCALHOST, 5353).into()
    );

    let large: Vec<u8> = (0..4096_u32).map(|at| (at % 251) as u8).collect();
    asks(&client, (Ipv4Addr::LOCALHOST, 5353), &server, &large);
}

#[test]
fn after_unpublish_the_host_gets_no_further() {
    let Some(topology) = Topology::start("host-unpublish") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let (listener, server) = (listen(&web, ANY, 80), udp(&web, ANY, 53));
    reaches(&topology, (Ipv4Addr::LOCALHOST, 8080), &listener);
    let client = udp(&topology.host_program(), ANY, 0);
    asks(&client, (Ipv4Addr::LOCALHOST, 5353), &server, b"question");
    topology.netdp("unpublish web 8080:80 5353:53/udp");
    let to = (Ipv4Addr::LOCALHOST, 8080);
    assert!(connect_within(&topology.host_program(), None, to, SILENCE).is_err());
    let _ = client.send_to(b"question", (Ipv4Addr::LOCALHOST, 5353));
    says_nothing(&server);
    listener.assert_nobody_came();
}

#[test]
fn other_namespaces_have_their_own_loopback() {
    let Some(topology) = Topology::start("host-others") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80");
    let listener = listen(&web, ANY, 80);
    let to = (Ipv4Addr::LOCALHOST, 8080);
    assert!(connect_within(&topology.world.client, None, to, SILENCE).is_err());
    assert!(connect_within(&web, None, to, SILENCE).is_err());
    listener.assert_nobody_came();
}
