//! A host for each mode, with everything running that its traffic needs.

mod netfilter;

use std::net::Ipv4Addr;
use std::process::Command;

use super::{Mode, Scenario};
use crate::load::{Kind, Service};
use crate::netns::Namespace;
use crate::world::docker_bridge::{self, DockerBridge, Iptables, PublishedPort};
use crate::world::load::{CONGESTION, LoadServer};
use crate::world::{CLIENT_ADDRESS, HOST_ADDRESS, World, set_sysctls};

/// Servers listen from here on, one port for each workload.
const FIRST_PORT: u16 = 7001;
/// Where containers publish that have nothing to do with what is measured.
const OTHER_PORTS: u16 = 17001;
/// Between the ports of two netdp networks on the one host.
const PORTS_OF_A_MODE: u16 = 100;

/// A host that carries traffic in one way.
pub(super) struct Site {
    pub(super) mode: Mode,
    host: Namespace,
    /// Of the host, as the client sees it.
    address: Ipv4Addr,
    /// Of the client, as the host sees it.
    client: Ipv4Addr,
    inside: Option<Inside>,
    first_port: u16,
    // Containers keep their namespaces alive; servers end first.
    _servers: Vec<LoadServer>,
}

/// Two containers, of which the first has published ports and the servers.
struct Inside {
    first: Namespace,
    address: Ipv4Addr,
    second: Namespace,
}

/// How a scenario goes on a site.
pub(super) struct Route<'a> {
    from: From<'a>,
    address: Ipv4Addr,
    first_port: u16,
}

enum From<'a> {
    Namespace(&'a Namespace),
    /// A program of the host, where netdp sees its sockets.
    HostOfNetdp,
}

impl Route<'_> {
    /// `netdp` where the client runs.
    pub(super) fn client(&self, world: &World) -> Command {
        match self.from {
            From::Namespace(namespace) => world.within(namespace, world.netdp_path()),
            From::HostOfNetdp => world.on_host(world.netdp_path()),
        }
    }

    /// Where the server of this workload is reached.
    pub(super) fn target(&self, kind: Kind) -> (Ipv4Addr, u16) {
        (self.address, port(self.first_port, kind))
    }
}

fn port(first: u16, kind: Kind) -> u16 {
    let offset = Kind::ALL.iter().position(|other| *other == kind);
    first + offset.unwrap_or_default() as u16
}

fn services(first: u16) -> Vec<(Service, u16)> {
    let services = Kind::ALL.map(|kind| (kind.service(), port(first, kind)));
    services.into()
}

fn published(first: u16) -> Vec<PublishedPort> {
    let ports = Kind::ALL.map(|kind| PublishedPort {
        protocol: match kind {
            Kind::UdpRr | Kind::UdpPps => "udp",
            _ => "tcp",
        },
        port: port(first, kind),
    });
    ports.into()
}

