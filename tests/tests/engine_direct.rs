//! Direct ports of containers of real engines: `cargo xtask test engines`.

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp_tests::engine::{Docker, Engine, EngineHost, Left, fetch};

/// The user that direct sockets are of.
const OWNER: &str = "1852142692";

macro_rules! with_each_docker {
    ($($test:ident),* $(,)?) => {
        mod docker_20_10 {
            $(#[test]
            #[ignore = "needs a real Docker: cargo xtask test engines"]
            fn $test() {
                super::$test("debian-12");
            })*
        }
        mod docker_newest {
            $(#[test]
            #[ignore = "needs a real Docker: cargo xtask test engines"]
            fn $test() {
                super::$test("newest");
            })*
        }
    };
}

with_each_docker! {
    containers_have_direct_ports_by_a_runtime_of_netdps,
    they_need_no_daemon_of_netdp,
    what_a_profile_says_holds,
}

/// Ports at which the host listens for containers.
fn direct(host: &EngineHost) -> Vec<u16> {
    let tables = host.sh("cat /proc/net/tcp /proc/net/tcp6");
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(3) == Some(&"0A") && fields.get(7) == Some(&OWNER);
        let (_, port) = fields.get(1)?.split_once(':')?;
        listens.then(|| u16::from_str_radix(port, 16).unwrap())
    };
    let mut ports: Vec<u16> = tables.lines().filter_map(of_line).collect();
    ports.sort_unstable();
    ports
}

#[track_caller]
fn is_direct(host: &EngineHost, port: u16) {
    host.wait_until(&format!("{port} is direct"), || {
        direct(host).contains(&port)
    });
}

/// Reached from outside, under the client's own address.
#[track_caller]
fn serves(host: &EngineHost, port: u16, name: &str) {
    let seen = fetch(&host.topology.world.client, (HOST_ADDRESS, port));
    assert_eq!(
        (seen.hostname.as_str(), seen.source),
        (name, CLIENT_ADDRESS.into())
    );
}

fn docker(name: &str, packages: &str) -> Option<Docker> {
    Docker::start_with(
        name,
        packages,
        "--add-runtime netdp=/usr/local/bin/netdp-runc",
    )
}

fn run(docker: &Docker, name: &str, options: &str) {
    docker.host.sh(&run_words(name, options));
}

fn run_words(name: &str, options: &str) -> String {
    format!(
        "docker run -d --name {name} --hostname {name} --runtime netdp \
         --network name=fast,driver-opt=publish=direct {options} web:1"
    )
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
    assert!(direct(host).is_empty());
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
    let said = host.refused("docker exec one true >&2");
    assert!(said.contains("/run/netdp/seccomp.sock"), "{said}");
}
