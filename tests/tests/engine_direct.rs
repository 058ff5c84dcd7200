//! Direct ports of containers of real engines: `cargo xtask test engines`.

use std::fs;
use std::process::Command;

use netdp_tests::engine::direct::{direct, docker, is_direct, run, run_words, serves};
use netdp_tests::engine::{Containerd, Docker, Engine, Left, Podman, fetch, twice};
use netdp_tests::{with_each_containerd, with_each_docker, with_each_podman};

with_each_docker! {
    containers_have_direct_ports_by_a_runtime_of_netdps,
    they_need_no_daemon_of_netdp,
    the_runtime_that_is_installed_is_dockers,
    containers_share_a_network_and_its_direct_ports,
    a_dead_supervisor_is_made_up_for_by_a_restart,
    what_a_profile_says_holds,
    nobody_sets_options_by_calls_of_32_bits,
}

with_each_podman! {
    podmans_containers_have_direct_ports_by_a_runtime_of_netdps,
}

/// crun loads a program for a control group of its own, for which it raises a limit
/// that not every machine lets it raise (RLIMIT_MEMLOCK); Podman wants to be told of
/// runtimes that can do without.
const BARE: &str = "--cgroups=disabled";
const CRUN_ALONE: &str = r#"
rm /usr/sbin/runc
busybox sed -i -e 's/"runc"/"crun"/' \
    -e '/^\[engine\]/a runtime_supports_nocgroup = ["netdp", "netdp-crun"]' \
    /etc/containers/containers.conf
"#;

#[test]
#[ignore = "needs a real Podman: cargo xtask test engines"]
fn podmans_containers_have_direct_ports_where_there_is_crun_alone() {
    let Some(podman) = Podman::start("pod-crun", "debian-12-crun") else {
        return;
    };
    let host = &podman.host;
    host.sh(CRUN_ALONE);
    host.sh(&format!("echo '{LIST}' >/etc/cni/net.d/fast.conflist"));
    let before = Left::on(host);
    host.sh("ln -s $(readlink /usr/local/bin/netdp-runc) /usr/local/bin/netdp-crun");
    host.sh("rm /usr/local/bin/netdp-runc");
    host.netdp("install podman");
    for (port, name, runtime) in [
        (8080, "as-runc", "netdp"),
        (8081, "as-crun", "/usr/local/bin/netdp-crun"),
    ] {
        host.sh(&format!(
            "podman --runtime {runtime} run -d --name {name} --hostname {name} --network fast \
             {BARE} -p {port}:80 -p {}:81 web:1",
            port + 1000
        ));
        is_direct(host, port);
        serves(host, port, name);
        let httpd = "httpd -f -p 0.0.0.0:81 -h /www";
        host.sh(&format!("podman exec -d {name} {httpd}"));
        is_direct(host, port + 1000);
        host.sh(&twice(&format!("podman restart -t 0 {name}")));
        is_direct(host, port);
        serves(host, port, name);
        podman.remove(name);
    }
    host.wait_until("all is closed", || direct(host).is_empty());
    before.comes_back(host);
}

with_each_containerd! {
    containerds_containers_have_direct_ports_by_a_runtime_of_netdps,
}

/// Entered into `daemon.json` and taken out again, while dockerd runs.
fn the_runtime_that_is_installed_is_dockers(packages: &str) {
    let Some(docker) = Docker::start("dk-install", packages) else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    host.sh("rm /usr/local/bin/netdp-runc; mkdir -p /etc/docker /etc/systemd/system");
    let settings = "/etc/docker/daemon.json";
    let text = "{\n  \"debug\": false\n}";
    host.sh(&format!("echo '{text}' >{settings}"));
    let knows = "docker info -f '{{json .Runtimes}}'";
    let reload = "kill -HUP $(cat /tmp/dockerd.pid)";
    // systemd isn't there to start anything.
    host.netdp("install docker --direct-ports --root /");
    host.sh(reload);
    host.wait_until("dockerd knows it", || host.sh(knows).contains("netdp-runc"));
    run(&docker, "one", "-p 8080:80");
    is_direct(host, 8080);
    serves(host, 8080, "one");
    docker.remove("one");
    run(&docker, "late", "-p 8080:80");
    is_direct(host, 8080);
    host.netdp("install docker --direct-ports --remove --root /");
    assert_eq!(host.sh(&format!("cat {settings}")), text);
    // It isn't entered any more, and ends.
    let entered = host.sh("docker exec late true || echo refused");
    assert!(entered.contains("refused"), "{entered}");
    docker.remove("late");
    host.wait_until("all is closed", || direct(host).is_empty());
    before.comes_back(host);
}

