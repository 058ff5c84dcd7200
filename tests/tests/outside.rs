//! A hostile outside: nothing gets to a container but by a published port or
//! as a reply.

use std::net::Ipv4Addr;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp_tests::{
    Container, Frames, Macs, SILENCE, Topology, connect_within, datagram, echo_request, fragments,
    hears, listen, says_nothing, syn, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Those of the wire between the client and the host.
const CLIENT_MAC: [u8; 6] = [2, 0x6e, 0x64, 0x70, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0x6e, 0x64, 0x70, 0, 2];
const WIRE: Macs = (CLIENT_MAC, HOST_MAC);
const PORT: u16 = 40_000;

fn frames(topology: &Topology) -> Frames {
    Frames::open(&topology.world.client, "wire0")
}

/// How many IPv4 packets the container's stack has received.
fn received(container: &Container) -> u64 {
    let counted = container.namespace.run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let place = names.split(' ').position(|name| name == "InReceives");
        let value = values.split(' ').nth(place.unwrap()).unwrap();
        value.parse().unwrap()
    });
    counted.unwrap()
}

#[test]
fn a_neighbour_that_routes_to_the_containers_reaches_none() {
    let Some(topology) = Topology::start("out-neighbour") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let frames = frames(&topology);
    let server = udp(&web, ANY, 53);
    let from = (CLIENT_ADDRESS, PORT);
    let before = received(&web);
    let dropped = topology.dropped("not-published");
    let large = datagram(WIRE, from, (web.address, 53), &[b'x'; 100]);
    let [first, later] = fragments(&large, 16);
    for frame in [
        syn(WIRE, from, (web.address, 80)),
        syn(WIRE, from, (web.address, 8080)),
        datagram(WIRE, from, (web.address, 53), b"let me in"),
        datagram(WIRE, from, (web.address, 5353), b"let me in"),
        echo_request(WIRE, CLIENT_ADDRESS, web.address),
        first,
        later,
    ] {
        frames.send(&frame);
    }
    says_nothing(&server);
    assert_eq!(received(&web), before);
    assert_eq!(topology.dropped("not-published"), dropped + 7);
    // By the front door.
    frames.send(&datagram(WIRE, from, (HOST_ADDRESS, 5353), b"good day"));
    hears(&server, b"good day");
}

/// A tag that names no VLAN (IEEE 802.1Q, section 6.9).
#[test]
fn a_frame_with_a_priority_is_like_any_other() {
    let Some(topology) = Topology::start("out-priority") else {
        return;
    };
    let web = topology.container("web", "-p 5353:53/udp");
    let server = udp(&web, ANY, 53);
    let frame = datagram(WIRE, (CLIENT_ADDRESS, PORT), (HOST_ADDRESS, 5353), b"soon");
    let [head, rest] = [&frame[..12], &frame[12..]];
    let frames = frames(&topology);
    frames.send(&[head, &[0x81, 0, 0xe0, 0], rest].concat());
    hears(&server, b"soon");
    // Another interface's, which there is not.
    frames.send(&[head, &[0x81, 0, 0xe0, 5], rest].concat());
    says_nothing(&server);
}

#[test]
fn a_port_on_loopback_is_not_reached_by_crafted_packets() {
    let Some(topology) = Topology::start("out-loopback") else {
        return;
    };
    let options = "-p 127.0.0.1:8080:80 -p 127.0.0.1:5353:53/udp";
    let web = topology.container("web", options);
    let server = udp(&web, ANY, 53);
    let listener = listen(&web, ANY, 80);
    let frames = frames(&topology);
    let before = received(&web);
    for to in [Ipv4Addr::LOCALHOST, HOST_ADDRESS, web.gateway] {
        for source in [CLIENT_ADDRESS, Ipv4Addr::LOCALHOST] {
            frames.send(&syn(WIRE, (source, PORT), (to, 8080)));
            frames.send(&datagram(WIRE, (source, PORT), (to, 5353), b"let me in"));
        }
    }
    says_nothing(&server);
    listener.assert_nobody_came();
    assert_eq!(received(&web), before);
}

#[test]
fn a_port_on_the_address_of_one_uplink_is_not_on_the_other() {
    let Some(topology) = Topology::start("out-uplinks") else {
        return;
    };
    let world = &topology.world;
    let other = Ipv4Addr::new(198, 18, 9, 2);
    topology.ip(
        &world.client,
        &format!(
            "link add wire9 type veth peer name eth9 netns {}\n\
             link set wire9 up\n\
             addr add 198.18.9.1/24 dev wire9\n",
            world.host.path().display()
        ),
    );
    topology.ip(
        &world.host,
        &format!("link set eth9 up\naddr add {other}/24 dev eth9\n"),
    );
    let web = topology.container("web", &format!("-p {HOST_ADDRESS}:8080:80"));
    let listener = listen(&web, ANY, 80);
    let to = (other, 8080);
    assert!(connect_within(&world.client, None, to, SILENCE).is_err());
    listener.assert_nobody_came();
    assert!(connect_within(&world.client, None, (HOST_ADDRESS, 8080), SILENCE).is_ok());
}

#[test]
fn a_published_port_answers_nobody_that_cannot_be_outside() {
    let Some(mut topology) = Topology::without_daemon("out-spoofed") else {
        return;
    };
    // A further address, and a default route without a gateway, beside the
    // subnet of the uplink's main address.
    topology.ip(
        &topology.world.host,
        "addr add 198.51.100.5/28 brd + dev eth0\nroute add default dev eth0 metric 5\n",
    );
    topology.start_daemon();
    let options = "-p 8080:80 -p 5353:53/udp";
    let (web, other) = (
        topology.container("web", options),
        topology.container("other", ""),
    );
    let server = udp(&web, ANY, 53);
    let victim = udp(&other, ANY, PORT);
    let frames = frames(&topology);
    let sources = [
        web.address,
        other.address,
        web.gateway,
        HOST_ADDRESS,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(224, 0, 0, 251),
        Ipv4Addr::BROADCAST,
        ANY,
        Ipv4Addr::new(0, 0, 0, 8),
        // Of the network, and of nobody; broadcast on the uplink.
        Ipv4Addr::from(web.address.to_bits() | 0xff),
        Ipv4Addr::from(HOST_ADDRESS.to_bits() | 0xff),
        Ipv4Addr::new(198, 51, 100, 15),
    ];
    let refused = |topology: &Topology| {
        let (before, dropped) = (received(&web), topology.dropped("spoofed-source"));
        for source in sources {
            frames.send(&syn(WIRE, (source, PORT), (HOST_ADDRESS, 8080)));
            let to = (HOST_ADDRESS, 5353);
            frames.send(&datagram(WIRE, (source, PORT), to, b"answer him"));
        }
        says_nothing(&server);
        says_nothing(&victim);
        assert_eq!(received(&web), before);
        assert_eq!(
            topology.dropped("spoofed-source"),
            dropped + 2 * sources.len() as u64
        );
    };
    refused(&topology);
    // What the programs go by outlives the daemon, and is there for the next.
    topology.world.kill_daemon();
    topology.start_daemon();
    refused(&topology);
    let to = (HOST_ADDRESS, 5353);
    frames.send(&datagram(WIRE, (CLIENT_ADDRESS, PORT), to, b"good day"));
    hears(&server, b"good day");
}
