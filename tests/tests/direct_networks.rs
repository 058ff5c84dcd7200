//! Direct ports of a sandbox on several networks: they are at its address on the
//! one that they are published by.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netdp::demo::world::HOST_ADDRESS;
use netdp::netns::Namespace;
use netdp_tests::{Place, Reached, SILENCE, Topology, connect, connect_within};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// The server's own name, as it says.
#[track_caller]
fn server(from: &impl Place, to: (Ipv4Addr, u16)) -> SocketAddr {
    let stream = connect(from, to);
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let (local, _) = line.trim().split_once(' ').expect("two names");
    local.parse().unwrap()
}

/// A sandbox `web` on an internal network and, by a later interface, on one that
/// leads outside, by which port 80 is published. Its addresses in this order.
#[track_caller]
fn on_two_networks(topology: &Topology, script: &str) -> [Ipv4Addr; 2] {
    topology.netdp("network create --internal back");
    topology.netdp("network create front");
    let file = topology.world.dir().join("web.sh");
    std::fs::write(&file, script).unwrap();
    let words = format!(
        "run -d --name web -p 8080:80,direct -- sh {}",
        file.display()
    );
    topology.netdp(&words);
    topology.netdp("connect back web");
    topology.netdp("connect front web");
    topology.netdp("disconnect netdp0 web");
    let endpoints = topology.inspect("web").endpoints;
    assert_eq!([endpoints[0].ports.len(), endpoints[1].ports.len()], [0, 1]);
    [0, 1].map(|at| match endpoints[at].addresses[0].addr() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} first"),
    })
}

#[test]
fn a_sandbox_on_an_internal_network_too_reaches_itself() {
    let Some(topology) = Topology::start("din-self") else {
        return;
    };
    let go = topology.world.dir().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; {SERVER} 0.0.0.0:80",
        go.display()
    );
    let [back, own] = on_two_networks(&topology, &script);
    std::fs::write(&go, "").unwrap();
    topology.wait_until("listening", || !topology.netdp("logs web").is_empty());
    assert_eq!(
        server(&topology.world.client, (HOST_ADDRESS, 8080)),
        (own, 80).into()
    );
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    let inside = Reached::new(&topology.world, &inside);
    for to in [Ipv4Addr::LOCALHOST, own] {
        assert_eq!(server(&inside, (to, 80)), (own, 80).into(), "{to}");
    }
    let neighbour = topology.container("near", "--network back");
    let elsewhere = SocketAddr::from((back, 80));
    assert!(connect_within(&neighbour, None, elsewhere, SILENCE).is_err());
}

#[test]
fn who_listens_at_an_address_that_nothing_is_published_at_stays_there() {
    let Some(topology) = Topology::start("din-back") else {
        return;
    };
    let go = topology.world.dir().join("go");
    let script = format!(
        "while [ ! -e {0} ]; do sleep 0.05; done; {SERVER} $(cat {0}):80",
        go.display()
    );
    let [back, _] = on_two_networks(&topology, &script);
    let made = topology.world.dir().join("made");
    std::fs::write(&made, back.to_string()).unwrap();
    std::fs::rename(&made, &go).unwrap();
    topology.wait_until("listening", || !topology.netdp("logs web").is_empty());
    let neighbour = topology.container("near", "--network back");
    assert_eq!(server(&neighbour, (back, 80)), (back, 80).into());
}
