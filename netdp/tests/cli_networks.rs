//! Networks and attached namespaces through the command.

mod cli_world;

use std::{collections::BTreeSet, thread};

use cli_world::World;
use netdp::netns::Namespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

#[test]
fn networks_are_made_listed_shown_and_removed() {
    let Some(world) = World::new() else { return };
    let id = world.ok(&[
        "network",
        "create",
        "--internal",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "blue",
    ]);
    let shown = world.json(&["network", "inspect", "blue"]);
    let blue = &shown[0];
    assert_eq!(blue["id"], id.trim());
    assert_eq!(blue["driver"], "bridge");
    assert_eq!(blue["internal"], true);
    assert_eq!(blue["icc"], true);
    assert_eq!(blue["mtu"], 1400);
    assert_eq!(blue["interface"], "blue");
    // The first one has 172.17.0.0/16.
    assert_eq!(blue["subnets"][0]["subnet"], "172.18.0.0/16");
    assert_eq!(blue["subnets"][0]["gateway"], "172.18.0.1");
    assert!(
        world
            .ip("-4 -o address show dev blue")
            .contains("172.18.0.1/16")
    );

    let listed = world.ok(&["network", "ls"]);
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(names, ["ID", "blue", "host", "netdp0", "none"], "{listed}");

    assert_eq!(world.ok(&["network", "rm", "blue"]), "blue\n");
    assert!(!world.ip("-o link").contains("blue"));
    let gone = world.refused(&["network", "inspect", "blue"]);
    assert!(gone.contains("there is no network 'blue'"), "{gone}");
}

#[test]
fn what_can_not_be_is_refused_and_nothing_stays() {
    let Some(world) = World::new() else { return };
    let before = world.ip("-o link");
    for (args, why) in [
        (&["--subnet", "192.0.2.0/25", "x1"][..], "overlaps"),
        (&["--subnet", "172.17.3.0/24", "x1"], "overlaps"),
        (&["--driver", "host", "x1"], "only one instance of"),
        (&["--driver", "overlay", "x1"], "not available yet"),
        (&["--ipv4=false", "x1"], "neither ipv4 nor ipv6"),
        (&["netdp0"], "exists already"),
        (&["--mtu", "1", "x1"], "mtu"),
    ] {
        let refused = world.refused(&[&["network", "create"], args].concat());
        assert!(refused.to_lowercase().contains(why), "{args:?}: {refused}");
    }
    let refused = world.refused(&["network", "rm", "host"]);
    assert!(refused.contains("host"), "{refused}");
    assert_eq!(world.ip("-o link"), before);
}

#[test]
fn an_interface_that_is_not_ours_is_never_touched() {
    let Some(world) = World::new() else { return };
    world.ip("link add red type bridge");
    let red = world.ip("-o link show red");
    let name = "com.docker.network.bridge.name=red";
    let refused = world.refused(&["network", "create", "-o", name, "net1"]);
    assert!(refused.contains("red"), "{refused}");
    let unknown = world.refused(&["network", "inspect", "net1"]);
    assert!(unknown.contains("there is no network"), "{unknown}");
    // Without the option another name is found.
    world.ok(&["network", "create", "red"]);
    assert_ne!(
        world.json(&["network", "inspect", "red"])[0]["interface"],
        "red"
    );
    world.ok(&["network", "rm", "red"]);
    assert_eq!(world.ip("-o link show red"), red);
}

#[test]
fn configured_pools_come_first() {
    let Some(mut world) = World::without_daemon() else {
        return;
    };
    let file = world.path("netdp.toml");
    std::fs::write(&file, "pools = [\"192.0.2.0/24\", \"10.77.0.0/24\"]").unwrap();
    world.start_daemon(&["--config", file.to_str().unwrap()]);
    let first = world.json(&["network", "inspect", "netdp0"]);
    // 192.0.2.0/24 is the uplink's.
    assert_eq!(first[0]["subnets"][0]["subnet"], "10.77.0.0/24");
    let full = world.refused(&["network", "create", "blue"]);
    assert!(full.contains("--subnet"), "{full}");
}

