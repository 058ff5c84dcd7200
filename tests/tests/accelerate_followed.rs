//! Which of Docker's networks and containers are carried, which are left to it, and
//! what is shown of them.

mod accelerate_world;

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use accelerate_world::{ANY, is_carried, shop, state};
use netdp::api::types::{Flow, Sandbox, Statistics};
use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{
    PATIENCE, SILENCE, Version, connect, connect_from, connect_within, listen, talk,
};

#[test]
fn containers_that_come_and_go_are_followed() {
    let Some((topology, mut docker)) = shop("acc-follow", Version::V28) else {
        return;
    };
    let world = &topology.world;
    topology.accelerate(&docker.socket, "");
    // A second network, and a container that takes another's place.
    docker.network(world, "back", &[]);
    docker.run(world, "db", "back", &["9000:80"]);
    topology.wait_until("carried", || is_carried(&topology, "db"));
    let listener = listen(docker.container("db"), ANY, 80);
    let near = connect(&world.client, (HOST_ADDRESS, 9000));
    let (far, _) = listener.accept();
    talk(&near, &far);
    docker.stop(world, "db");
    topology.wait_until("let go", || !is_carried(&topology, "db"));
    docker.run(world, "other", "back", &["9000:81"]);
    assert_eq!(
        docker.container("other").address,
        Ipv4Addr::new(172, 18, 2, 2)
    );
    topology.wait_until("carried", || is_carried(&topology, "other"));
    let listener = listen(docker.container("other"), ANY, 81);
    let near = connect(&world.client, (HOST_ADDRESS, 9000));
    let (far, _) = listener.accept();
    talk(&near, &far);
    // Docker ends and comes back with others.
    docker.end();
    docker.vanish(world, "other");
    docker.run(world, "third", "back", &["9000:82"]);
    assert!(is_carried(&topology, "web"), "what is there goes on");
    docker.listen();
    topology.wait_until("carried", || is_carried(&topology, "third"));
    let listener = listen(docker.container("third"), ANY, 82);
    let near = connect(&world.client, (HOST_ADDRESS, 9000));
    let (far, _) = listener.accept();
    talk(&near, &far);
}

/// What Docker's rules refuse stays refused.
#[test]
fn what_dockers_rules_refuse_stays_refused() {
    let Some((topology, mut docker)) = shop("acc-refuse", Version::V28) else {
        return;
    };
    let world = &topology.world;
    docker.network(world, "back", &[]);
    docker.run(world, "db", "back", &["127.0.0.1:9000:80"]);
    docker.make_rules(world, "");
    topology.accelerate(&docker.socket, "");
    let (web, db) = (docker.container("web"), docker.container("db"));
    let (web_listener, db_listener) = (listen(web, ANY, 80), listen(db, ANY, 80));
    // Directly at their addresses, from outside and from another network.
    topology.ip(
        &world.client,
        &format!("route add 172.18.0.0/16 via {HOST_ADDRESS}\n"),
    );
    for (from, to) in [
        (&world.client, (web.address, 80)),
        (&world.client, (db.address, 80)),
        (&db.namespace, (web.address, 80)),
        (&web.namespace, (db.address, 80)),
        // Published for the host alone.
        (&world.client, (HOST_ADDRESS, 9000)),
    ] {
        assert!(connect_within(from, None, to, SILENCE).is_err(), "{to:?}");
    }
    web_listener.assert_nobody_came();
    db_listener.assert_nobody_came();
}

/// With the rights of an administrator in its own namespace, a container makes
/// an interface that says that it leads to another's host end.
#[test]
fn a_container_gets_nobody_elses_host_end() {
    let Some((topology, mut docker)) = shop("acc-claim", Version::V28) else {
        return;
    };
    let world = &topology.world;
    docker.run(world, "zatt", "shop", &[]);
    docker.make_rules(world, "");
    let (web, zatt) = (docker.container("web"), docker.container("zatt"));
    let index = |namespace: &Namespace, ifname: &str| {
        let output = namespace
            .command("ip")
            .args(["-j", "link", "show", ifname])
            .output();
        let shown: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        shown[0]["ifindex"].as_u64().unwrap()
    };
    let victim = index(&world.host, &web.host_end);
    let within = index(&web.namespace, "eth0");
    let deeper = world.add_namespace("deeper").unwrap();
    let lines = format!(
        "link set eth0 down\nlink del eth0\n\
         link add fake index {within} type veth peer name far index {victim} netns {}\n\
         addr add {}/24 dev fake\nlink set fake up\n",
        deeper.path().display(),
        zatt.address
    );
    topology.ip(&zatt.namespace, &lines);
    topology.accelerate(&docker.socket, "");
    assert!(is_carried(&topology, "web"));
    assert!(!is_carried(&topology, "zatt"));
    let listener = listen(web, ANY, 80);
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    let (far, _) = listener.accept();
    talk(&near, &far);
}

