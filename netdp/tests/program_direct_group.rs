//! What sockets of the control group of direct ports send, under test_run, whose
//! packets are those of a socket of the process that runs it. Needs root.

mod program_world;

use std::{env, fs, path::Path, process::Command};

use netdp::bpf::{Key, direct_cgroup};
use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    maps::PortKey,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use program_world::{
    HOST, HOST_MAC, NEXT, REMOTE, ROUTER_MAC, World,
    family::Family,
    frame::{Frame, SYN, at},
    worlds_in,
};

/// The daemon's control group, for the process that is in that of direct ports.
const GROUP: &str = "NETDP_TEST_GROUP";
const PORT: u16 = 40_000;

#[test]
fn what_a_direct_socket_sends_is_left_alone() {
    if let Some(group) = env::var_os(GROUP) {
        return send_in(Path::new(&group));
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (fstype, none) = (Some("cgroup2"), None::<&str>);
    mount(fstype, folder.path(), fstype, MsFlags::empty(), none).unwrap();
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    let group = folder.path().join(format!("netdp-test{name}"));
    let direct = direct_cgroup(&group);
    fs::create_dir_all(&direct).unwrap();
    // Of this process, other tests' sockets would be in the group.
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "what_a_direct_socket_sends_is_left_alone"])
        .env(GROUP, &group)
        .output()
        .unwrap();
    fs::remove_dir(direct).unwrap();
    fs::remove_dir(group).unwrap();
    umount2(folder.path(), MntFlags::MNT_DETACH).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// While a container's flow has the tuple, to which the host's sockets give way, and
/// direct ones where it may be that of a direct port.
fn send_in(group: &Path) {
    worlds_in(group, |world| {
        let (db, web) = (world.db, world.web);
        let segment = Frame::tcp(SYN, at(db.addr, PORT), at(REMOTE, 443));
        world.leaves(&db, &db.frame(segment));
        assert_ne!(sent_from(world), PORT, "a socket of the host");
        let direct = direct_cgroup(group);
        assert_eq!(sent_in(&direct, group, world), PORT, "no port is direct");
        world.publish(None, PORT, &web, 80, proto::TCP, Some(HOST));
        assert_eq!(sent_in(&direct, group, world), PORT, "nor is this one");
        world.make_direct(PORT, proto::TCP);
        let port = sent_in(&direct, group, world);
        assert_ne!(port, PORT, "the flow is older than the port");
        world.datapath.remove(&place(PORT)).unwrap();
        let port = sent_in(&direct, group, world);
        assert_eq!(port, PORT, "it is published no more");
        world.publish(None, PORT, &web, 80, proto::TCP, Some(HOST));
        world.make_direct(PORT, proto::TCP);
        assert_ne!(sent_in(&direct, group, world), PORT, "it is again");
        let gone = [(db.ifindex, db.endpoint())];
        world.datapath.forget_flows(&gone).unwrap();
        world.datapath.settle_ports().unwrap();
        let port = sent_in(&direct, group, world);
        assert_eq!(port, PORT, "the flow has ended");
    });
}

fn place(port: u16) -> Key {
    let port = Be16::new(port);
    match Family::of_world() {
        Family::V4 => Key::Port4(PortKey::new(V4Addr::ANY, port, proto::TCP)),
        Family::V6 => Key::Port6(PortKey::new(V6Addr::ANY, port, proto::TCP)),
    }
}

/// As [`sent_from`], of a socket of this control group.
fn sent_in(direct: &Path, group: &Path, world: &mut World) -> u16 {
    enter(direct);
    let port = sent_from(world);
    enter(group);
    port
}

fn enter(group: &Path) {
    fs::write(group.join("cgroup.procs"), "0").unwrap();
}

/// The port under which the packet of a socket with this one leaves.
fn sent_from(world: &mut World) -> u16 {
    let segment = Frame::tcp(SYN, at(HOST, PORT), at(REMOTE, 443));
    let run = world.run_to_netdev(&segment.between(HOST_MAC, ROUTER_MAC).bytes());
    assert_eq!(run.action, NEXT);
    Frame::of(&run.packet).from.port()
}
