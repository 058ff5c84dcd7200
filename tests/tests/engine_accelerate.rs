//! Docker's own bridge networks on netdp's programs, with real dockerds: `cargo
//! xtask test engines`.

use std::net::{Ipv4Addr, Ipv6Addr};

use netdp::api::acceleration::Acceleration;
use netdp::demo::world::{
    CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6,
};
use netdp_tests::engine::{Docker, Engine, fetch, fetch_within, get};
use netdp_tests::with_each_docker;
use netdp_tests::{
    PATIENCE, SILENCE, connect, connect_from, connect_within, hears, listen, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Debian's folder of packages.
const NEWEST: &str = "newest";

with_each_docker!(
    bridge_networks_are_carried_and_set_back,
    live_restored_containers_are_carried_again,
    what_docker_refuses_stays_refused
);

fn run(docker: &Docker, name: &str, options: &str) {
    docker.host().sh(&format!(
        "docker run -d --name {name} --hostname {name} {options} web:1"
    ));
}

/// A container's address on a network.
fn address_on(docker: &Docker, name: &str, network: &str) -> Ipv4Addr {
    let networks = &docker.inspect(name)["NetworkSettings"]["Networks"];
    networks[network]["IPAddress"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn state(docker: &Docker) -> Vec<Acceleration> {
    serde_json::from_str(&docker.host().netdp("accelerate --format json")).unwrap()
}

fn is_carried(docker: &Docker, name: &str) -> bool {
    state(docker)
        .iter()
        .flat_map(|it| &it.networks)
        .filter(|it| it.accelerated)
        .flat_map(|it| &it.containers)
        .any(|it| it.name == name && it.accelerated)
}

/// Packets for port 8081 that the host's stack has had.
fn seen_by_stack(docker: &Docker) -> u64 {
    let text = docker
        .host()
        .sh("iptables -w -t raw -L PREROUTING -v -x -n");
    let line = text.lines().find(|line| line.contains("dpt:8081")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The host's rules, without counters.
fn rules(docker: &Docker) -> Vec<String> {
    let text = docker.host().sh("iptables-save");
    let rules = text.lines().filter(|line| !line.starts_with('#'));
    let mut rules: Vec<String> = rules
        .map(|line| line.split('[').next().unwrap_or(line).to_owned())
        .collect();
    // What was taken away and made again comes last.
    rules.sort();
    rules
}

fn bridge_networks_are_carried_and_set_back(packages: &str) {
    let Some(docker) = Docker::start("ak-carry", packages) else {
        return;
    };
    let host = docker.host();
    let world = &host.topology.world;
    run(&docker, "one", "-p 8081:80 -p 5353:53/udp");
    host.sh("iptables -w -t raw -I PREROUTING -p tcp --dport 8081");
    let ps = host.sh("docker ps --format '{{.Names}} {{.Ports}}'");
    let before_rules = rules(&docker);
    host.sh("docker network create shop");

    host.netdp("accelerate docker");
    assert!(is_carried(&docker, "one"), "{:#?}", state(&docker));
    for (place, source) in [
        (&world.client, CLIENT_ADDRESS),
        (&world.outside, OUTSIDE_ADDRESS),
    ] {
        let seen = fetch(place, (HOST_ADDRESS, 8081));
        assert_eq!(
            (seen.hostname.as_str(), seen.source),
            ("one", source.into())
        );
    }
    assert_eq!(seen_by_stack(&docker), 0, "the stack had what is carried");
    // Old ways go on: at the host, by a container, at the container's address.
    let program = host.topology.host_program();
    assert_eq!(fetch(&program, (Ipv4Addr::LOCALHOST, 8081)).hostname, "one");
    assert_eq!(fetch(&program, (HOST_ADDRESS, 8081)).hostname, "one");
    // One that is started, and one that moves to another network.
    run(&docker, "two", "-p 8082:80 --network shop");
    host.wait_until("carried", || is_carried(&docker, "two"));
    let seen = fetch(&world.client, (HOST_ADDRESS, 8082));
    assert_eq!(
        (seen.hostname.as_str(), seen.source),
        ("two", CLIENT_ADDRESS.into())
    );
    let two = docker.namespace("two");
    assert_eq!(fetch(&two, (HOST_ADDRESS, 8081)).hostname, "one");
    let server = listen(&world.outside, ANY, 443);
    let near = connect_from(&two, (ANY, 40_000), (OUTSIDE_ADDRESS, 443));
    let (far, seen) = server.accept();
    assert_eq!(seen, (HOST_ADDRESS, 40_000).into());
    let one = docker.namespace("one");
    let dns = udp(&one, ANY, 53);
    let client = udp(&world.client, ANY, 0);
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    let from = hears(&dns, b"question");
    assert_eq!(from.ip(), CLIENT_ADDRESS);
    dns.send_to(b"answer", from).unwrap();
    assert_eq!(hears(&client, b"answer"), (HOST_ADDRESS, 5353).into());
    assert!(host.netdp("ps").contains("0.0.0.0:8082->80/tcp"));
    assert!(host.netdp("port one 80").contains("0.0.0.0:8081"));

    // A second network, by which it leads outside or not: it is reached either way.
    host.sh("docker network create alley && docker network connect alley two");
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8082)).hostname, "two");
    host.sh("docker network disconnect shop two");
    host.wait_until("reached by its other network", || {
        fetch_within(&world.client, (HOST_ADDRESS, 8082), PATIENCE / 4)
            .is_ok_and(|seen| seen.hostname == "two")
    });
    host.sh("docker restart -t 0 one");
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8081)).hostname, "one");
    host.sh("docker rm -f two");
    drop((near, far, two, one, dns));

    // The daemon's death sets everything back; nothing of Docker's has changed.
    host.wait_until("carried", || is_carried(&docker, "one"));
    let one = docker.namespace("one");
    let near = connect_from(&one, (ANY, 40_001), (OUTSIDE_ADDRESS, 443));
    let (far, _) = server.accept();
    talk(&near, &far);
    let before = seen_by_stack(&docker);
    host.kill("netdp");
    talk(&near, &far);
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8081)).hostname, "one");
    assert!(seen_by_stack(&docker) > before);
    // The next one takes it up again, until it is told not to.
    host.start_netdp();
    host.wait_until("carried again", || is_carried(&docker, "one"));
    let before = seen_by_stack(&docker);
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8081)).hostname, "one");
    assert_eq!(
        seen_by_stack(&docker),
        before,
        "the stack had what is carried"
    );
    host.netdp("accelerate docker --off");
    host.kill("netdp");
    host.start_netdp();
    assert!(state(&docker).is_empty());
    host.sh("docker network rm shop alley");
    assert_eq!(host.sh("docker ps --format '{{.Names}} {{.Ports}}'"), ps);
    assert_eq!(rules(&docker), before_rules);
}

