//! Docker's own bridge networks on netdp's programs, beside a Docker that is
//! played: its API, its bridges and veth pairs, and its rules.

mod accelerate_world;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use accelerate_world::{ANY, is_carried, shop, state};
use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{
    PATIENCE, SILENCE, Topology, Version, connect, connect_from, hears, listen, talk, udp,
};

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
