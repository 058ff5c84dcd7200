//! Direct ports of containers that have more rights than others, or fewer:
//! `cargo xtask test engines`.

use netdp_tests::engine::direct::{direct, docker, is_direct, run, serves};
use netdp_tests::engine::{Docker, Engine, Left};

/// Who may do everything may enter the host's network anyway. Docker 20.10 gives
/// such containers rights that not every machine has.
#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn privileged_containers_have_them_and_those_that_rule_their_network_have_none() {
    let Some(docker) = docker("dk-rights", "newest") else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    run(&docker, "all", "--privileged -p 8081:80");
    is_direct(host, 8081);
    serves(host, 8081, "all");
    run(&docker, "some", "--cap-add NET_ADMIN -p 8082:80");
    serves(host, 8082, "some");
    assert_eq!(direct(host), [8081]);
    docker.remove("all some");
    host.wait_until("all is closed", || direct(host).is_empty());
    before.comes_back(host);
}

/// In a user namespace that dockerd makes.
#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn containers_in_user_namespaces_have_direct_ports() {
    let options = "--add-runtime netdp=/usr/local/bin/netdp-runc --userns-remap moved \
                   $(echo moved:100000:65536 | tee /etc/subuid >/etc/subgid; \
                   echo moved:x:999:999::/:/bin/sh >>/etc/passwd; echo moved:x:999: >>/etc/group)";
    let Some(docker) = Docker::start_with("dk-userns", "newest", options) else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    run(&docker, "one", "-p 8081:80");
    let mapped = host.sh("cat /proc/*/uid_map");
    assert!(mapped.contains("100000"), "{mapped}");
    is_direct(host, 8081);
    serves(host, 8081, "one");
    docker.remove("one");
    host.wait_until("one is closed", || direct(host).is_empty());
    before.comes_back(host);
}