/// Rules of the host's own for what containers get hold.
#[test]
fn a_filter_of_the_hosts_own_keeps_networks_on_dockers_way() {
    let Some((topology, docker)) = shop("acc-rules", Version::V28) else {
        return;
    };
    let user = format!("-A DOCKER-USER -s {CLIENT_ADDRESS} -j DROP\n");
    docker.make_rules(&topology.world, &user);
    let said = topology.accelerate(&docker.socket, "");
    assert!(
        said.contains("DOCKER-USER") && said.contains("--skip-rules"),
        "{said}"
    );
    assert!(!is_carried(&topology, "web"));
    let to = (HOST_ADDRESS, 8080);
    let listener = listen(docker.container("web"), ANY, 80);
    assert!(connect_within(&topology.world.client, None, to, SILENCE).is_err());
    topology.accelerate(&docker.socket, "--skip-rules");
    assert!(is_carried(&topology, "web"));
    let near = connect(&topology.world.client, to);
    let (far, _) = listener.accept();
    talk(&near, &far);
}

#[test]
fn listings_show_containers_by_dockers_names() {
    let Some((topology, docker)) = shop("acc-names", Version::V20) else {
        return;
    };
    topology.accelerate(&docker.socket, "");
    let web = docker.container("web");
    let listed = topology.netdp("ps");
    let line = listed.lines().find(|line| line.contains("web")).unwrap();
    assert!(line.contains(&web.id[..12]), "{line}");
    assert!(line.contains("shop"), "{line}");
    assert!(line.contains("0.0.0.0:8080->80/tcp"), "{line}");
    assert_eq!(topology.netdp("port web 80"), "0.0.0.0:8080\n");
    assert_eq!(
        topology.netdp(&format!("port {} 53/udp", &web.id[..6])),
        "0.0.0.0:5353\n"
    );
    let shown: Vec<Sandbox> = serde_json::from_str(&topology.netdp("inspect web")).unwrap();
    assert_eq!(shown[0].owner.as_deref(), Some("docker"));
    assert_eq!(shown[0].endpoints[0].host_interface, web.host_end);
    let table = topology.netdp("accelerate");
    let line = table.lines().find(|line| line.starts_with("shop")).unwrap();
    assert!(line.ends_with("yes"), "{line}");
}

#[test]
fn what_is_carried_can_be_seen() {
    let Some((topology, docker)) = shop("acc-seen", Version::V28) else {
        return;
    };
    let world = &topology.world;
    topology.accelerate(&docker.socket, "");
    let web = docker.container("web");
    let listener = listen(web, ANY, 80);
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    let (far, _) = listener.accept();
    talk(&near, &far);
    let server = listen(&world.outside, ANY, 443);
    let out = connect_from(web, (ANY, 40_000), (OUTSIDE_ADDRESS, 443));
    let (out_far, _) = server.accept();
    talk(&out, &out_far);
    // What the host asks a container goes Docker's way.
    let own = connect(&topology.host_program(), (web.address, 80));
    drop(own);

    let shown = &state(&topology)[0];
    let network = &shown.networks[0];
    assert_eq!((network.name.as_str(), network.traffic.flows), ("shop", 2));
    assert!(network.traffic.rx_packets >= 4 && network.traffic.tx_packets >= 4);
    assert_eq!(network.containers[0].traffic, network.traffic);
    let bridge = shown.left.iter().find(|it| it.reason == "bridge").unwrap();
    assert!(bridge.packets > 0, "{:?}", shown.left);
    let table = topology.netdp("accelerate");
    let [heading, line] = &table.lines().collect::<Vec<_>>()[..] else {
        panic!("{table}");
    };
    assert!(heading.contains("FLOWS") && line.contains(" 2 "), "{table}");

    let flows: Vec<Flow> = serde_json::from_str(&topology.netdp("flows --format json")).unwrap();
    let mut seen: Vec<_> = flows
        .iter()
        .map(|flow| (flow.kind.as_str(), flow.accelerated.as_deref()))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [("masquerade", Some("shop")), ("published", Some("shop"))]
    );
    let listed = topology.netdp("flows --sandbox web --proto tcp");
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(
        listed.lines().skip(1).all(|line| line.ends_with("shop")),
        "{listed}"
    );
    assert!(topology.netdp("flows --count").starts_with("2 flows"));

    let stats: Statistics = serde_json::from_str(&topology.netdp("stats --format json")).unwrap();
    let counters = stats.endpoints.iter().find(|it| it.name == "web").unwrap();
    assert!(counters.accelerated && counters.network == "shop");
    assert!(counters.rx_packets >= network.traffic.rx_packets);
    let listed = topology.netdp("stats");
    assert!(
        listed.contains("LEFT TO DOCKER") && listed.contains("bridge"),
        "{listed}"
    );
    let question = format!("explain tcp {CLIENT_ADDRESS}:40000 {HOST_ADDRESS}:8080");
    let told = topology.netdp(&question);
    assert!(
        told.contains("container web on Docker's network shop"),
        "{told}"
    );
    topology.netdp("accelerate docker --off");
    assert!(!topology.netdp(&question).contains("Docker's network"));
    assert!(topology.netdp("flows --count").starts_with("0 flows"));
    assert!(!topology.netdp("stats").contains("LEFT TO DOCKER"));
}

