//! Containers that speak to the outside under the host's address.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS, set_sysctls};
use netdp_tests::{
    Container, Listener, PATIENCE, Place, Topology, connect, connect_from, connect_within,
    echo_socket, hears, listen, ping_through, says_nothing, talk, udp,
};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A connection from a chosen port of `place`, and the port the outside saw.
#[track_caller]
fn outward(
    place: &impl Place,
    from: (Ipv4Addr, u16),
    server: &Listener,
) -> (TcpStream, TcpStream, u16) {
    let near = connect_from(place, from, (OUTSIDE_ADDRESS, server.port()));
    let (far, seen) = server.accept();
    assert_eq!(seen.ip(), HOST_ADDRESS);
    talk(&near, &far);
    (near, far, seen.port())
}

#[track_caller]
fn asks(client: &UdpSocket, server: &UdpSocket, words: &[u8]) -> u16 {
    let to = SocketAddr::from((OUTSIDE_ADDRESS, server.local_addr().unwrap().port()));
    client.send_to(words, to).unwrap();
    let seen = hears(server, words);
    assert_eq!(seen.ip(), HOST_ADDRESS);
    server.send_to(words, seen).unwrap();
    assert_eq!(hears(client, words), to);
    seen.port()
}

fn allow_echo(container: &Container) {
    set_sysctls(&container.namespace, &[("ipv4/ping_group_range", "0 0")]).unwrap();
}

#[test]
fn a_container_leaves_under_the_hosts_address_and_its_own_port() {
    let Some(topology) = Topology::start("masq-ports") else {
        return;
    };
    let container = topology.container("one", "");
    let server = listen(&topology.world.outside, ANY, 80);
    let (_near, _far, port) = outward(&container, (ANY, 41_000), &server);
    assert_eq!(port, 41_000);

    let server = udp(&topology.world.outside, ANY, 53);
    let client = udp(&container, ANY, 41_000);
    for _ in 0..3 {
        assert_eq!(asks(&client, &server, b"who is there"), 41_000);
    }
    let kinds: Vec<_> = topology
        .flows()
        .into_iter()
        .map(|flow| (flow.protocol, flow.kind, flow.container))
        .collect();
    for protocol in ["tcp", "udp"] {
        let socket = Some(SocketAddr::from((container.address, 41_000)));
        let wanted = (protocol.to_owned(), "masquerade".to_owned(), socket);
        assert!(kinds.contains(&wanted), "{kinds:?}");
    }
}

#[test]
fn ping_is_answered_to_whom_asked() {
    let Some(topology) = Topology::start("masq-ping") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    allow_echo(&one);
    allow_echo(&other);
    // Both under one identifier.
    let (first, second) = (echo_socket(&one, 77), echo_socket(&other, 77));
    for sequence in 1..4 {
        for (socket, payload) in [(&first, &b"of one"[..]), (&second, b"of the other")] {
            ping_through(socket, OUTSIDE_ADDRESS, sequence, payload);
        }
    }
    // The gateway, the host, and each other.
    for to in [one.gateway, HOST_ADDRESS, other.address] {
        ping_through(&first, to, 9, b"near by");
    }
}

#[test]
fn containers_may_use_the_same_port_to_the_same_server() {
    let Some(topology) = Topology::start("masq-collision") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let server = listen(&topology.world.outside, ANY, 80);
    let (near, far, port) = outward(&one, (ANY, 42_000), &server);
    let (other_near, other_far, other_port) = outward(&other, (ANY, 42_000), &server);
    assert_eq!(port, 42_000);
    assert_ne!(other_port, port);
    for _ in 0..3 {
        talk(&near, &far);
        talk(&other_near, &other_far);
    }

    let server = udp(&topology.world.outside, ANY, 53);
    let (client, other_client) = (udp(&one, ANY, 42_000), udp(&other, ANY, 42_000));
    assert_eq!(asks(&client, &server, b"from one"), 42_000);
    let changed = asks(&other_client, &server, b"from the other");
    assert_ne!(changed, 42_000);
    assert_eq!(changed % 2, 0, "parity is kept (RFC 4787, REQ-4)");
    assert_eq!(asks(&client, &server, b"one again"), 42_000);
    assert_eq!(asks(&other_client, &server, b"the other again"), changed);
}

#[test]
fn the_hosts_own_connection_keeps_its_port_from_a_container() {
    let Some(topology) = Topology::start("masq-host-first") else {
        return;
    };
    let container = topology.container("one", "");
    let server = listen(&topology.world.outside, ANY, 80);
    let (near, far, port) = outward(&topology.host_program(), (HOST_ADDRESS, 43_000), &server);
    assert_eq!(port, 43_000);
    let (other_near, other_far, other_port) = outward(&container, (ANY, 43_000), &server);
    assert_ne!(other_port, 43_000);
    talk(&near, &far);
    talk(&other_near, &other_far);

    let server = udp(&topology.world.outside, ANY, 53);
    let host = udp(&topology.host_program(), ANY, 43_000);
    let client = udp(&container, ANY, 43_000);
    assert_eq!(asks(&host, &server, b"from the host"), 43_000);
    assert_ne!(asks(&client, &server, b"from a container"), 43_000);
    assert_eq!(asks(&host, &server, b"the host again"), 43_000);
}

