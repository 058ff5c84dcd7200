//! Plays the part of Docker that has an API: networks, containers, events.
//!
//! The answers have the fields of those that dockerd gives, 20.10 (API 1.41) and
//! 28.5 (API 1.51), with what a test needs filled in. There is no Docker behind
//! it: bridge, veth pairs and rules are made here, as dockerd makes them.

mod rules;
mod said;

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use netdp::bpf::Mechanism;
use netdp::demo::world::{World, ip, set_sysctls};
use netdp::netns::Namespace;
use nix::sys::socket::{AddressFamily, SockProtocol, SockType};
use serde_json::json;

use crate::{Place, Topology};
use said::Said;

/// Which dockerd answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V20,
    V28,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::V20, Self::V28];

    fn api(self) -> &'static str {
        match self {
            Self::V20 => "1.41",
            Self::V28 => "1.51",
        }
    }
}

/// A network of Docker's driver `bridge`, or of another.
#[derive(Clone, Debug)]
pub struct ApiNetwork {
    pub id: String,
    pub name: String,
    pub driver: String,
    pub internal: bool,
    pub options: Vec<(String, String)>,
    /// The third octet of its subnet, 172.18.N.0/24.
    pub number: u8,
    pub bridge: String,
}

impl ApiNetwork {
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, self.number, 1)
    }
}

/// A container that runs: a namespace with a process in it.
pub struct ApiContainer {
    pub id: String,
    pub name: String,
    pub network: String,
    pub address: Ipv4Addr,
    pub namespace: Namespace,
    pub host_end: String,
    /// Container port with its protocol, address and port of the host.
    pub ports: Vec<(String, String, u16)>,
    program: Child,
}

impl ApiContainer {
    fn pid(&self) -> u32 {
        self.program.id()
    }
}

impl Drop for ApiContainer {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Place for ApiContainer {
    fn open_family(
        &self,
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> std::os::fd::OwnedFd {
        self.namespace.open_family(family, kind, protocol)
    }
}

/// A Docker that answers until it is dropped.
pub struct DockerApi {
    pub socket: PathBuf,
    version: Version,
    said: Arc<Mutex<Said>>,
    listener: Option<UnixListener>,
    pub networks: Vec<ApiNetwork>,
    pub containers: Vec<ApiContainer>,
    made: u32,
}

/// 64 digits, as Docker's ids.
fn id(kind: &str, number: u32) -> String {
    format!("{kind}{number:02x}{:0>61}", "")
}

impl DockerApi {
    pub fn start(world: &World, version: Version) -> Self {
        set_sysctls(&world.host, &[("ipv4/ip_forward", "1")]).unwrap();
        let mut docker = Self {
            socket: world.dir().join("docker.sock"),
            version,
            said: Arc::default(),
            listener: None,
            networks: Vec::new(),
            containers: Vec::new(),
            made: 0,
        };
        docker.listen();
        docker
    }

