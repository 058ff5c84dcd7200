//! Networks of IPv6 through the command: what they make on the host and in the
//! sandboxes, and what is left of it.

mod cli_world;

use std::fs;

use cli_world::World;
use netdp::netns::Namespace;

/// A setting of an interface, in a namespace.
fn setting(namespace: &Namespace, interface: &str, key: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/{key}");
    let value = namespace.run(|| fs::read_to_string(&path)).unwrap();
    value
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .trim()
        .to_owned()
}

fn set(namespace: &Namespace, interface: &str, key: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/{key}");
    namespace.run(|| fs::write(&path, value)).unwrap().unwrap();
}

fn attach(world: &World, name: &str, options: &[&str]) -> Namespace {
    let inside = world.namespace(name);
    let netns = inside.path().to_str().unwrap().to_owned();
    world.ok(&[&["attach", "--netns", &netns, "--name", name], options].concat());
    inside
}

#[test]
fn a_network_of_both_families_is_made_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let (routes, links) = (world.ip("-6 route"), world.ip("-o link"));
    let neighbours = world.ip("-6 neigh show nud permanent");
    let uplink =
        ["forwarding", "accept_ra", "disable_ipv6"].map(|key| setting(&world.host, "up0", key));
    world.ok(&[
        "network",
        "create",
        "six",
        "--subnet",
        "fd00:6::/64",
        "--gateway",
        "fd00:6::fe",
        "--subnet",
        "10.6.0.0/24",
        "--gateway",
        "10.6.0.9",
    ]);
    let shown = world.json(&["network", "inspect", "six"]);
    assert_eq!(shown[0]["subnets"][0]["subnet"], "10.6.0.0/24");
    assert_eq!(shown[0]["subnets"][0]["gateway"], "10.6.0.9");
    assert_eq!(shown[0]["subnets"][1]["subnet"], "fd00:6::/64");
    assert_eq!(shown[0]["subnets"][1]["gateway"], "fd00:6::fe");
    let table = world.ok(&["network", "inspect", "six", "--format", "table"]);
    assert!(
        table.contains("fd00:6::/64") && table.contains("fd00:6::fe"),
        "{table}"
    );
    let bridge = world.ip("-6 -o address show dev six");
    assert_eq!(bridge.lines().count(), 1, "no link-local address: {bridge}");
    assert!(
        bridge.contains("fd00:6::fe/64") && !bridge.contains("tentative"),
        "{bridge}"
    );

    let inside = attach(&world, "web", &["--network", "six", "-p", "8080:80"]);
    let addresses = world.ip_in(&inside, "-6 -o address show dev eth0 scope global");
    assert!(addresses.contains("fd00:6::1/64"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
    let route = world.ip_in(&inside, "-6 route show default");
    assert!(route.contains("default via fd00:6::fe dev eth0"), "{route}");
    let route = world.ip_in(&inside, "-4 route show default");
    assert!(route.contains("default via 10.6.0.9 dev eth0"), "{route}");
    assert_eq!(setting(&inside, "eth0", "accept_ra"), "0");

    let ends = world.host_ends();
    let [end] = &ends[..] else { panic!("{ends:?}") };
    assert_eq!(setting(&world.host, end, "accept_ra"), "0");
    assert_eq!(setting(&world.host, end, "forwarding"), "1");
    assert_eq!(setting(&world.host, "all", "forwarding"), "0");
    let uplink_now =
        ["forwarding", "accept_ra", "disable_ipv6"].map(|key| setting(&world.host, "up0", key));
    assert_eq!(uplink_now, uplink, "the uplink keeps its settings");
    let way = world.ip("-6 route show fd00:6::1");
    assert!(way.contains(end) && way.contains("src fd00:6::fe"), "{way}");

    let inspected = world.json(&["inspect", "web"]);
    let endpoint = &inspected[0]["endpoints"][0];
    assert_eq!(endpoint["addresses"][1], "fd00:6::1/64");
    assert_eq!(endpoint["gateways"][1], "fd00:6::fe");
    assert_eq!(endpoint["ports"][1]["host_ip"], "::");
    assert_eq!(endpoint["ports"][1]["held"], true);
    let ports = world.ok(&["port", "web"]);
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
    let listed = world.ok(&["ps"]);
    assert!(
        listed.contains("fd00:6::1") && listed.contains("[::]:8080->80/tcp"),
        "{listed}"
    );
    let table = world.ok(&["inspect", "web", "--format", "table"]);
    assert!(
        table.contains("fd00:6::1/64") && table.contains("[::]:8080"),
        "{table}"
    );

    world.ok(&["unpublish", "web", "[::]:8080:80"]);
    assert_eq!(world.ok(&["port", "web"]), "80/tcp -> 0.0.0.0:8080\n");
    world.ok(&["rm", "web"]);
    assert!(!world.ip("-6 route").contains("fd00:6::1 "));
    assert_eq!(world.ip("-6 neigh show nud permanent"), neighbours);
    world.ok(&["network", "rm", "six"]);
    assert_eq!(world.ip("-6 route"), routes);
    assert_eq!(world.ip("-o link"), links);
}

#[test]
fn ipv6_alone_and_addresses_that_were_asked_for() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.ok(&["network", "create", "six", "--ipv4=false", "--ipv6"]);
    let shown = world.json(&["network", "inspect", "six"]);
    let subnets = shown[0]["subnets"].as_array().unwrap();
    assert_eq!(subnets.len(), 1, "{subnets:?}");
    let subnet = subnets[0]["subnet"].as_str().unwrap().to_owned();
    assert!(
        subnet.starts_with("fd") && subnet.ends_with("::/64"),
        "{subnet}"
    );
    let prefix = subnet.trim_end_matches("/64");

    let first = attach(&world, "first", &["--network", "six"]);
    let addresses = world.ip_in(&first, "-o address show dev eth0 scope global");
    assert!(addresses.contains(&format!("{prefix}2/64")), "{addresses}");
    assert!(!addresses.contains("inet "), "{addresses}");
    let fixed = format!("{prefix}beef");
    let asked = attach(&world, "asked", &["--network", "six", "--ip6", &fixed]);
    let addresses = world.ip_in(&asked, "-6 -o address show dev eth0");
    assert!(addresses.contains(&fixed), "{addresses}");
    // A second network by a sandbox that runs.
    let _plain = attach(&world, "plain", &[]);
    let one_more = format!("{prefix}cafe");
    world.ok(&["connect", "--ip6", &one_more, "six", "plain"]);
    let plain = world.json(&["inspect", "plain"]);
    let address = &plain[0]["endpoints"][1]["addresses"][0];
    assert_eq!(*address, format!("{one_more}/64"));
    let refused = world.refused(&["connect", "--ip", "10.0.0.1", "six", "first"]);
    assert!(refused.contains("already"), "{refused}");

    // A daemon that comes later finds everything as it was.
    let before = world.json(&["inspect", "first", "asked"]);
    world.kill_daemon();
    world.start_daemon(&[]);
    assert_eq!(world.json(&["inspect", "first", "asked"]), before);
    let _third = attach(&world, "third", &["--network", "six"]);
    let third = world.json(&["inspect", "third"]);
    let address = &third[0]["endpoints"][0]["addresses"][0];
    assert_eq!(
        *address,
        format!("{prefix}3/64"),
        "addresses go on in order"
    );
}

