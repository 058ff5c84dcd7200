//! Real dockerds with netdp as their driver: `cargo xtask test engines`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdp::api::types::Sandbox;
use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp_tests::engine::scene::{self, sandboxes};
use netdp_tests::engine::{Docker, Engine, EngineHost, Left, fetch, fetch_within};
use netdp_tests::with_each_docker;
use netdp_tests::{PATIENCE, SILENCE, connect, listen, talk};

with_each_docker! {
    published_ports_are_reached_from_everywhere,
    a_taken_port_is_refused_and_leaves_nothing,
    fifty_containers_come_and_go_at_once,
    a_killed_netdp_is_made_up_for,
    a_killed_dockerd_is_made_up_for,
    with_live_restore_connections_outlive_both_daemons,
    kills_in_the_middle_of_starts_leave_nothing,
    starts_end_after_a_dockerd_that_stays_away,
    starts_end_after_a_dockerd_that_ended_with_netdp,
    containers_that_restart_outlive_netdps_ends,
    containers_that_restart_outlive_netdps_deaths,
    addresses_can_be_netdps_to_give,
    networks_are_as_the_manual_says,
    containers_are_as_the_manual_says,
}

fn containers_that_restart_outlive_netdps_ends(packages: &str) {
    containers_that_restart_outlive("dk-ends", packages, |host| host.end("netdp"), None);
}

fn containers_that_restart_outlive_netdps_deaths(packages: &str) {
    let kill = |host: &EngineHost| host.kill("netdp");
    containers_that_restart_outlive("dk-deaths", packages, kill, Some(NOT_READ));
}

/// What is said of a start that a netdp was asked for and was killed before it
/// had read that: dockerd asks again without the contents.
const NOT_READ: &str = "the request came without its contents";

/// Docker tries no start again that failed, whatever the policy says: containers
/// whose programs end all the time are there after all. Those that were refused
/// for the reason `but`, by hand, and once.
fn containers_that_restart_outlive(
    name: &str,
    packages: &str,
    end: fn(&EngineHost),
    but: Option<&str>,
) {
    const COUNT: u16 = 8;
    let Some(docker) = Docker::start(name, packages) else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    let before = Left::on(host);
    host.sh("mkdir -p /tmp/stay");
    host.at_once(
        COUNT,
        "docker run -d --name c$i --hostname c$i --restart always --network fast \
         -p $((9000 + i)):80 -v /tmp/stay:/stay web:1 \
         sh -c 'sleep 0.2; test ! -e /stay/now || exec httpd -f -p 0.0.0.0:80 -h /www'",
    );
    for _ in 0..3 {
        end(host);
        host.start_netdp();
        // Until some have asked for something again.
        let restarts = "docker inspect -f '{{.RestartCount}}' $(docker ps -aq) | sort -n | tail -1";
        let count = host.sh(restarts);
        host.wait_until("one has restarted", || host.sh(restarts) != count);
    }
    host.sh("touch /tmp/stay/now");
    let by_hand = RefCell::new(BTreeSet::new());
    for number in 1..=COUNT {
        // Docker waits for up to a minute before it starts one again.
        host.wait_until(&format!("c{number} is there"), || {
            for name in given_up(host) {
                let why = host.sh(&format!("docker inspect -f '{{{{.State.Error}}}}' {name}"));
                let known = but.is_some_and(|but| why.contains(but));
                assert!(known, "{name}: {why}: {}", host.log("dockerd"));
                host.sh(&format!("docker start {name}"));
                assert!(by_hand.borrow_mut().insert(name), "refused twice: {why}");
            }
            fetch_within(client, (HOST_ADDRESS, 9000 + number), PATIENCE)
                .is_ok_and(|seen| seen.hostname == format!("c{number}"))
        });
    }
    println!("started by hand: {:?}", by_hand.into_inner());
    host.sh("docker rm -f $(docker ps -aq)");
    before.comes_back(host);
}

/// The containers that Docker starts no more by itself.
fn given_up(host: &EngineHost) -> Vec<String> {
    let names = host.sh("docker ps -a --filter status=exited --format '{{.Names}}'");
    names.lines().map(str::to_owned).collect()
}

