//! What dockerd asks again, because netdp's daemon was ended or killed meanwhile.

mod docker_world;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use docker_world::{DRIVER, nothing_is_left};
use netdp_tests::{Dockerd, Moves, PATIENCE, Topology};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const NETWORK: &str = "e808a2f1e7a49f077b0539a9ae816be251587c9fa467f4dd750147a28f0ce956";

fn driver(method: &str) -> String {
    format!("{DRIVER}{method}")
}

fn endpoint_id(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

fn ask(dockerd: &Dockerd, method: &str, body: &Value) -> Value {
    dockerd.ask(&driver(method), body).unwrap()
}

/// As dockerd asks again.
fn ask_again(dockerd: &Dockerd, path: &str) -> (u16, Value) {
    dockerd.raw(&format!("POST {path}"), b"")
}

fn create_network(dockerd: &Dockerd) {
    let body = json!({
        "NetworkID": NETWORK, "Options": {"com.docker.network.generic": {}},
        "IPv4Data": [{"Gateway": "10.50.0.1/24", "Pool": "10.50.0.0/24"}], "IPv6Data": [],
    });
    ask(dockerd, "CreateNetwork", &body);
}

/// Kills the daemon, with what it notes when it hasn't answered these.
fn killed_before(topology: &mut Topology, asked: &[(&str, &Value)]) {
    let folder = topology.world.run_dir().join("docker-requests");
    // What was answered is forgotten a moment later.
    topology.wait_until("all is answered", || {
        fs::read_dir(&folder).unwrap().count() == 0
    });
    topology.world.kill_daemon();
    for (number, (method, body)) in asked.iter().enumerate() {
        let text = format!("{} {} 0\n{body}", driver(method), std::process::id());
        fs::write(folder.join(format!("{number:020}-0000000000")), text).unwrap();
    }
}

#[test]
fn what_was_not_answered_is_done_by_the_next_daemon() {
    let Some((mut topology, mut dockerd)) = Topology::with_dockerd("docker-again", Moves::Late)
    else {
        return;
    };
    create_network(&dockerd);
    let endpoint = |number| json!({"NetworkID": NETWORK, "EndpointID": endpoint_id(number)});
    let port = json!({"com.docker.network.portmap":
        [{"Proto": 6, "Port": 80, "HostPort": 8080, "HostPortEnd": 8080}]});
    let with = |number, key: &str, value: Value| {
        let mut body = endpoint(number);
        body[key] = value;
        body
    };
    let create = |number: u8| {
        let address = json!({"Address": format!("10.50.0.{number}/24")});
        with(number, "Interface", address)
    };
    let key = json!("/var/run/docker/netns/b853af628202");
    let again = |topology: &mut Topology, dockerd: &Dockerd, asked: &[(&str, &Value)]| {
        killed_before(topology, asked);
        topology.start_driver();
        let answers = asked.iter().map(|(method, _)| {
            let (status, answer) = ask_again(dockerd, &driver(method));
            assert_eq!(status, 200, "{method}: {answer}");
            answer
        });
        answers.collect::<Vec<_>>()
    };
    // Two containers that start, and which of them asks again is nowhere said.
    let (two, three) = (create(2), create(3));
    let asked = [("CreateEndpoint", &two), ("CreateEndpoint", &three)];
    let answers = again(&mut topology, &dockerd, &asked);
    assert_eq!(
        answers,
        [json!({"Interface": {}}), json!({"Interface": {}})]
    );
    let join = with(2, "SandboxKey", key);
    let answers = again(&mut topology, &dockerd, &[("Join", &join)]);
    assert_eq!(answers[0]["Gateway"], "10.50.0.1");
    let taken = answers[0]["InterfaceName"]["SrcName"].clone();
    let program = with(2, "Options", port);
    let asked = [("ProgramExternalConnectivity", &program)];
    again(&mut topology, &dockerd, &asked);
    let shown = topology.netdp("port b853af628202");
    assert!(shown.contains("8080"), "{shown}");
    // Once more with all it has: the interface is the same, and the port its own.
    assert_eq!(
        ask(&dockerd, "Join", &join)["InterfaceName"]["SrcName"],
        taken
    );
    ask(&dockerd, "ProgramExternalConnectivity", &program);
    // What another container asked is nobody's answer.
    let (one, other) = (with(3, "SandboxKey", json!("/n/3")), create(4));
    let asked = [("CreateEndpoint", &other), ("Join", &one), ("Join", &join)];
    killed_before(&mut topology, &asked);
    topology.start_driver();
    let (status, refused) = ask_again(&dockerd, &driver("Join"));
    assert_eq!(status, 400);
    let refused = refused["Err"].as_str().unwrap();
    assert!(refused.contains("try once more"), "{refused}");
    // Of these nothing was noted. What they end ends with its namespace.
    for method in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"] {
        assert_eq!(ask_again(&dockerd, &driver(method)), (200, json!({})));
    }
    let (status, info) = ask_again(&dockerd, &driver("EndpointOperInfo"));
    assert_eq!((status, info), (200, json!({"Value": {}})));
    let (status, _) = ask_again(&dockerd, &driver("ProgramExternalConnectivity"));
    assert_eq!(status, 400);
    for number in 2..=4 {
        dockerd
            .play(&driver("DeleteEndpoint"), &endpoint(number))
            .unwrap();
    }
    ask(&dockerd, "DeleteNetwork", &json!({"NetworkID": NETWORK}));
    nothing_is_left(&topology);
}

fn connected(topology: &Topology) -> UnixStream {
    let path = topology.world.dir().join("plugins/netdp.sock");
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn send(stream: &mut UnixStream, method: &str, body: &Value) {
    let body = body.to_string();
    let length = body.len();
    let request = format!(
        "POST /NetworkDriver.{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
}

/// To the end of the connection: it isn't kept for a next request.
fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn who_has_connected_is_answered_before_the_end() {
    let Some((mut topology, dockerd)) = Topology::with_dockerd("docker-end", Moves::Late) else {
        return;
    };
    create_network(&dockerd);
    let asked = json!({"NetworkID": NETWORK});
    let mut begun = connected(&topology);
    // Accepted, since that is what the daemon does with nothing else to do.
    begun
        .write_all(b"POST /NetworkDriver.DeleteNetwork HTTP/1.1\r\n")
        .unwrap();
    let pid = topology.world.daemon_pid().unwrap();
    let pid = Pid::from_raw(pid.cast_signed());
    // They wait to be accepted, and have asked or not.
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut silent = connected(&topology);
    let mut speaks = connected(&topology);
    send(&mut speaks, "DiscoverNew", &json!({}));
    kill(pid, Signal::SIGTERM).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let socket = topology.world.dir().join("plugins/netdp.sock");
    topology.wait_until("nobody else comes", || !socket.exists());
    send(
        &mut silent,
        "EndpointOperInfo",
        &json!({"EndpointID": endpoint_id(9)}),
    );
    let rest = format!(
        "Host: plugin\r\nContent-Length: {}\r\n\r\n{asked}",
        asked.to_string().len()
    );
    begun.write_all(rest.as_bytes()).unwrap();
    for (stream, wanted) in [
        (speaks, "\r\n\r\n{}"),
        (silent, "no endpoint"),
        (begun, "\r\n\r\n{}"),
    ] {
        let answer = answer(stream);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(wanted), "{answer}");
        assert!(
            answer.to_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
    topology.world.stop_daemon().unwrap();
}
