//! Blocked sources dropped in the driver: natively, on the uplink's veth.

use std::net::SocketAddr;
use std::path::PathBuf;

use netdp::bpf::{Datapath, Options};
use netdp_common::maps::Config;
use netdp_tests::{
    Container, SIDES, SILENCE, Side, Topology, connect, connect_bound, hears, listen, says_nothing,
    talk, transfer, udp,
};

const NATIVE: [&str; 2] = ["--xdp", "native"];

/// The number of the program in the driver of the host's uplink.
fn program(topology: &Topology) -> Option<u64> {
    let mut command = topology.world.on_host("ip");
    let output = command.args(["-j", "link", "show", "eth0"]).output();
    let links: serde_json::Value =
        serde_json::from_slice(&output.unwrap().stdout).expect("links in JSON");
    let xdp = &links[0]["xdp"];
    // 2 would be in software.
    assert!(xdp["mode"].as_u64().is_none_or(|mode| mode == 1), "{xdp}");
    xdp["prog"]["id"].as_u64()
}

fn pins(topology: &Topology) -> Vec<String> {
    let links = topology.world.bpffs().join("netdp/links");
    let Ok(links) = std::fs::read_dir(links) else {
        return Vec::new();
    };
    let names = links.map(|pin| pin.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("block_netdev")).collect()
}

/// What `netdp doctor` says of blocked sources.
fn doctor(topology: &Topology) -> String {
    let output = topology.world.netdp(&["doctor"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("blocked sources"));
    line.unwrap_or_default().to_owned()
}

fn outside() -> String {
    SIDES.map(|side| side.outside.to_string()).join(" ")
}

/// Who is blocked reaches nothing, and whoever isn't reaches all, with many
/// bytes as well.
#[track_caller]
fn check(topology: &Topology, side: Side, web: &Container) {
    let (published, own) = (
        listen(web, side.any, 80),
        listen(&topology.host_program(), side.any, 2222),
    );
    for port in [8080, 2222] {
        let to = SocketAddr::new(side.host, port);
        connect_bound(&topology.world.outside, None, to, SILENCE).unwrap_err();
    }
    own.assert_nobody_came();
    published.assert_nobody_came();
    let near = connect(&topology.world.client, (side.host, 8080));
    let (far, _) = published.accept();
    talk(&near, &far);
    transfer(&near, &far, 4 << 20);
    // Answers to a container.
    let (server, client) = (
        udp(&topology.world.outside, side.any, 7000),
        udp(web, side.any, 0),
    );
    client.send_to(b"question", (side.outside, 7000)).unwrap();
    server
        .send_to(b"answer", hears(&server, b"question"))
        .unwrap();
    says_nothing(&client);
    let (server, client) = (
        udp(&topology.world.client, side.any, 7000),
        udp(web, side.any, 0),
    );
    client.send_to(b"question", (side.client, 7000)).unwrap();
    server
        .send_to(b"answer", hears(&server, b"question"))
        .unwrap();
    hears(&client, b"answer");
}

fn start(name: &str, args: &[&str]) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    topology.world.add_ipv6().unwrap();
    topology.world.start_daemon(args).unwrap();
    topology.netdp("network create six --ipv6");
    Some(topology)
}

#[test]
fn the_driver_drops_them_while_there_are_any() {
    let Some(mut topology) = start("xdp-native", &NATIVE) else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80");
    assert_eq!(program(&topology), None);
    topology.netdp(&format!("block {}", outside()));
    let first = program(&topology).expect("a program in the driver");
    for side in SIDES {
        check(&topology, side, &web);
    }
    // Each counted once, by the driver.
    let text = topology.netdp("block --format json");
    let list: Vec<netdp::api::types::Blocked> = serde_json::from_str(&text).unwrap();
    let count: u64 = list.iter().map(|blocked| blocked.packets).sum();
    assert!(count >= 6, "{text}");
    assert_eq!(topology.dropped("blocked-source"), count);
    let said = doctor(&topology);
    assert!(said.contains("2, dropped by xdp on eth0"), "{said}");

    // It outlives the daemon, and the next one puts its own in its place.
    topology.world.kill_daemon();
    assert_eq!(program(&topology), Some(first));
    for side in SIDES {
        let to = SocketAddr::new(side.host, 8080);
        connect_bound(&topology.world.outside, None, to, SILENCE).unwrap_err();
    }
    topology.world.start_daemon(&NATIVE).unwrap();
    let second = program(&topology).expect("a program in the driver");
    assert_ne!(second, first);
    for side in SIDES {
        check(&topology, side, &web);
    }
    // With the last source it goes.
    let [one, other] = SIDES.map(|side| side.outside);
    topology.netdp(&format!("unblock {one}"));
    assert_eq!(program(&topology), Some(second));
    topology.netdp(&format!("unblock {other}"));
    assert_eq!((program(&topology), pins(&topology)), (None, vec![]));
    for side in SIDES {
        let listener = listen(&web, side.any, 80);
        let near = connect(&topology.world.outside, (side.host, 8080));
        talk(&near, &listener.accept().0);
    }

    // A daemon that is told otherwise takes it away, and drops as well.
    topology.netdp(&format!("block {one}"));
    assert!(program(&topology).is_some());
    for args in [&["--xdp", "off"][..], &[]] {
        topology.world.stop_daemon().unwrap();
        topology.world.start_daemon(args).unwrap();
        assert_eq!((program(&topology), pins(&topology)), (None, vec![]));
        check(&topology, SIDES[0], &web);
    }
    // `off` and `auto` name their reasons.
    assert!(
        doctor(&topology).contains("veth would"),
        "{}",
        doctor(&topology)
    );
}