fn containers_have_direct_ports_by_a_runtime_of_netdps(packages: &str) {
    let Some(docker) = docker("dk-direct", packages) else {
        return;
    };
    let host = &docker.host;
    let before = Left::on(host);
    run(&docker, "one", "-p 8081:80 -p 9081:81");
    let all = "--cap-add NET_ADMIN --cap-add SYS_ADMIN --security-opt seccomp=unconfined";
    run(&docker, "rules", &format!("{all} -p 8082:80"));
    run(&docker, "netadmin", "--cap-add NET_ADMIN -p 8083:80");
    docker.run("plain", "-p 8084:80");
    host.sh("docker run -d --name bare --runtime netdp --network none web:1");
    for (port, name) in [(8081, "one"), (8082, "rules")] {
        is_direct(host, port);
        serves(host, port, name);
    }
    for (port, name) in [(8083, "netadmin"), (8084, "plain")] {
        serves(host, port, name);
    }
    assert_eq!(direct(host), [8081, 8082]);
    let ps = host.netdp("ps");
    assert!(ps.contains("0.0.0.0:8081->80/tcp,direct"), "{ps}");
    // Among containers, and with itself.
    let plain = docker.namespace("plain");
    let seen = fetch(&plain, (docker.address("one"), 80));
    assert_eq!(seen.source, docker.address("plain"));
    drop(plain);
    // A program that enters the container.
    host.sh("docker exec -d one httpd -f -p 0.0.0.0:81 -h /www");
    is_direct(host, 9081);
    serves(host, 9081, "one");
    host.sh("docker restart -t 0 one");
    is_direct(host, 8081);
    serves(host, 8081, "one");
    host.sh("docker rm -f one rules netadmin plain bare");
    host.wait_until("no supervisor is left", || {
        host.sh("ls /run/netdp/seccomp").is_empty()
    });
    assert!(direct(host).is_empty());
    before.comes_back(host);
}

fn they_need_no_daemon_of_netdp(packages: &str) {
    let Some(docker) = docker("dk-direct-dead", packages) else {
        return;
    };
    let host = &docker.host;
    run(&docker, "one", "-p 8081:80 -p 9081:81");
    is_direct(host, 8081);
    host.kill("netdp");
    serves(host, 8081, "one");
    host.sh("docker exec -d one httpd -f -p 0.0.0.0:81 -h /www");
    is_direct(host, 9081);
    serves(host, 9081, "one");
    // One that is on none of netdp's networks starts as well.
    host.sh("docker run -d --name bare --runtime netdp --network none web:1");
    host.start_netdp();
    for port in [8081, 9081] {
        serves(host, port, "one");
    }
    host.sh("docker rm -f one bare");
    host.wait_until("all is closed", || direct(host).is_empty());
}

/// On a network whose ports are direct: containers with one network have a
/// supervisor each, and one of them keeps what it has.
fn containers_share_a_network_and_its_direct_ports(packages: &str) {
    let Some(docker) = docker("dk-direct-pod", packages) else {
        return;
    };
    let host = &docker.host;
    host.sh("docker network create -d netdp --subnet 10.51.0.0/24 -o publish=direct direct");
    let one = "docker run -d --runtime netdp --name one --hostname one --network";
    host.sh(&format!("{one} direct -p 8081:80 -p 9081:81 web:1"));
    is_direct(host, 8081);
    let beside = "docker run --runtime netdp --network container:one";
    host.sh(&format!(
        "{beside} -d --name two web:1 httpd -f -p 0.0.0.0:81 -h /www"
    ));
    is_direct(host, 9081);
    let said = host.refused(&format!("{beside} web:1 httpd -f -p 0.0.0.0:80 -h /www"));
    assert!(said.contains("Address already in use"), "{said}");
    for port in [8081, 9081] {
        serves(host, port, "one");
    }
    host.sh("docker rm -f two");
    host.wait_until("it is closed", || direct(host) == [8081]);
    // One container may have none.
    let plain = "name=direct,driver-opt=publish=datapath -p 8082:80 web:1";
    host.sh(&format!(
        "docker run -d --runtime netdp --name plain --hostname plain --network {plain}"
    ));
    serves(host, 8082, "plain");
    assert_eq!(direct(host), [8081]);
}

