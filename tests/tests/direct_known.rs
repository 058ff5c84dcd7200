//! What the programs know of a direct port for a moment, without asking the
//! host's stack about each packet: what ends it, and what it doesn't let through.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{
    Frames, Macs, Reached, SILENCE, Topology, connect, connect_within, listen, syn, talk,
};
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

/// Does something while a client connects all the time, so that what is known of
/// the port is of this moment.
fn while_asked<T>(topology: &Topology, work: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = connect_within(&topology.world.client, None, PORT, SILENCE);
            }
        });
        // Also where the work panics.
        let _over = Over(&is_over);
        work()
    })
}

#[test]
fn a_port_is_the_next_containers_at_once() {
    let Some(topology) = Topology::start("dik-next") else {
        return;
    };
    known(&topology, "one");
    let two = topology.container("two", "");
    let listener = listen(&two, two.address, 80);
    while_asked(&topology, || {
        topology.netdp("rm -f one");
        topology.netdp("publish two 8080:80");
        connect(&topology.world.outside, PORT);
    });
    let near = connect(&topology.world.outside, PORT);
    let own = near.local_addr().unwrap();
    // The others that asked are in the queue before it.
    let far = std::iter::repeat_with(|| listener.accept());
    let (far, _) = far.into_iter().find(|(_, from)| *from == own).unwrap();
    talk(&near, &far);
}

#[test]
fn what_a_sandbox_takes_for_itself_is_nobody_elses() {
    let Some(topology) = Topology::start("dik-own") else {
        return;
    };
    known(&topology, "web");
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    let inside = Reached::new(&topology.world, &inside);
    connect(&inside, (Ipv4Addr::LOCALHOST, 80));
    topology.netdp("unpublish web 8080:80");
    let two = topology.container("two", "-p 8080:80");
    let listener = listen(&two, two.address, 80);
    let own = connect_within(&inside, None, (Ipv4Addr::LOCALHOST, 80), SILENCE);
    assert!(own.is_err());
    listener.assert_nobody_came();
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
    while_asked(&topology, || {
        topology.netdp(&format!("block {OUTSIDE_ADDRESS}/32"));
        assert!(!is_answered(&topology));
    });
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
    while_asked(&topology, || {
        for _ in 0..MANY {
            assert!(is_answered(&topology));
            frames.send(&syn(WIRE, (other.address, 40_000), PORT));
        }
    });
    assert_eq!(topology.dropped("spoofed-source"), before + MANY);
}
