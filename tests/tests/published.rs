//! Published ports as the outside sees them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{
    Listener, SILENCE, Topology, bind_port, connect, connect_within, hears, listen, says_nothing,
    talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);

/// A host that has two addresses on its uplink.
fn two_addresses(name: &str) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    let line = format!("addr add {OTHER_ADDRESS}/24 dev eth0\n");
    topology.ip(&topology.world.host, &line);
    topology.start_daemon();
    Some(topology)
}

/// A connection to `to` arrives at `listener` from `from` itself.
#[track_caller]
fn reaches(from: &Namespace, address: Ipv4Addr, to: (Ipv4Addr, u16), listener: &Listener) {
    let near = connect(from, to);
    let (far, seen) = listener.accept();
    assert_eq!(near.peer_addr().unwrap(), SocketAddr::from(to));
    assert_eq!(seen, near.local_addr().unwrap());
    assert_eq!(seen.ip(), address);
    talk(&near, &far);
}

#[track_caller]
fn unreachable(from: &Namespace, to: (Ipv4Addr, u16)) {
    if connect_within(from, None, to, SILENCE).is_ok() {
        panic!("{to:?} answers");
    }
}

#[test]
fn tcp_arrives_with_the_clients_own_address() {
    let Some(topology) = Topology::start("pub-tcp") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "-p 8080:80");
    let listener = listen(&web, ANY, 80);
    reaches(
        &world.client,
        CLIENT_ADDRESS,
        (HOST_ADDRESS, 8080),
        &listener,
    );
    reaches(
        &world.outside,
        OUTSIDE_ADDRESS,
        (HOST_ADDRESS, 8080),
        &listener,
    );
    // What the container itself listens on is not the host's.
    unreachable(&world.client, (HOST_ADDRESS, 80));
}

#[test]
fn udp_arrives_with_the_clients_own_address() {
    let Some(topology) = Topology::start("pub-udp") else {
        return;
    };
    let dns = topology.container("dns", "-p 5353:53/udp");
    let server = udp(&dns, ANY, 53);
    for (place, address) in [
        (&topology.world.client, CLIENT_ADDRESS),
        (&topology.world.outside, OUTSIDE_ADDRESS),
    ] {
        let client = udp(place, ANY, 0);
        let to = (HOST_ADDRESS, 5353);
        for question in [&b"first"[..], b"second", b""] {
            client.send_to(question, to).unwrap();
            let seen = hears(&server, question);
            assert_eq!(seen.ip(), address);
            assert_eq!(seen.port(), client.local_addr().unwrap().port());
            server.send_to(question, seen).unwrap();
            assert_eq!(hears(&client, question), to.into());
        }
    }
}

#[test]
fn ranges_lead_port_by_port_and_a_chosen_port_is_told() {
    let Some(topology) = Topology::start("pub-range") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "-p 8000-8002:80-82 -p 90 -p 7000-7001:91");
    for offset in 0..3 {
        let listener = listen(&web, ANY, 80 + offset);
        let to = (HOST_ADDRESS, 8000 + offset);
        reaches(&world.client, CLIENT_ADDRESS, to, &listener);
    }
    for (inside, range) in [(90, 49153..=65535), (91, 7000..=7001)] {
        let listener = listen(&web, ANY, inside);
        let told = topology.netdp(&format!("port web {inside}/tcp"));
        let told: SocketAddr = told.trim().parse().unwrap();
        assert!(range.contains(&told.port()), "{told}");
        let to = (HOST_ADDRESS, told.port());
        reaches(&world.client, CLIENT_ADDRESS, to, &listener);
    }
}

#[test]
fn a_port_on_one_address_is_not_on_another() {
    let Some(topology) = two_addresses("pub-address") else {
        return;
    };
    let world = &topology.world;
    let one = topology.container("one", &format!("-p {HOST_ADDRESS}:8080:80"));
    let other = topology.container("other", &format!("-p {OTHER_ADDRESS}:8080:80 -p 8081:80"));
    let first = listen(&one, ANY, 80);
    let second = listen(&other, ANY, 80);
    reaches(&world.client, CLIENT_ADDRESS, (HOST_ADDRESS, 8080), &first);
    reaches(
        &world.client,
        CLIENT_ADDRESS,
        (OTHER_ADDRESS, 8080),
        &second,
    );
    // The wildcard's main address, and the other, whose way back needs a flow.
    reaches(&world.client, CLIENT_ADDRESS, (HOST_ADDRESS, 8081), &second);
    reaches(
        &world.client,
        CLIENT_ADDRESS,
        (OTHER_ADDRESS, 8081),
        &second,
    );

    topology.netdp(&format!("unpublish other {OTHER_ADDRESS}:8080:80"));
    unreachable(&world.client, (OTHER_ADDRESS, 8080));
    reaches(&world.client, CLIENT_ADDRESS, (HOST_ADDRESS, 8080), &first);
    first.assert_nobody_came();
    second.assert_nobody_came();
}

#[test]
fn udp_answers_from_the_address_that_was_asked() {
    let Some(topology) = two_addresses("pub-udp-address") else {
        return;
    };
    let dns = topology.container("dns", "-p 5353:53/udp");
    let server = udp(&dns, ANY, 53);
    for address in [HOST_ADDRESS, OTHER_ADDRESS] {
        let client = udp(&topology.world.client, ANY, 0);
        let to = (address, 5353);
        for round in [b"1", b"2", b"3"] {
            client.send_to(round, to).unwrap();
            let seen = hears(&server, round);
            server.send_to(round, seen).unwrap();
            assert_eq!(hears(&client, round), to.into());
        }
    }
}

