//! What would become of a packet, through the command.

mod cli_world;

use cli_world::World;

#[test]
fn where_a_packet_goes_and_why_it_does_not() {
    let Some(world) = World::new() else { return };
    let space = world.namespace("web");
    let netns = space.path().to_str().unwrap();
    world.ok(&["attach", "--name", "web", "--netns", netns, "-p", "8080:80"]);
    let explain = |words: &[&str]| {
        let asked = [&["explain"], words, &["--format", "json"]].concat();
        world.json(&asked)
    };

    let inside = explain(&["tcp", "172.17.0.2:40000", "172.17.0.1:8080"]);
    assert_eq!(inside["fate"], "delivered");
    assert_eq!(inside["sandbox"], "web");
    assert_eq!(inside["destination"], "172.17.0.2:80");
    let neighbour = explain(&["tcp", "192.0.2.77:40000", "172.17.0.2:80"]);
    assert_eq!(neighbour["fate"], "dropped");
    assert_eq!(neighbour["reason"], "not-published");
    let local = explain(&["udp", "127.0.0.1:40000", "127.0.0.1:9"]);
    assert_eq!(local["fate"], "host");
    let far = explain(&["tcp", "172.17.0.2:40000", "203.0.113.1:80"]);
    assert_eq!(far["fate"], "sent", "{far}");
    assert_eq!(far["interface"], "up0");
    assert_eq!(far["source"], "192.0.2.2:40000");
    world.ip("route del default");
    let nowhere = explain(&["tcp", "172.17.0.2:40000", "203.0.113.1:80"]);
    assert_eq!(nowhere["reason"], "no-route", "{nowhere}");

    let table = world.ok(&["explain", "tcp", "127.0.0.1:1", "127.0.0.1:8080"]);
    assert!(table.contains("published by 172.17.0.2:80"), "{table}");
    assert!(table.contains("delivered to web by vn"), "{table}");
    let mixed = world.refused(&["explain", "tcp", "[::1]:1", "127.0.0.1:8080"]);
    assert!(mixed.contains("different families"), "{mixed}");
    drop(space);
}

#[test]
fn addresses_that_nobody_has_are_called_so() {
    let Some(world) = World::new() else { return };
    let space = world.namespace("web");
    let netns = space.path().to_str().unwrap();
    world.ok(&["attach", "--name", "web", "--netns", netns, "-p", "8080:80"]);
    let told = |words: &[&str]| world.ok(&[&["explain"], words].concat());

    let loopback = told(&["tcp", "172.17.0.2:40000", "127.0.0.1:80"]);
    assert!(
        loopback.contains("never leaves a container's own"),
        "{loopback}"
    );
    assert!(!loopback.contains("--uplink"), "{loopback}");
    assert!(loopback.contains("dropped: no-route"), "{loopback}");
    let outside = told(&["tcp", "192.0.2.77:40000", "127.0.0.1:8080"]);
    assert!(outside.contains("not reached from outside"), "{outside}");
    assert!(
        outside.contains("left to the host's own stack"),
        "{outside}"
    );

    let unassigned = told(&["tcp", "172.17.0.2:40000", "172.17.0.99:80"]);
    let nobody = "no container of network netdp0 has this address";
    assert!(unassigned.contains(nobody), "{unassigned}");
    assert!(unassigned.contains("dropped: no-route"), "{unassigned}");
    let sender = told(&["tcp", "172.17.0.99:40000", "192.0.2.2:8080"]);
    assert!(sender.contains(nobody), "{sender}");
    let routed = told(&["tcp", "192.0.2.77:40000", "172.17.0.99:80"]);
    assert!(routed.contains(nobody), "{routed}");
    drop(space);
}

#[test]
fn an_echo_is_written_without_ports() {
    let Some(world) = World::new() else { return };
    let space = world.namespace("web");
    let netns = space.path().to_str().unwrap();
    world.ok(&["attach", "--name", "web", "--netns", netns]);
    let echo = world.ok(&["explain", "icmp", "172.17.0.2", "203.0.113.1:7"]);
    let translated = "192.0.2.2 -> 203.0.113.1, identifier 7";
    assert!(echo.contains(translated), "{echo}");
    assert!(echo.contains("sent out of up0"), "{echo}");
    let host = world.ok(&["explain", "icmp", "192.0.2.77", "192.0.2.2"]);
    assert!(host.contains("left to the host's own stack"), "{host}");

    let ports = world.refused(&["explain", "icmp", "172.17.0.2:7", "203.0.113.1"]);
    assert!(
        ports.contains("netdp explain icmp 172.17.0.2 203.0.113.1:1"),
        "{ports}"
    );
    let none = world.refused(&["explain", "tcp", "1.2.3.4", "5.6.7.8:80"]);
    assert!(none.contains("tcp needs a port"), "{none}");
    drop(space);
}

/// The kernel is asked as the programs ask it: from the container, by its host
/// end.
#[test]
fn rules_by_source_and_interface_are_asked() {
    let Some(world) = World::new() else { return };
    world.ip("link add up1 type veth peer name wire1");
    world.ip("address add 198.51.100.2/24 dev up1");
    world.ip("link set wire1 up");
    world.ip("link set up1 up");
    world.ip("route add default via 198.51.100.1 metric 50");
    world.wait_until("there are two uplinks", || {
        let (_, status) = world.http("GET", "/v1/status", "");
        status["uplinks"].as_array().unwrap().len() == 2
    });
    let spaces = ["one", "two"].map(|name| {
        let space = world.namespace(name);
        let netns = space.path().to_str().unwrap();
        world.ok(&["attach", "--name", name, "--netns", netns]);
        space
    });
    let leaves = |from: &str| {
        let from = format!("{from}:40000");
        let words = [
            "explain",
            "tcp",
            &from,
            "203.0.113.1:80",
            "--format",
            "json",
        ];
        let told = world.json(&words);
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        (text("interface"), text("source"))
    };
    let by = |interface: &str, address: &str| (interface.to_owned(), format!("{address}:40000"));
    assert_eq!(leaves("172.17.0.2"), by("up0", "192.0.2.2"));
    world.ip("route add default via 198.51.100.1 table 100");
    world.ip("rule add from 172.17.0.2 lookup 100");
    assert_eq!(leaves("172.17.0.2"), by("up1", "198.51.100.2"));
    assert_eq!(leaves("172.17.0.3"), by("up0", "192.0.2.2"));
    let ends = world.ip("route show 172.17.0.3");
    let mut words = ends.split_whitespace().skip_while(|word| *word != "dev");
    let host_end = words.nth(1).unwrap();
    world.ip(&format!("rule add iif {host_end} lookup 100"));
    assert_eq!(leaves("172.17.0.3"), by("up1", "198.51.100.2"));
    drop(spaces);
}
