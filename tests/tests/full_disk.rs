//! A daemon whose state lies on a disk that gets full, and has room again.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use netdp::api::types::Sandbox;
use netdp_tests::{
    Container, Disk, SIDES, SILENCE, Side, Topology, connect, connect_within, listen, talk,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What doctor says of the disk, if anything.
fn complaint(topology: &Topology) -> Option<String> {
    let checks = topology.doctor();
    let found = checks.iter().filter_map(|it| it["found"].as_str());
    let mut about = found.filter(|found| found.contains("No space left on device"));
    about.next().map(ToOwned::to_owned)
}

/// Takes the uplink away, and makes it anew as it was.
fn make_the_uplink_again(topology: &Topology) {
    let world = &topology.world;
    topology.ip(&world.host, "link del eth0\n");
    topology.ip(
        &world.client,
        &format!(
            "link add wire0 type veth peer name eth0 netns {}\nlink set wire0 up\n",
            world.host.path().display(),
        ),
    );
    topology.ip(&world.host, "link set eth0 up\n");
    for side in SIDES {
        let far = side.add_address(side.client, "wire0");
        topology.ip(&world.client, &far);
        let own = side.add_address(side.host, "eth0");
        topology.ip(&world.host, &own);
    }
}

fn is_reached(topology: &Topology, web: &Container, side: Side, port: u16) {
    let server = listen(web, side.any, 80);
    let near = connect(&topology.world.client, (side.host, port));
    talk(&near, &server.accept().0);
}

/// How often the daemon's log says this.
fn logged(topology: &Topology, words: &str) -> usize {
    topology.world.daemon_log().matches(words).count()
}

fn names(topology: &Topology) -> Vec<String> {
    let sandboxes: Vec<Sandbox> =
        serde_json::from_str(&topology.netdp("ps --format json")).expect("sandboxes in JSON");
    sandboxes.into_iter().map(|it| it.name).collect()
}

#[test]
fn a_full_disk_refuses_changes_until_it_has_room_and_holds_up_nothing_else() {
    let Some(mut topology) = Topology::without_daemon("full") else {
        return;
    };
    topology.world.add_ipv6().unwrap();
    let disk = Disk::mount(topology.world.state_dir(), "8m");
    topology.start_daemon();
    topology.netdp("network create six --ipv6");
    let web = topology.container("web", "--network six -p 8080:80");
    topology.netdp("run -d --name job -- sleep 1000");
    for side in SIDES {
        is_reached(&topology, &web, side, 8080);
    }
    let mut sources = String::new();
    for number in 0..20_000_u32 {
        let source = Ipv4Addr::from(0xcb00_0000 + number);
        writeln!(sources, "{source}").unwrap();
    }
    let list = topology.world.dir().join("sources");
    fs::write(&list, sources).unwrap();
    let block = format!("block --file {}", list.display());
    assert_eq!(complaint(&topology), None);

    disk.fill();
    let why = topology.refused(&block);
    assert!(why.contains("No space left on device"), "{why}");
    assert!(why.contains(&disk.path().display().to_string()), "{why}");
    assert!(why.contains("room"), "{why}");
    topology.refused(&block);
    assert!(complaint(&topology).is_some());

    // What the host needs is done meanwhile.
    let job = topology.inspect("job").pid.expect("it runs");
    kill(Pid::from_raw(job.cast_signed()), Signal::SIGKILL).unwrap();
    topology.wait_until("gone", || names(&topology) == ["web"]);
    make_the_uplink_again(&topology);
    for side in SIDES {
        let server = listen(&web, side.any, 80);
        let to = SocketAddr::from((side.host, 8080));
        let get_in = || connect_within(&topology.world.client, None, to, SILENCE).is_ok();
        topology.wait_until("reached", get_in);
        drop(server);
        is_reached(&topology, &web, side, 8080);
    }
    // Longer than it takes to try again.
    thread::sleep(Duration::from_secs(6));
    assert!(complaint(&topology).is_some());
    let log = topology.world.daemon_log();
    assert_eq!(logged(&topology, "the state can't be stored"), 1, "{log}");
    assert!(logged(&topology, "No space left") <= 2, "{log}");

    // A daemon that starts now has all that was committed, too.
    topology.world.kill_daemon();
    topology.start_daemon();
    assert_eq!(names(&topology), ["web"]);
    topology.refused(&block);
    topology.wait_until("told", || complaint(&topology).is_some());
    let list = topology.netdp("block --format json");
    assert_eq!(list.trim(), "[]");

    disk.make_room();
    topology.netdp(&block);
    topology.netdp("publish web 8081:80");
    topology.wait_until("well", || complaint(&topology).is_none());
    assert!(logged(&topology, "again") > 0);
    topology.world.kill_daemon();
    topology.start_daemon();
    assert_eq!(names(&topology), ["web"]);
    let blocked: serde_json::Value =
        serde_json::from_str(&topology.netdp("block --format json")).unwrap();
    assert_eq!(blocked.as_array().map(Vec::len), Some(20_000));
    for side in SIDES {
        for port in [8080, 8081] {
            is_reached(&topology, &web, side, port);
        }
    }
    assert_eq!(complaint(&topology), None);
}
