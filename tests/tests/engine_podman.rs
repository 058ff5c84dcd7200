//! Real Podmans with netdp as their plugin: `cargo xtask test engines`.

use netdp::demo::world::HOST_ADDRESS;
use netdp_tests::engine::scene::sandboxes;
use netdp_tests::engine::{Engine, Left, Podman, fetch, scene};
use netdp_tests::with_each_podman;

with_each_podman! {
    published_ports_are_reached_from_everywhere,
    a_taken_port_is_refused_and_leaves_nothing,
    fifty_containers_come_and_go_at_once,
    a_killed_netdp_is_made_up_for,
    containers_know_each_other_by_name,
    a_killed_container_leaves_nothing,
    kills_in_the_middle_of_starts_leave_nothing,
}

fn published_ports_are_reached_from_everywhere(packages: &str) {
    scene::published_ports_are_reached_from_everywhere::<Podman>(packages);
}

fn a_taken_port_is_refused_and_leaves_nothing(packages: &str) {
    scene::a_taken_port_is_refused_and_leaves_nothing::<Podman>(packages);
}

fn fifty_containers_come_and_go_at_once(packages: &str) {
    scene::fifty_containers_come_and_go_at_once::<Podman>(packages);
}

fn a_killed_netdp_is_made_up_for(packages: &str) {
    scene::a_killed_netdp_is_made_up_for::<Podman>(packages);
}
/// netdp answers for them, also after its daemon was killed.
fn containers_know_each_other_by_name(packages: &str) {
    let Some(podman) = Podman::start("pod-names", packages) else {
        return;
    };
    let host = &podman.host;
    podman.run("one", "--network-alias store");
    podman.run("asks", "");
    podman.run("file", "--dns 127.0.0.11");
    let address = podman.address("one").to_string();
    for _ in 0..2 {
        for name in ["one", "store"] {
            let said = host.sh(&format!("podman exec asks nslookup {name} 127.0.0.11"));
            assert!(said.contains(&address), "{said}");
            // As programs ask, by their own resolv.conf.
            let said = host.sh(&format!("podman exec file nslookup {name}"));
            assert!(said.contains(&address), "{said}");
        }
        host.kill("netdp");
        host.start_netdp();
    }
    // It has another address then.
    podman.run("two", "");
    podman.remove("one");
    podman.run("one", "--network-alias store");
    let moved = podman.address("one").to_string();
    assert_ne!(moved, address);
    let said = host.sh("podman exec asks nslookup store 127.0.0.11");
    assert!(said.contains(&moved), "{said}");
}

/// A container is killed with the process that watches it: nobody is told.
fn a_killed_container_leaves_nothing(packages: &str) {
    let Some(podman) = Podman::start("pod-dead", packages) else {
        return;
    };
    let host = &podman.host;
    let client = &host.topology.world.client;
    podman.run("one", "-p 8081:80");
    let before = Left::on(host);
    podman.run("two", "-p 8082:80");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "two");
    host.sh("kill -9 $(podman inspect -f '{{.State.ConmonPid}} {{.State.Pid}}' two)");
    // The first time it may wonder what became of it.
    host.wait_for_line("removed", &podman.remove_words("two"));
    before.comes_back(host);
    podman.run("next", "-p 8082:80");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "next");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
}

/// Podman and netdp are killed while containers start. Podman leaves processes,
/// mounts and namespaces behind; with these ended by hand, netdp has nothing.
fn kills_in_the_middle_of_starts_leave_nothing(packages: &str) {
    const BY_HAND: &str = "\
        for name in podman conmon runc netavark; do busybox killall -9 $name 2>/dev/null; done; \
        own=$(readlink /proc/1/ns/net); for process in /proc/[0-9]*; do \
        net=$(readlink $process/ns/net) && test $net != $own && kill -9 ${process#/proc/}; done; \
        for mount in $(cut -d ' ' -f 5 /proc/self/mountinfo); do case $mount in \
        /run/netns/* | /var/lib/containers/*) umount -l $mount;; esac; done; rm -f /run/netns/*; true";
    let Some(podman) = Podman::start("pod-middle", packages) else {
        return;
    };
    let host = &podman.host;
    let before = Left::on(host);
    let run = podman.run_words("c$i", "-p $((9000 + i)):80");
    host.sh(&format!(
        "for i in 1 2 3 4 5 6 7 8; do {run} >/dev/null 2>&1 & done"
    ));
    host.wait_until("some have started", || sandboxes(host) >= 3);
    host.sh("busybox killall -9 podman");
    host.kill("netdp");
    host.sh(BY_HAND);
    host.start_netdp();
    before.comes_back(host);
    host.wait_for_line("removed", "podman rm -f -t 0 -a");
    podman.run("next", "-p 9001:80");
    let client = &host.topology.world.client;
    assert_eq!(fetch(client, (HOST_ADDRESS, 9001)).hostname, "next");
}