#[test]
fn forwarding_of_host_ends_is_kept_on_and_of_others_never_touched() {
    let Some(world) = World::new() else { return };
    world.ok(&["network", "create", "six", "--ipv6"]);
    let _web = attach(&world, "web", &["--network", "six"]);
    let ends = world.host_ends();
    set(&world.host, "all", "forwarding", "1");
    set(&world.host, "all", "forwarding", "0");
    world.wait_until("the host end forwards again", || {
        setting(&world.host, &ends[0], "forwarding") == "1"
    });
    assert_eq!(setting(&world.host, "up0", "forwarding"), "0");
    assert_eq!(setting(&world.host, "six", "forwarding"), "0");
}

#[test]
fn a_host_without_ipv6_refuses_it_and_says_so() {
    let Some(mut world) = World::without_daemon() else {
        return;
    };
    set(&world.host, "all", "disable_ipv6", "1");
    world.start_daemon(&[]);
    for args in [
        &["network", "create", "six", "--ipv6"][..],
        &["network", "create", "six", "--subnet", "fd00:6::/64"],
    ] {
        let refused = world.refused(args);
        assert!(
            refused.contains("net.ipv6.conf.all.disable_ipv6=0"),
            "{refused}"
        );
    }
    let checks = world.netdp(&["doctor"]).stdout;
    let line = checks
        .lines()
        .find(|line| line.starts_with("ipv6"))
        .unwrap();
    assert!(
        line.contains("warning") && line.contains("disable_ipv6=0"),
        "{line}"
    );
    // IPv4 is as ever.
    let _web = attach(&world, "web", &["-p", "8080:80"]);
    set(&world.host, "all", "disable_ipv6", "0");
    world.ok(&["network", "create", "six", "--ipv6"]);
}

