//! Addresses that go to another container while conversations of the one
//! before are still remembered.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{Topology, abort, connect_from, hears, listen, talk, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);

fn start(name: &str) -> Option<Topology> {
    let topology = Topology::start(name)?;
    topology.netdp("network create net --subnet 10.77.0.0/24");
    Some(topology)
}

#[track_caller]
fn asks(client: &UdpSocket, to: (Ipv4Addr, u16), server: &UdpSocket) {
    let to = SocketAddr::from(to);
    for _ in 0..3 {
        client.send_to(b"question", to).unwrap();
        let seen = hears(server, b"question");
        server.send_to(b"answer", seen).unwrap();
        assert_eq!(hears(client, b"answer"), to);
    }
}

#[test]
fn the_next_container_speaks_outside_from_the_same_port() {
    let Some(topology) = start("reuse-out") else {
        return;
    };
    let clock = udp(&topology.world.outside, ANY, 123);
    for name in ["first", "second"] {
        let container = topology.container(name, &format!("--network net --ip {ADDRESS}"));
        let counters = topology.statistics().endpoints.remove(0);
        assert!(counters.tx_packets < 5, "counters of another: {counters:?}");
        let client = udp(&container, ANY, 123);
        asks(&client, (OUTSIDE_ADDRESS, 123), &clock);
        topology.netdp(&format!("rm {name}"));
        assert_eq!(topology.flows(), [], "flows of nobody");
    }
}

#[test]
fn the_next_container_asks_a_published_port_from_the_same_port() {
    let Some(topology) = start("reuse-hairpin") else {
        return;
    };
    let dns = topology.container("dns", "-p 5353:53/udp");
    let server = udp(&dns, ANY, 53);
    for name in ["first", "second"] {
        let container = topology.container(name, &format!("--network net --ip {ADDRESS}"));
        let client = udp(&container, ANY, 4000);
        asks(&client, (HOST_ADDRESS, 5353), &server);
        topology.netdp(&format!("rm {name}"));
    }
}

#[test]
fn the_next_container_is_published_elsewhere() {
    let Some(topology) = start("reuse-published") else {
        return;
    };
    let client = udp(&topology.world.client, CLIENT_ADDRESS, 4000);
    let other = topology.container("other", "");
    let neighbour = udp(&other, ANY, 4000);
    for (name, port) in [("first", 5353), ("second", 5454)] {
        let options = format!("--network net --ip {ADDRESS} -p {port}:53/udp -p {port}:80");
        let container = topology.container(name, &options);
        let server = udp(&container, ANY, 53);
        asks(&client, (HOST_ADDRESS, port), &server);
        asks(&neighbour, (HOST_ADDRESS, port), &server);

        let listener = listen(&container, ANY, 80);
        let from = (CLIENT_ADDRESS, 4001);
        let near = connect_from(&topology.world.client, from, (HOST_ADDRESS, port));
        talk(&near, &listener.accept().0);
        // The datapath never learns that it is over.
        topology.netdp(&format!("rm {name}"));
        abort(near);
    }
}