fn a_dead_supervisor_is_made_up_for_by_a_restart(packages: &str) {
    const KILL: &str = "for process in /proc/[0-9]*; do \
        if busybox grep -q __dire[c]t $process/cmdline; then kill -9 ${process#/proc/}; fi; done";
    let Some(docker) = docker("dk-direct-killed", packages) else {
        return;
    };
    let host = &docker.host;
    run(&docker, "one", "-p 8081:80");
    is_direct(host, 8081);
    host.sh(KILL);
    serves(host, 8081, "one");
    let said = host.refused("docker exec one sleep 0 >&2");
    assert!(said.contains("/run/netdp/seccomp/"), "{said}");
    host.sh("docker restart -t 0 one");
    is_direct(host, 8081);
    serves(host, 8081, "one");
    host.sh("docker exec one sleep 0");
}

fn what_a_profile_says_holds(packages: &str) {
    let Some(docker) = docker("dk-direct-profile", packages) else {
        return;
    };
    let host = &docker.host;
    let write = |name: &str, rule: &str| {
        host.sh(&format!(
            "echo '{{\"defaultAction\": \"SCMP_ACT_ALLOW\", {rule}}}' >/tmp/{name}.json"
        ));
        format!("--security-opt seccomp=/tmp/{name}.json")
    };
    let refuses = write(
        "refuses",
        r#""syscalls": [{"names": ["bind"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]"#,
    );
    host.sh(&run_words("refused", &format!("{refuses} -p 8082:80")));
    host.wait_until("it ended", || {
        host.sh("docker logs refused 2>&1")
            .contains("not permitted")
    });
    let listens = write(
        "listens",
        r#""listenerPath": "/run/other.sock", "syscalls": [{"names": ["bind"], "action": "SCMP_ACT_NOTIFY"}]"#,
    );
    let said = host.refused(&run_words("other", &listens));
    assert!(said.contains("the container's seccomp profile"), "{said}");
    // Where the supervisor can't begin, the container doesn't.
    host.sh("busybox sed -i 's,netdp.direct,nowhere,' /run/netdp/direct.json");
    let said = host.refused(&run_words("lost", ""));
    assert!(said.contains("nowhere/cgroup.procs"), "{said}");
    assert_eq!(host.sh("ls /run/netdp/seccomp"), "");
    assert!(direct(host).is_empty());
}

/// Neither what a container begins with nor what enters it.
fn nobody_sets_options_by_calls_of_32_bits(packages: &str) {
    let program = env!("CARGO_BIN_EXE_foreign_options");
    let here = Command::new(program).output().unwrap();
    if !here.status.success() {
        return println!("skipped: this kernel has no calls of 32 bits");
    }
    let Some(docker) = docker("dk-direct-32", packages) else {
        return;
    };
    let host = &docker.host;
    fs::copy(program, host.path("/usr/local/bin/foreign_options")).expect("copy a program");
    let command = "busybox chroot /host /usr/local/bin/foreign_options";
    let first = "-v /:/host --security-opt seccomp=unconfined";
    let begun = run_words("one", first).replace("web:1", &format!("web:1 {command}"));
    host.sh(&begun);
    host.wait_until("it ended", || host.sh("docker logs one").contains("x32"));
    run(&docker, "two", first);
    for said in [
        host.sh("docker logs one"),
        host.sh(&format!("docker exec two {command}")),
    ] {
        for call in [
            "setsockopt -1",
            "socketcall -1",
            "io_uring_setup -1",
            "x32 -1",
        ] {
            assert!(said.lines().any(|line| line == call), "{said}");
        }
    }
}

