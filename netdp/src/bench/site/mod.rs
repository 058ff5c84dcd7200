//! A host for each mode, with everything running that its traffic needs.

mod accelerated;
mod direct;
mod dockerd;
mod floor;
mod large;
mod netavark;
mod netfilter;
mod size;

use std::net::Ipv4Addr;
use std::process::Command;

use accelerated::Played;

use super::attach::{Requests, Wanted};
use super::measure::Pair;
use super::{Mode, Scenario};
use crate::bpf::instruction::Attached;
use crate::load::Kind;
use crate::netns::Namespace;
use crate::world::docker_bridge::{self, DockerBridge, Iptables, PublishedPort};
use crate::world::load::{CONGESTION, LoadServer};
use crate::world::{Host, World, ip, set_sysctls};
use size::{port_of, published};

pub(super) use size::{FIRST_PORT, Size, port, services};

/// Where containers publish that have nothing to do with what is measured.
const OTHER_PORTS: u16 = 17001;
/// Of netdp's containers.
const NETWORK: &str = "bench";
/// Requests to the daemon under way at a time.
const AT_ONCE: usize = 50;

/// A host that carries traffic in one way.
pub(super) struct Site {
    pub(super) mode: Mode,
    /// Of somebody else's program that carries it.
    version: Option<String>,
    // It ends before its namespace does.
    server: LoadServer,
    host: Namespace,
    /// Of the host, as the client sees it.
    address: Ipv4Addr,
    /// Of the pairs of client and server.
    cpus: Vec<usize>,
    /// Of the client, as the host sees it.
    client: Ipv4Addr,
    inside: Option<Inside>,
    _crowd: Vec<Namespace>,
    _programs: Vec<Attached>,
    /// Where it is not the one of all others.
    own: Option<Own>,
}

/// A world that is one site's alone.
struct Own {
    _outside: Outside,
    /// Ends before the world does.
    _docker: Option<Played>,
    world: World,
}

/// Two containers, of which the first has published ports and the servers.
struct Inside {
    first: Namespace,
    address: Ipv4Addr,
    second: Namespace,
}

/// How a scenario goes on a site.
pub(super) struct Route<'a> {
    world: &'a World,
    from: From<'a>,
    address: Ipv4Addr,
    cpus: &'a [usize],
}

enum From<'a> {
    Client,
    Namespace(&'a Namespace),
    /// A program of the host, where netdp sees its sockets.
    HostOfNetdp,
    /// The same of a container of netdp's: a daemon's control group is the root
    /// of all, containers' too.
    ContainerOfNetdp(&'a Namespace),
}

impl Route<'_> {
    /// `netdp` where the client runs.
    pub(super) fn client(&self) -> Command {
        let world = self.world;
        match self.from {
            From::Client => world.on_client(world.netdp_path()),
            From::Namespace(namespace) => world.within(namespace, world.netdp_path()),
            From::ContainerOfNetdp(namespace) => world.within_reach(namespace, world.netdp_path()),
            From::HostOfNetdp => world.on_host(world.netdp_path()),
        }
    }

    /// Where the first server of this workload is reached.
    pub(super) fn target(&self, kind: Kind) -> (Ipv4Addr, u16) {
        (self.address, port_of(0, kind))
    }

    /// Where each of them is, and with which CPU.
    pub(super) fn pairs(&self, kind: Kind) -> Vec<Pair> {
        let cpus = self.cpus.iter().enumerate();
        let pairs = cpus.map(|(number, &cpu)| Pair {
            target: (self.address, port_of(number, kind)).into(),
            cpu,
        });
        pairs.collect()
    }
}

