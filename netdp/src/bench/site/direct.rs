//! The servers started by `netdp run`, with direct ports.

use super::{Inside, NETWORK, Site, Size, address_of, sandbox, start};
use crate::bench::Mode;
use crate::bench::attach::{Requests, Wanted};
use crate::netns::Namespace;
use crate::world::World;
use crate::world::direct::expect_direct;
use crate::world::docker_bridge::PublishedPort;
use crate::world::load::{LoadServer, server_args};

/// # Errors
/// Also when a port isn't direct: the datapath would be measured in its place.
pub(super) fn build(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    start(world, &[], size)?;
    let name = sandbox("second");
    let second = world.add_namespace(&name)?;
    Requests::new(world)?.attach(&Wanted::new(&name, &second, Some(NETWORK), &[])?)?;

    let first = sandbox("first");
    let mut netdp = world.on_host(world.netdp_path());
    netdp.args(["run", "--name", &first, "--network", NETWORK]);
    let ports = size.published();
    for PublishedPort { protocol, port } in &ports {
        netdp.arg("-p");
        netdp.arg(format!("{port}:{port}/{protocol},direct"));
    }
    netdp.arg("--").arg(world.netdp_path());
    netdp.args(server_args(&size.served()));
    let server = LoadServer::wait_for(netdp)?;
    expect_direct(&world.host, &ports)?;
    let inside = Inside {
        address: address_of(world, &first)?,
        first: Namespace::open(&netns_of(world, &first)?)?,
        second,
    };
    inside.settle();
    Ok(Site {
        inside: Some(inside),
        ..Site::new(Mode::Direct, world.first_host(), server, size)
    })
}

fn netns_of(world: &World, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let text = world.netdp_ok(&["inspect", name])?;
    let mut sandboxes: Vec<crate::api::types::Sandbox> = serde_json::from_str(&text)?;
    let sandbox = sandboxes.pop();
    let sandbox = sandbox.ok_or_else(|| anyhow::anyhow!("{name} is not there"))?;
    Ok(sandbox.netns)
}
