//! Networks with endpoint-independent mapping: what peer-to-peer programs find
//! out about their address, and who can send to it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{Topology, hears, says_nothing, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Asks a server, as STUN does, under which address and port it sees a socket.
#[track_caller]
fn seen_by(server: &UdpSocket, at: Ipv4Addr, socket: &UdpSocket) -> SocketAddr {
    let to = SocketAddr::from((at, server.local_addr().unwrap().port()));
    socket.send_to(b"who am I", to).unwrap();
    let seen = hears(server, b"who am I");
    server.send_to(b"you", seen).unwrap();
    assert_eq!(hears(socket, b"you"), to);
    assert_eq!(seen.ip(), HOST_ADDRESS);
    seen
}

#[test]
fn a_full_cone_has_one_port_and_takes_what_anybody_sends() {
    let Some(topology) = Topology::start("map-cone") else {
        return;
    };
    topology.netdp("network create cone --opt nat=endpoint-independent");
    let container = topology.container("one", "--network cone");
    let world = &topology.world;
    // The host's own, so that the port has to be another.
    let _taken = udp(&world.host, ANY, 46_000);
    let (far, near) = (
        udp(&world.outside, ANY, 3478),
        udp(&world.client, ANY, 3478),
    );
    for own in [46_000, 46_002] {
        let socket = udp(&container, ANY, own);
        let seen = seen_by(&far, OUTSIDE_ADDRESS, &socket);
        assert_eq!(seen.port() == own, own == 46_002);
        assert_eq!(seen_by(&near, CLIENT_ADDRESS, &socket), seen);

        // From ports, and in the other test addresses, not sent to.
        for place in [&world.outside, &world.client] {
            let stranger = udp(place, ANY, 0);
            stranger.send_to(b"hello", seen).unwrap();
            let from = hears(&socket, b"hello");
            socket.send_to(b"welcome", from).unwrap();
            assert_eq!(hears(&stranger, b"welcome"), seen);
        }
    }
}

#[test]
fn a_stranger_gets_into_a_full_cone_only() {
    let Some(topology) = Topology::start("map-filter") else {
        return;
    };
    topology.netdp("network create cone --opt nat=endpoint-independent");
    topology.netdp("network create filtered --opt nat=endpoint-independent-mapping");
    let world = &topology.world;
    topology.netdp("network create usual");
    let far = udp(&world.outside, ANY, 3478);
    for (network, gets_in) in [("cone", true), ("filtered", false), ("usual", false)] {
        let name = format!("in-{network}");
        let container = topology.container(&name, &format!("--network {network}"));
        let socket = udp(&container, ANY, 47_000);
        let seen = seen_by(&far, OUTSIDE_ADDRESS, &socket);
        // Another address than the one that was sent to.
        let stranger = udp(&world.client, ANY, 0);
        stranger.send_to(b"hello", seen).unwrap();
        if gets_in {
            let from = hears(&socket, b"hello");
            assert_eq!(from.ip(), CLIENT_ADDRESS);
        } else {
            says_nothing(&socket);
        }
        // Another port of that address: a mapping takes it, a flow does not.
        let other = udp(&world.outside, ANY, 0);
        other.send_to(b"it's me", seen).unwrap();
        if network == "usual" {
            says_nothing(&socket);
        } else {
            hears(&socket, b"it's me");
        }
        topology.netdp(&format!("rm {name}"));
    }
}

#[test]
fn two_behind_one_host_meet_by_their_outside_addresses() {
    let Some(topology) = Topology::start("map-hairpin") else {
        return;
    };
    topology.netdp("network create cone --opt nat=endpoint-independent");
    topology.netdp("network create other --opt nat=endpoint-independent-mapping");
    let world = &topology.world;
    let server = udp(&world.outside, ANY, 3478);
    let behind_cone = topology.container("one", "--network cone");
    let behind_other = topology.container("other", "--network other");
    let behind_usual = topology.container("usual", "");
    let one = udp(&behind_cone, ANY, 48_000);
    let other = udp(&behind_other, ANY, 48_000);
    let one_seen = seen_by(&server, OUTSIDE_ADDRESS, &one);
    let other_seen = seen_by(&server, OUTSIDE_ADDRESS, &other);
    assert_ne!(one_seen, other_seen);
    other.send_to(b"from the other", one_seen).unwrap();
    assert_eq!(hears(&one, b"from the other"), other_seen);
    one.send_to(b"from one", other_seen).unwrap();
    assert_eq!(hears(&other, b"from one"), one_seen);

    // One that has the usual NAT reaches the mapping, too.
    let usual = udp(&behind_usual, ANY, 48_001);
    usual.send_to(b"from the usual", one_seen).unwrap();
    let from = hears(&one, b"from the usual");
    assert_eq!(from.ip(), HOST_ADDRESS);
    one.send_to(b"back", from).unwrap();
    assert_eq!(hears(&usual, b"back"), one_seen);
}

#[test]
fn an_unknown_kind_of_nat_is_refused_by_its_name() {
    let Some(topology) = Topology::start("map-refused") else {
        return;
    };
    let said = topology.refused("network create odd --opt nat=symmetric");
    for part in [
        "nat=symmetric",
        "address-and-port-dependent",
        "endpoint-independent-mapping",
        "endpoint-independent",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
