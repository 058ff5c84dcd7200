//! Direct ports where supervisors can't be told of them: the disk with what the
//! daemon says is full.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;

use netdp::demo::world::HOST_ADDRESS;
use netdp_tests::{Disk, Topology, connect};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// Has a program of the sandbox `web` listen.
#[track_caller]
fn listen_in_web(topology: &Topology, port: u16) {
    let name = format!("at{port}");
    topology.netdp(&format!(
        "run -d --name {name} --network container:web -- {SERVER} 0.0.0.0:{port}"
    ));
    let bound = || topology.netdp(&format!("logs {name}")).contains(" is ");
    topology.wait_until("bound", bound);
}

/// A connection from outside that was greeted, and which way it goes.
#[track_caller]
fn greeted(topology: &Topology, port: u16) -> (TcpStream, String) {
    let stream = connect(&topology.world.client, (HOST_ADDRESS, port));
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let own = stream.local_addr().unwrap();
    let flows = topology.flows();
    let flow = flows.iter().find(|flow| flow.remote == own);
    let kind = flow.expect("it is a flow").kind.clone();
    (stream, kind)
}

#[test]
fn what_cannot_be_said_goes_by_the_datapath_until_there_is_room() {
    let Some(mut topology) = Topology::without_daemon("dfd") else {
        return;
    };
    let disk = Disk::mount(topology.world.run_dir().join("direct"), "64k");
    topology.start_daemon();
    topology.netdp(&format!(
        "run -d --name web -p 8080:80,direct -p 8082:82,direct -- {SERVER} 0.0.0.0:80"
    ));
    topology.wait_until("bound", || topology.netdp("logs web").contains(" is "));
    let (_first, kind) = greeted(&topology, 8080);
    assert_eq!(kind, "direct");
    let complaint = || {
        let checks = topology.doctor();
        let found = checks.iter().filter_map(|it| it["found"].as_str());
        let mut about = found.filter(|it| it.contains("cannot say which ports of web are direct"));
        about.next().map(ToOwned::to_owned)
    };
    assert_eq!(complaint(), None);

    disk.fill();
    topology.netdp("publish web 8081:81,direct");
    let said = complaint().expect("doctor tells");
    assert!(said.contains("No space left on device"), "{said}");
    // What was said of the sandbox before isn't gone by: some of it may have ended.
    topology.netdp("unpublish web 8082:82");
    let left = fs::read_dir(disk.path()).unwrap();
    assert_eq!(left.count(), 1);
    listen_in_web(&topology, 81);
    let (_second, kind) = greeted(&topology, 8081);
    assert_eq!(kind, "published");
    listen_in_web(&topology, 82);
    // What programs have, they keep.
    let (_third, kind) = greeted(&topology, 8080);
    assert_eq!(kind, "direct");

    disk.make_room();
    topology.wait_until("well", || complaint().is_none());
    topology.netdp("publish web 8083:83,direct");
    listen_in_web(&topology, 83);
    let (_fourth, kind) = greeted(&topology, 8083);
    assert_eq!(kind, "direct");
    let log = topology.world.daemon_log();
    let times = log.matches("cannot say which ports").count();
    assert_eq!(times, 1, "{log}");
}
