//! Real dockerds with netdp as their driver: `cargo xtask test engines`.

use std::net::Ipv4Addr;
use std::time::Duration;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::engine::{Docker, EngineHost, Left, fetch, fetch_within};
use netdp_tests::{connect, hears, listen, talk, udp};

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
    a_taken_port_is_refused_and_leaves_nothing,
    fifty_containers_come_and_go_at_once,
    a_killed_netdp_is_made_up_for,
    a_killed_dockerd_is_made_up_for,
    with_live_restore_connections_outlive_both_daemons,
    kills_in_the_middle_of_starts_leave_nothing
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

/// However many start and end at once, each is reached while it is there.
fn fifty_containers_come_and_go_at_once(packages: &str) {
    const COUNT: u16 = 50;
    let Some(docker) = Docker::start("dk-fifty", packages) else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    let each = |line: &str| {
        let numbers: Vec<String> = (1..=COUNT).map(|number| number.to_string()).collect();
        let numbers = numbers.join(" ");
        host.sh(&format!(
            "for i in {numbers}; do {{ {line}; }} >/tmp/said$i 2>&1 || : >/tmp/failed$i & done; wait; \
             for i in {numbers}; do test ! -e /tmp/failed$i || {{ cat /tmp/said$i >&2; exit 1; }}; done"
        ));
    };
    each(&docker.run_words("c$i", "-p $((9000 + i)):80"));
    let client = &host.topology.world.client;
    for number in 1..=COUNT {
        let seen = fetch(client, (HOST_ADDRESS, 9000 + number));
        assert_eq!(seen.hostname, format!("c{number}"));
        assert_eq!(seen.source, CLIENT_ADDRESS);
    }
    each("docker rm -f c$i");
    before.comes_back(host);
}

/// netdp's daemon is killed: connections go on, new ones are made, and what it
/// missed is made up for.
fn a_killed_netdp_is_made_up_for(packages: &str) {
    let Some(docker) = Docker::start("dk-kill", packages) else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    docker.run("one", "-p 8081:80 -p 9001:81");
    let before = Left::on(host);
    docker.run("gone", "-p 8082:80");
    let one = docker.namespace("one");
    let listener = listen(&one, Ipv4Addr::UNSPECIFIED, 81);
    let near = connect(client, (HOST_ADDRESS, 9001));
    let (far, _) = listener.accept();

    host.kill("netdp");
    talk(&near, &far);
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    // dockerd gives up after 15 s and goes on without.
    host.sh("docker rm -f gone");
    // This one waits for the daemon.
    host.sh(&format!(
        "{{ {}; echo $? >/tmp/ended; }} >/tmp/said 2>&1 &",
        docker.run_words("late", "-p 8083:80")
    ));
    host.start_netdp();
    talk(&near, &far);
    host.wait_until("started while netdp was away", || {
        host.path("/tmp/ended").exists()
    });
    assert_eq!(
        host.sh("cat /tmp/ended"),
        "0",
        "{}",
        host.sh("cat /tmp/said")
    );
    assert_eq!(fetch(client, (HOST_ADDRESS, 8083)).hostname, "late");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    docker.run("next", "-p 8082:80");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "next");
    talk(&near, &far);
    host.sh("docker rm -f late next");
    before.comes_back(host);
    drop((near, far, listener, one));
    host.sh("docker rm -f one");
    host.wait_until("none is left", || sandboxes(host) == 0);
}

/// dockerd is killed: containers go on until it is back, those that restart by
/// themselves have their ports again, and of the others nothing is left.
fn a_killed_dockerd_is_made_up_for(packages: &str) {
    let Some(docker) = Docker::start("dk-killed", packages) else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    let before = Left::on(host);
    docker.run("stays", "--restart always -p 8081:80");
    docker.run("ends", "-p 8082:80 -p 9001:81");
    let ends = docker.namespace("ends");
    let listener = listen(&ends, Ipv4Addr::UNSPECIFIED, 81);
    let near = connect(client, (HOST_ADDRESS, 9001));
    let (far, _) = listener.accept();

    docker.kill_dockerd();
    talk(&near, &far);
    for (port, name) in [(8081, "stays"), (8082, "ends")] {
        assert_eq!(fetch(client, (HOST_ADDRESS, port)).hostname, name);
    }
    drop((near, far, listener, ends));
    docker.start_dockerd();
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "stays");
    host.wait_until("one is left", || sandboxes(host) == 1);
    docker.run("next", "-p 8082:80");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "next");
    host.sh("docker rm -f stays ends next");
    before.comes_back(host);
}

/// With live-restore, a connection outlives dockerd, netdp and both.
fn with_live_restore_connections_outlive_both_daemons(packages: &str) {
    let Some(docker) = Docker::start_with("dk-live", packages, "--live-restore") else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    let before = Left::on(host);
    docker.run("one", "-p 8081:80 -p 9001:81");
    let one = docker.namespace("one");
    let listener = listen(&one, Ipv4Addr::UNSPECIFIED, 81);
    let near = connect(client, (HOST_ADDRESS, 9001));
    let (far, _) = listener.accept();
    for netdp_too in [false, true] {
        docker.kill_dockerd();
        if netdp_too {
            host.kill("netdp");
        }
        talk(&near, &far);
        assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
        if netdp_too {
            host.start_netdp();
        }
        docker.start_dockerd();
        talk(&near, &far);
        assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
        let said = host.refused(&docker.run_words("two", "-p 8081:80"));
        assert!(said.contains("port is already allocated"), "{said}");
        host.sh("docker rm two");
    }
    drop((near, far, listener, one));
    host.sh("docker rm -f one");
    before.comes_back(host);
}

/// Both daemons are killed while containers start; whatever became of these,
/// nothing of them is left once they are removed and dockerd has used its driver
/// again: with that it says that it is another one.
fn kills_in_the_middle_of_starts_leave_nothing(packages: &str) {
    let Some(docker) = Docker::start("dk-middle", packages) else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    host.sh(&format!(
        "for i in 1 2 3 4 5 6 7 8; do {} >/dev/null 2>&1 & done",
        docker.run_words("c$i", "-p $((9000 + i)):80")
    ));
    host.wait_until("some have started", || sandboxes(host) >= 3);
    docker.kill_dockerd();
    host.kill("netdp");
    host.start_netdp();
    docker.start_dockerd();
    host.sh("for id in $(docker ps -aq); do docker rm -f $id || exit; done");
    docker.run("next", "-p 9001:80");
    let client = &host.topology.world.client;
    assert_eq!(fetch(client, (HOST_ADDRESS, 9001)).hostname, "next");
    host.sh("docker rm -f next");
    before.comes_back(host);
}

/// How many sandboxes netdp knows.
fn sandboxes(host: &EngineHost) -> usize {
    let list = host.netdp("ps --format json");
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    list.len()
}
