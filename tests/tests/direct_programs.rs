//! Direct ports of programs as they come from their makers: they are told
//! nothing, and nothing of them is changed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp_tests::{Topology, connect, connect_within};

/// Whether a program is here.
fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let is_here = found.is_ok_and(|output| output.status.success());
    if !is_here {
        println!("skipped: there is no {program}");
    }
    is_here
}

/// Whether the host has a listener at port 8080.
#[track_caller]
fn listens_directly(topology: &Topology) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let path = format!("/proc/net/{table}");
        let output = topology.world.on_host("cat").arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|local| local.ends_with(":1F90")) && fields[3] == "0A"
        })
    })
}

/// What a client gets of a web server, whole.
#[track_caller]
fn get(topology: &Topology) -> String {
    let mut stream = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1."), "{answer}");
    answer
}

/// Starts a program whose port 80 is 8080 of the host, and waits until it listens
/// by a socket of the host.
#[track_caller]
fn start(topology: &Topology, program: &[&str]) {
    let run = ["run", "-d", "--name", "web", "-p", "8080:80,direct", "--"];
    let words: Vec<&str> = run.iter().chain(program).copied().collect();
    topology
        .world
        .netdp_ok(&words)
        .unwrap_or_else(|error| panic!("{error}"));
    topology.wait_until("listening directly", || listens_directly(topology));
}

/// A port that the supervisor has something to say about, and then others.
const SAYS_AND_SERVES: &str = "
import http.server, socket
said = socket.socket()
said.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([131, 7, 4, 192, 0, 2, 9, 0]))
said.bind(('', 80))
said.close()
socket.socket().bind(('', 12345))
handler = http.server.SimpleHTTPRequestHandler
handler.log_message = lambda *what: None
http.server.HTTPServer(('', 80), handler).serve_forever()
";