#[test]
fn with_its_uplink_and_at_the_end_it_goes() {
    let Some(mut topology) = start("xdp-gone", &NATIVE) else {
        return;
    };
    topology.netdp("block 203.0.113.0/24");
    assert_eq!(pins(&topology).len(), 1);
    topology.world.stop_daemon().unwrap();
    let state = topology.world.state_dir().display().to_string();
    let bpffs = topology.world.bpffs().display().to_string();
    let cgroup = topology.world.cgroup().display().to_string();
    topology.netdp(&format!(
        "daemon --cleanup --state-dir {state} --bpffs {bpffs} --cgroup {cgroup}"
    ));
    assert_eq!((program(&topology), pins(&topology)), (None, vec![]));
    // The state has it still.
    topology.world.start_daemon(&NATIVE).unwrap();
    assert!(program(&topology).is_some());
    topology.ip(&topology.world.host, "link del eth0");
    topology.wait_until("without a pin", || pins(&topology).is_empty());
}

/// A file system and a datapath of somebody else in the same driver.
struct Other(tempfile::TempDir);

impl Other {
    fn new() -> Self {
        use nix::mount::{MsFlags, mount};
        let folder = tempfile::tempdir().unwrap();
        let none = None::<&str>;
        mount(
            Some("bpf"),
            folder.path(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        Self(folder)
    }

    fn options(&self) -> Options {
        Options {
            bpffs: PathBuf::from(self.0.path()),
            cgroup: None,
            netns_cookie: 0,
            max_flows: 1024,
            config: Config::default(),
            mechanism: None,
            netkit: false,
        }
    }

    fn attach(&self, topology: &Topology) {
        let options = self.options();
        let attach = || {
            let eth0 = nix::net::if_::if_nametoindex("eth0").unwrap();
            let mut datapath = Datapath::open(&options).unwrap();
            datapath.attach_xdp("eth0", eth0).unwrap();
        };
        topology.world.host.run(attach).unwrap();
    }

    fn detach(&self) {
        Datapath::unload(self.0.path()).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// That of the limit in force.
fn rate(topology: &Topology) -> Option<u32> {
    let text = topology.netdp("limit --format json");
    let limit: Option<netdp::api::types::Limit> = serde_json::from_str(&text).unwrap();
    limit.map(|limit| limit.rate)
}

#[test]
fn a_program_of_somebody_else_is_left_alone() {
    let Some(mut topology) = start("xdp-other", &NATIVE) else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80");
    let other = Other::new();
    other.attach(&topology);
    let theirs = program(&topology);
    assert!(theirs.is_some());
    let refused = topology.refused(&format!("block {}", outside()));
    assert!(
        refused.contains("the driver of eth0: another XDP program is attached to it"),
        "{refused}"
    );
    assert_eq!(topology.netdp("block --format json").trim(), "[]");
    assert_eq!(program(&topology), theirs);
    let to = SIDES[0].host;
    let listener = listen(&web, SIDES[0].any, 80);
    talk(
        &connect(&topology.world.outside, (to, 8080)),
        &listener.accept().0,
    );
    // A daemon that isn't asked for it drops by tcx.
    topology.world.stop_daemon().unwrap();
    topology.start_daemon();
    topology.netdp(&format!("block {}", outside()));
    topology.netdp("limit 200");
    drop(listener);
    assert_eq!(program(&topology), theirs);
    for side in SIDES {
        check(&topology, side, &web);
    }
    // One that is says what is missing, until the driver is free.
    topology.world.stop_daemon().unwrap();
    topology.world.start_daemon(&NATIVE).unwrap();
    let said = doctor(&topology);
    assert!(said.contains("another XDP program"), "{said}");
    check(&topology, SIDES[0], &web);
    // That is known doesn't make it done; what has nothing to do with it is.
    let refused = topology.refused("block 203.0.113.0/24");
    assert!(refused.contains("another XDP program"), "{refused}");
    assert!(!topology.netdp("block").contains("203.0.113.0/24"));
    // A limit that is in force becomes another one.
    topology.netdp("limit 300");
    assert_eq!(rate(&topology), Some(300));
    topology.netdp("limit --off");
    let refused = topology.refused("limit 200");
    assert!(refused.contains("another XDP program"), "{refused}");
    assert_eq!(rate(&topology), None);
    topology.netdp("network create other");
    topology.netdp("network rm other");
    other.detach();
    topology.wait_until("in the driver", || program(&topology).is_some());
    check(&topology, SIDES[0], &web);
}
