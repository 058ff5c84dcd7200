//! Plays dockerd against the driver `netdp`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use netdp::demo::world::World;
use netdp::netns::Namespace;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde_json::{Value, json};

use crate::{PATIENCE, Topology};

const DRIVER: &str = "/NetworkDriver.";
const IPAM: &str = "/IpamDriver.";

/// When a version of dockerd makes the namespace and moves the interface in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moves {
    /// Right after `Join` (28).
    AtOnce,
    /// After the last request of a start (up to 26).
    Late,
}

/// An endpoint as dockerd knows it.
#[derive(Debug, Default)]
struct Endpoint {
    addresses: Vec<String>,
    mac: String,
    sandbox: String,
    src_name: String,
    gateways: Vec<IpAddr>,
    /// Name of the interface in the sandbox, once it is there.
    moved: Option<String>,
}

#[derive(Debug)]
struct Sandbox {
    namespace: Namespace,
    next: u32,
    /// Its program.
    program: Option<Child>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Dockerd {
    pub moves: Moves,
    socket: PathBuf,
    netns: PathBuf,
    host: Namespace,
    endpoints: BTreeMap<String, Endpoint>,
    sandboxes: BTreeMap<String, Sandbox>,
}

impl Topology {
    /// With a daemon that is Docker's driver, and a dockerd beside it.
    pub fn with_dockerd(name: &str, moves: Moves) -> Option<(Self, Dockerd)> {
        let mut topology = Self::without_daemon(name)?;
        topology
            .world
            .add_ipv6()
            .unwrap_or_else(|error| panic!("{error}"));
        topology.start_driver();
        let dockerd = Dockerd::new(&topology.world, moves);
        Some((topology, dockerd))
    }

    /// The daemon as Docker's driver.
    pub fn start_driver(&mut self) {
        let socket = driver_socket(&self.world);
        let args = ["--docker-plugin".as_ref(), socket.as_os_str()];
        self.world
            .start_daemon(&args)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

fn driver_socket(world: &World) -> PathBuf {
    world.dir().join("plugins/netdp.sock")
}

impl Dockerd {
    fn new(world: &World, moves: Moves) -> Self {
        Self {
            moves,
            socket: driver_socket(world),
            netns: world.dir().join("docker"),
            host: world.host.reference(),
            endpoints: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
        }
    }

    /// Bytes to the driver's socket; gives status and body.
    #[track_caller]
    pub fn raw(&self, head: &str, body: &[u8]) -> (u16, Value) {
        let stream = UnixStream::connect(&self.socket).expect("the driver answers");
        exchange(stream, head, body)
    }

    /// Makes an endpoint as a dockerd that is another process, until that is
    /// killed.
    #[track_caller]
    pub fn create_as_another(&mut self, body: &Value) -> Child {
        let (child, answer) = self.ask_as_another(&format!("{DRIVER}CreateEndpoint"), body);
        let id = body["EndpointID"].as_str().expect("an id");
        self.created(id, body, &answer);
        child
    }

    /// One request of a dockerd that is another process, until that is killed.
    #[track_caller]
    pub fn ask_as_another(&self, path: &str, body: &Value) -> (Child, Value) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let (socket, address) = (socket.expect("a socket"), UnixAddr::new(&self.socket));
        let (number, address) = (socket.as_raw_fd(), address.expect("its path is short"));
        let mut command = Command::new("sleep");
        command
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: one system call; nothing allocates or locks between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(socket::connect(number, &address)?));
        }
        let child = command.spawn().expect("start sleep");
        let body = body.to_string();
        let (status, answer) = exchange(
            UnixStream::from(socket),
            &format!("POST {path}"),
            body.as_bytes(),
        );
        assert_eq!(status, 200, "{path} {body}: {answer}");
        (child, answer)
    }