/// With live-restore containers outlive dockerd, and so do their connections,
/// whoever carries them.
fn live_restored_containers_are_carried_again(packages: &str) {
    let Some(docker) = Docker::start_with("ak-live", packages, "--live-restore") else {
        return;
    };
    let host = docker.host();
    let client = &host.topology.world.client;
    run(&docker, "one", "-p 8081:80 -p 9001:81");
    host.netdp("accelerate docker");
    host.wait_until("carried", || is_carried(&docker, "one"));
    let one = docker.namespace("one");
    let listener = listen(&one, ANY, 81);
    let near = connect(client, (HOST_ADDRESS, 9001));
    let (far, _) = listener.accept();
    talk(&near, &far);
    docker.kill_dockerd();
    talk(&near, &far);
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    docker.start_dockerd();
    talk(&near, &far);
    host.wait_until("carried again", || is_carried(&docker, "one"));
    talk(&near, &far);
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    run(&docker, "two", "-p 8082:80");
    host.wait_until("carried", || is_carried(&docker, "two"));
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "two");
}

/// Docker has rules for IPv6 by itself from 27 on.
#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn ports_of_ipv6_are_carried() {
    let Some(docker) = Docker::start("ak-six", NEWEST) else {
        return;
    };
    docker.host.topology.world.add_ipv6().unwrap();
    let host = docker.host();
    let world = &host.topology.world;
    host.sh("docker network create --ipv6 --subnet fd00:8::/64 six");
    host.sh(
        "docker run -d --name one --hostname one --network six -p 8081:80 web:1 \
         /bin/busybox httpd -f -p [::]:80 -h /www",
    );
    host.sh("ip6tables -w -t raw -I PREROUTING -p tcp --dport 8081");
    let seen_by_stack = || {
        let text = host.sh("ip6tables -w -t raw -L PREROUTING -v -x -n");
        let line = text.lines().find(|line| line.contains("dpt:8081")).unwrap();
        let packets = line.split_whitespace().next().unwrap();
        packets.parse::<u64>().unwrap()
    };
    let fetched = || {
        host.wait_until("fetched", || {
            let to = (HOST_ADDRESS6, 8081);
            get(&world.client, to, "/cgi-bin/who", PATIENCE / 4).is_ok_and(|seen| {
                // The client's own address.
                seen.contains(&CLIENT_ADDRESS6.to_string()) && seen.contains("one")
            })
        });
    };
    // By Docker's rules.
    fetched();
    let before = seen_by_stack();
    assert!(before > 0);

    host.netdp("accelerate docker six");
    assert!(is_carried(&docker, "one"), "{:#?}", state(&docker));
    let carried = || state(&docker)[0].networks[0].traffic;
    assert_eq!(carried().rx_packets, 0);
    for _ in 0..3 {
        fetched();
    }
    assert_eq!(seen_by_stack(), before, "the stack had what is carried");
    let traffic = carried();
    // At the least SYN, ACK, the request and FIN of each, and as many answers.
    assert!(
        traffic.rx_packets >= 12 && traffic.tx_packets >= 9,
        "{traffic:?}"
    );
    // What the container says outside leaves under the host's address.
    let one = docker.namespace("one");
    let server = listen(&world.outside, Ipv6Addr::UNSPECIFIED, 443);
    let near = connect_from(
        &one,
        (Ipv6Addr::UNSPECIFIED, 40_000),
        (OUTSIDE_ADDRESS6, 443),
    );
    let (far, seen) = server.accept();
    assert_eq!(seen, (HOST_ADDRESS6, 40_000).into());
    talk(&near, &far);
    let flows = host.netdp("flows --sandbox one");
    let line = flows.lines().find(|line| line.contains("masquerade"));
    assert!(line.is_some_and(|line| line.contains("six")), "{flows}");

    host.netdp("accelerate docker --off");
    fetched();
    assert!(seen_by_stack() > before);
}