#[test]
fn a_port_on_loopback_is_for_the_host_alone() {
    let Some(topology) = Topology::start("pub-loopback") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "-p 127.0.0.1:8080:80 -p 127.0.0.1:5353:53/udp");
    let listener = listen(&web, ANY, 80);
    let server = udp(&web, ANY, 53);
    let near = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    talk(&near, &listener.accept().0);

    // Also for a neighbour that sends 127.0.0.1 over the wire.
    topology.ip(
        &world.client,
        &format!("route add 127.0.0.1/32 via {HOST_ADDRESS} table 100\nrule add to 127.0.0.1 lookup 100 pref 1\n"),
    );
    for address in [HOST_ADDRESS, web.address, Ipv4Addr::LOCALHOST] {
        unreachable(&world.client, (address, 8080));
        let client = udp(&world.client, CLIENT_ADDRESS, 0);
        // The kernel may refuse to send it at all.
        let _ = client.send_to(b"let me in", (address, 5353));
    }
    listener.assert_nobody_came();
    says_nothing(&server);
}

#[test]
fn a_taken_port_is_refused_with_its_owner_and_a_published_one_is_held() {
    let Some(topology) = Topology::start("pub-taken") else {
        return;
    };
    let world = &topology.world;
    let _web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let other = topology.container("other", "");
    let refusal = topology.refused("publish other 8080:80");
    assert!(refusal.contains("address already in use"), "{refusal}");
    assert!(refusal.contains("web"), "{refusal}");
    // Another protocol's port is another port.
    topology.netdp("publish other 8080:80/udp");

    let held = bind_port(&world.host, ANY, 8080).unwrap_err();
    assert_eq!(held.kind(), std::io::ErrorKind::AddrInUse);

    let service = listen(&world.host, ANY, 9090);
    let refusal = topology.refused("publish other 9090:80");
    assert!(refusal.contains("address already in use"), "{refusal}");
    drop(service);
    // A process that another test starts has it, too, until it runs.
    topology.wait_until("free", || bind_port(&world.host, ANY, 9090).is_ok());
    topology.netdp("publish other 9090:80");
    let listener = listen(&other, ANY, 80);
    reaches(
        &world.client,
        CLIENT_ADDRESS,
        (HOST_ADDRESS, 9090),
        &listener,
    );
}

#[test]
fn unpublish_works_from_the_next_packet_on() {
    let Some(topology) = Topology::start("pub-unpublish") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let listener = listen(&web, ANY, 80);
    let mut near = connect(&world.client, (HOST_ADDRESS, 8080));
    let (mut far, _) = listener.accept();
    talk(&near, &far);
    let server = udp(&web, ANY, 53);
    let client = udp(&world.client, ANY, 0);
    client.send_to(b"before", (HOST_ADDRESS, 5353)).unwrap();
    hears(&server, b"before");

    topology.netdp("unpublish web 8080:80 5353:53/udp");
    client.send_to(b"after", (HOST_ADDRESS, 5353)).unwrap();
    near.write_all(b"after").unwrap();
    says_nothing(&server);
    far.set_read_timeout(Some(SILENCE)).unwrap();
    let mut heard = [0; 8];
    match far.read(&mut heard) {
        Ok(0) | Err(_) => {}
        Ok(length) => panic!("the container heard {}", heard[..length].escape_ascii()),
    }
    unreachable(&world.client, (HOST_ADDRESS, 8080));
    // The port is anybody's again.
    listen(&world.host, ANY, 8080);
}

#[test]
fn a_neighbour_with_a_route_to_the_containers_stays_outside() {
    let Some(topology) = Topology::start("pub-neighbour") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let listener = listen(&web, ANY, 80);
    let server = udp(&web, ANY, 53);
    topology.ip(
        &world.client,
        &format!("route add {}/32 via {HOST_ADDRESS}\n", web.address),
    );
    let before = topology.dropped("not-published");
    unreachable(&world.client, (web.address, 80));
    let client = udp(&world.client, ANY, 0);
    client.send_to(b"let me in", (web.address, 53)).unwrap();
    listener.assert_nobody_came();
    says_nothing(&server);
    assert!(topology.dropped("not-published") >= before + 2);
    // By the front door.
    reaches(
        &world.client,
        CLIENT_ADDRESS,
        (HOST_ADDRESS, 8080),
        &listener,
    );
}

#[test]
fn large_datagrams_pass_in_fragments() {
    let Some(topology) = Topology::start("pub-fragments") else {
        return;
    };
    let echo = topology.container("echo", "-p 7000:7/udp");
    let server = udp(&echo, ANY, 7);
    let client = udp(&topology.world.client, ANY, 0);
    for length in [1473, 4096, 9000, 60_000] {
        let datagram: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
        client.send_to(&datagram, (HOST_ADDRESS, 7000)).unwrap();
        let seen = hears(&server, &datagram);
        assert_eq!(
            seen,
            (CLIENT_ADDRESS, client.local_addr().unwrap().port()).into()
        );
        server.send_to(&datagram, seen).unwrap();
        assert_eq!(hears(&client, &datagram), (HOST_ADDRESS, 7000).into());
    }
}

#[test]
fn one_client_port_may_talk_to_two_published_ports() {
    let Some(topology) = Topology::start("pub-two-ports") else {
        return;
    };
    let client = &topology.world.client;
    let web = topology.container("web", "-p 8080:80 -p 8081:81");
    let (first, second) = (listen(&web, ANY, 80), listen(&web, ANY, 81));
    let from = (CLIENT_ADDRESS, 40_000);
    let one = netdp_tests::connect_from(client, from, (HOST_ADDRESS, 8080));
    let other = netdp_tests::connect_from(client, from, (HOST_ADDRESS, 8081));
    let (one_far, other_far) = (first.accept().0, second.accept().0);
    talk(&one, &one_far);
    talk(&other, &other_far);
    talk(&one, &one_far);
}