/// What stands outside: the server for traffic that leaves.
pub(super) struct Outside(#[expect(dead_code, reason = "ends the server")] LoadServer);

impl Outside {
    pub(super) fn start(world: &World, size: &Size) -> anyhow::Result<Self> {
        settle(&world.client);
        let netdp = world.on_client(world.netdp_path());
        Ok(Self(LoadServer::start(netdp, &size.served())?))
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
    pub(super) fn build(world: &mut World, mode: &Mode, size: &Size) -> anyhow::Result<Self> {
        match mode {
            Mode::Host => Self::plain(world, Mode::Host, size),
            Mode::HostRules => Self::host_rules(world, size),
            Mode::DockerNft => Self::docker(world, mode, Iptables::Nft, size),
            Mode::DockerLegacy => Self::docker(world, mode, Iptables::Legacy, size),
            Mode::Dockerd => dockerd::build(world, size),
            Mode::Accelerated => accelerated::build(size),
            Mode::Nft => netfilter::build(world, size),
            Mode::Netavark => netavark::build(world, size),
            Mode::Floor => floor::build(world, size),
            Mode::FloorUplink => floor::at_uplink(world, size),
            Mode::FloorDirect => floor::of_direct(world, size),
            Mode::HostSeccomp => floor::under_seccomp(world, size),
            Mode::Netdp(options) => Self::netdp(world, options, size),
            Mode::Direct => direct::build(world, size),
        }
    }

    /// As [`Site::build`], netdp's in a world of its own: a daemon carries all of
    /// its networks by the same programs, at the same uplink.
    ///
    /// # Errors
    /// As [`Site::build`]; when the world can't be made.
    pub(super) fn apart(world: &mut World, mode: &Mode, size: &Size) -> anyhow::Result<Self> {
        if !matches!(mode, Mode::Netdp(_) | Mode::Direct) {
            return Self::build(world, mode, size);
        }
        let mut world = World::new("bench-netdp")?;
        let site = Self::build(&mut world, mode, size)?;
        let own = Own {
            _outside: Outside::start(&world, size)?,
            _docker: None,
            world,
        };
        Ok(Self {
            own: Some(own),
            ..site
        })
    }

    fn new(mode: Mode, host: Host, server: LoadServer, size: &Size) -> Self {
        Self {
            cpus: size.cpus.clone(),
            mode,
            version: None,
            server,
            address: host.address,
            client: host.client_address,
            host: host.namespace,
            inside: None,
            _crowd: Vec::new(),
            _programs: Vec::new(),
            own: None,
        }
    }

    /// With the servers on the host itself.
    fn without_containers(
        world: &World,
        mode: Mode,
        host: Host,
        size: &Size,
    ) -> anyhow::Result<Self> {
        settle(&host.namespace);
        let netdp = world.within(&host.namespace, world.netdp_path());
        let server = LoadServer::start(netdp, &size.served())?;
        Ok(Self::new(mode, host, server, size))
    }

    fn with_containers(
        world: &World,
        mode: Mode,
        host: Host,
        inside: Inside,
        size: &Size,
    ) -> anyhow::Result<Self> {
        settle(&host.namespace);
        inside.settle();
        let netdp = world.within(&inside.first, world.netdp_path());
        let server = LoadServer::start(netdp, &size.served())?;
        Ok(Self {
            inside: Some(inside),
            ..Self::new(mode, host, server, size)
        })
    }

    fn plain(world: &mut World, mode: Mode, size: &Size) -> anyhow::Result<Self> {
        let host = world.add_host()?;
        Self::without_containers(world, mode, host, size)
    }

    fn host_rules(world: &mut World, size: &Size) -> anyhow::Result<Self> {
        let docker = DockerBridge::create(world, Iptables::Nft, &published(OTHER_PORTS))?;
        Self::without_containers(world, Mode::HostRules, docker.host, size)
    }

    fn docker(
        world: &mut World,
        mode: &Mode,
        iptables: Iptables,
        size: &Size,
    ) -> anyhow::Result<Self> {
        let docker = DockerBridge::create(world, iptables, &size.published())?;
        let crowd = crowd(world, &docker.host.namespace, size, |interface, _| {
            format!("link set {interface} master docker0 up\n")
        })?;
        let inside = Inside {
            first: docker.container,
            address: docker_bridge::CONTAINER,
            second: docker.neighbour,
        };
        Ok(Self {
            _crowd: crowd,
            ..Self::with_containers(world, mode.clone(), docker.host, inside, size)?
        })
    }

    fn netdp(world: &mut World, options: &[String], size: &Size) -> anyhow::Result<Self> {
        start(world, options, size)?;
        let requests = Requests::new(world)?;
        let attach = |name: &str, ports: &[String]| -> anyhow::Result<(Namespace, Wanted)> {
            let name = sandbox(name);
            let namespace = world.add_namespace(&name)?;
            let wanted = Wanted::new(&name, &namespace, Some(NETWORK), ports)?;
            Ok((namespace, wanted))
        };
        let specs: Vec<String> = size
            .published()
            .iter()
            .map(|PublishedPort { protocol, port }| format!("{port}:{port}/{protocol}"))
            .collect();
        let (crowd, others): (Vec<Namespace>, Vec<Wanted>) = (0..size.crowd())
            .map(|number| attach(&format!("other{number}"), &[]))
            .collect::<anyhow::Result<_>>()?;
        requests.attach_all(&others, AT_ONCE)?;
        let (second, wanted) = attach("second", &[])?;
        requests.attach(&wanted)?;
        let (first, wanted) = attach("first", &specs)?;
        requests.attach(&wanted)?;
        let inside = Inside {
            address: address_of(world, &wanted.name)?,
            first,
            second,
        };
        inside.settle();
        large::allow_to_client(world)?;
        let program = world.within_reach(&inside.first, world.netdp_path());
        let server = LoadServer::start(program, &size.served())?;
        let mode = Mode::Netdp(options.to_vec());
        Ok(Self {
            inside: Some(inside),
            _crowd: crowd,
            ..Self::new(mode, world.first_host(), server, size)
        })
    }

    /// What it is called in a scenario.
    pub(super) fn title(&self, scenario: Scenario) -> String {
        let title = scenario.title_of(&self.mode);
        match &self.version {
            Some(version) => format!("{title}, {version}"),
            None => title,
        }
    }

    pub(super) fn host(&self) -> &Namespace {
        &self.host
    }

    /// Its own, or the one that it shares.
    pub(super) fn world<'a>(&'a self, shared: &'a World) -> &'a World {
        self.own.as_ref().map_or(shared, |own| &own.world)
    }

    /// How the scenario goes here.
    pub(super) fn route<'a>(&'a self, world: &'a World, scenario: Scenario) -> Route<'a> {
        let world = self.world(world);
        let is_netdp = matches!(self.mode, Mode::Netdp(_) | Mode::Direct);
        let from_host = match is_netdp {
            true => From::HostOfNetdp,
            false => From::Namespace(&self.host),
        };
        let container = match is_netdp {
            true => From::ContainerOfNetdp,
            false => From::Namespace,
        };
        let (from, address) = match (scenario, &self.inside) {
            (Scenario::Published, _) => (From::Client, self.address),
            (Scenario::Egress, Some(inside)) => (container(&inside.first), self.client),
            (Scenario::Egress, None) => (from_host, self.client),
            (Scenario::Containers, Some(inside)) => (container(&inside.second), inside.address),
            (Scenario::Containers, None) | (Scenario::Local, _) => (from_host, Ipv4Addr::LOCALHOST),
        };
        Route {
            world,
            from,
            address,
            cpus: &self.cpus,
        }
    }
}

/// Starts netdp's daemon, and makes its network.
fn start(world: &mut World, options: &[String], size: &Size) -> anyhow::Result<()> {
    settle(&world.host);
    let mut words = Vec::new();
    if size.flows > 0 {
        words.push("--config".into());
        words.push(super::sizes::settings(world, size.flows)?.into_os_string());
    }
    world.start_daemon(&words)?;
    let mut words = vec!["network", "create", NETWORK];
    for option in options {
        words.extend(["--opt", option]);
    }
    world.netdp_ok(&words)?;
    Ok(())
}

/// The name of a container of netdp's.
pub(super) fn sandbox(which: &str) -> String {
    format!("{NETWORK}-{which}")
}

/// Further containers of a host, all in one namespace: they only have to be
/// there. `connect` says, of the host's end and a number from 0 on, how it hangs
/// on the host, as lines for iproute2.
fn crowd(
    world: &World,
    host: &Namespace,
    size: &Size,
    connect: impl Fn(&str, usize) -> String,
) -> anyhow::Result<Vec<Namespace>> {
    if size.crowd() == 0 {
        return Ok(Vec::new());
    }
    let inode = host.inode();
    let others = world.add_namespace(&format!("others-{inode}"))?;
    let path = others.path().display();
    let (mut outside, mut inside) = (String::new(), String::new());
    for number in 0..size.crowd() {
        outside += &format!(
            "link add other{number} type veth peer name eth{number} netns {path}\n{}",
            connect(&format!("other{number}"), number)
        );
        inside += &format!("link set eth{number} up\n");
    }
    ip(host, &outside)?;
    ip(&others, &inside)?;
    Ok(vec![others])
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
}
