//! Docker's driver: what dockerd was heard to send, answered, and the effect.

mod docker_world;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use docker_world::{DRIVER, nothing_is_left, sandboxes};
use netdp_tests::{Moves, Topology, bind_port};
use serde_json::Value;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Requests of a recording.
fn recording(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/docker/{name}.jsonl"));
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What recordings of these versions ask for is done, step by step, and
/// nothing is left.
fn replay(name: &str, moves: Moves) {
    let Some((topology, mut dockerd)) = Topology::with_dockerd("docker-replay", moves) else {
        return;
    };
    let mut published = Value::Null;
    for line in recording(name) {
        if let Some(note) = line["note"].as_str() {
            if note.starts_with("SIGKILL") {
                dockerd.forget();
            }
            continue;
        }
        let (path, body) = (line["path"].as_str().unwrap(), &line["body"]);
        let answer = dockerd.play(path, body);
        answer.unwrap_or_else(|error| panic!("{name}: {path} {body}: {error}"));
        let method = path.strip_prefix(DRIVER).unwrap_or(path);
        match method {
            "ProgramExternalConnectivity" => {
                published = body["Options"]["com.docker.network.portmap"].clone();
                are_published(&topology, &published);
            }
            "RevokeExternalConnectivity" => {
                let ports = sandboxes(&topology)
                    .iter()
                    .map(|sandbox| topology.netdp(&format!("port {}", sandbox.name)))
                    .collect::<String>();
                assert_eq!(ports, "", "{name}");
            }
            _ => {}
        }
    }
    nothing_is_left(&topology);
    for binding in published.as_array().unwrap() {
        let port = binding["HostPort"].as_u64().unwrap() as u16;
        if binding["Proto"] == 6 && port != 0 {
            bind_port(&topology.world.host, ANY, port).unwrap();
        }
    }
}

#[track_caller]
fn are_published(topology: &Topology, portmap: &Value) {
    let sandboxes = sandboxes(topology);
    let ports: Vec<_> = sandboxes
        .iter()
        .flat_map(|sandbox| &sandbox.endpoints)
        .flat_map(|endpoint| &endpoint.ports)
        .collect();
    for binding in portmap.as_array().unwrap() {
        let number = |key: &str| binding[key].as_u64().unwrap() as u16;
        let (host, end) = (number("HostPort"), number("HostPortEnd"));
        let found = ports.iter().find(|port| {
            let chosen = if host == 0 { 49153..=65535 } else { host..=end };
            let address = binding["HostIP"].as_str().unwrap();
            port.container_port == number("Port")
                && u16::from(port.protocol.number()) == number("Proto")
                && chosen.contains(&port.host_port)
                && port.held
                && (address.is_empty() || port.host_ip.to_string() == address)
        });
        assert!(found.is_some(), "{binding} is not among {ports:?}");
    }
}

#[test]
fn docker_20_is_answered() {
    replay("20.10-basic", Moves::Late);
}

#[test]
fn several_networks_of_docker_20_have_one_way_out() {
    replay("20.10-multi", Moves::Late);
}

#[test]
fn several_networks_of_docker_28_have_one_way_out() {
    replay("28.5-multi", Moves::AtOnce);
}

#[test]
fn docker_26_may_be_killed() {
    replay("26.1-restart", Moves::Late);
}

#[test]
fn docker_28_may_be_killed() {
    replay("28.5-restart", Moves::AtOnce);
}

#[test]
fn docker_28_has_both_families() {
    replay("28.5-v6", Moves::AtOnce);
}

#[test]
fn containers_outlive_dockerd() {
    replay("20.10-liverestore", Moves::Late);
}
