//! Podman's network, made by netavark itself, with its own bridge and rules.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Inside, Site, Size, crowd};
use crate::bench::Mode;
use crate::netns::Namespace;
use crate::world::docker_bridge::PublishedPort;
use crate::world::{World, feed, set_sysctls};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 3);
const BRIDGE: &str = "podman1";
/// Where distributions put it, beside the folders of commands.
const FOLDERS: [&str; 2] = ["/usr/libexec/podman", "/usr/lib/podman"];
const MOST_PORTS: usize = 1_000;
const SETUP_TIMEOUT: Duration = Duration::from_secs(300);

pub(super) fn build(world: &mut World, size: &Size) -> anyhow::Result<Site> {
    let netavark = find().context("netavark is not installed")?;
    ensure!(
        size.ports <= MOST_PORTS,
        "netavark calls iptables for every rule: more than {MOST_PORTS} ports take minutes"
    );
    let host = world.add_host()?;
    let namespace = &host.namespace;
    set_sysctls(namespace, &[("ipv4/ip_forward", "1")])?;
    let config = world.dir().join("netavark");
    let setup = |name: &str, address, ports: &[PublishedPort]| -> anyhow::Result<Namespace> {
        let inside = world.add_namespace(&format!("netavark-{name}-{}", namespace.inode()))?;
        let (netavark, config) = (netavark.display().to_string(), config.display().to_string());
        let path = inside.path().display().to_string();
        let args = ["--config", &config, "setup", &path];
        let options = options(name, address, ports).to_string();
        feed(namespace, &netavark, &args, &options, SETUP_TIMEOUT)?;
        Ok(inside)
    };
    let crowded = |interface: &str, _| format!("link set {interface} master {BRIDGE} up\n");
    let second = setup("second", SECOND, &[])?;
    let crowd = crowd(world, namespace, size, crowded)?;
    let first = setup("first", FIRST, &size.published())?;
    let inside = Inside {
        first,
        address: FIRST,
        second,
    };
    Ok(Site {
        _crowd: crowd,
        ..Site::with_containers(world, Mode::Netavark, host, inside, size)?
    })
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders
        .map(|folder| Path::new(&folder).join("netavark"))
        .find(|file| file.is_file())
}

/// What Podman gives it on standard input.
fn options(name: &str, address: Ipv4Addr, ports: &[PublishedPort]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|PublishedPort { protocol, port }| {
            json!({
                "host_ip": "",
                "host_port": port,
                "container_port": port,
                "range": 1,
                "protocol": protocol,
            })
        })
        .collect();
    json!({
        "container_id": format!("{name:0<64}"),
        "container_name": name,
        "networks": {
            "bench": { "interface_name": "eth0", "static_ips": [address] },
        },
        "network_info": {
            "bench": {
                "name": "bench",
                "id": format!("{:0<64}", "bench"),
                "driver": "bridge",
                "network_interface": BRIDGE,
                "subnets": [{ "subnet": "172.20.0.0/16", "gateway": GATEWAY }],
                "ipv6_enabled": false,
                "internal": false,
                "dns_enabled": false,
                "ipam_options": { "driver": "host-local" },
            },
        },
        "port_mappings": ports,
    })
}