    /// One request; gives the answer, or the text of a refusal, which libnetwork
    /// reads under another name of an IPAM driver.
    #[track_caller]
    pub fn ask(&self, path: &str, body: &Value) -> Result<Value, String> {
        let sent = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let (status, answer) = self.raw(&format!("POST {path}"), &sent);
        let refused = match path.starts_with(IPAM) {
            true => "Error",
            false => "Err",
        };
        match answer.get(refused).and_then(Value::as_str) {
            Some(text) if !text.is_empty() => Err(text.to_owned()),
            _ => {
                assert_eq!(status, 200, "{path} {body}: {answer}");
                assert!(answer.is_object(), "{path} {body}: {answer}");
                Ok(answer)
            }
        }
    }

    /// A request of a recording, and what dockerd does before and after it. A
    /// sandbox is named by the last part of its key.
    #[track_caller]
    pub fn play(&mut self, path: &str, body: &Value) -> Result<Value, String> {
        let mut body = body.clone();
        if let Some(key) = body.get("SandboxKey").and_then(Value::as_str) {
            let (name, key) = (key.to_owned(), self.netns.join(key));
            if self.moves == Moves::AtOnce {
                self.make_sandbox(&name);
            }
            body["SandboxKey"] = json!(key);
        }
        let answer = self.ask(path, &body)?;
        let id = body.get("EndpointID").and_then(Value::as_str);
        let (Some(method), Some(id)) = (path.strip_prefix(DRIVER), id) else {
            return Ok(answer);
        };
        match method {
            "CreateEndpoint" => self.created(id, &body, &answer),
            "Join" => {
                self.joined(id, &body, &answer);
                if self.moves == Moves::AtOnce {
                    self.move_in(id);
                }
            }
            "EndpointOperInfo" => self.move_in(id),
            "Leave" => self.move_out(id),
            "DeleteEndpoint" => self.deleted(id),
            _ => {}
        }
        Ok(answer)
    }

    fn make_sandbox(&mut self, name: &str) {
        if !self.sandboxes.contains_key(name) {
            let namespace = Namespace::create(&self.netns, name).expect("a sandbox");
            let sandbox = Sandbox {
                namespace,
                next: 0,
                program: None,
            };
            self.sandboxes.insert(name.to_owned(), sandbox);
        }
    }

    #[track_caller]
    fn created(&mut self, id: &str, body: &Value, answer: &Value) {
        let text = |of: &Value, key: &str| {
            let text = of["Interface"][key].as_str();
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        // dockerd refuses an answer that repeats what it gave.
        for key in ["Address", "AddressIPv6", "MacAddress"] {
            let twice = text(body, key).is_some() && text(answer, key).is_some();
            assert!(!twice, "{key} of {answer}");
        }
        let given = |key: &str| text(body, key).or_else(|| text(answer, key));
        let endpoint = Endpoint {
            addresses: ["Address", "AddressIPv6"]
                .into_iter()
                .filter_map(given)
                .collect(),
            mac: given("MacAddress").expect("a MAC address"),
            ..Endpoint::default()
        };
        self.endpoints.insert(id.to_owned(), endpoint);
    }

    #[track_caller]
    fn joined(&mut self, id: &str, body: &Value, answer: &Value) {
        let endpoint = self.endpoints.get_mut(id).expect("it was created");
        let key = PathBuf::from(body["SandboxKey"].as_str().expect("a key"));
        let name = key.file_name().expect("a name").to_string_lossy();
        endpoint.sandbox = name.into_owned();
        let src_name = answer["InterfaceName"]["SrcName"].as_str();
        endpoint.src_name = src_name.expect("an interface").to_owned();
        endpoint.gateways = ["Gateway", "GatewayIPv6"]
            .into_iter()
            .filter_map(|key| answer[key].as_str()?.parse().ok())
            .collect();
    }

    /// Moves an endpoint's interface into its sandbox and sets it up.
    #[track_caller]
    pub fn move_in(&mut self, id: &str) {
        let Some(endpoint) = self.endpoints.get(id) else {
            return;
        };
        if endpoint.moved.is_some() || endpoint.sandbox.is_empty() {
            return;
        }
        let name = endpoint.sandbox.clone();
        self.make_sandbox(&name);
        let endpoint = self.endpoints.get_mut(id).expect("it is there");
        let sandbox = self.sandboxes.get_mut(&name).expect("it was made");
        let ifname = format!("eth{}", sandbox.next);
        sandbox.next += 1;
        let src_name = &endpoint.src_name;
        let path = sandbox.namespace.path().display();
        run(&self.host, &format!("link set {src_name} netns {path}"));
        let inside = &sandbox.namespace;
        run(inside, &format!("link set {src_name} name {ifname}"));
        run(
            inside,
            &format!("link set {ifname} address {}", endpoint.mac),
        );
        for address in &endpoint.addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            run(inside, &format!("addr add {address} dev {ifname} {nodad}"));
        }
        run(inside, &format!("link set {ifname} up"));
        for gateway in &endpoint.gateways {
            let family = if gateway.is_ipv6() { "-6" } else { "-4" };
            let metric = sandbox.next;
            run(
                inside,
                &format!("{family} route add default via {gateway} dev {ifname} metric {metric}"),
            );
        }
        endpoint.moved = Some(ifname);
    }

