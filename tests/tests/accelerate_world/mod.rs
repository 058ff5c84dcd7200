//! A host with Docker's networks, beside a Docker that is played.

use std::net::Ipv4Addr;

use netdp::api::acceleration::Acceleration;
use netdp_tests::{DockerApi, Topology, Version};

pub const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub fn state(topology: &Topology) -> Vec<Acceleration> {
    serde_json::from_str(&topology.netdp("accelerate --format json")).unwrap()
}

/// Whether a container is carried.
pub fn is_carried(topology: &Topology, name: &str) -> bool {
    state(topology)
        .iter()
        .flat_map(|it| &it.networks)
        .filter(|it| it.accelerated)
        .flat_map(|it| &it.containers)
        .any(|it| it.name == name && it.accelerated)
}

/// A host with a network and a container WEB on it; nothing without iptables.
pub fn shop(name: &str, version: Version) -> Option<(Topology, DockerApi)> {
    let (topology, mut docker) = Topology::with_docker_api(name, version)?;
    docker.network(&topology.world, "shop", &[]);
    docker.run(&topology.world, "web", "shop", &["8080:80", "5353:53/udp"]);
    if !docker.make_rules(&topology.world, "") {
        println!("skipped: no iptables, for Docker's own way");
        return None;
    }
    Some((topology, docker))
}