#[test]
fn attached_namespaces_get_addresses_and_lose_them() {
    let Some(world) = World::new() else { return };
    let inside = world.namespace("inside");
    let netns = inside.path().to_str().unwrap();
    let id = world.ok(&["attach", "--netns", netns, "--name", "db", "-p", "5432"]);
    assert_eq!(id.trim().len(), 64);
    let addresses = world.ip_in(&inside, "-4 -o address show dev eth0");
    assert!(addresses.contains("172.17.0.2/16"), "{addresses}");
    assert!(
        world
            .ip_in(&inside, "route")
            .contains("default via 172.17.0.1")
    );

    let again = world.refused(&["attach", "--netns", netns]);
    assert!(again.contains("db"), "{again}");
    let port = world.ok(&["port", "db", "5432"]);
    let number: u16 = port.trim().rsplit(':').next().unwrap().parse().unwrap();
    assert!((49153..=65535).contains(&number), "{port}");

    world.ok(&["network", "create", "blue"]);
    world.ok(&["connect", "blue", "db"]);
    assert!(
        world
            .ip_in(&inside, "-4 -o address show dev eth1")
            .contains("172.18.0.2/16")
    );
    let busy = world.refused(&["network", "rm", "blue"]);
    assert!(busy.contains("db"), "{busy}");
    world.ok(&["disconnect", "blue", "db"]);
    assert!(!world.ip_in(&inside, "-o link").contains("eth1"));
    world.ok(&["disconnect", "netdp0", "db"]);
    let listed = world.ok(&["ps"]);
    assert!(!listed.contains("networks"), "{listed}");

    world.ok(&["rm", "db"]);
    assert!(!world.ip_in(&inside, "-o link").contains("eth0"));
    assert_eq!(world.host_ends(), Vec::<String>::new());
    assert_eq!(
        world
            .json(&["ps", "--format", "json"])
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_namespace_is_attached_once_and_never_the_hosts() {
    let Some(world) = World::new() else { return };
    let routes = world.ip("route");
    let host = world.host.path().to_str().unwrap();
    for network in ["netdp0", "none"] {
        let refused = world.refused(&["attach", "--netns", host, "--network", network]);
        assert!(refused.contains("--network host"), "{refused}");
    }
    assert_eq!(world.ip("route"), routes);

    let inside = world.namespace("inside");
    let netns = inside.path().to_str().unwrap();
    world.ok(&["attach", "--netns", netns, "--name", "db"]);
    let folder = inside.path().parent().unwrap();
    let detour = folder.join("../netns/inside");
    let mounted = world.path("mounted");
    std::fs::write(&mounted, "").unwrap();
    mount(
        Some(inside.path()),
        &mounted,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    for path in [&detour, &mounted] {
        let body = serde_json::json!({ "netns": path }).to_string();
        let (status, failure) = world.http("POST", "/v1/sandboxes", &body);
        let message = failure["error"]["message"].as_str().unwrap();
        assert_eq!(status, 409, "{message}");
        assert!(message.contains("is that of db already"), "{message}");
    }
    umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
    // The namespace of another one may be shared on purpose.
    world.ok(&["attach", "--netns", netns, "--network", "container:db"]);

    let pipe = world.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let refused = world.refused(&["attach", "--netns", pipe.to_str().unwrap()]);
    assert!(refused.contains("not a network namespace"), "{refused}");
}

#[test]
fn a_namespace_that_goes_takes_its_sandbox_with_it() {
    let Some(world) = World::new() else { return };
    let inside = world.namespace("inside");
    world.ok(&[
        "attach",
        "--netns",
        inside.path().to_str().unwrap(),
        "--name",
        "db",
    ]);
    drop(inside);
    world.wait_until("the sandbox is gone", || {
        world
            .json(&["ps", "--format", "json"])
            .as_array()
            .unwrap()
            .is_empty()
    });
    assert_eq!(world.host_ends(), Vec::<String>::new());
}

#[test]
fn a_namespace_in_anothers_place_takes_over_its_sandbox() {
    let Some(world) = World::new() else { return };
    let attached = |inside: &Namespace| {
        let links = world.ip_in(inside, "-o link show");
        links.contains("eth0")
    };
    let inside = world.namespace("inside");
    let path = inside.path().to_str().unwrap().to_owned();
    world.ok(&["attach", "--netns", &path, "--name", "db"]);
    assert!(attached(&inside));
    drop(inside);
    let inside = world.namespace("inside");
    world.wait_until("the sandbox is gone or in the new namespace", || {
        let sandboxes = world.json(&["ps", "--format", "json"]);
        sandboxes.as_array().unwrap().is_empty() || attached(&inside)
    });
}

#[test]
fn parallel_requests_never_get_the_same_address_or_port() {
    let Some(world) = World::new() else { return };
    const COUNT: usize = 16;
    let namespaces: Vec<_> = (0..COUNT)
        .map(|number| world.namespace(&format!("n{number}")))
        .collect();
    thread::scope(|scope| {
        for namespace in &namespaces {
            let world = &world;
            scope.spawn(move || {
                let netns = namespace.path().to_str().unwrap();
                world.ok(&["attach", "--netns", netns, "-p", "80"]);
            });
        }
    });
    let sandboxes = world.json(&["ps", "--format", "json"]);
    let sandboxes = sandboxes.as_array().unwrap();
    let all = |pointer: &str| -> BTreeSet<String> {
        sandboxes
            .iter()
            .map(|sandbox| sandbox.pointer(pointer).unwrap().to_string())
            .collect()
    };
    assert_eq!(all("/endpoints/0/addresses/0").len(), COUNT);
    assert_eq!(all("/endpoints/0/ports/0/host_port").len(), COUNT);
    assert_eq!(all("/endpoints/0/mac").len(), COUNT);
    assert_eq!(world.host_ends().len(), COUNT);
}
