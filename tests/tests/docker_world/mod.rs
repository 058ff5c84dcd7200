//! What a host has of Docker's networks and containers.

use netdp::api::types::{Network, Sandbox};
use netdp_tests::Topology;
use serde_json::Value;

pub const DRIVER: &str = "/NetworkDriver.";

pub fn sandboxes(topology: &Topology) -> Vec<Sandbox> {
    serde_json::from_str(&topology.netdp("ps --format json")).unwrap()
}

fn networks(topology: &Topology) -> Vec<Network> {
    serde_json::from_str(&topology.netdp("network ls --format json")).unwrap()
}

/// Interfaces of the host that an endpoint would have.
pub fn interfaces(topology: &Topology) -> Vec<String> {
    let output = topology
        .world
        .host
        .command("ip")
        .args(["-j", "link"])
        .output();
    let links: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let names = links.as_array().unwrap().iter();
    names
        .filter_map(|link| link["ifname"].as_str())
        .filter(|name| name.starts_with("vn") || name.starts_with("vc"))
        .map(str::to_owned)
        .collect()
}

/// Neither networks nor anything of endpoints is left.
#[track_caller]
pub fn nothing_is_left(topology: &Topology) {
    assert_eq!(sandboxes(topology), []);
    assert_eq!(interfaces(topology), [""; 0]);
    let left = networks(topology);
    let names: Vec<&str> = left.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["host", "netdp0", "none"]);
}