fn what_docker_refuses_stays_refused(packages: &str) {
    let Some(docker) = Docker::start("ak-refuse", packages) else {
        return;
    };
    let host = docker.host();
    let world = &host.topology.world;
    host.sh("docker network create shop && docker network create --internal inner");
    run(&docker, "one", "-p 8081:80");
    run(&docker, "two", "-p 127.0.0.1:8082:80 --network shop");
    run(&docker, "three", "-p 8083:80 --network inner");
    let refused = |carried: bool| {
        let (one, two) = (docker.namespace("one"), docker.namespace("two"));
        let three = docker.namespace("three");
        let address = |name, network| address_on(&docker, name, network);
        let mut answers = Vec::new();
        for (from, to) in [
            (&world.client, (address("one", "bridge"), 81)),
            (&world.client, (address("one", "bridge"), 80)),
            (&world.client, (address("two", "shop"), 80)),
            (&two, (address("one", "bridge"), 80)),
            (&one, (address("two", "shop"), 80)),
            (&one, (address("three", "inner"), 80)),
            (&three, (OUTSIDE_ADDRESS, 443)),
            (&world.client, (HOST_ADDRESS, 8082)),
            (&world.client, (HOST_ADDRESS, 8083)),
        ] {
            let answer = connect_within(from, None, to, SILENCE);
            println!("carried {carried}: {to:?} {answer:?}");
            answers.push(answer.is_ok());
        }
        answers
    };
    host.topology.ip(
        &world.client,
        &format!("route add 172.16.0.0/12 via {HOST_ADDRESS}\n"),
    );
    let _server = listen(&world.outside, ANY, 443);
    let without = refused(false);
    host.netdp("accelerate docker");
    assert!(is_carried(&docker, "one") && is_carried(&docker, "two"));
    assert_eq!(refused(true), without);
    // What is published is there.
    let near = connect(&world.client, (HOST_ADDRESS, 8081));
    drop(near);
    let program = host.topology.host_program();
    assert_eq!(fetch(&program, (Ipv4Addr::LOCALHOST, 8082)).hostname, "two");
}