#[test]
fn nobody_has_to_hear_what_is_said_of_their_ports() {
    let Some(topology) = Topology::start("dip-unheard") else {
        return;
    };
    if !is_here("python3") {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut run = topology.world.on_host(topology.world.netdp_path());
    run.args(["run", "--name", "web", "-p", "8080:80,direct", "--"])
        .args(["python3", "-c", SAYS_AND_SERVES])
        .stdout(Stdio::null())
        .stderr(writer);
    let mut run = run.spawn().unwrap();
    topology.wait_until("listening directly", || listens_directly(&topology));
    assert!(get(&topology).contains("200 OK"));
    topology.netdp("rm -f web");
    run.wait().unwrap();
}

/// A server that has one peer sign (`struct tcp_md5sig` of
/// `include/uapi/linux/tcp.h`), as routers do.
const HAS_A_KEY: &str = "
import http.server, socket, struct
class Server(http.server.HTTPServer):
    def server_bind(self):
        peer = struct.pack('=HH', socket.AF_INET, 0) + socket.inet_aton('203.0.113.9')
        key = struct.pack('=128sBBHi80s', peer, 0, 0, 3, 0, b'key')
        self.socket.setsockopt(socket.IPPROTO_TCP, 14, key)
        super().server_bind()
handler = http.server.SimpleHTTPRequestHandler
handler.log_message = lambda *what: None
Server(('', 80), handler).serve_forever()
";

/// The kernel tells nobody what the keys are: the host's socket would ask nobody to
/// sign.
#[test]
fn who_asks_for_signatures_keeps_its_own_socket() {
    let Some(topology) = Topology::start("dip-signed") else {
        return;
    };
    if !is_here("python3") {
        return;
    }
    let run = ["run", "-d", "--name", "web", "-p", "8080:80,direct", "--"];
    let words: Vec<&str> = run
        .iter()
        .copied()
        .chain(["python3", "-c", HAS_A_KEY])
        .collect();
    let run = topology.world.netdp_ok(&words);
    run.unwrap_or_else(|error| panic!("{error}"));
    let log = || topology.netdp("logs web");
    topology.wait_until("told", || !log().is_empty());
    if log().contains("Protocol not available") {
        return println!("skipped: this kernel has no CONFIG_TCP_MD5SIG");
    }
    assert!(
        log().contains("stays with the sandbox: its socket has a key"),
        "{}",
        log()
    );
    topology.wait_until("listening", || {
        let client = &topology.world.client;
        connect_within(client, None, (HOST_ADDRESS, 8080), Duration::from_secs(5)).is_ok()
    });
    assert!(get(&topology).contains("200 OK"));
    assert!(!listens_directly(&topology));
}

#[test]
fn pythons_web_server() {
    let Some(topology) = Topology::start("dip-python") else {
        return;
    };
    if !is_here("python3") {
        return;
    }
    start(&topology, &["python3", "-u", "-m", "http.server", "80"]);
    assert!(get(&topology).contains("200 OK"));
    topology.wait_until("in the log", || {
        let log = topology.netdp("logs web");
        log.contains(&format!("{CLIENT_ADDRESS} - - "))
    });
    let log = topology.netdp("logs web");
    assert!(log.contains("port 80 "), "{log}");
}

const NODE: &str = "const http = require('http');
http.createServer((question, answer) => {
    const { remoteAddress, localAddress, localPort } = question.socket;
    answer.end(`${remoteAddress} ${localAddress} ${localPort}`);
}).listen(80);";

#[test]
fn nodes_web_server() {
    let Some(topology) = Topology::start("dip-node") else {
        return;
    };
    if !is_here("node") {
        return;
    }
    start(&topology, &["node", "-e", NODE]);
    let answer = get(&topology);
    let own = topology.inspect("web").endpoints[0].addresses[0].addr();
    let told = format!("::ffff:{CLIENT_ADDRESS} ::ffff:{own} 80");
    assert!(answer.contains(&told), "{answer}");
}

#[test]
fn nodes_cluster_shares_one_socket() {
    let Some(topology) = Topology::start("dip-cluster") else {
        return;
    };
    if !is_here("node") {
        return;
    }
    let script = "const cluster = require('cluster');
if (cluster.isPrimary) { for (let i = 0; i < 3; i++) cluster.fork(); }
else require('http').createServer((_, answer) => answer.end(`worker ${process.pid}`)).listen(80);";
    let file = topology.world.dir().join("cluster.js");
    std::fs::write(&file, script).unwrap();
    start(&topology, &["node", &file.display().to_string()]);
    let workers = Mutex::new(BTreeSet::new());
    // They begin one after the other.
    topology.wait_until("answered by all three", || {
        let answer = get(&topology);
        let at = answer.find("worker").expect("a worker");
        let mut workers = workers.lock().unwrap();
        workers.insert(answer[at..].to_owned());
        workers.len() == 3
    });
}

/// What systemd does for its services: the socket is made by one program, and
/// used by another that it becomes.
#[test]
fn a_socket_that_another_program_inherits() {
    let Some(topology) = Topology::start("dip-inherit") else {
        return;
    };
    if !is_here("python3") {
        return;
    }
    let script = "import os, socket
made = socket.socket()
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
made.bind(('', 80))
made.listen()
os.dup2(made.fileno(), 3)
os.set_inheritable(3, True)
serve = '''import socket
listener = socket.socket(fileno=3)
while True:
    one, peer = listener.accept()
    one.recv(9999)
    one.sendall(f\"HTTP/1.0 200 OK\\\\r\\\\n\\\\r\\\\n{peer[0]} {one.getsockname()[1]}\".encode())
    one.close()'''
os.execvp('python3', ['python3', '-c', serve])";
    start(&topology, &["python3", "-c", script]);
    // Whoever has begun to listen has yet to become the one who answers.
    let answer = get(&topology);
    assert!(answer.contains(&format!("{CLIENT_ADDRESS} 80")), "{answer}");
}

#[test]
fn no_request_is_lost_while_workers_come_and_go() {
    let Some(topology) = Topology::start("dip-reload") else {
        return;
    };
    if !is_here("python3") {
        return;
    }
    // A worker that shares the port, and ends after a while, when the next has
    // begun.
    let script = "import os, socket, time
def worker():
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(('', 80))
    made.listen(64)
    return made
made = worker()
while True:
    end = time.time() + 0.3
    made.settimeout(0.05)
    while time.time() < end:
        try: one, _ = made.accept()
        except TimeoutError: continue
        one.settimeout(5)
        one.recv(9999)
        one.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nhere')
        one.close()
    after = worker()
    made.setblocking(False)
    while True:
        try: one, _ = made.accept()
        except BlockingIOError: break
        one.setblocking(True)
        one.recv(9999)
        one.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nhere')
        one.close()
    made.close()
    made = after";
    start(&topology, &["python3", "-c", script]);
    for _ in 0..60 {
        assert!(get(&topology).ends_with("here"));
        thread::sleep(Duration::from_millis(20));
    }
    topology.netdp("rm -f web");
    let to = std::net::SocketAddr::from((HOST_ADDRESS, 8080));
    let gone = connect_within(&topology.world.client, None, to, netdp_tests::SILENCE);
    assert!(gone.is_err());
}
