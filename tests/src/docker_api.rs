//! Plays the part of Docker that has an API: networks, containers, events.
//!
//! The answers have the fields of those that dockerd gives, 20.10 (API 1.41) and
//! 28.5 (API 1.51), with what a test needs filled in. There is no Docker behind
//! it: bridge, veth pairs and rules are made here, as dockerd makes them.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use netdp::bpf::Mechanism;
use netdp::demo::world::{World, ip, set_sysctls};
use netdp::netns::Namespace;
use nix::sys::socket::{AddressFamily, SockProtocol, SockType};
use serde_json::{Value, json};

use crate::{Place, Topology};

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

/// What is answered.
#[derive(Default)]
struct Said {
    networks: Vec<Value>,
    containers: Vec<(String, Value)>,
    listeners: Vec<UnixStream>,
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
                thread::spawn(move || drop(answer(stream, &said, version)));
            }
        });
        self.listener = Some(own);
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

    pub fn container(&self, name: &str) -> &ApiContainer {
        self.containers.iter().find(|it| it.name == name).unwrap()
    }

    /// The rules that dockerd makes for what is there, with more for the chain
    /// `DOCKER-USER`. False where this host has no iptables.
    pub fn make_rules(&self, world: &World, user: &str) -> bool {
        let (mut nat, mut filter, mut raw) = (String::new(), String::new(), String::new());
        for network in self.networks.iter().filter(|it| it.driver == "bridge") {
            let (bridge, number) = (&network.bridge, network.number);
            nat += &format!("-A POSTROUTING -s 172.18.{number}.0/24 ! -o {bridge} -j MASQUERADE\n");
            filter += &format!(
                "-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A FORWARD -o {bridge} -j DOCKER\n-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT\n\
                 -A FORWARD -i {bridge} -o {bridge} -j ACCEPT\n"
            );
        }
        for container in &self.containers {
            let network = self.networks.iter().find(|it| it.name == container.network);
            let (bridge, to) = (&network.unwrap().bridge, container.address);
            for (port, on, host_port) in &container.ports {
                let (port, proto) = port.split_once('/').unwrap();
                let on = match on.as_str() {
                    "0.0.0.0" => String::new(),
                    on => format!("-d {on}/32 "),
                };
                nat += &format!(
                    "-A DOCKER {on}! -i {bridge} -p {proto} --dport {host_port} \
                     -j DNAT --to-destination {to}:{port}\n"
                );
                filter += &format!(
                    "-A DOCKER -d {to}/32 ! -i {bridge} -o {bridge} -p {proto} --dport {port} -j ACCEPT\n"
                );
            }
            raw += &format!("-A PREROUTING -d {to}/32 ! -i {bridge} -j DROP\n");
        }
        let rules = format!(
            "*raw\n:PREROUTING ACCEPT\n{raw}COMMIT\n\
             *nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
             -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
             -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n{nat}COMMIT\n\
             *filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER -\n:DOCKER-USER -\n\
             -A FORWARD -j DOCKER-USER\n{filter}{user}-A DOCKER-USER -j RETURN\nCOMMIT\n"
        );
        let Ok(mut restore) = world
            .on_host("iptables-restore")
            .stdin(Stdio::piped())
            .spawn()
        else {
            return false;
        };
        let mut stdin = restore.stdin.take().unwrap();
        stdin.write_all(rules.as_bytes()).unwrap();
        drop(stdin);
        restore.wait().unwrap().success()
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
            .map(|it| self.network_json(it))
            .collect();
        said.containers = self
            .containers
            .iter()
            .map(|it| (it.id.clone(), self.container_json(it)))
            .collect();
    }

    fn network_json(&self, network: &ApiNetwork) -> Value {
        let options: serde_json::Map<String, Value> = network
            .options
            .iter()
            .filter(|(key, _)| key != "internal")
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let mut value = json!({
            "Name": network.name, "Id": network.id,
            "Created": "2026-01-02T03:04:05.678901234Z", "Scope": "local",
            "Driver": network.driver, "EnableIPv6": false,
            "IPAM": { "Driver": "default", "Options": null, "Config": [{
                "Subnet": format!("172.18.{}.0/24", network.number),
                "Gateway": network.gateway().to_string(),
            }] },
            "Internal": network.internal, "Attachable": false, "Ingress": false,
            "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
            "Containers": {}, "Options": options, "Labels": {},
        });
        if self.version == Version::V28 {
            value["EnableIPv4"] = json!(true);
        }
        value
    }

    fn container_json(&self, container: &ApiContainer) -> Value {
        let network = self.networks.iter().find(|it| it.name == container.network);
        let network = network.unwrap();
        let mut ports = serde_json::Map::new();
        for (port, on, host_port) in &container.ports {
            let binding = json!({ "HostIp": on, "HostPort": host_port.to_string() });
            let bindings = ports.entry(port.clone()).or_insert(json!([]));
            bindings.as_array_mut().unwrap().push(binding);
        }
        // Exposed, and not published.
        ports.entry("9999/tcp").or_insert(Value::Null);
        let [.., last] = container.address.octets();
        let mut endpoint = json!({
            "IPAMConfig": null, "Links": null, "Aliases": null,
            "NetworkID": network.id, "EndpointID": container.id.replacen('c', "e", 1),
            "Gateway": network.gateway().to_string(),
            "IPAddress": container.address.to_string(), "IPPrefixLen": 24,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "MacAddress": format!("02:42:ac:12:{:02x}:{last:02x}", network.number),
            "DriverOpts": null,
        });
        if self.version == Version::V28 {
            endpoint["DNSNames"] = json!([container.name]);
            endpoint["GwPriority"] = json!(0);
        }
        let name = &container.name;
        json!({
            "Id": container.id, "Created": "2026-01-02T03:04:05.678901234Z",
            "Path": "httpd", "Args": ["-f"],
            "State": {
                "Status": "running", "Running": true, "Paused": false, "Restarting": false,
                "OOMKilled": false, "Dead": false, "Pid": container.program.id(),
                "ExitCode": 0, "Error": "", "StartedAt": "2026-01-02T03:04:06.1Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
            },
            "Image": "sha256:0", "Name": format!("/{name}"), "RestartCount": 0,
            "Driver": "overlay2", "Platform": "linux", "MountLabel": "", "ProcessLabel": "",
            "AppArmorProfile": "", "ExecIDs": null, "Mounts": [],
            "Config": { "Hostname": &container.id[..12], "Image": "web:1", "Labels": {} },
            "NetworkSettings": {
                "Bridge": "", "SandboxID": container.id,
                "SandboxKey": format!("/var/run/docker/netns/{}", &container.id[..12]),
                "Ports": ports,
                "Networks": { &network.name: endpoint },
            },
        })
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

/// Answers the requests of a connection.
fn answer(mut stream: UnixStream, said: &Mutex<Said>, version: Version) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim_end().is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let path = path.split('?').next().unwrap_or(path);
        // Without the version of the API that was asked for.
        let path = match path.strip_prefix("/v1.") {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => path,
        };
        let mut said = said.lock().unwrap();
        let body = match path {
            "/events" => {
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                      Transfer-Encoding: chunked\r\n\r\n",
                )?;
                said.listeners.push(stream);
                return Ok(());
            }
            "/version" => Some(json!({
                "Version": "0", "ApiVersion": version.api(), "MinAPIVersion": "1.12",
                "Os": "linux", "Arch": "amd64", "KernelVersion": "6",
            })),
            "/networks" => Some(json!(said.networks)),
            "/containers/json" => Some(json!(
                said.containers
                    .iter()
                    .map(|(id, it)| json!({
                        "Id": id, "Names": [it["Name"]], "Image": "web:1", "ImageID": "sha256:0",
                        "Command": "httpd -f", "Created": 1_767_323_045, "Labels": {},
                        "Ports": [], "State": "running", "Status": "Up 2 seconds",
                        "HostConfig": { "NetworkMode": "default" },
                        "NetworkSettings": { "Networks": it["NetworkSettings"]["Networks"] },
                        "Mounts": [],
                    }))
                    .collect::<Vec<_>>()
            )),
            path => {
                let of = path.strip_prefix("/containers/");
                let of = of.and_then(|rest| rest.strip_suffix("/json"));
                let mut containers = said.containers.iter();
                of.and_then(|id| containers.find(|(it, _)| it == id))
                    .map(|(_, it)| it.clone())
            }
        };
        drop(said);
        let (status, body) = match body {
            Some(body) => ("200 OK", body.to_string()),
            None => (
                "404 Not Found",
                json!({ "message": "no such thing" }).to_string(),
            ),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nApi-Version: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            version.api(),
            body.len()
        )?;
    }
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
