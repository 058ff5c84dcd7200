//! Docker's own bridge networks on netdp's programs, beside a Docker that is
//! played: its API, its bridges and veth pairs, and its rules.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netdp::api::{
    acceleration::Acceleration,
    types::{Flow, Sandbox, Statistics},
};
use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{
    DockerApi, PATIENCE, SILENCE, Topology, Version, connect, connect_from, connect_within, hears,
    listen, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Packets that rules have seen: those that the programs carry, none has.
fn seen_by_rules(topology: &Topology) -> u64 {
    let output = topology
        .world
        .on_host("iptables")
        .args(["-w", "-t", "raw", "-L", "PREROUTING", "-v", "-x", "-n"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains("dpt"))
        .unwrap_or("0");
    let number = line.split_whitespace().next().unwrap_or("0");
    number.parse().unwrap()
}

/// Counts what arrives for a port of the host and isn't carried.
fn count_port(topology: &Topology, port: u16) {
    let status = topology
        .world
        .on_host("iptables")
        .args([
            "-w",
            "-t",
            "raw",
            "-I",
            "PREROUTING",
            "-p",
            "tcp",
            "--dport",
            &port.to_string(),
        ])
        .status();
    assert!(status.unwrap().success());
}

fn state(topology: &Topology) -> Vec<Acceleration> {
    serde_json::from_str(&topology.netdp("accelerate --format json")).unwrap()
}

/// Whether a container is carried.
fn is_carried(topology: &Topology, name: &str) -> bool {
    state(topology)
        .iter()
        .flat_map(|it| &it.networks)
        .filter(|it| it.accelerated)
        .flat_map(|it| &it.containers)
        .any(|it| it.name == name && it.accelerated)
}

/// Waits for a daemon that was started: it loads programs first, which takes a
/// busy machine its time.
#[track_caller]
fn wait_until_carried_again(topology: &Topology) {
    let began = Instant::now();
    while !is_carried(topology, "web") {
        assert!(began.elapsed() < 6 * PATIENCE, "{:?}", state(topology));
        thread::sleep(Duration::from_millis(20));
    }
}

/// A host with a network and a container WEB on it; nothing without iptables.
fn shop(name: &str, version: Version) -> Option<(Topology, DockerApi)> {
    let (topology, mut docker) = Topology::with_docker_api(name, version)?;
    docker.network(&topology.world, "shop", &[]);
    docker.run(&topology.world, "web", "shop", &["8080:80", "5353:53/udp"]);
    if !docker.make_rules(&topology.world, "") {
        println!("skipped: no iptables, for Docker's own way");
        return None;
    }
    Some((topology, docker))
}

#[test]
fn published_ports_and_conversations_of_containers_are_carried() {
    for version in Version::ALL {
        let Some((topology, docker)) = shop("acc-carry", version) else {
            return;
        };
        let world = &topology.world;
        let web = docker.container("web");
        let listener = listen(web, ANY, 80);
        count_port(&topology, 8080);
        // The old way.
        let near = connect(&world.client, (HOST_ADDRESS, 8080));
        let (far, _) = listener.accept();
        talk(&near, &far);
        let before = seen_by_rules(&topology);
        assert!(before > 0);

        topology.accelerate(&docker.socket, "shop");
        assert!(is_carried(&topology, "web"));
        for from in [&world.client, &world.outside] {
            let near = connect(from, (HOST_ADDRESS, 8080));
            let (far, seen) = listener.accept();
            assert_eq!(seen, near.local_addr().unwrap());
            talk(&near, &far);
        }
        assert_eq!(
            seen_by_rules(&topology),
            before,
            "rules saw what is carried"
        );
        // What began before goes on.
        talk(&near, &far);

        let dns = udp(web, ANY, 53);
        let client = udp(&world.client, ANY, 0);
        for _ in 0..3 {
            client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
            let from = hears(&dns, b"question");
            assert_eq!(from.ip(), CLIENT_ADDRESS);
            dns.send_to(b"answer", from).unwrap();
            assert_eq!(hears(&client, b"answer"), (HOST_ADDRESS, 5353).into());
        }
        // Outwards, under its own port.
        let server = listen(&world.outside, ANY, 443);
        let near = connect_from(web, (ANY, 40_000), (OUTSIDE_ADDRESS, 443));
        let (far, seen) = server.accept();
        assert_eq!(seen, (HOST_ADDRESS, 40_000).into());
        talk(&near, &far);
        let echo = udp(&world.outside, ANY, 7);
        let own = udp(web, ANY, 41_000);
        own.send_to(b"out", (OUTSIDE_ADDRESS, 7)).unwrap();
        let from = hears(&echo, b"out");
        assert_eq!(from, (HOST_ADDRESS, 41_000).into());
        echo.send_to(b"back", from).unwrap();
        hears(&own, b"back");
    }
}

#[test]
fn off_and_the_end_of_the_daemon_set_everything_back() {
    let Some((mut topology, docker)) = shop("acc-off", Version::V28) else {
        return;
    };
    let web = docker.container("web");
    let listener = listen(web, ANY, 80);
    count_port(&topology, 8080);
    for end in ["off", "terminate", "kill"] {
        topology.accelerate(&docker.socket, "");
        let server = listen(&topology.world.outside, ANY, 443);
        let out = connect(web, (OUTSIDE_ADDRESS, 443));
        let (out_far, _) = server.accept();
        let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
        let (far, _) = listener.accept();
        talk(&near, &far);
        talk(&out, &out_far);
        let before = seen_by_rules(&topology);
        match end {
            "off" => drop(topology.netdp("accelerate docker --off")),
            "terminate" => topology.world.stop_daemon().unwrap(),
            _ => topology.world.kill_daemon(),
        }
        // New ones, and those of before whose openers speak first.
        let is_seen = || {
            let fresh = connect(&topology.world.client, (HOST_ADDRESS, 8080));
            let (fresh_far, _) = listener.accept();
            talk(&fresh, &fresh_far);
            seen_by_rules(&topology) > before
        };
        if end == "kill" {
            // A program that the daemon was about to run has the descriptors
            // of the links until it runs.
            topology.wait_until("seen by the rules", is_seen);
        } else {
            assert!(is_seen(), "after {end}");
        }
        talk(&near, &far);
        talk(&out, &out_far);
        if end != "off" {
            topology.start_daemon();
            wait_until_carried_again(&topology);
        }
    }
}

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

#[test]
fn a_daemon_that_starts_again_does_what_the_last_one_was_told() {
    let Some((mut topology, mut docker)) = shop("acc-again", Version::V28) else {
        return;
    };
    docker.network(&topology.world, "back", &[]);
    docker.run(&topology.world, "db", "back", &["9000:80"]);
    let user = format!("-A DOCKER-USER -s {CLIENT_ADDRESS} -j DROP\n");
    docker.make_rules(&topology.world, &user);
    topology.accelerate(&docker.socket, "shop --skip-rules");
    // Docker comes up after the daemon.
    topology.world.kill_daemon();
    docker.end();
    topology.start_daemon();
    let is_told = || {
        let shown = state(&topology);
        let problem = shown.first().and_then(|it| it.problem.clone());
        problem.is_some_and(|why| why.contains("Docker doesn't listen at"))
    };
    let began = Instant::now();
    while !is_told() {
        assert!(began.elapsed() < 6 * PATIENCE, "{:?}", state(&topology));
        thread::sleep(Duration::from_millis(20));
    }
    let shown = &state(&topology)[0];
    assert_eq!(shown.named, ["shop"]);
    assert!(shown.skip_rules && !shown.all && shown.networks.is_empty());
    docker.listen();
    wait_until_carried_again(&topology);
    assert!(!is_carried(&topology, "db"));
    let listener = listen(docker.container("web"), ANY, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let (far, _) = listener.accept();
    talk(&near, &far);
    // It follows.
    docker.run(&topology.world, "next", "shop", &["8081:81"]);
    topology.wait_until("carried", || is_carried(&topology, "next"));

    // All but one.
    topology.accelerate(&docker.socket, "");
    topology.netdp("accelerate docker back --off");
    topology.world.stop_daemon().unwrap();
    topology.start_daemon();
    wait_until_carried_again(&topology);
    assert!(!is_carried(&topology, "db"));
    assert_eq!(state(&topology)[0].except, ["back"]);

    // Nothing is left of it.
    topology.netdp("accelerate docker --off");
    topology.world.stop_daemon().unwrap();
    topology.start_daemon();
    assert!(state(&topology).is_empty());
    topology.accelerate(&docker.socket, "");
    topology.world.stop_daemon().unwrap();
    let world = &topology.world;
    let cleaned = world
        .on_host(world.netdp_path())
        .args(["daemon", "--cleanup", "--state-dir"])
        .arg(world.state_dir())
        .arg("--bpffs")
        .arg(world.bpffs())
        .arg("--cgroup")
        .arg(world.cgroup())
        .output()
        .unwrap();
    assert!(cleaned.status.success(), "{cleaned:?}");
    topology.start_daemon();
    assert!(state(&topology).is_empty());
}

/// The daemon is stopped, as one that is behind, while a container takes the
/// place of another.
#[test]
fn a_daemon_that_is_behind_costs_nobody_anything() {
    let Some((topology, mut docker)) = shop("acc-behind", Version::V28) else {
        return;
    };
    let world = &topology.world;
    topology.accelerate(&docker.socket, "");
    let daemon = world.daemon_pid().unwrap().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &daemon]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    docker.stop(world, "web");
    docker.run(world, "next", "shop", &["8080:81"]);
    docker.make_rules(world, "");
    let next = docker.container("next");
    let listener = listen(next, ANY, 81);
    let near = connect(&world.client, (HOST_ADDRESS, 8080));
    let (far, _) = listener.accept();
    talk(&near, &far);
    let server = listen(&world.outside, ANY, 443);
    let out = connect(next, (OUTSIDE_ADDRESS, 443));
    let (out_far, _) = server.accept();
    talk(&out, &out_far);
    signal("-CONT");
    topology.wait_until("carried", || is_carried(&topology, "next"));
    talk(&near, &far);
    talk(&out, &out_far);
    let fresh = connect(&world.client, (HOST_ADDRESS, 8080));
    let (fresh_far, _) = listener.accept();
    talk(&fresh, &fresh_far);
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

/// Nothing waits for a Docker that doesn't answer.
#[test]
fn off_is_at_once_whatever_docker_does() {
    let Some((topology, docker)) = shop("acc-silent", Version::V28) else {
        return;
    };
    topology.accelerate(&docker.socket, "");
    let silence = docker.silence();
    let mut waiting = topology
        .world
        .on_host(topology.world.netdp_path())
        .args(["accelerate", "docker", "shop", "--socket"])
        .arg(&docker.socket)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It is in the middle of asking.
    thread::sleep(SILENCE);
    assert!(waiting.try_wait().unwrap().is_none());
    let began = Instant::now();
    topology.netdp("accelerate docker --off");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(state(&topology).len(), 0);
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--off"), "{said}");
    drop(silence);
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

/// Two containers with one port towards one peer, one of them the old way.
#[test]
fn ports_of_both_ways_do_not_collide() {
    let Some((topology, mut docker)) = shop("acc-ports", Version::V28) else {
        return;
    };
    let world = &topology.world;
    docker.network(world, "old", &[]);
    docker.run(world, "slow", "old", &[]);
    docker.make_rules(world, "");
    topology.accelerate(&docker.socket, "shop");
    let (web, slow) = (docker.container("web"), docker.container("slow"));
    let server = listen(&world.outside, ANY, 443);
    for (first, second, port) in [(web, slow, 40_000), (slow, web, 40_001)] {
        let one = connect_from(first, (ANY, port), (OUTSIDE_ADDRESS, 443));
        let (one_far, one_seen) = server.accept();
        let two = connect_from(second, (ANY, port), (OUTSIDE_ADDRESS, 443));
        let (two_far, two_seen) = server.accept();
        assert_eq!(one_seen, (HOST_ADDRESS, port).into());
        assert_ne!(one_seen, two_seen);
        for _ in 0..2 {
            talk(&one, &one_far);
            talk(&two, &two_far);
        }
    }
}

/// A transfer goes on while it is switched on and off.
#[test]
fn a_conversation_outlives_switching() {
    let Some((topology, docker)) = shop("acc-switch", Version::V28) else {
        return;
    };
    let web = docker.container("web");
    let listener = listen(web, ANY, 80);
    let mut near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let (mut far, _) = listener.accept();
    let mut buffer = [0; 5];
    for round in 0..3 {
        for _ in 0..5 {
            near.write_all(b"hello").unwrap();
            far.read_exact(&mut buffer).unwrap();
            far.write_all(&buffer).unwrap();
            near.read_exact(&mut buffer).unwrap();
        }
        match round {
            0 => drop(topology.accelerate(&docker.socket, "")),
            _ => drop(topology.netdp("accelerate docker --off")),
        }
    }
    assert!(PATIENCE > SILENCE);
}