#[test]
fn a_network_that_had_ipv6_goes_on_without_and_gets_it_back() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.ok(&["network", "create", "six", "--subnet", "fd00:6::/64"]);
    let old = attach(&world, "old", &["--network", "six", "-p", "8080:80"]);
    let bridge = |world: &World| world.ip("-6 -o address show dev six");
    set(&world.host, "all", "disable_ipv6", "1");
    world.kill_daemon();
    world.start_daemon(&[]);
    assert_eq!(bridge(&world), "");
    assert_eq!(setting(&world.host, "six", "disable_ipv6"), "1");
    let new = attach(&world, "new", &["--network", "six", "-p", "8081:80"]);
    assert_eq!(world.ok(&["port", "new"]), "80/tcp -> 0.0.0.0:8081\n");
    world.ok(&["unpublish", "old", "0.0.0.0:8080:80"]);
    world.ok(&["publish", "old", "8082:80"]);

    set(&world.host, "all", "disable_ipv6", "0");
    world.wait_until("the gateway is back", || {
        bridge(&world).contains("fd00:6::1/64")
    });
    world.wait_until("the ways to both are there", || {
        let routes = world.ip("-6 route");
        ["fd00:6::2 ", "fd00:6::3 "]
            .iter()
            .all(|to| routes.contains(to))
    });
    for end in world.host_ends() {
        for (key, value) in [
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("forwarding", "1"),
        ] {
            assert_eq!(setting(&world.host, &end, key), value, "{end} {key}");
        }
    }
    for (inside, address) in [(&old, "fd00:6::2/64"), (&new, "fd00:6::3/64")] {
        let addresses = world.ip_in(inside, "-6 -o address show dev eth0");
        assert!(addresses.contains(address), "{addresses}");
    }
    let ports = world.ok(&["port", "old"]);
    assert_eq!(ports, "80/tcp -> [::]:8080\n80/tcp -> 0.0.0.0:8082\n");
    world.ok(&["rm", "old", "new"]);
    world.ok(&["network", "rm", "six"]);
}

#[test]
fn doctor_says_what_keeps_containers_from_the_outside() {
    let Some(world) = World::new() else { return };
    let line = |begins: &str| {
        let checks = world.netdp(&["doctor"]).stdout;
        let found = checks.lines().find(|line| line.starts_with(begins));
        found.map(str::to_owned)
    };
    let _plain = attach(&world, "plain", &[]);
    assert_eq!(line("ipv6 uplinks"), None);
    world.ok(&["network", "create", "six", "--ipv6"]);
    let _web = attach(&world, "web", &["--network", "six"]);
    let found = line("ipv6 uplinks").unwrap();
    assert!(
        found.contains("warning") && found.contains("up0 has no IPv6 address"),
        "{found}"
    );
    assert!(!found.contains("accept_ra"), "{found}");
    set(&world.host, "up0", "accept_ra", "1");
    set(&world.host, "up0", "forwarding", "1");
    let found = line("ipv6 uplinks").unwrap();
    assert!(
        found.contains("sysctl -w net.ipv6.conf.up0.accept_ra=2"),
        "{found}"
    );
    world.ip("address add 2001:db8::7/64 dev up0 nodad");
    world.wait_until("the uplink has an address", || {
        line("ipv6 uplinks").is_some_and(|line| line.contains("each has an address"))
    });
}