/// With `--ipam-driver netdp`, subnets and addresses are netdp's, and so are the
/// words by which they are refused.
fn addresses_can_be_netdps_to_give(packages: &str) {
    let Some(docker) = Docker::start("dk-ipam", packages) else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    let before = Left::on(host);
    let create = "docker network create -d netdp --ipam-driver netdp";
    let own = format!("{HOST_ADDRESS}/24");
    let [a, b, c, _] = HOST_ADDRESS.octets();
    let subnet = format!("{a}.{b}.{c}.0/24");
    // Later Dockers say so themselves.
    let said = host.refused(&format!("{create} --subnet {own} bad"));
    assert!(said.contains(&subnet), "{said}");
    let said = host.refused(&format!("{create} --subnet {subnet} bad"));
    assert!(said.contains(&format!("{subnet} overlaps")), "{said}");
    let said = host.refused(&format!("{create} --subnet 10.50.0.0/16 bad"));
    assert!(said.contains("10.50.0.0/24"), "{said}");
    host.sh(&format!("{create} own"));
    host.sh(&format!("{create} --subnet 10.61.0.0/24 chosen"));
    let run = |name: &str, options: &str| {
        format!("docker run -d --name {name} --hostname {name} {options} web:1")
    };
    host.sh(&run("one", "--network own -p 8081:80"));
    host.sh(&run("two", "--network chosen --ip 10.61.0.9 -p 8082:80"));
    for (port, name) in [(8081, "one"), (8082, "two")] {
        assert_eq!(fetch(client, (HOST_ADDRESS, port)).hostname, name);
    }
    let said = host.refused(&run("three", "--network chosen --ip 10.61.0.9"));
    assert!(said.contains("10.61.0.9 is already in use"), "{said}");
    host.sh("docker rm -f one two three; docker network rm own chosen");
    before.comes_back(host);
}

fn published_ports_are_reached_from_everywhere(packages: &str) {
    scene::published_ports_are_reached_from_everywhere::<Docker>(packages);
}

fn a_taken_port_is_refused_and_leaves_nothing(packages: &str) {
    scene::a_taken_port_is_refused_and_leaves_nothing::<Docker>(packages);
}

fn fifty_containers_come_and_go_at_once(packages: &str) {
    scene::fifty_containers_come_and_go_at_once::<Docker>(packages);
}

fn a_killed_netdp_is_made_up_for(packages: &str) {
    scene::a_killed_netdp_is_made_up_for::<Docker>(packages);
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
    kill_runcs(host);
    host.start_netdp();
    docker.start_dockerd();
    host.sh("for id in $(docker ps -aq); do docker rm -f $id || exit; done");
    docker.run("next", "-p 9001:80");
    let client = &host.topology.world.client;
    assert_eq!(fetch(client, (HOST_ADDRESS, 9001)).hostname, "next");
    host.sh("docker rm -f next");
    before.comes_back(host);
}

/// Ends runc's processes, which wait for a dockerd that is gone.
fn kill_runcs(host: &EngineHost) {
    host.sh(
        "for it in /proc/[0-9]*; do read -r name 2>/dev/null <$it/comm || continue; \
         case $name in runc*) kill -9 ${it#/proc/} 2>/dev/null || :;; esac; done",
    );
}

/// dockerd is killed while containers start, and does not come back: what it had
/// not finished ends without it, and what runs goes on. Some of runc's processes
/// end with containerd, which asked for them; all do here.
fn starts_end_after_a_dockerd_that_stays_away(packages: &str) {
    starts_end("dk-away", packages, |_| ());
}

/// A netdp that has never seen that dockerd looks after what it left.
fn starts_end_after_a_dockerd_that_ended_with_netdp(packages: &str) {
    starts_end("dk-both", packages, |host| {
        host.kill("netdp");
        host.start_netdp();
    });
}

fn starts_end(name: &str, packages: &str, then: impl FnOnce(&EngineHost)) {
    let Some(docker) = Docker::start(name, packages) else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    docker.run("one", "-p 9000:80");
    host.sh(&format!(
        "for i in 1 2 3 4 5 6 7 8; do {} >/dev/null 2>&1 & done",
        docker.run_words("c$i", "-p $((9000 + i)):80")
    ));
    host.wait_until("some have started", || sandboxes(host) >= 4);
    docker.kill_dockerd();
    then(host);
    let all = || -> Vec<Sandbox> {
        serde_json::from_str(&host.netdp("ps --format json")).expect("sandboxes in JSON")
    };
    let has_process = |sandbox: &Sandbox, but: &str| {
        let path = sandbox.netns.display();
        let line = format!(
            "test -n '{path}' && of=$(stat -Lc %i '{path}') || exit 1; for it in /proc/[0-9]*; do \
             read -r name 2>/dev/null <$it/comm || continue; \
             case $name in {but}) continue;; esac; \
             test \"$(stat -Lc %i $it/ns/net)\" != $of || exit 0; done; exit 1"
        );
        host.try_sh(&line).is_ok()
    };
    let there = all();
    // With runc's process, which waits for a dockerd that is gone, nothing runs.
    let running: Vec<_> = there
        .iter()
        .filter(|it| has_process(it, "runc*"))
        .map(|it| it.id.clone())
        .collect();
    assert!(!running.is_empty());
    host.wait_until("only what has a process is left", || {
        kill_runcs(host);
        all().iter().all(|it| has_process(it, "nothing"))
    });
    let left = all();
    println!(
        "{} were there, of which {} ran; {} are left",
        there.len(),
        running.len(),
        left.len()
    );
    for id in running {
        assert!(left.iter().any(|it| it.id == id), "{id} ran and was ended");
    }
    let client = &host.topology.world.client;
    assert_eq!(fetch(client, (HOST_ADDRESS, 9000)).hostname, "one");
    docker.start_dockerd();
    host.sh("for id in $(docker ps -aq); do docker rm -f $id || exit; done");
    docker.run("next", "-p 9001:80");
    host.sh("docker rm -f next");
    before.comes_back(host);
}

