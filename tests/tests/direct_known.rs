//! What the programs know of a direct port for a moment, without asking the
//! host's stack about each packet: what ends it, and what it doesn't let through.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;

use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{Frames, Macs, SILENCE, Topology, connect, connect_within, listen, syn, talk};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");
const PORT: (Ipv4Addr, u16) = (HOST_ADDRESS, 8080);
/// Of the wire, from the client to the host.
const WIRE: Macs = ([2, 0x6e, 0x64, 0x70, 0, 1], [2, 0x6e, 0x64, 0x70, 0, 2]);

/// A sandbox whose port 80 is 8080 of the host, and which a client has reached:
/// the programs know that somebody listens.
#[track_caller]
fn known(topology: &Topology, name: &str) {
    // The program ends with the line that it is given, the sandbox doesn't.
    let script = topology.world.dir().join("serve.sh");
    std::fs::write(&script, format!("{SERVER} 0.0.0.0:80\nsleep 60\n")).unwrap();
    let words = format!(
        "run -d --name {name} -p 8080:80,direct -- sh {}",
        script.display()
    );
    topology.netdp(&words);
    topology.wait_until("listening", || {
        topology
            .netdp(&format!("logs {name}"))
            .contains("0.0.0.0:80 is")
    });
    assert!(is_answered(topology));
}

/// Whether the server answers a client.
fn is_answered(topology: &Topology) -> bool {
    let client = &topology.world.outside;
    let Ok(stream) = connect_within(client, None, PORT, SILENCE) else {
        return false;
    };
    let mut line = String::new();
    let read = BufReader::new(&stream).read_line(&mut line);
    read.is_ok() && line.contains(&OUTSIDE_ADDRESS.to_string())
}

#[test]
fn a_port_is_the_next_containers_at_once() {
    let Some(topology) = Topology::start("dik-next") else {
        return;
    };
    known(&topology, "one");
    topology.netdp("rm -f one");
    let two = topology.container("two", "-p 8080:80");
    let listener = listen(&two, two.address, 80);
    let near = connect(&topology.world.client, PORT);
    talk(&near, &listener.accept().0);
}

#[test]
fn what_listens_inside_is_reached_once_nothing_listens_directly() {
    let Some(topology) = Topology::start("dik-inside") else {
        return;
    };
    known(&topology, "web");
    let web = topology.inspect("web");
    let children = |pid: u32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let shell = web.pid.expect("its program");
    let server: i32 = children(shell).trim().parse().expect("the server");
    let process = format!("/proc/{server}");
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    // Until then its socket takes connections.
    topology.wait_until("ended", || !std::path::Path::new(&process).exists());
    let inside = Namespace::open(&web.netns).unwrap();
    let listener = listen(&inside, Ipv4Addr::UNSPECIFIED, 80);
    let client = &topology.world.outside;
    let near = RefCell::new(None);
    topology.wait_until("reached inside", || {
        near.replace(connect_within(client, None, PORT, SILENCE).ok());
        near.borrow().is_some()
    });
    talk(near.borrow().as_ref().unwrap(), &listener.accept().0);
}

#[test]
fn a_source_that_is_blocked_meanwhile_gets_nothing() {
    let Some(topology) = Topology::start("dik-block") else {
        return;
    };
    known(&topology, "web");
    topology.netdp(&format!("block {OUTSIDE_ADDRESS}/32"));
    assert!(!is_answered(&topology));
    topology.netdp(&format!("unblock {OUTSIDE_ADDRESS}/32"));
    assert!(is_answered(&topology));
}

#[test]
fn a_source_that_nobody_outside_has_gets_nothing() {
    const MANY: u64 = 20;
    let Some(topology) = Topology::start("dik-spoof") else {
        return;
    };
    known(&topology, "web");
    let other = topology.container("other", "");
    let frames = Frames::open(&topology.world.client, "wire0");
    let before = topology.dropped("spoofed-source");
    for _ in 0..MANY {
        frames.send(&syn(WIRE, (other.address, 40_000), PORT));
    }
    assert!(is_answered(&topology));
    assert_eq!(topology.dropped("spoofed-source"), before + MANY);
}
