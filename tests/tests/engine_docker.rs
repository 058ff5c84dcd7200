//! Real dockerds with netdp as their driver: `cargo xtask test engines`.

use std::net::Ipv4Addr;
use std::time::Duration;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::engine::{Docker, Left, fetch, fetch_within};
use netdp_tests::{hears, udp};

/// Debian's folders of packages.
const RELEASED: &str = "debian-12";
const NEWEST: &str = "newest";

macro_rules! with_each_docker {
    ($($test:ident),*) => {
        mod docker_20_10 {
            $(#[test]
            #[ignore = "needs a real Docker: cargo xtask test engines"]
            fn $test() {
                super::$test(super::RELEASED);
            })*
        }
        mod docker_newest {
            $(#[test]
            #[ignore = "needs a real Docker: cargo xtask test engines"]
            fn $test() {
                super::$test(super::NEWEST);
            })*
        }
    };
}

with_each_docker!(
    published_ports_are_reached_from_everywhere,
    a_taken_port_is_refused_and_leaves_nothing
);

fn published_ports_are_reached_from_everywhere(packages: &str) {
    let Some(docker) = Docker::start("dk-reach", packages) else {
        return;
    };
    let before = Left::on(&docker.host);
    let world = &docker.host.topology.world;
    docker.run("one", "-p 8081:80 -p 5353:53/udp");
    docker.run("two", "-p 8082:80 -p 127.0.0.1:8083:80");
    docker.run("asks", "");
    let (asks, one) = (docker.namespace("asks"), docker.namespace("one"));
    for (port, name) in [(8081, "one"), (8082, "two")] {
        for (place, source) in [
            (&world.client, CLIENT_ADDRESS),
            (&world.outside, OUTSIDE_ADDRESS),
        ] {
            let seen = fetch(place, (HOST_ADDRESS, port));
            assert_eq!((seen.hostname.as_str(), seen.source), (name, source.into()));
        }
        let program = docker.host.topology.host_program();
        for address in [Ipv4Addr::LOCALHOST, HOST_ADDRESS] {
            assert_eq!(fetch(&program, (address, port)).hostname, name);
        }
        assert_eq!(fetch(&asks, (HOST_ADDRESS, port)).hostname, name);
        let seen = fetch(&asks, (docker.address(name, "fast"), 80));
        assert_eq!(seen.source, docker.address("asks", "fast"));
        assert_eq!(seen.hostname, name);
    }
    // What is published on loopback is the host's own.
    let program = docker.host.topology.host_program();
    assert_eq!(fetch(&program, (Ipv4Addr::LOCALHOST, 8083)).hostname, "two");
    fetch_within(
        &world.client,
        (HOST_ADDRESS, 8083),
        Duration::from_millis(300),
    )
    .unwrap_err();
    let (client, dns) = (
        udp(&world.client, Ipv4Addr::UNSPECIFIED, 0),
        udp(&one, Ipv4Addr::UNSPECIFIED, 53),
    );
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    let from = hears(&dns, b"question");
    assert_eq!(from.ip(), CLIENT_ADDRESS);
    dns.send_to(b"answer", from).unwrap();
    assert_eq!(hears(&client, b"answer"), (HOST_ADDRESS, 5353).into());
    drop((asks, one));
    docker.host.sh("docker rm -f one two asks");
    before.comes_back(&docker.host);
}

fn a_taken_port_is_refused_and_leaves_nothing(packages: &str) {
    let Some(docker) = Docker::start("dk-taken", packages) else {
        return;
    };
    docker.run("one", "-p 8081:80");
    let before = Left::on(&docker.host);
    let said = docker
        .host
        .refused(&docker.run_words("two", "-p 8082:80 -p 8081:80"));
    assert!(
        said.contains("Bind for 0.0.0.0:8081 failed: port is already allocated"),
        "{said}"
    );
    docker.host.sh("docker rm two");
    before.comes_back(&docker.host);
    docker.run("three", "-p 8082:80");
    let world = &docker.host.topology.world;
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8081)).hostname, "one");
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8082)).hostname, "three");
}