    /// Moves an endpoint's interface back into the host's namespace.
    #[track_caller]
    pub fn move_out(&mut self, id: &str) {
        let Some(endpoint) = self.endpoints.get_mut(id) else {
            return;
        };
        let Some(ifname) = endpoint.moved.take() else {
            return;
        };
        let (src_name, inside) = (&endpoint.src_name, &self.sandboxes[&endpoint.sandbox]);
        let host = self.host.path().display();
        let inside = &inside.namespace;
        // Gone where the driver has removed it already.
        let away = format!("link set {ifname} down name {src_name} netns {host}");
        let _ = ip(inside, &away);
    }

    fn deleted(&mut self, id: &str) {
        let Some(gone) = self.endpoints.remove(id) else {
            return;
        };
        let mut others = self.endpoints.values();
        if others.all(|other| other.sandbox != gone.sandbox) {
            self.sandboxes.remove(&gone.sandbox);
        }
    }

    /// Ends all sandboxes without a word, as a dockerd that was killed and
    /// starts anew.
    pub fn forget(&mut self) {
        self.endpoints.clear();
        self.sandboxes.clear();
    }

    /// Starts a program in a sandbox.
    #[track_caller]
    pub fn start_program(&mut self, name: &str) {
        let sandbox = self.sandboxes.get_mut(name).expect("a sandbox");
        let program = sandbox.namespace.command("sleep").arg("600").spawn();
        sandbox.program = Some(program.expect("start sleep"));
    }

    /// Ends a sandbox with all that is in it.
    pub fn end_sandbox(&mut self, name: &str) {
        self.sandboxes.remove(name);
    }

    /// The namespace of a sandbox.
    #[track_caller]
    pub fn sandbox(&self, name: &str) -> &Namespace {
        let sandbox = self.sandboxes.get(name);
        &sandbox
            .unwrap_or_else(|| panic!("no sandbox {name}"))
            .namespace
    }
}

fn ip(namespace: &Namespace, words: &str) -> Result<(), String> {
    let mut command = namespace.command("ip");
    let output = command.args(words.split_whitespace()).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[track_caller]
fn run(namespace: &Namespace, words: &str) {
    ip(namespace, words).unwrap_or_else(|error| panic!("ip {words}: {error}"));
}

/// Bytes over a connection; gives status and body.
#[track_caller]
fn exchange(mut stream: UnixStream, head: &str, body: &[u8]) -> (u16, Value) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = body.len();
    let head = format!(
        "{head} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nConnection: close\r\n\
         Content-Length: {length}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("send");
    // A driver that has read enough may close before it has read all.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.unwrap_or_else(|| panic!("{head}")), body)
}
