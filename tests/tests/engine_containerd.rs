//! Real containerds with netdp as their CNI plugin: `cargo xtask test engines`.

use std::net::{IpAddr, Ipv4Addr};

use netdp::api::types::Sandbox;
use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::engine::scene::sandboxes;
use netdp_tests::engine::{Containerd, Left, fetch};
use netdp_tests::with_each_containerd;
use netdp_tests::{connect, listen, talk};

with_each_containerd! {
    published_ports_are_reached_from_everywhere,
    fifty_containers_come_and_go_at_once,
    killed_daemons_are_made_up_for,
}

fn address(containerd: &Containerd, name: &str) -> IpAddr {
    let text = containerd.host.netdp(&format!("inspect default-{name}"));
    let found: Vec<Sandbox> = serde_json::from_str(&text).unwrap();
    found[0].endpoints[0].addresses[0].addr()
}

/// `ctr` publishes nothing itself.
fn published_ports_are_reached_from_everywhere(packages: &str) {
    let Some(containerd) = Containerd::start("ctr-reach", packages) else {
        return;
    };
    let host = &containerd.host;
    let before = Left::on(host);
    for (name, port) in [("one", 8081), ("two", 8082)] {
        containerd.run(name);
        host.netdp(&format!("publish default-{name} {port}:80"));
    }
    containerd.run("asks");
    let said = host.refused("netdp publish default-asks 8081:80");
    assert!(
        said.contains("8081/tcp is published by default-one"),
        "{said}"
    );
    let world = &host.topology.world;
    let asks = containerd.namespace("asks");
    for (port, name) in [(8081, "one"), (8082, "two")] {
        for (place, source) in [
            (&world.client, CLIENT_ADDRESS),
            (&world.outside, OUTSIDE_ADDRESS),
        ] {
            let seen = fetch(place, (HOST_ADDRESS, port));
            assert_eq!((seen.hostname.as_str(), seen.source), (name, source.into()));
        }
        let program = host.topology.host_program();
        for address in [Ipv4Addr::LOCALHOST, HOST_ADDRESS] {
            assert_eq!(fetch(&program, (address, port)).hostname, name);
        }
        assert_eq!(fetch(&asks, (HOST_ADDRESS, port)).hostname, name);
        let seen = fetch(&asks, (address(&containerd, name), 80));
        assert_eq!(seen.source, address(&containerd, "asks"));
    }
    drop(asks);
    for name in ["one", "two", "asks"] {
        containerd.remove(name);
    }
    before.comes_back(host);
}

/// Nobody sends DEL for them.
fn fifty_containers_come_and_go_at_once(packages: &str) {
    const COUNT: u16 = 50;
    let Some(containerd) = Containerd::start("ctr-fifty", packages) else {
        return;
    };
    let host = &containerd.host;
    let before = Left::on(host);
    host.at_once(COUNT, &containerd.run_words("c$i"));
    assert_eq!(sandboxes(host), usize::from(COUNT));
    for number in 1..=COUNT {
        let to = address(&containerd, &format!("c{number}"));
        assert_eq!(
            fetch(&host.topology.world.host, (to, 80)).hostname,
            format!("c{number}")
        );
    }
    host.at_once(COUNT, &containerd.remove_words("c$i"));
    before.comes_back(host);
}

/// A connection outlives containerd and netdp, and a container that ended
/// meanwhile is gone when netdp is back.
fn killed_daemons_are_made_up_for(packages: &str) {
    let Some(containerd) = Containerd::start("ctr-kill", packages) else {
        return;
    };
    let host = &containerd.host;
    let client = &host.topology.world.client;
    let before = Left::on(host);
    containerd.run("one");
    host.netdp("publish default-one 8081:80");
    host.netdp("publish default-one 9001:81");
    containerd.run("gone");
    host.netdp("publish default-gone 8082:80");
    let one = containerd.namespace("one");
    let listener = listen(&one, Ipv4Addr::UNSPECIFIED, 81);
    let near = connect(client, (HOST_ADDRESS, 9001));
    let (far, _) = listener.accept();
    host.kill("containerd");
    talk(&near, &far);
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    containerd.start_containerd();
    host.kill("netdp");
    talk(&near, &far);
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    containerd.remove("gone");
    host.refused(&containerd.run_words("late"));
    host.start_netdp();
    host.wait_until("gone", || sandboxes(host) == 1);
    talk(&near, &far);
    let _ = host.try_sh("ctr container rm late");
    containerd.run("next");
    host.netdp("publish default-next 8082:80");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "next");
    drop((near, far, listener, one));
    containerd.remove("one");
    containerd.remove("next");
    before.comes_back(host);
}