/// What stands outside: the server for traffic that leaves.
pub(super) struct Outside(#[expect(dead_code, reason = "ends the server")] LoadServer);

impl Outside {
    pub(super) fn start(world: &World, cpu: usize) -> anyhow::Result<Self> {
        settle(&world.client);
        let netdp = world.on_client(world.netdp_path());
        Ok(Self(LoadServer::start(netdp, &services(FIRST_PORT), cpu)?))
    }
}

/// Connections of the load generator say which congestion control they want;
/// the shortest ones, which don't, have it from here. A kernel without it gives
/// all modes the same other one.
fn settle(namespace: &Namespace) {
    let _ = set_sysctls(namespace, &[("ipv4/tcp_congestion_control", CONGESTION)]);
}

impl Site {
    /// # Errors
    /// When the mode can't be had here.
    pub(super) fn build(world: &mut World, mode: &Mode, cpu: usize) -> anyhow::Result<Self> {
        match mode {
            Mode::Host => Self::host(world, cpu),
            Mode::HostRules => Self::host_rules(world, cpu),
            Mode::DockerNft => Self::docker(world, mode, Iptables::Nft, cpu),
            Mode::DockerLegacy => Self::docker(world, mode, Iptables::Legacy, cpu),
            Mode::Nft => netfilter::build(world, cpu),
            Mode::Netdp(options) => Self::netdp(world, options, cpu),
        }
    }

    fn host(world: &mut World, cpu: usize) -> anyhow::Result<Self> {
        let host = world.add_host()?;
        settle(&host.namespace);
        let netdp = world.within(&host.namespace, world.netdp_path());
        Ok(Self {
            mode: Mode::Host,
            address: host.address,
            client: host.client_address,
            inside: None,
            first_port: FIRST_PORT,
            _servers: vec![LoadServer::start(netdp, &services(FIRST_PORT), cpu)?],
            host: host.namespace,
        })
    }

    fn host_rules(world: &mut World, cpu: usize) -> anyhow::Result<Self> {
        let docker = DockerBridge::create(world, Iptables::Nft, &published(OTHER_PORTS))?;
        settle(&docker.host.namespace);
        let netdp = world.within(&docker.host.namespace, world.netdp_path());
        Ok(Self {
            mode: Mode::HostRules,
            address: docker.host.address,
            client: docker.host.client_address,
            inside: None,
            first_port: FIRST_PORT,
            _servers: vec![LoadServer::start(netdp, &services(FIRST_PORT), cpu)?],
            host: docker.host.namespace,
        })
    }

    fn docker(
        world: &mut World,
        mode: &Mode,
        iptables: Iptables,
        cpu: usize,
    ) -> anyhow::Result<Self> {
        let docker = DockerBridge::create(world, iptables, &published(FIRST_PORT))?;
        let inside = Inside {
            first: docker.container,
            address: docker_bridge::CONTAINER,
            second: docker.neighbour,
        };
        inside.settle();
        settle(&docker.host.namespace);
        Ok(Self {
            mode: mode.clone(),
            address: docker.host.address,
            client: docker.host.client_address,
            first_port: FIRST_PORT,
            _servers: vec![inside.serve(world, FIRST_PORT, cpu)?],
            inside: Some(inside),
            host: docker.host.namespace,
        })
    }

    /// All networks of netdp are on the one host that its daemon runs on.
    fn netdp(world: &mut World, options: &[String], cpu: usize) -> anyhow::Result<Self> {
        if world.daemon_pid().is_none() {
            settle(&world.host);
            world.start_daemon::<&str>(&[])?;
        }
        let networks: Vec<serde_json::Value> =
            serde_json::from_str(&world.netdp_ok(&["network", "ls", "--format", "json"])?)?;
        let number = networks.len();
        let first_port = FIRST_PORT + PORTS_OF_A_MODE * number as u16;
        let network = format!("bench{number}");
        let mut words = vec!["network", "create", &network];
        for option in options {
            words.extend(["--opt", option]);
        }
        world.netdp_ok(&words)?;

        let attach =
            |name: &str, ports: &[PublishedPort]| -> anyhow::Result<(Namespace, Ipv4Addr)> {
                let name = format!("{network}-{name}");
                let namespace = world.add_namespace(&name)?;
                let path = namespace.path().display().to_string();
                let specs: Vec<String> = ports
                    .iter()
                    .map(|PublishedPort { protocol, port }| format!("{port}:{port}/{protocol}"))
                    .collect();
                let mut words = vec!["attach", "--netns", &path, "--name", &name];
                words.extend(["--network", &network]);
                for spec in &specs {
                    words.extend(["-p", spec]);
                }
                world.netdp_ok(&words)?;
                let address = address_of(world, &name)?;
                Ok((namespace, address))
            };
        let (first, address) = attach("first", &published(first_port))?;
        let (second, _) = attach("second", &[])?;
        let inside = Inside {
            first,
            address,
            second,
        };
        inside.settle();
        Ok(Self {
            mode: Mode::Netdp(options.to_vec()),
            host: world.host.reference(),
            address: HOST_ADDRESS,
            client: CLIENT_ADDRESS,
            first_port,
            _servers: vec![inside.serve(world, first_port, cpu)?],
            inside: Some(inside),
        })
    }

    /// How the scenario goes here.
    pub(super) fn route<'a>(&'a self, world: &'a World, scenario: Scenario) -> Route<'a> {
        let from_host = match self.mode {
            Mode::Netdp(_) => From::HostOfNetdp,
            _ => From::Namespace(&self.host),
        };
        let (from, address, first_port) = match (scenario, &self.inside) {
            (Scenario::Published, _) => (
                From::Namespace(&world.client),
                self.address,
                self.first_port,
            ),
            (Scenario::Egress, Some(inside)) => {
                (From::Namespace(&inside.first), self.client, FIRST_PORT)
            }
            (Scenario::Egress, None) => (from_host, self.client, FIRST_PORT),
            (Scenario::Containers, Some(inside)) => (
                From::Namespace(&inside.second),
                inside.address,
                self.first_port,
            ),
            (Scenario::Containers, None) | (Scenario::Local, _) => {
                (from_host, Ipv4Addr::LOCALHOST, self.first_port)
            }
        };
        Route {
            from,
            address,
            first_port,
        }
    }
}

fn address_of(world: &World, name: &str) -> anyhow::Result<Ipv4Addr> {
    let text = world.netdp_ok(&["inspect", name])?;
    let sandboxes: Vec<crate::api::types::Sandbox> = serde_json::from_str(&text)?;
    let addresses = sandboxes
        .iter()
        .flat_map(|sandbox| &sandbox.endpoints)
        .flat_map(|endpoint| &endpoint.addresses);
    addresses
        .filter_map(|address| match address.addr() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        })
        .next()
        .ok_or_else(|| anyhow::anyhow!("{name} got no IPv4 address"))
}

impl Inside {
    fn settle(&self) {
        settle(&self.first);
        settle(&self.second);
    }

    fn serve(&self, world: &World, first_port: u16, cpu: usize) -> anyhow::Result<LoadServer> {
        let netdp = world.within(&self.first, world.netdp_path());
        LoadServer::start(netdp, &services(first_port), cpu)
    }
}
