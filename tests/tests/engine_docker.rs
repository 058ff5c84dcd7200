//! Real dockerds with netdp as their driver: `cargo xtask test engines`.

use std::net::Ipv4Addr;

use netdp::api::types::Sandbox;
use netdp::demo::world::HOST_ADDRESS;
use netdp_tests::engine::scene::{self, sandboxes};
use netdp_tests::engine::{Docker, Engine, Left, fetch};
use netdp_tests::{connect, listen, talk};

/// Debian's folders of packages.
const RELEASED: &str = "debian-12";
const NEWEST: &str = "newest";

macro_rules! with_each_docker {
    ($($test:ident),* $(,)?) => {
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

with_each_docker! {
    published_ports_are_reached_from_everywhere,
    a_taken_port_is_refused_and_leaves_nothing,
    fifty_containers_come_and_go_at_once,
    a_killed_netdp_is_made_up_for,
    a_killed_dockerd_is_made_up_for,
    with_live_restore_connections_outlive_both_daemons,
    kills_in_the_middle_of_starts_leave_nothing,
    starts_end_after_a_dockerd_that_stays_away,
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
    host.start_netdp();
    docker.start_dockerd();
    host.sh("for id in $(docker ps -aq); do docker rm -f $id || exit; done");
    docker.run("next", "-p 9001:80");
    let client = &host.topology.world.client;
    assert_eq!(fetch(client, (HOST_ADDRESS, 9001)).hostname, "next");
    host.sh("docker rm -f next");
    before.comes_back(host);
}

/// dockerd is killed while containers start, and does not come back: what it had
/// not finished ends without it.
fn starts_end_after_a_dockerd_that_stays_away(packages: &str) {
    let Some(docker) = Docker::start("dk-away", packages) else {
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
    let all = || -> Vec<Sandbox> {
        serde_json::from_str(&host.netdp("ps --format json")).expect("sandboxes in JSON")
    };
    let runs = |sandbox: &Sandbox| {
        let path = sandbox.netns.display();
        let line = format!(
            "test -n '{path}' && of=$(stat -Lc %i '{path}') || exit 1; for it in \
             /proc/[0-9]*/ns/net; do test \"$(stat -Lc %i $it)\" != $of || exit 0; done; exit 1"
        );
        host.try_sh(&line).is_ok()
    };
    let running = all().iter().filter(|it| runs(it)).count();
    println!("{} were there, of which {running} ran", all().len());
    host.wait_until("only what runs is left", || all().iter().all(runs));
    assert_eq!(sandboxes(host), running);
    docker.start_dockerd();
    host.sh("for id in $(docker ps -aq); do docker rm -f $id || exit; done");
    docker.run("next", "-p 9001:80");
    host.sh("docker rm -f next");
    before.comes_back(host);
}
