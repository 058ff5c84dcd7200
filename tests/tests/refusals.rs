//! What a program hears of packets that netdp refuses: that it is not allowed,
//! instead of nothing until it gives up. A connection hears it at its second
//! segment, a second later, where its own system call still holds the socket
//! while the answer to the first comes back (`tcp_v4_err`, net/ipv4/tcp_ipv4.c).

use std::io;
use std::net::Ipv4Addr;

use netdp::demo::world::OUTSIDE_ADDRESS;
use netdp_tests::{Container, PATIENCE, Topology, connect_from, connect_within, listen, talk, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[test]
fn a_connection_to_another_network_is_refused() {
    let Some(topology) = Topology::start("refusals-policy") else {
        return;
    };
    topology.netdp("network create other");
    let one = topology.container("one", "");
    let other = topology.container("other", "--network other");
    let _server = listen(&other, ANY, 80);
    let refused = connect_within(&one, None, (other.address, 80), PATIENCE);
    let error = refused.expect_err("networks are apart").kind();
    assert_eq!(error, io::ErrorKind::HostUnreachable);
    let socket = udp(&one, ANY, 0);
    socket.connect((other.address, 53)).unwrap();
    socket.send(b"anyone").unwrap();
    let error = socket.recv(&mut [0; 16]).expect_err("an error").kind();
    assert_eq!(error, io::ErrorKind::HostUnreachable);
    assert!(topology.dropped("other-network") >= 2);
}

#[test]
fn exhausted_ports_are_refused_until_one_is_free() {
    let Some(mut topology) = Topology::without_daemon("refusals-ports") else {
        return;
    };
    let config = topology.world.dir().join("netdp.toml");
    let text = "masquerade-ports = \"50000-50001\"\n[timeouts]\ntcp-transitory = 1\n";
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap()];
    topology.world.start_daemon(&args).unwrap();

    // All from one port to one server: the first keeps it, two get another.
    let containers = ["one", "two", "three", "four"].map(|name| topology.container(name, ""));
    let server = listen(&topology.world.outside, ANY, 80);
    let to = (OUTSIDE_ADDRESS, 80);
    let mut held: Vec<_> = containers[..3]
        .iter()
        .map(|container| {
            let near = connect_from(container, (ANY, 40_000), to);
            (near, server.accept().0)
        })
        .collect();
    let last = |container: &Container| connect_within(container, Some((ANY, 40_000)), to, PATIENCE);
    let error = last(&containers[3]).expect_err("no port is left").kind();
    assert_eq!(error, io::ErrorKind::HostUnreachable);
    assert!(topology.dropped("port-exhausted") >= 1);
    for (near, far) in &held {
        talk(near, far);
    }
    // Another server is another matter.
    let elsewhere = listen(&topology.world.outside, ANY, 81);
    let other = connect_from(&containers[3], (ANY, 40_001), (OUTSIDE_ADDRESS, 81));
    talk(&other, &elsewhere.accept().0);

    drop(held.pop());
    topology.wait_until("free again", || last(&containers[3]).is_ok());
    for (near, far) in &held {
        talk(near, far);
    }
}
