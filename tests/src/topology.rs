//! A host that runs netdp, with namespaces attached as an engine would.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use netdp::api::types::{Flow, Sandbox, Statistics};
use netdp::demo::world::{World, WorldError, ip};
use netdp::direct::DIRECT_COMMAND;
use netdp::netns::Namespace;
use nix::sys::socket::{AddressFamily, SockProtocol, SockType};
use nix::unistd::Pid;

use crate::{HostProgram, PATIENCE, Place, udp};

/// A world of namespaces around a host, on which the daemon runs.
pub struct Topology {
    pub world: World,
}

/// A namespace attached to the host's daemon.
pub struct Container {
    pub name: String,
    pub namespace: Namespace,
    /// On the first network it is on.
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub address6: Option<Ipv6Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub mac: [u8; 6],
    pub host_interface: String,
}

impl Place for Container {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> std::os::fd::OwnedFd {
        self.namespace.open_family(family, kind, protocol)
    }
}

impl Container {
    /// The MAC address that it has learnt for its gateway.
    #[track_caller]
    pub fn gateway_mac(&self) -> [u8; 6] {
        // Something has to be sent before it is learnt.
        let socket = udp(self, Ipv4Addr::UNSPECIFIED, 0);
        socket.send_to(b"", (self.gateway, 9)).unwrap();
        let output = self
            .namespace
            .command("ip")
            .args(["-j", "neigh", "show", &self.gateway.to_string()])
            .output()
            .unwrap();
        let neighbours: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = neighbours[0]["lladdr"].as_str().expect("the gateway's MAC");
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(hex, 16).unwrap();
        }
        mac
    }
}

impl Topology {
    /// With its daemon running; none, with the reason printed, without the
    /// rights to make one.
    pub fn start(name: &str) -> Option<Self> {
        let mut topology = Self::without_daemon(name)?;
        topology.start_daemon();
        Some(topology)
    }

    /// As [`Topology::start`], with IPv6 on all hosts.
    pub fn start_with_ipv6(name: &str) -> Option<Self> {
        let mut topology = Self::without_daemon(name)?;
        topology
            .world
            .add_ipv6()
            .unwrap_or_else(|error| panic!("{error}"));
        topology.start_daemon();
        Some(topology)
    }

    /// The same with a network `six` of both families.
    pub fn with_ipv6(name: &str) -> Option<Self> {
        let topology = Self::start_with_ipv6(name)?;
        topology.netdp("network create six --ipv6");
        Some(topology)
    }

    /// As [`Topology::start`], for what has to be there before the daemon.
    pub fn without_daemon(name: &str) -> Option<Self> {
        match World::with_netdp(name, netdp_binary()) {
            Ok(world) => Some(Self { world }),
            Err(why @ (WorldError::NotRoot | WorldError::NoCgroup2)) => {
                println!("skipped: {why}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub fn start_daemon(&mut self) {
        self.world
            .start_daemon::<&str>(&[])
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Where a program of the host opens its sockets.
    pub fn host_program(&self) -> HostProgram<'_> {
        HostProgram(&self.world)
    }

    /// Makes a namespace and attaches it with these options.
    #[track_caller]
    pub fn container(&self, name: &str, options: &str) -> Container {
        let namespace = self
            .world
            .add_namespace(name)
            .unwrap_or_else(|error| panic!("{error}"));
        let path = namespace.path().display();
        self.netdp(&format!("attach --netns {path} --name {name} {options}"));
        let sandbox = self.inspect(name);
        let [endpoint, ..] = &sandbox.endpoints[..] else {
            panic!("{name} is on no network");
        };
        let (IpAddr::V4(address), IpAddr::V4(gateway)) =
            (endpoint.addresses[0].addr(), endpoint.gateways[0])
        else {
            panic!("{name} has another family's address first");
        };
        Container {
            name: name.into(),
            namespace,
            address,
            gateway,
            address6: endpoint.addresses.iter().find_map(|net| v6(net.addr())),
            gateway6: endpoint.gateways.iter().copied().find_map(v6),
            mac: endpoint.mac.bytes(),
            host_interface: endpoint.host_interface.clone(),
        }
    }

    /// What `netdp WORDS` printed; it has to succeed.
    #[track_caller]
    pub fn netdp(&self, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.world
            .netdp_ok(&words)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// What `netdp WORDS` said on standard error; it has to be refused.
    #[track_caller]
    pub fn refused(&self, words: &str) -> String {
        let args: Vec<&str> = words.split_whitespace().collect();
        let output = self
            .world
            .netdp(&args)
            .unwrap_or_else(|error| panic!("{error}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "netdp {words}: {stderr}");
        stderr
    }

    /// The checks of `netdp doctor`, whatever they find.
    #[track_caller]
    pub fn doctor(&self) -> Vec<serde_json::Value> {
        let output = self.world.netdp(&["doctor", "--format", "json"]);
        let output = output.unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_slice(&output.stdout).expect("checks in JSON")
    }

    #[track_caller]
    pub fn inspect(&self, name: &str) -> Sandbox {
        let text = self.netdp(&format!("inspect {name}"));
        let mut found: Vec<Sandbox> = serde_json::from_str(&text).expect("sandboxes in JSON");
        found.remove(0)
    }

    #[track_caller]
    pub fn flows(&self) -> Vec<Flow> {
        serde_json::from_str(&self.netdp("flows --format json")).expect("flows in JSON")
    }

    #[track_caller]
    pub fn statistics(&self) -> Statistics {
        serde_json::from_str(&self.netdp("stats --format json")).expect("counters in JSON")
    }

    /// How many packets were dropped for this reason.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> u64 {
        let statistics = self.statistics();
        let counter = statistics.drops.iter().find(|drops| drops.reason == reason);
        counter
            .unwrap_or_else(|| panic!("no reason is called {reason}"))
            .packets
    }

    /// The supervisors of this daemon's direct ports.
    #[track_caller]
    pub fn supervisors(&self) -> Vec<Pid> {
        let folder = self.world.run_dir().display().to_string();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let is_one = |process: &fs::DirEntry| {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains(DIRECT_COMMAND) && words.contains(&folder)
        };
        processes
            .filter(is_one)
            .filter_map(|it| it.file_name().to_str()?.parse().ok().map(Pid::from_raw))
            .collect()
    }

    /// Lines for iproute2 in a namespace.
    #[track_caller]
    pub fn ip(&self, namespace: &Namespace, lines: &str) {
        ip(namespace, lines).unwrap_or_else(|error| panic!("{error}"));
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < PATIENCE, "not {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if thread::panicking() {
            if let Ok(counters) = self.world.netdp_ok(&["stats"]) {
                eprintln!("it counted:\n{counters}");
            }
            eprintln!("the daemon said:\n{}", self.world.daemon_log());
        }
    }
}

/// The netdp that xtask names, or the one built beside this test.
/// The command under test.
pub fn netdp_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NETDP_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("this test's path");
    let built = test.ancestors().nth(2).expect("target/debug").join("netdp");
    assert!(
        built.exists(),
        "{} is missing: build it with `cargo build -p netdp`, or name another by NETDP_BIN",
        built.display()
    );
    built
}