#[test]
fn the_host_may_use_a_port_that_a_container_has() {
    let Some(topology) = Topology::start("masq-host-after") else {
        return;
    };
    let container = topology.container("one", "");
    let server = listen(&topology.world.outside, ANY, 80);
    let (near, far, port) = outward(&container, (ANY, 44_000), &server);
    assert_eq!(port, 44_000);
    let (host_near, host_far, _) =
        outward(&topology.host_program(), (HOST_ADDRESS, 44_000), &server);
    for _ in 0..3 {
        talk(&near, &far);
        talk(&host_near, &host_far);
    }

    let server = udp(&topology.world.outside, ANY, 53);
    let client = udp(&container, ANY, 44_000);
    assert_eq!(asks(&client, &server, b"from a container"), 44_000);
    let host = udp(&topology.host_program(), ANY, 44_000);
    for _ in 0..3 {
        asks(&host, &server, b"from the host");
        assert_eq!(asks(&client, &server, b"a container again"), 44_000);
    }
}

#[test]
fn a_port_on_which_the_host_listens_is_never_taken() {
    let Some(topology) = Topology::start("masq-listen") else {
        return;
    };
    let container = topology.container("one", "-p 45002:80");
    let _service = listen(&topology.world.host, ANY, 45_000);
    let _here = listen(&topology.world.host, HOST_ADDRESS, 45_001);
    let _udp = udp(&topology.world.host, ANY, 45_000);
    let server = listen(&topology.world.outside, ANY, 80);
    // Listened on, and published.
    for taken in [45_000, 45_001, 45_002] {
        let (_near, _far, port) = outward(&container, (ANY, taken), &server);
        assert!(!(45_000..=45_002).contains(&port), "{port}");
    }
    let server = udp(&topology.world.outside, ANY, 53);
    let client = udp(&container, ANY, 45_000);
    assert_ne!(asks(&client, &server, b"who is there"), 45_000);
}

/// RFC 4787, REQ-2: pooling 'paired'.
#[test]
fn with_several_addresses_a_container_has_one_outside() {
    let Some(mut topology) = Topology::without_daemon("masq-paired") else {
        return;
    };
    let added = "address add 203.0.113.7/32 dev eth0\naddress add 203.0.113.8/32 dev eth0\n";
    topology.ip(&topology.world.host, added);
    topology.start_daemon();
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let server = listen(&topology.world.outside, ANY, 80);
    let answerer = udp(&topology.world.outside, ANY, 53);
    let near = udp(&topology.world.client, ANY, 53);
    for container in [&one, &other] {
        for _ in 0..8 {
            // Each says that it is seen as the main address.
            outward(container, (ANY, 0), &server);
            asks(&udp(container, ANY, 0), &answerer, b"who is there");
            let client = udp(container, ANY, 0);
            client.send_to(b"near", (CLIENT_ADDRESS, 53)).unwrap();
            assert_eq!(hears(&near, b"near").ip(), HOST_ADDRESS);
        }
    }
}

/// The attack of the kernel's own test (`port_shadow` of
/// tools/testing/selftests/net/netfilter/nft_nat.sh): a container sends from
/// the port of a service to a client's, to get what the client asks for.
#[test]
fn no_container_shadows_a_service() {
    let Some(topology) = Topology::start("masq-shadow") else {
        return;
    };
    let container = topology.container("one", "");
    let web = topology.container("web", "");
    let world = &topology.world;
    let client = udp(&world.client, ANY, 41_404);
    // The service is there, comes later, is published later.
    let here = udp(&world.host, ANY, 1_405);
    let fakes = [1_405, 1_406, 1_407].map(|port| {
        let fake = udp(&container, ANY, port);
        fake.send_to(b"fake", (CLIENT_ADDRESS, 41_404)).unwrap();
        let seen = hears(&client, b"fake");
        assert_eq!(seen.port() == port, port != 1_405);
        fake
    });
    let later = udp(&world.host, ANY, 1_406);
    topology.netdp("publish web 1407:53/udp");
    let published = udp(&web, ANY, 53);
    for (port, service) in [(1_405, &here), (1_406, &later), (1_407, &published)] {
        client.send_to(b"question", (HOST_ADDRESS, port)).unwrap();
        let from = hears(service, b"question");
        service.send_to(b"answer", from).unwrap();
        assert_eq!(hears(&client, b"answer"), (HOST_ADDRESS, port).into());
    }
    for fake in &fakes {
        says_nothing(fake);
    }

    let refused = connect_within(
        &container,
        Some((ANY, 1_408)),
        (CLIENT_ADDRESS, 41_404),
        PATIENCE,
    );
    assert!(refused.is_err());
    let service = listen(&world.host, ANY, 1_408);
    let near = connect_from(&world.client, (ANY, 41_404), (HOST_ADDRESS, 1_408));
    talk(&near, &service.accept().0);
}

