//! netdp as a plugin of netavark, against a daemon of its own.

mod cli_world;

use std::{io::Write, net::TcpListener, process::Stdio};

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
}
