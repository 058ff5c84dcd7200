//! A direct port that goes while a program is about to get its socket.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netdp::demo::world::HOST_ADDRESS;
use netdp::netns::Namespace;
use netdp_tests::{SILENCE, Topology, Tracee, connect, connect_within};

const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// `SECCOMP_IOCTL_NOTIF_ADDFD` (linux/seccomp.h).
const ADD_DESCRIPTOR: u64 = 0x4018_2103;

/// The daemon may have looked through the program before it has the socket, and
/// may look through the supervisor when that has handed it over.
#[test]
fn a_port_that_goes_before_the_program_has_its_socket_is_taken_back() {
    let Some(topology) = Topology::start("dir-race") else {
        return;
    };
    let go = topology.world.dir().join("go");
    let file = topology.world.dir().join("web.sh");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; {SERVER} 0.0.0.0:80",
        go.display()
    );
    fs::write(&file, script).unwrap();
    let words = format!(
        "run -d --name web -p 8080:80,direct -- sh {}",
        file.display()
    );
    topology.netdp(&words);
    let supervisor = Tracee::stop(topology.supervisors()[0].as_raw());
    fs::write(&go, "").unwrap();
    supervisor.run_to(libc::SYS_ioctl, &[None, Some(ADD_DESCRIPTOR)]);
    // As the daemon does it.
    publish_nothing(&topology);
    drop(supervisor);
    topology.wait_until("told", || !topology.netdp("logs web").is_empty());
    let said = topology.netdp("logs web");
    assert_eq!(said, "0.0.0.0:80 is 0.0.0.0:80\n");
    // The program listens in its own network, and nobody in the host's.
    let inside = Namespace::open(&topology.inspect("web").netns).unwrap();
    connect(&inside, (Ipv4Addr::LOCALHOST, 80));
    topology.netdp("unpublish web 8080:80");
    let to = SocketAddr::from((IpAddr::from(HOST_ADDRESS), 8080));
    let host = topology.host_program();
    assert!(connect_within(&host, None, to, SILENCE).is_err());
}

/// Takes all ports out of what the supervisor reads.
#[track_caller]
fn publish_nothing(topology: &Topology) {
    let folder = topology.world.run_dir().join("direct");
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let text = fs::read(file.path()).unwrap();
    let mut ports: serde_json::Value = serde_json::from_slice(&text).unwrap();
    ports["published"] = serde_json::json!([]);
    let written = topology.world.dir().join("ports");
    fs::write(&written, ports.to_string()).unwrap();
    fs::rename(written, file.path()).unwrap();
}