/// From Docker 23 on, a profile says by itself who is told of `bind`.
#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn a_profile_hands_filters_over_without_a_runtime_of_netdps() {
    let Some(docker) = Docker::start("dk-profile", "newest") else {
        return;
    };
    let host = &docker.host;
    host.sh(
        r#"echo '{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/netdp/seccomp.sock",
        "syscalls": [{"names": ["bind"], "action": "SCMP_ACT_NOTIFY"}]}' >/tmp/direct.json"#,
    );
    let words = |name: &str| {
        format!(
            "docker run -d --name {name} --hostname {name} \
             --security-opt seccomp=/tmp/direct.json \
             --network name=fast,driver-opt=publish=direct -p 8081:80 web:1"
        )
    };
    host.sh(&words("one"));
    is_direct(host, 8081);
    serves(host, 8081, "one");
    host.kill("netdp");
    serves(host, 8081, "one");
    let said = host.refused("docker exec one sleep 0 >&2");
    assert!(said.contains("/run/netdp/seccomp.sock"), "{said}");
}

const LIST: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "fast",
  "plugins": [
    {
      "type": "netdp",
      "subnets": ["10.78.0.0/24"],
      "options": { "publish": "direct" },
      "capabilities": { "portMappings": true, "ips": true, "mac": true, "aliases": true }
    }
  ]
}"#;

/// On a network whose ports are direct.
fn podmans_containers_have_direct_ports_by_a_runtime_of_netdps(packages: &str) {
    let Some(podman) = Podman::start("pod-direct", packages) else {
        return;
    };
    let host = &podman.host;
    match host
        .sh("podman info -f '{{.Host.NetworkBackend}}'")
        .as_str()
    {
        "cni" => host.sh(&format!("echo '{LIST}' >/etc/cni/net.d/fast.conflist")),
        _ => host.sh("podman network create -d netdp --subnet 10.78.0.0/24 -o publish=direct fast"),
    };
    let before = Left::on(host);
    let group = host.topology.world.engine_cgroup();
    let words = |name: &str, options: &str| {
        format!(
            "podman --runtime netdp run -d --name {name} --hostname {name} \
             --network fast --cgroup-parent {group} {options} web:1"
        )
    };
    // Podman listens at the port itself, unless it is told to leave that.
    let by_path = words("held", "-p 8080:80").replace("--runtime netdp", BY_PATH);
    let said = host.refused(&by_path);
    assert!(said.contains("8080"), "{said}");
    podman.remove("held");
    // netdp's own to make.
    host.sh("rm /usr/local/bin/netdp-runc");
    host.netdp("install podman");
    host.sh(&words("one", "-p 8081:80 -p 9081:81"));
    is_direct(host, 8081);
    serves(host, 8081, "one");
    host.sh("podman exec -d one httpd -f -p 0.0.0.0:81 -h /www");
    is_direct(host, 9081);
    host.kill("netdp");
    serves(host, 9081, "one");
    host.start_netdp();
    host.sh(&twice("podman restart -t 0 one"));
    is_direct(host, 8081);
    serves(host, 8081, "one");
    // In a user namespace of its own.
    host.sh(&words(
        "mapped",
        "--uidmap 0:100000:65536 --gidmap 0:100000:65536 -p 8082:80",
    ));
    is_direct(host, 8082);
    serves(host, 8082, "mapped");
    podman.remove("one mapped");
    host.wait_until("all is closed", || direct(host).is_empty());
    before.comes_back(host);
}

/// Before Podman is told of it by a name.
const BY_PATH: &str = "--runtime /usr/local/bin/netdp-runc";

/// `ctr` publishes nothing itself, and once a container runs: what binds
/// afterwards is direct.
fn containerds_containers_have_direct_ports_by_a_runtime_of_netdps(packages: &str) {
    let Some(containerd) = Containerd::start("ctr-direct", packages) else {
        return;
    };
    let host = &containerd.host;
    let before = Left::on(host);
    let words = containerd.run_words("one");
    let runtime = "ctr run --runc-binary /usr/local/bin/netdp-runc";
    host.sh(&words.replacen("ctr run", runtime, 1));
    host.netdp("publish default-one 8081:80");
    host.netdp("publish default-one 9081:81,direct");
    serves(host, 8081, "one");
    host.sh("ctr task exec -d --exec-id second one httpd -f -p 0.0.0.0:81 -h /www");
    is_direct(host, 9081);
    serves(host, 9081, "one");
    assert_eq!(direct(host), [9081]);
    containerd.remove("one");
    host.wait_until("all is closed", || direct(host).is_empty());
    before.comes_back(host);
}