/// A hundred containers that stay as they are.
#[test]
fn a_quiet_docker_is_asked_for_little() {
    let Some((topology, mut docker)) = shop("acc-quiet", Version::V28) else {
        return;
    };
    let world = &topology.world;
    for number in 1..100 {
        docker.run(world, &format!("c{number}"), "shop", &[]);
    }
    topology.accelerate(&docker.socket, "");
    let asked = |requests: &[String], path: &str| {
        let of_path = requests.iter().filter(|it| it.as_str() == path);
        of_path.count()
    };
    let is_inspection = |it: &&String| it.starts_with("/containers/") && it.len() > 64;
    let first = docker.requests();
    assert_eq!(first.iter().filter(is_inspection).count(), 100);
    // Once more after the request, and when a round is over.
    let (mut later, began) = (Vec::new(), Instant::now());
    while asked(&later, "/containers/json") < 2 {
        assert!(began.elapsed() < 3 * PATIENCE, "{later:?}");
        thread::sleep(Duration::from_millis(50));
        later.extend(docker.requests());
    }
    let lists = asked(&later, "/containers/json");
    println!("{lists} looks made {} requests: {later:?}", later.len());
    assert_eq!(later.iter().filter(is_inspection).count(), 0);
    assert!(later.len() <= 2 * lists + 1, "{later:?}");
    // What has changed is inspected, and nothing else.
    docker.run(world, "next", "shop", &["9000:80"]);
    let next = docker.container("next").id.clone();
    topology.wait_until("carried", || is_carried(&topology, "next"));
    let requests = docker.requests();
    let inspected: Vec<_> = requests.iter().filter(is_inspection).collect();
    assert!(
        !inspected.is_empty() && inspected.len() <= 2,
        "{inspected:?}"
    );
    assert!(
        inspected.iter().all(|path| path.contains(&next)),
        "{inspected:?}"
    );
}

#[test]
fn what_cannot_be_carried_is_refused_with_its_reason() {
    let Some((topology, mut docker)) = shop("acc-reasons", Version::V28) else {
        return;
    };
    let world = &topology.world;
    docker.network(world, "inner", &[("internal", "true")]);
    docker.other_network("fast", "netdp");
    docker.other_network("wide", "overlay");
    docker.other_network("host", "host");
    let socket = docker.socket.display().to_string();
    for (words, said) in [
        ("missing", "Docker has no network 'missing'"),
        ("inner", "it is internal"),
        ("fast", "its driver is netdp"),
        ("wide", "its driver is overlay"),
        ("host", "its driver is host"),
    ] {
        let text = topology.refused(&format!("accelerate docker {words} --socket {socket}"));
        assert!(text.contains(said), "{text}");
    }
    let text = topology.refused("accelerate docker --socket /nowhere/docker.sock");
    assert!(
        text.contains("Docker doesn't listen at /nowhere/docker.sock"),
        "{text}"
    );
    // All of those that can be.
    topology.accelerate(&docker.socket, "");
    let shown = state(&topology);
    let networks = &shown[0].networks;
    let carried: Vec<&str> = networks
        .iter()
        .filter(|it| it.accelerated)
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(carried, ["shop"]);
    assert!(
        networks
            .iter()
            .all(|it| it.accelerated || it.reason.is_some())
    );
    // One of several is set back.
    topology.netdp("accelerate docker shop --off");
    assert!(!is_carried(&topology, "web"));
    assert_eq!(topology.netdp("accelerate docker --off"), "");
    assert!(state(&topology).is_empty());
}
