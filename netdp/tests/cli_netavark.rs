//! netdp as a plugin of netavark, against a daemon of its own.

mod cli_world;

use std::{
    io::Write,
    net::TcpListener,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
};

use cli_world::{Done, World, done};
use serde_json::{Value, json};

fn call(world: &World, words: &[&str], stdin: &str) -> Done {
    let mut child = world
        .command(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // Who needs no input may be done before it is written.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    done(child.wait_with_output().unwrap())
}

/// The answer; it has to succeed.
#[track_caller]
fn ok(world: &World, words: &[&str], stdin: &Value) -> Value {
    let done = call(world, words, &stdin.to_string());
    assert_eq!(done.status, Some(0), "{done:?}\n{}", world.log());
    if done.stdout.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(&done.stdout).unwrap()
}

#[track_caller]
fn refused(world: &World, words: &[&str], stdin: &str) -> String {
    let done = call(world, words, stdin);
    assert_eq!(done.status, Some(1), "{done:?}");
    let answer: Value = serde_json::from_str(&done.stdout).unwrap();
    answer["error"].as_str().unwrap().to_owned()
}

fn network() -> Value {
    json!({
        "name": "nvn", "id": "8e07635bf2f5", "driver": "netdp", "network_interface": "netdp0",
        "subnets": [{"subnet": "10.60.0.0/24", "gateway": "10.60.0.1", "lease_range": null}],
        "ipv6_enabled": false, "internal": false, "dns_enabled": true,
        "options": null, "ipam_options": null, "routes": null, "network_dns_servers": null,
    })
}

fn exec(container: &str, address: &str, port: u16) -> Value {
    json!({
        "container_id": container, "container_name": format!("{container}name"),
        "port_mappings": [
            {"container_port": 80, "host_ip": "", "host_port": port, "protocol": "tcp", "range": 1},
            {"container_port": 9000, "host_ip": "", "host_port": port + 1000, "protocol": "udp",
             "range": 2},
        ],
        "network": network(),
        "network_options": {
            "aliases": ["web"], "interface_name": "eth0", "static_ips": [address],
            "static_mac": "02:aa:00:00:00:09", "options": null,
        },
    })
}

fn is_empty(world: &World) -> bool {
    let listed = world.json(&["ps", "--format", "json"]);
    listed.as_array().unwrap().is_empty() && world.host_ends().is_empty()
}

#[test]
fn a_container_is_set_up_and_torn_down() {
    let Some(world) = World::new() else { return };
    let info = ok(&world, &["info"], &Value::Null);
    assert_eq!(info["api_version"], "1.0.0");
    assert_eq!(ok(&world, &["create"], &network()), network());

    let inside = world.namespace("n1");
    let netns = inside.path().to_str().unwrap();
    let exec1 = exec("c1", "10.60.0.9", 8081);
    let status = ok(&world, &["setup", netns], &exec1);
    assert_eq!(
        status,
        json!({
            "dns_server_ips": ["127.0.0.11"],
            "dns_search_domains": [],
            "interfaces": {"eth0": {
                "mac_address": "02:aa:00:00:00:09",
                "subnets": [{"ipnet": "10.60.0.9/24", "gateway": "10.60.0.1"}],
            }},
        })
    );
    let link = world.ip_in(&inside, "-o address show dev eth0");
    assert!(link.contains("10.60.0.9/24"), "{link}");
    let ports = world.ok(&["port", "c1name"]);
    assert!(
        ports.contains(":8081") && ports.contains(":9081"),
        "{ports}"
    );
    assert_eq!(world.json(&["inspect", "c1name"])[0]["owner"], "netavark");
    // Podman 4 binds the ports when the plugin is done.
    let bound = world.host.run(|| TcpListener::bind("0.0.0.0:8081"));
    let bound = bound.unwrap().unwrap();

    for _ in 0..2 {
        assert_eq!(ok(&world, &["teardown", netns], &exec1), Value::Null);
        assert!(is_empty(&world));
    }
    assert!(!world.ok(&["network", "ls"]).contains("nvn"));
    // Podman 5 before it calls; then the namespace may be gone.
    assert_eq!(bound.local_addr().unwrap().port(), 8081);
    ok(&world, &["setup", netns], &exec1);
    let netns = netns.to_owned();
    drop(inside);
    ok(&world, &["teardown", &netns], &exec1);
    assert!(is_empty(&world));
}

#[test]
fn a_network_without_dns_or_a_way_out_says_so() {
    let Some(world) = World::new() else { return };
    let inside = world.namespace("n1");
    let netns = inside.path().to_str().unwrap();
    let mut exec = exec("c1", "10.60.0.9", 8081);
    exec["network"]["internal"] = json!(true);
    exec["network"]["dns_enabled"] = json!(false);
    let status = ok(&world, &["setup", netns], &exec);
    assert_eq!(status["dns_server_ips"], json!([]));
    assert_eq!(
        status["interfaces"]["eth0"]["subnets"],
        json!([{"ipnet": "10.60.0.9/24"}])
    );
    assert_eq!(world.ok(&["port", "c1name"]), "");
}

#[test]
fn what_is_refused_leaves_nothing() {
    let Some(mut world) = World::new() else {
        return;
    };
    let (one, two) = (world.namespace("n1"), world.namespace("n2"));
    let path = |namespace: &netdp::netns::Namespace| namespace.path().to_str().unwrap().to_owned();
    let (first, second) = (path(&one), path(&two));
    ok(&world, &["setup", &first], &exec("c1", "10.60.0.9", 8081));
    let before = world.ip("-o link");

    let mut other = exec("c2", "10.61.0.9", 8081);
    other["network"]["name"] = json!("other");
    other["network"]["subnets"][0] = json!({"subnet": "10.61.0.0/24"});
    for (exec, why) in [
        (exec("c2", "10.60.0.9", 8082), "10.60.0.9"),
        (exec("c2", "10.60.0.7", 8081), "address already in use"),
        (other, "published by c1name"),
    ] {
        let mut exec = exec;
        exec["network_options"]["static_mac"] = Value::Null;
        let error = refused(&world, &["setup", &second], &exec.to_string());
        assert!(error.contains(why), "{error}");
    }
    for (stdin, why) in [
        ("", "can't be read"),
        ("{", "can't be read"),
        ("{}", "missing field"),
    ] {
        let error = refused(&world, &["setup", &second], stdin);
        assert!(error.contains(why), "{error}");
    }
    let mut unknown = network();
    unknown["options"] = json!({"foo": "bar"});
    let error = refused(&world, &["create"], &unknown.to_string());
    assert!(error.contains("'foo'"), "{error}");
    assert_eq!(world.ip("-o link"), before);
    world.stop_daemon();
    for verb in ["setup", "teardown"] {
        let exec = exec("c2", "10.60.0.7", 8082).to_string();
        let error = refused(&world, &[verb, &second], &exec);
        assert!(error.contains("no daemon answers"), "{error}");
    }
    // What is gone, a daemon that starts takes away.
    drop(two);
    let gone = exec("c2", "10.60.0.7", 8082);
    ok(&world, &["teardown", &second], &gone);
}

#[test]
fn a_network_that_can_not_be_is_refused_when_it_is_made() {
    let Some(world) = World::new() else { return };
    for (subnets, why) in [
        (
            json!([{"subnet": "10.60.0.0/24"}, {"subnet": "10.61.0.0/24"}]),
            "10.61.0.0/24",
        ),
        (json!([{"subnet": "10.60.0.7/24"}]), "10.60.0.0/24"),
        (
            json!([{"subnet": "10.60.0.0/24", "gateway": "10.61.0.1"}]),
            "10.61.0.1",
        ),
        (json!([{"subnet": "192.0.2.0/25"}]), "192.0.2.0/24"),
    ] {
        let mut network = network();
        network["subnets"] = subnets;
        let error = refused(&world, &["create"], &network.to_string());
        assert!(error.contains(why), "{error}");
    }
    let mut six = network();
    six["subnets"] = json!([{"subnet": "10.60.0.0/24"}, {"subnet": "fd60::/64"}]);
    six["ipv6_enabled"] = json!(true);
    assert_eq!(ok(&world, &["create"], &six), six);
}

/// Whatever was said wrongly of it, what is gone is gone.
#[test]
fn a_teardown_takes_any_configuration() {
    let Some(world) = World::new() else { return };
    let inside = world.namespace("n1");
    let netns = inside.path().to_str().unwrap();
    let mut exec = exec("c1", "10.60.0.9", 8081);
    ok(&world, &["setup", netns], &exec);
    exec["network"]["subnets"] = json!([{"subnet": "none"}]);
    exec["network"]["options"] = json!({"foo": "bar"});
    exec["port_mappings"] = json!([{"container_port": 99999}]);
    exec["network_options"]["static_mac"] = json!(7);
    ok(&world, &["teardown", netns], &exec);
    assert!(is_empty(&world));
}

/// netavark of version 2 itself: by `NETAVARK`, or where distributions have it.
/// None, with the reason printed, where there is none.
fn netavark() -> Option<PathBuf> {
    let given = std::env::var_os("NETAVARK").map(PathBuf::from);
    let known = ["/usr/libexec/podman/netavark", "/usr/lib/podman/netavark"].map(PathBuf::from);
    let found = given.into_iter().chain(known).find(|path| {
        let version = Command::new(path).arg("--version").output();
        version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).starts_with("netavark 2."))
    });
    if found.is_none() {
        println!("skipped: there is no netavark 2: name one by NETAVARK");
    }
    found
}