/// Goes through docs/docker.md, 'Networks'.
fn networks_are_as_the_manual_says(packages: &str) {
    let Some(docker) = Docker::start("dk-networks", packages) else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    host.topology.world.add_ipv6().expect("IPv6");
    let before = Left::on(host);
    for options in [
        "--subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.128/25 back",
        "--ipv6 --subnet fd09::/64 six",
        "--internal inside",
        "-o icc=False -o mtu=1400 -o nat=endpoint-independent strict",
    ] {
        host.sh(&format!("docker network create -d netdp {options}"));
    }
    let said = host.refused("docker network create -d netdp -o com.example.foo=bar bad");
    assert!(said.contains("com.example.foo"), "{said}");
    let run = |name: &str, options: &str| {
        host.sh(&format!(
            "docker run -d --name {name} --hostname {name} {options} web:1"
        ));
    };
    let given = |name: &str, network: &str, key: &str| {
        let words = format!("(index .NetworkSettings.Networks \"{network}\").{key}");
        host.sh(&format!("docker inspect -f '{{{{{words}}}}}' {name}"))
    };
    let address = |name: &str, network: &str| -> IpAddr {
        given(name, network, "IPAddress")
            .parse()
            .expect("an address")
    };

    run("back", "--network back -p 8081:80");
    assert_eq!(address("back", "back"), IpAddr::from([10, 9, 0, 128]));
    let route = host.sh("docker exec back ip route");
    assert!(route.contains("default via 10.9.0.254"), "{route}");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "back");

    for name in ["six1", "six2"] {
        run(name, "--network six");
    }
    let [six1, six2] = ["six1", "six2"].map(|name| docker.namespace(name));
    let six = given("six1", "six", "GlobalIPv6Address");
    let six: Ipv6Addr = six.parse().expect("an IPv6 address");
    let listener = listen(&six1, Ipv6Addr::UNSPECIFIED, 81);
    let near = connect(&six2, (six, 81));
    talk(&near, &listener.accept().0);

    for name in ["in1", "in2"] {
        run(name, "--network inside");
    }
    let in1 = docker.namespace("in1");
    assert_eq!(fetch(&in1, (address("in2", "inside"), 80)).hostname, "in2");
    fetch_within(&in1, (HOST_ADDRESS, 8081), SILENCE).unwrap_err();

    for name in ["strict1", "strict2"] {
        run(name, "--network strict");
    }
    let strict1 = docker.namespace("strict1");
    fetch_within(&strict1, (address("strict2", "strict"), 80), SILENCE).unwrap_err();
    assert_eq!(fetch(&strict1, (HOST_ADDRESS, 8081)).hostname, "back");
    let mtu = host.sh("docker exec strict1 cat /sys/class/net/eth0/mtu");
    assert_eq!(mtu, "1400");

    drop((near, listener, six1, six2, in1, strict1));
    host.sh("docker rm -f $(docker ps -aq); docker network rm back six inside strict");
    before.comes_back(host);
}