    /// Answers, again where it had ended.
    pub fn listen(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (said, version) = (Arc::clone(&self.said), self.version);
        let own = listener.try_clone().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let said = Arc::clone(&said);
                thread::spawn(move || drop(said::answer(stream, &said, version)));
            }
        });
        self.listener = Some(own);
    }

    /// Hears what it is asked, and answers once what this gives is dropped.
    pub fn silence(&self) -> impl Drop + use<'_> {
        self.said.lock().unwrap()
    }

    /// Answers nothing any more, as a dockerd that was killed.
    pub fn end(&mut self) {
        if let Some(listener) = self.listener.take() {
            // SAFETY: an open socket.
            unsafe { libc::shutdown(std::os::fd::AsRawFd::as_raw_fd(&listener), libc::SHUT_RDWR) };
        }
        let _ = std::fs::remove_file(&self.socket);
        for listener in self.said.lock().unwrap().listeners.drain(..) {
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
    }

    /// A bridge network, with its bridge on the host.
    pub fn network(&mut self, world: &World, name: &str, options: &[(&str, &str)]) -> ApiNetwork {
        self.made += 1;
        let id = id("a", self.made);
        let network = ApiNetwork {
            bridge: format!("br-{}", &id[..12]),
            id,
            name: name.to_owned(),
            driver: "bridge".to_owned(),
            internal: options.contains(&("internal", "true")),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            number: self.networks.len() as u8 + 1,
        };
        let (bridge, gateway) = (&network.bridge, network.gateway());
        let lines = format!(
            "link add {bridge} address 02:42:00:00:00:{:02x} type bridge\n\
             addr add {gateway}/24 dev {bridge}\nlink set {bridge} up\n",
            network.number
        );
        ip(&world.host, &lines).unwrap();
        self.networks.push(network.clone());
        self.tell("network", "create", &network.id);
        network
    }

    /// One of another driver, which has nothing on the host.
    pub fn other_network(&mut self, name: &str, driver: &str) {
        self.made += 1;
        self.networks.push(ApiNetwork {
            id: id("a", self.made),
            name: name.to_owned(),
            driver: driver.to_owned(),
            internal: false,
            options: Vec::new(),
            number: 0,
            bridge: String::new(),
        });
        self.publish();
    }

    /// A container on a network; ports as `8080:80/tcp`, with an address of the
    /// host before or without.
    pub fn run(&mut self, world: &World, name: &str, network: &str, ports: &[&str]) -> usize {
        self.made += 1;
        let number = self.made;
        let network = self.networks.iter().find(|it| it.name == network).unwrap();
        let namespace = world.add_namespace(&format!("{name}{number}")).unwrap();
        let taken: Vec<Ipv4Addr> = self.containers.iter().map(|it| it.address).collect();
        // The lowest that is free, as Docker gives it.
        let address = (2..250)
            .map(|last| Ipv4Addr::new(172, 18, network.number, last))
            .find(|address| !taken.contains(address))
            .unwrap();
        let host_end = format!("veth{number:x}");
        let lines = format!(
            "link add {host_end} type veth peer name eth0 netns {}\n\
             link set {host_end} master {} up\n",
            namespace.path().display(),
            network.bridge
        );
        ip(&world.host, &lines).unwrap();
        let [.., last] = address.octets();
        let lines = format!(
            "link set eth0 address 02:42:ac:12:{:02x}:{last:02x}\n\
             addr add {address}/24 dev eth0\nlink set eth0 up\nlink set lo up\n\
             route add default via {}\n",
            network.number,
            network.gateway()
        );
        ip(&namespace, &lines).unwrap();
        let program = world
            .within(&namespace, "sleep")
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let container = ApiContainer {
            id: id("c", number),
            name: name.to_owned(),
            network: network.name.clone(),
            address,
            namespace,
            host_end,
            ports: ports.iter().map(|text| port(text)).collect(),
            program,
        };
        let id = container.id.clone();
        self.containers.push(container);
        self.tell("container", "start", &id);
        self.containers.len() - 1
    }

    /// Ends a container, with its interface.
    pub fn stop(&mut self, world: &World, name: &str) {
        let at = self.containers.iter().position(|it| it.name == name);
        let container = self.containers.remove(at.unwrap());
        ip(&world.host, &format!("link del {}\n", container.host_end)).unwrap();
        self.tell("container", "die", &container.id);
    }

    /// The same, and nobody is told.
    pub fn vanish(&mut self, world: &World, name: &str) {
        let listeners = std::mem::take(&mut self.said.lock().unwrap().listeners);
        self.stop(world, name);
        self.said.lock().unwrap().listeners = listeners;
    }

    /// What it was asked for since the last time.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap().requests)
    }

    pub fn container(&self, name: &str) -> &ApiContainer {
        self.containers.iter().find(|it| it.name == name).unwrap()
    }

    /// Says what is so now, and that it has changed.
    fn tell(&mut self, kind: &str, action: &str, id: &str) {
        self.publish();
        let event = json!({
            "Type": kind, "Action": action, "scope": "local",
            "status": action, "id": id,
            "Actor": { "ID": id, "Attributes": {} },
            "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_000_u64,
        });
        let line = format!("{event}\n");
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        for listener in &mut self.said.lock().unwrap().listeners {
            let _ = listener.write_all(chunk.as_bytes());
        }
    }

    fn publish(&self) {
        let mut said = self.said.lock().unwrap();
        said.networks = self
            .networks
            .iter()
            .map(|it| said::network(self.version, it))
            .collect();
        said.containers = self
            .containers
            .iter()
            .map(|it| {
                let mut networks = self.networks.iter();
                let network = networks.find(|network| network.name == it.network);
                let shown = said::container(self.version, network.unwrap(), it);
                (it.id.clone(), shown)
            })
            .collect();
    }
}

impl Drop for DockerApi {
    fn drop(&mut self) {
        self.end();
    }
}

fn port(text: &str) -> (String, String, u16) {
    let (host, container) = text.rsplit_once(':').unwrap();
    let (on, host_port) = host.rsplit_once(':').unwrap_or(("0.0.0.0", host));
    let container = match container.contains('/') {
        true => container.to_owned(),
        false => format!("{container}/tcp"),
    };
    (container, on.to_owned(), host_port.parse().unwrap())
}

impl Topology {
    /// With a Docker that can be asked.
    pub fn with_docker_api(name: &str, version: Version) -> Option<(Self, DockerApi)> {
        if Mechanism::of_this_kernel() != Mechanism::Tcx {
            println!("skipped: needs tcx, Linux 6.6");
            return None;
        }
        let mut topology = Self::without_daemon(name)?;
        topology.start_daemon();
        let docker = DockerApi::start(&topology.world, version);
        Some((topology, docker))
    }

    /// `netdp accelerate docker WORDS`, which has to succeed.
    #[track_caller]
    pub fn accelerate(&self, docker: &Path, words: &str) -> String {
        let docker = docker.display();
        self.netdp(&format!("accelerate docker {words} --socket {docker}"))
    }
}
