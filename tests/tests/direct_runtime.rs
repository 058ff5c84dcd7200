//! Direct ports of containers: a runtime hands their filters over, and an engine
//! says by its own way which ports are direct.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp_tests::{Dockerd, Moves, Place, Topology, connect};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

const NETWORK: &str = "e808a2f1e7a49f077b0539a9ae816be251587c9fa467f4dd750147a28f0ce956";
const ENDPOINT: &str = "0202020202020202020202020202020202020202020202020202020202020202";
const SANDBOX: &str = "b853af628202";
const ADDRESS: &str = "10.50.0.2";

const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");
const RUNTIME: &str = env!("CARGO_BIN_EXE_under_a_filter");

fn driver(method: &str) -> String {
    format!("/NetworkDriver.{method}")
}

fn create_network(dockerd: &mut Dockerd) {
    let body = json!({
        "NetworkID": NETWORK, "Options": {}, "IPv6Data": [],
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Gateway": "10.50.0.1/24", "Pool": "10.50.0.0/24"}],
    });
    dockerd.play(&driver("CreateNetwork"), &body).unwrap();
}

/// A container's network, with ports of the host that lead to its port 80 and 81.
fn join(dockerd: &mut Dockerd, publish: &Value) {
    let port = |host: u16, own: u16| {
        json!({"Proto": 6, "IP": "", "Port": own, "HostIP": "", "HostPort": host,
               "HostPortEnd": host})
    };
    let portmap = json!([port(8080, 80), port(8081, 81)]);
    let ids = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT});
    let with = |more: Value| {
        let mut body = ids.clone();
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let options = json!({"com.docker.network.portmap": portmap});
    let mut created = options.clone();
    created["publish"] = publish.clone();
    let interface =
        json!({"Address": format!("{ADDRESS}/24"), "AddressIPv6": "", "MacAddress": ""});
    for (method, body) in [
        (
            "CreateEndpoint",
            with(json!({"Interface": interface, "Options": created})),
        ),
        (
            "Join",
            with(json!({"SandboxKey": SANDBOX, "Options": options})),
        ),
        (
            "ProgramExternalConnectivity",
            with(json!({"Options": options})),
        ),
        ("EndpointOperInfo", ids.clone()),
    ] {
        dockerd.play(&driver(method), &body).unwrap();
    }
}

/// A process group that ends with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn command(topology: &Topology, dockerd: &Dockerd) -> Command {
    let mut command = dockerd.sandbox(SANDBOX).command(RUNTIME);
    command
        .arg(topology.world.run_dir().join("seccomp.sock"))
        .process_group(0)
        .stdout(Stdio::null());
    command
}

/// A server in the container; gives what it said of its address.
#[track_caller]
fn serve(topology: &Topology, dockerd: &Dockerd, address: &str) -> (Server, String) {
    let mut command = command(topology, dockerd);
    command.args([SERVER, address]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    (Server(child), line.trim().to_owned())
}

/// Its own name and the client's, as the server knows them.
#[track_caller]
fn names(from: &impl Place, to: SocketAddr) -> (SocketAddr, IpAddr) {
    let stream = connect(from, to);
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let (local, peer) = line.trim().split_once(' ').expect("two names");
    let peer: SocketAddr = peer.parse().unwrap();
    (local.parse().unwrap(), peer.ip())
}

/// Whether the host itself listens at the port.
fn listens_directly(topology: &Topology, port: u16) -> bool {
    let output = topology.world.on_host("cat").arg("/proc/net/tcp").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A"
    })
}

/// In both orders: the program is there before its network is published, or after.
#[test]
fn a_container_whose_filter_is_handed_over_has_direct_ports() {
    for moves in [Moves::AtOnce, Moves::Late] {
        let Some((topology, mut dockerd)) = Topology::with_dockerd("dir-docker", moves) else {
            return;
        };
        create_network(&mut dockerd);
        join(&mut dockerd, &json!("direct"));
        let (web, said) = serve(&topology, &dockerd, "0.0.0.0:80");
        assert_eq!(said, "0.0.0.0:80 is 0.0.0.0:80");
        assert!(listens_directly(&topology, 8080));
        let client = &topology.world.client;
        let own = SocketAddr::new(ADDRESS.parse().unwrap(), 80);
        let seen = names(client, (HOST_ADDRESS, 8080).into());
        assert_eq!(seen, (own, CLIENT_ADDRESS.into()));
        assert!(topology.netdp("ps").contains("8080->80/tcp,direct"));
        // A second program of the container, as `docker exec` starts one.
        let (_second, said) = serve(&topology, &dockerd, "0.0.0.0:81");
        assert_eq!(said, "0.0.0.0:81 is 0.0.0.0:81");
        assert!(listens_directly(&topology, 8081));
        let (_, said) = serve(&topology, &dockerd, "0.0.0.0:80");
        assert!(said.contains("in use"), "{said}");
        drop(web);
        topology.wait_until("gone", || !listens_directly(&topology, 8080));
    }
}

/// Supervisors of containers are processes of their own.
#[test]
fn what_was_handed_over_outlives_the_daemon() {
    let Some((mut topology, mut dockerd)) = Topology::with_dockerd("dir-outlive", Moves::AtOnce)
    else {
        return;
    };
    create_network(&mut dockerd);
    join(&mut dockerd, &json!("direct"));
    let late = topology.world.dir().join("now");
    let script = format!(
        "{SERVER} 0.0.0.0:80 & while [ ! -e {} ]; do sleep 0.05; done; {SERVER} 0.0.0.0:81",
        late.display()
    );
    let mut shell = command(&topology, &dockerd);
    let _shell = Server(shell.args(["sh", "-c", &script]).spawn().unwrap());
    topology.wait_until("listening", || listens_directly(&topology, 8080));
    topology.world.kill_daemon();
    std::fs::write(&late, "").unwrap();
    topology.wait_until("listening", || listens_directly(&topology, 8081));
    for port in [8080, 8081] {
        names(&topology.world.client, (HOST_ADDRESS, port).into());
    }
    // Nobody takes a filter now, and whoever starts a container is told.
    let refused = command(&topology, &dockerd).arg("true").output().unwrap();
    assert!(!refused.status.success());
    topology.start_driver();
    let (_web, said) = serve(&topology, &dockerd, "127.0.0.1:82");
    assert_eq!(said, "127.0.0.1:82 is 127.0.0.1:82");
}

#[test]
fn a_container_that_did_not_ask_has_none() {
    let Some((topology, mut dockerd)) = Topology::with_dockerd("dir-unasked", Moves::AtOnce) else {
        return;
    };
    create_network(&mut dockerd);
    join(&mut dockerd, &json!("datapath"));
    let (_web, _) = serve(&topology, &dockerd, "0.0.0.0:80");
    assert!(!listens_directly(&topology, 8080));
    names(&topology.world.client, (HOST_ADDRESS, 8080).into());
}

#[test]
fn the_socket_is_roots_alone() {
    let Some((topology, _dockerd)) = Topology::with_dockerd("dir-socket", Moves::AtOnce) else {
        return;
    };
    let path = topology.world.run_dir().join("seccomp.sock");
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
