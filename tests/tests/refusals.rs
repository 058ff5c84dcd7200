//! What a program hears of packets that netdp refuses: that it is not allowed,
//! instead of nothing until it gives up. A connection hears it at its second
//! segment, a second later, where its own system call still holds the socket
//! while the answer to the first comes back (`tcp_v4_err`, net/ipv4/tcp_ipv4.c).

use std::io;

use netdp_tests::{
    Container, PATIENCE, SIDES, Side, Topology, connect_bound, connect_from, connect_within,
    listen, talk, udp,
};

/// What the kernel makes of 'administratively prohibited'.
fn prohibited(side: Side) -> io::ErrorKind {
    if side.is_v4() {
        io::ErrorKind::HostUnreachable
    } else {
        io::ErrorKind::PermissionDenied
    }
}

#[test]
fn a_connection_to_another_network_is_refused() {
    let Some(topology) = Topology::with_ipv6("refusals-policy") else {
        return;
    };
    topology.netdp("network create other --ipv6");
    let one = topology.container("one", "--network six");
    let other = topology.container("other", "--network other");
    for side in SIDES {
        let _server = listen(&other, side.any, 80);
        let refused = connect_within(&one, None, (side.address(&other), 80), PATIENCE);
        let error = refused.expect_err("networks are apart").kind();
        assert_eq!(error, prohibited(side));
        let socket = udp(&one, side.any, 0);
        socket.connect((side.address(&other), 53)).unwrap();
        socket.send(b"anyone").unwrap();
        let error = socket.recv(&mut [0; 16]).expect_err("an error").kind();
        assert_eq!(error, prohibited(side));
    }
    assert!(topology.dropped("other-network") >= 4);
}

#[test]
fn exhausted_ports_are_refused_until_one_is_free() {
    let Some(mut topology) = Topology::without_daemon("refusals-ports") else {
        return;
    };
    topology.world.add_ipv6().unwrap();
    let config = topology.world.dir().join("netdp.toml");
    let text = "masquerade-ports = \"50000-50001\"\n[timeouts]\ntcp-transitory = 1\n";
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap()];
    topology.world.start_daemon(&args).unwrap();
    topology.netdp("network create six --ipv6");
    let containers =
        ["one", "two", "three", "four"].map(|name| topology.container(name, "--network six"));
    for side in SIDES {
        exhaust(&topology, &containers, side);
    }
}

/// All from one port to one server: the first keeps it, two get another.
fn exhaust(topology: &Topology, containers: &[Container; 4], side: Side) {
    let dropped = topology.dropped("port-exhausted");
    let server = listen(&topology.world.outside, side.any, 80);
    let to = (side.outside, 80);
    let mut held: Vec<_> = containers[..3]
        .iter()
        .map(|container| {
            let near = connect_from(container, (side.any, 40_000), to);
            (near, server.accept().0)
        })
        .collect();
    let from = (side.any, 40_000).into();
    let last = || connect_bound(&containers[3], Some(from), to, PATIENCE);
    let error = last().expect_err("no port is left").kind();
    assert_eq!(error, prohibited(side));
    assert!(topology.dropped("port-exhausted") > dropped);
    for (near, far) in &held {
        talk(near, far);
    }
    // Another server is another matter.
    let elsewhere = listen(&topology.world.outside, side.any, 81);
    let other = connect_from(&containers[3], (side.any, 40_001), (side.outside, 81));
    talk(&other, &elsewhere.accept().0);

    drop(held.pop());
    topology.wait_until("free again", || last().is_ok());
    for (near, far) in &held {
        talk(near, far);
    }
}