/// Goes through docs/docker.md, 'Containers'.
fn containers_are_as_the_manual_says(packages: &str) {
    let Some(docker) = Docker::start("dk-containers", packages) else {
        return;
    };
    let host = &docker.host;
    let client = &host.topology.world.client;
    let before = Left::on(host);
    host.sh("docker network create -d netdp --subnet 10.9.0.0/24 back");
    let run = |name: &str, options: &str| {
        format!("docker run -d --name {name} --hostname {name} {options} web:1")
    };

    // Ports: one, of an address, a row, out of a row, and as netdp chooses.
    let web = format!(
        "--network fast -p 8080:80 -p {HOST_ADDRESS}:8085:80 -p 9000-9010:9000-9010 --expose 81 -P"
    );
    host.sh(&run("web", &web));
    for port in [8080, 8085] {
        assert_eq!(fetch(client, (HOST_ADDRESS, port)).hostname, "web");
    }
    let program = host.topology.host_program();
    fetch_within(&program, (Ipv4Addr::LOCALHOST, 8085), SILENCE).unwrap_err();
    let namespace = docker.namespace("web");
    let listener = listen(&namespace, Ipv4Addr::UNSPECIFIED, 9007);
    let near = connect(client, (HOST_ADDRESS, 9007));
    talk(&near, &listener.accept().0);
    drop((near, listener));
    let ports = host.netdp("port web");
    let chosen = ports.lines().filter_map(|line| {
        let port = line
            .split_whitespace()
            .find(|word| word.contains("0.0.0.0:"));
        port?.rsplit(':').next()?.parse::<u16>().ok()
    });
    let chosen = chosen.filter(|port| *port >= 49153).collect::<Vec<_>>();
    let [chosen] = chosen[..] else {
        panic!("{ports}");
    };
    let listener = listen(&namespace, Ipv4Addr::UNSPECIFIED, 81);
    let near = connect(client, (HOST_ADDRESS, chosen));
    talk(&near, &listener.accept().0);
    drop((near, listener));
    for (name, port) in [("r1", 9100), ("r2", 9101)] {
        host.sh(&run(name, "--network fast -p 9100-9101:80"));
        assert_eq!(fetch(client, (HOST_ADDRESS, port)).hostname, name);
    }
    for (options, why) in [
        (
            "-p 9100-9101:80",
            "Bind for 0.0.0.0:9100 failed: port is already allocated",
        ),
        ("-p 9100-9101:80", "none of the ports 9100-9101"),
        ("-p 8080:80", "published by web"),
        ("-p 84:84/sctp", "84/sctp can't be published"),
        ("--mac-address 02:42:00:00:00:77", "in use by named"),
    ] {
        if options.contains("77") {
            let named = "--network fast --ip 10.50.0.77 --mac-address 02:42:00:00:00:77";
            host.sh(&run("named", named));
            let link = host.sh("docker exec named ip addr show eth0");
            assert!(link.contains("02:42:00:00:00:77"), "{link}");
            assert!(link.contains("10.50.0.77/24"), "{link}");
        }
        let said = host.refused(&run("bad", &format!("--network fast {options}")));
        assert!(said.contains(why), "{said}");
        host.sh("docker rm bad");
    }

    // Names, and further networks: the ports go where the way out goes.
    host.sh(&run("asks", "--network fast --link web:other"));
    for name in ["web", "other"] {
        let said = host.sh(&format!("docker exec asks nslookup {name}"));
        assert!(said.contains(&docker.address("web").to_string()), "{said}");
    }
    host.sh("docker network connect back web");
    let asks = docker.namespace("asks");
    assert_eq!(fetch(&asks, (docker.address("web"), 80)).hostname, "web");
    host.sh("docker network disconnect fast web");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8080)).hostname, "web");

    // To some sources alone.
    let some = |from| format!("--network name=fast,driver-opt=allow={from}");
    host.sh(&run(
        "all",
        &format!("{} -p 8086:80", some(format!("{CLIENT_ADDRESS}/32"))),
    ));
    host.sh(&run(
        "some",
        &format!("{} -p 8087:80", some("203.0.113.0/24".to_owned())),
    ));
    assert_eq!(fetch(client, (HOST_ADDRESS, 8086)).hostname, "all");
    fetch_within(client, (HOST_ADDRESS, 8087), SILENCE).unwrap_err();

    // By Docker's names; what is Docker's is left to it.
    let shown = host.netdp("ps");
    assert!(shown.contains("web") && shown.contains("asks"), "{shown}");
    assert!(host.netdp("inspect web").contains("10.9.0."));
    let said = host.refused("netdp rm -f web");
    assert!(said.contains("docker rm web"), "{said}");
    let id = host.sh("docker inspect -f '{{.Id}}' asks");
    host.netdp(&format!("publish {id} 8088:80"));
    assert_eq!(fetch(client, (HOST_ADDRESS, 8088)).hostname, "asks");
    host.netdp("connect netdp0 asks");
    host.netdp("disconnect netdp0 asks");

    drop((namespace, asks));
    host.sh("docker rm -f $(docker ps -aq); docker network rm back");
    before.comes_back(host);
}
