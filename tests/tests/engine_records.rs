//! What real dockerds answer, recorded for the tests of what netdp reads of it:
//! `NETDP_RECORD=$PWD/tests/fixtures cargo xtask test engines -- records`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{env, fs};

use netdp_tests::engine::{Docker, Engine};
use serde_json::{Value, json};

/// In this folder it is kept.
const RECORD: &str = "NETDP_RECORD";

/// Of a container, that matter to nobody here, and differ with each machine.
const LEFT_OUT: [&str; 22] = [
    "AppArmorProfile",
    "Created",
    "Driver",
    "ExecIDs",
    "GraphDriver",
    "HostConfig",
    "HostnamePath",
    "HostsPath",
    "Image",
    "ImageID",
    "ImageManifestDescriptor",
    "LogPath",
    "MountLabel",
    "Mounts",
    "Platform",
    "ProcessLabel",
    "ResolvConfPath",
    "RestartCount",
    "SizeRootFs",
    "SizeRw",
    "Storage",
    "Warnings",
];

#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn records_what_docker_20_10_says() {
    record("ak-said-old", "debian-12");
}

#[test]
#[ignore = "needs a real Docker: cargo xtask test engines"]
fn records_what_docker_newest_says() {
    record("ak-said-new", "newest");
}

fn record(name: &str, packages: &str) {
    let Some(docker) = Docker::start(name, packages) else {
        return;
    };
    let host = docker.host();
    let six = match packages {
        "newest" => "--ipv6 --subnet fd00:8::/64",
        _ => "",
    };
    host.sh(&format!(
        "docker network create --subnet 172.30.0.0/24 {six} shop"
    ));
    host.sh("docker network create --subnet 172.31.0.0/24 --internal inner");
    host.sh("docker network create --subnet 172.29.0.0/24 -o com.docker.network.bridge.enable_ip_masquerade=false -o com.docker.network.bridge.name=plain0 plain");
    for (name, options) in [
        ("one", "-p 8081:80 -p 5353:53/udp"),
        ("two", "-p 127.0.0.1:8082:80 --expose 9999 --network shop"),
        ("three", "--network inner"),
        ("four", "--network host"),
        ("five", "--network container:one"),
        ("six", "--network fast -p 8086:80"),
    ] {
        let hostname = match name {
            "four" | "five" => String::new(),
            name => format!("--hostname {name}"),
        };
        // Another has its port there already.
        let command = match name {
            "five" => "/bin/busybox sleep 600",
            _ => "",
        };
        host.sh(&format!(
            "docker run -d --name {name} {hostname} {options} web:1 {command}"
        ));
    }
    host.sh("docker network connect bridge two");
    host.sh("docker network disconnect bridge two && docker network connect bridge two");
    host.sh("docker rename three drei && docker restart -t 0 drei");
    let socket = host.path("/run/docker.sock");
    let ask = |path: &str| ask(&socket, path);
    let networks = ask("/networks");
    let containers = ask("/containers/json");
    let listed = containers.as_array().unwrap().iter();
    let ids = listed.map(|container| container["Id"].as_str().unwrap());
    let inspected: Vec<Value> = ids
        .map(|id| ask(&format!("/containers/{id}/json")))
        .collect();
    assert_eq!(inspected.len(), 6);
    let now = host.sh("date +%s");
    let filters = "%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";
    let events = ask(&format!("/events?since=1&until={now}&filters={filters}"));
    let version = ask("/version");
    let Some(folder) = env::var_os(RECORD) else {
        return;
    };
    let number = version["Version"].as_str().unwrap();
    let number: Vec<&str> = number.split('.').take(2).collect();
    let folder = PathBuf::from(folder).join(format!("docker-{}", number.join(".")));
    fs::create_dir_all(&folder).unwrap();
    for (name, mut said) in [
        ("networks", networks),
        ("containers", containers),
        ("inspect", json!(inspected)),
        ("events", events),
    ] {
        for one in said.as_array_mut().unwrap() {
            reduce(one);
        }
        let text = serde_json::to_string_pretty(&said).unwrap();
        fs::write(folder.join(format!("{name}.json")), text + "\n").unwrap();
    }
}

fn reduce(said: &mut Value) {
    let Some(fields) = said.as_object_mut() else {
        return;
    };
    // A network's driver is what matters of it.
    let is_network = fields.contains_key("Scope");
    fields.retain(|key, _| is_network || !LEFT_OUT.contains(&key.as_str()));
    if let Some(Value::Object(config)) = fields.get_mut("Config") {
        config.retain(|key, _| ["Hostname", "Image", "ExposedPorts", "Labels"].contains(&&**key));
    }
    if let Some(Value::Object(containers)) = fields.get_mut("Containers") {
        containers.clear();
    }
}

/// The answer, or those that came one after another.
fn ask(socket: &Path, path: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    // By HTTP/1.0 it isn't cut into chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {answer}");
    if path.starts_with("/events") {
        let lines = body.lines().filter(|line| !line.trim().is_empty());
        return lines
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect();
    }
    serde_json::from_str(body).unwrap()
}