/// What netavark answers to `words`, for which it calls netdp.
fn by_netavark(world: &World, words: &[&str], stdin: &Value) -> Done {
    let plugins = world.path("plugins");
    if !plugins.exists() {
        std::fs::create_dir(&plugins).unwrap();
        symlink(env!("CARGO_BIN_EXE_netdp"), plugins.join("netdp")).unwrap();
    }
    let mut command = world.host.command(netavark().unwrap());
    command
        .env("NETDP_RUN_DIR", world.path("run"))
        .arg("--config")
        .arg(world.path("aardvark"))
        .arg("--plugin-directory")
        .arg(plugins)
        .args(["--firewall-driver", "none"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.to_string().as_bytes()).unwrap();
    drop(input);
    done(child.wait_with_output().unwrap())
}

#[test]
fn netavark_2_makes_networks_and_containers_with_it() {
    if netavark().is_none() {
        return;
    }
    let Some(world) = World::new() else { return };
    std::fs::create_dir(world.path("aardvark")).unwrap();
    let ok = |words: &[&str], stdin: &Value| {
        let done = by_netavark(&world, words, stdin);
        assert_eq!(done.status, Some(0), "{done:?}\n{}", world.log());
        serde_json::from_str::<Value>(&done.stdout).unwrap_or(Value::Null)
    };
    let id = "8e07635bf2f5".repeat(6)[..64].to_owned();
    let create = |options: Value| {
        json!({
            "network": {
                "name": "nvn", "id": id, "driver": "netdp", "dns_enabled": true,
                "internal": false, "ipv6_enabled": true, "options": options,
                "subnets": [{"subnet": "10.60.0.0/24"}, {"subnet": "fd60::/64"}],
                "ipam_options": {"driver": "host-local"},
            },
            "used": {"interfaces": [], "names": {}, "subnets": []},
            "options": {
                "subnet_pools": [], "default_interface_name": "podman",
                "check_used_subnets": true,
            },
        })
    };
    // What netdp doesn't have is refused when the network is made.
    let done = by_netavark(&world, &["create"], &create(json!({"vlan": "7"})));
    assert_eq!(done.status, Some(1), "{done:?}");
    assert!(done.stdout.contains("vlan"), "{done:?}");
    let network = ok(&["create"], &create(json!({"mtu": "1400"})));
    assert_eq!(network["driver"], "netdp");
    assert_eq!(network["subnets"][0]["gateway"], "10.60.0.1");

    let (one, two) = (world.namespace("n1"), world.namespace("n2"));
    let container = |id: &str, last: &str, port: u16, mac: Value| {
        json!({
            "container_id": id, "container_name": format!("{id}name"),
            "container_hostname": "web1", "dns_servers": null,
            "networks": {"nvn": {
                "interface_name": "eth0", "aliases": ["web"], "static_mac": mac,
                "static_ips": [format!("10.60.0.{last}"), format!("fd60::{last}")],
            }},
            "network_info": {"nvn": network},
            "port_mappings": [{
                "container_port": 80, "host_ip": "", "host_port": port, "protocol": "tcp,udp",
                "range": 2,
            }],
        })
    };
    let first = container("c1", "9", 8081, json!("02:aa:00:00:00:09"));
    let netns = one.path().to_str().unwrap();
    let status = ok(&["setup", netns], &first);
    let interface = &status["nvn"]["interfaces"]["eth0"];
    assert_eq!(interface["mac_address"], "02:aa:00:00:00:09");
    assert_eq!(interface["subnets"][0]["ipnet"], "10.60.0.9/24");
    assert_eq!(interface["subnets"][1]["gateway"], "fd60::1");
    assert_eq!(status["nvn"]["dns_server_ips"], json!(["127.0.0.11"]));
    let ports = world.ok(&["port", "c1name"]);
    for port in ["8081", "8082"] {
        assert!(ports.contains(port), "{ports}");
    }
    let link = world.ip_in(&one, "-o link show dev eth0");
    assert!(link.contains("mtu 1400"), "{link}");
    // The port is taken: nothing is left of the second, and netavark says why.
    let second = container("c2", "7", 8082, Value::Null);
    let other = two.path().to_str().unwrap();
    let done = by_netavark(&world, &["setup", other], &second);
    assert_ne!(done.status, Some(0));
    assert!(done.stdout.contains("published by c1name"), "{done:?}");
    assert_eq!(world.host_ends().len(), 1);
    for _ in 0..2 {
        ok(&["teardown", netns], &first);
        assert!(is_empty(&world));
    }
    assert!(!world.ok(&["network", "ls"]).contains("nvn"));
}
