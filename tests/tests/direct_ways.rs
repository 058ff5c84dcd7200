//! How programs of a sandbox reach its own direct ports is forgotten with the
//! sandbox: the table of all sandboxes has room for so many.

use std::net::{Ipv4Addr, SocketAddr};

use aya::maps::{HashMap, Map, MapData};
use netdp::netns::Namespace;
use netdp_common::maps::{OwnPort, OwnWay};
use netdp_tests::{Reached, Topology, connect, listen};
use nix::sys::signal::{Signal, kill};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// Starts one that listens by TCP and UDP.
#[track_caller]
fn serve(topology: &Topology, name: &str, host_port: u16) {
    let ports = format!("-p {host_port}:80,direct -p {host_port}:53/udp,direct");
    let server = format!("{SERVER} 0.0.0.0:80 --udp 0.0.0.0:53");
    topology.netdp(&format!("run -d --name {name} {ports} -- {server}"));
    topology.wait_until("bound", || {
        topology.netdp(&format!("logs {name}")).lines().count() == 2
    });
}

/// Of how many ports it is known.
#[track_caller]
fn known(topology: &Topology) -> usize {
    let pin = topology.world.bpffs().join("netdp/maps/own_ways");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let map = HashMap::<_, OwnPort, OwnWay>::try_from(map).unwrap();
    map.keys().count()
}

#[test]
fn they_go_with_their_sandbox() {
    let Some(topology) = Topology::start("diw-gone") else {
        return;
    };
    serve(&topology, "stays", 8080);
    for _ in 0..3 {
        serve(&topology, "goes", 9090);
        assert_eq!(known(&topology), 4);
        topology.netdp("rm -f goes");
        assert_eq!(known(&topology), 2);
    }
}

#[test]
fn those_of_killed_supervisors_go_as_well() {
    let Some(mut topology) = Topology::start("diw-killed") else {
        return;
    };
    serve(&topology, "web", 8080);
    for supervisor in topology.supervisors() {
        kill(supervisor, Signal::SIGKILL).unwrap();
    }
    topology.world.kill_daemon();
    assert_eq!(known(&topology), 2);
    topology.start_daemon();
    assert_eq!(known(&topology), 2);
    topology.netdp("rm -f web");
    assert_eq!(known(&topology), 0);
}

/// Whom sockets were connected to is asked only once one was sent elsewhere, which
/// outlives daemons.
#[test]
fn who_was_led_elsewhere_is_told_whom_it_asked_for_also_by_the_next_daemon() {
    let Some(mut topology) = Topology::start("diw-peer") else {
        return;
    };
    serve(&topology, "direct", 8080);
    let near = topology.container("near", "-p 9090:90");
    let listener = listen(&near, near.address, 90);
    let published = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090));
    let of_host = connect(&topology.host_program(), published);
    listener.accept();
    let inside = Namespace::open(&topology.inspect("direct").netns).unwrap();
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let of_sandbox = connect(&Reached::new(&topology.world, &inside), own);
    for _ in 0..2 {
        assert_eq!(of_host.peer_addr().unwrap(), published);
        assert_eq!(of_sandbox.peer_addr().unwrap(), own);
        topology.world.kill_daemon();
        topology.start_daemon();
    }
}