#[test]
fn large_datagrams_leave_and_come_back_in_fragments() {
    let Some(topology) = Topology::start("masq-fragments") else {
        return;
    };
    let container = topology.container("one", "");
    let server = udp(&topology.world.outside, ANY, 7);
    let client = udp(&container, ANY, 0);
    for length in [1473, 4096, 60_000] {
        let datagram: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
        asks(&client, &server, &datagram);
    }
}

#[test]
fn who_serves_a_published_port_may_speak_first_from_it() {
    let Some(topology) = Topology::start("masq-server") else {
        return;
    };
    let dns = topology.container("dns", "-p 5353:53/udp -p 8080:80");
    let upstream = udp(&topology.world.outside, ANY, 53);
    let server = udp(&dns, ANY, 53);
    for _ in 0..3 {
        asks(&server, &upstream, b"forwarded");
    }
    let client = udp(&topology.world.client, ANY, 0);
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    let seen = hears(&server, b"question");
    server.send_to(b"answer", seen).unwrap();
    assert_eq!(hears(&client, b"answer"), (HOST_ADDRESS, 5353).into());

    let web = listen(&topology.world.outside, ANY, 80);
    let (near, far, _) = outward(&dns, (ANY, 80), &web);
    talk(&near, &far);
}

/// Who says that a datagram to the outside with this TTL came to its end.
#[track_caller]
fn hop(container: &Container, ttl: u8) -> Ipv4Addr {
    const TIME_EXCEEDED: u8 = 11;
    let socket = udp(container, ANY, 0);
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    socket.set_ttl(ttl.into()).unwrap();
    socket
        .send_to(b"how far", (OUTSIDE_ADDRESS, 33_434))
        .unwrap();
    let mut offender = None;
    for _ in 0..200 {
        let mut payload = [0; 64];
        let mut parts = [IoSliceMut::new(&mut payload)];
        let mut space = nix::cmsg_space!([u8; 64]);
        let queue = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let read = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), queue);
        if let Ok(message) = read {
            for control in message.cmsgs().unwrap() {
                if let ControlMessageOwned::Ipv4RecvErr(error, Some(from)) = control {
                    assert_eq!(error.ee_type, TIME_EXCEEDED);
                    offender = Some(*SocketAddrV4::from(SockaddrIn::from(from)).ip());
                }
            }
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    offender.expect("a message that the time was exceeded")
}

#[test]
fn the_gateway_is_the_first_hop() {
    let Some(topology) = Topology::start("masq-ttl") else {
        return;
    };
    let container = topology.container("one", "");
    assert_eq!(hop(&container, 1), container.gateway);
}

fn link_mtu(container: &Container) -> u32 {
    let mut ip: Command = container.namespace.command("ip");
    let output = ip.args(["-j", "link", "show", "eth0"]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["mtu"].as_u64().unwrap() as u32
}

#[test]
fn a_networks_mtu_is_its_containers() {
    let Some(topology) = Topology::start("masq-mtu") else {
        return;
    };
    topology.netdp("network create small --mtu 1400");
    let container = topology.container("one", "--network small -p 8080:80");
    assert_eq!(link_mtu(&container), 1400);
    assert_eq!(link_mtu(&topology.container("usual", "")), 1500);

    const LENGTH: u64 = 4 << 20;
    let server = listen(&topology.world.outside, ANY, 80);
    let near = connect(&container, (OUTSIDE_ADDRESS, 80));
    netdp_tests::transfer(&near, &server.accept().0, LENGTH);
    let server = listen(&container, ANY, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    netdp_tests::transfer(&near, &server.accept().0, LENGTH);
}

#[test]
fn a_narrower_uplink_is_found_out_about() {
    let Some(topology) = Topology::start("masq-pmtu") else {
        return;
    };
    let world = &topology.world;
    topology.ip(&world.host, "link set eth0 mtu 1300\n");
    topology.ip(&world.client, "link set wire0 mtu 1300\n");
    let container = topology.container("one", "-p 8080:80");
    const LENGTH: u64 = 4 << 20;
    let server = listen(&world.outside, ANY, 80);
    let near = connect(&container, (OUTSIDE_ADDRESS, 80));
    netdp_tests::transfer(&near, &server.accept().0, LENGTH);
    let server = listen(&container, ANY, 80);
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    netdp_tests::transfer(&near, &server.accept().0, LENGTH);
}
