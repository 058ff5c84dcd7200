//! Worlds are real: these tests make namespaces, and so need root. Without it
//! they check that a world says so.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::load::{Kind, Listen, ServerConfig, Service, WhoAmI, fetch, serve};

fn world(prefix: &str) -> Option<World> {
    match World::new(prefix) {
        Ok(world) => Some(world),
        Err(error @ WorldError::NotRoot) => {
            assert!(error.to_string().contains("sudo"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn web_server(at: &Namespace) -> (crate::load::Server, u16) {
    let config = ServerConfig {
        listen: vec![Listen {
            service: Service::Http,
            bind: "0.0.0.0:0".parse().unwrap(),
        }],
        ..ServerConfig::new("web")
    };
    let server = at.run(|| serve(config)).unwrap().unwrap();
    let port = server.addresses()[0].port();
    (server, port)
}

fn who_am_i(from: &Namespace, target: SocketAddr) -> WhoAmI {
    let response = from
        .run(|| fetch(target, "/whoami", Duration::from_secs(2)))
        .unwrap()
        .unwrap();
    serde_json::from_slice(&response.body).unwrap()
}

#[test]
fn everyone_reaches_everyone_and_sees_their_addresses() {
    let Some(mut world) = world("reach") else {
        return;
    };
    let other = world.add_host().unwrap();
    let (_host, port) = web_server(&world.host);
    let at_host = SocketAddr::from((HOST_ADDRESS, port));
    assert_eq!(who_am_i(&world.client, at_host).client.ip(), CLIENT_ADDRESS);
    assert_eq!(
        who_am_i(&world.outside, at_host).client.ip(),
        OUTSIDE_ADDRESS
    );
    let (_outside, port) = web_server(&world.outside);
    let at_outside = SocketAddr::from((OUTSIDE_ADDRESS, port));
    assert_eq!(who_am_i(&world.host, at_outside).client.ip(), HOST_ADDRESS);
    assert_eq!(
        who_am_i(&other.namespace, at_outside).client.ip(),
        other.address
    );
}

#[test]
fn commands_run_where_they_belong() {
    let Some(world) = world("where") else { return };
    let address_of = |mut command: Command| {
        command.args(["-4", "-o", "address", "show"]);
        let output = process::output(command, Duration::from_secs(5)).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(address_of(world.on_host("ip")).contains("198.18.0.2/24"));
    assert!(address_of(world.on_client("ip")).contains("198.18.0.1/24"));
    assert!(address_of(world.on_outside("ip")).contains("198.19.0.2/24"));
    let group_of = |mut command: Command| {
        command.args(["-c", "grep '^0::' /proc/self/cgroup; echo $NETDP_RUN_DIR"]);
        let output = process::output(command, Duration::from_secs(5)).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let host = group_of(world.on_host("sh"));
    assert!(host.contains("/host\n"), "{host}");
    assert!(
        host.ends_with(&format!("{}\n", world.run_dir().display())),
        "{host}"
    );
    assert!(group_of(world.on_client("sh")).contains("/outside\n"));
}

#[test]
fn nothing_is_left_behind_not_even_by_a_process_that_hides() {
    let Some(world) = world("gone") else { return };
    let (dir, cgroup) = (world.dir().to_owned(), world.cgroup());
    // Detached, in a session and a mount namespace of its own, deaf to signals
    // that ask politely.
    let mut hidden = world.on_host("sh");
    hidden.args([
        "-c",
        "trap '' TERM INT HUP; setsid unshare --mount sleep 3600 >/dev/null 2>&1 & echo $!",
    ]);
    let output = process::output(hidden, Duration::from_secs(5)).unwrap();
    let pid: i32 = String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let proc = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let group = fs::read_to_string(&proc).unwrap();
    // As a daemon may: a namespace that it keeps by a mount.
    Namespace::create(&world.run_dir(), "kept")
        .map(std::mem::forget)
        .unwrap();
    drop(world);
    assert!(!dir.exists(), "{}", dir.display());
    assert!(!cgroup.parent().unwrap().exists());
    // Gone, or a zombie that waits for whoever adopted it.
    assert_ne!(fs::read_to_string(&proc).unwrap_or_default(), group);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
}

#[test]
fn worlds_stand_side_by_side() {
    let Some(one) = world("twin") else { return };
    let two = world("twin").unwrap();
    let (_server, port) = web_server(&one.host);
    let target = SocketAddr::from((HOST_ADDRESS, port));
    assert_eq!(who_am_i(&one.client, target).name, "web");
    let refused = two
        .client
        .run(|| fetch(target, "/whoami", Duration::from_secs(2)))
        .unwrap();
    assert!(refused.is_err());
    assert_ne!(one.dir(), two.dir());
}

/// A stand-in for netdp, to see how a world deals with a daemon that misbehaves.
fn pretender(world: &World, script: &str) -> PathBuf {
    let path = world.dir().join("netdp");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_daemon_that_ends_at_once_is_reported_with_its_log() {
    let Some(mut world) = world("dead") else {
        return;
    };
    world.netdp = pretender(&world, "echo no BPF here >&2; exit 1");
    let error = world.start_daemon::<&str>(&[]).unwrap_err().to_string();
    assert!(
        error.contains("ended") && error.contains("no BPF here"),
        "{error}"
    );
    assert_eq!(world.daemon_pid(), None);
}

#[test]
fn a_daemon_is_given_its_folders_and_stopped() {
    let Some(mut world) = world("stop") else {
        return;
    };
    world.netdp = pretender(
        &world,
        r#"[ "$1" = ps ] && exec test -e "$NETDP_RUN_DIR/ready"
echo "$@"; touch "$NETDP_RUN_DIR/ready"; exec sleep 3600"#,
    );
    world.start_daemon(&["--xdp", "off"]).unwrap();
    let expected = format!(
        "daemon --uplink eth0 --state-dir {} --bpffs {} --cgroup {} --xdp off\n",
        world.state_dir().display(),
        world.bpffs().display(),
        world.cgroup().display(),
    );
    assert_eq!(world.daemon_log(), expected);
    let pid = world.daemon_pid().unwrap();
    world.stop_daemon().unwrap();
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
}

#[test]
fn a_measurement_crosses_the_wire() {
    let Some(world) = world("load") else { return };
    let config = ServerConfig {
        listen: vec![Listen {
            service: Service::Echo,
            bind: (HOST_ADDRESS, 0).into(),
        }],
        ..ServerConfig::new("echo")
    };
    let server = world.host.run(|| serve(config)).unwrap().unwrap();
    let target = server.addresses()[0];
    let config = crate::load::ClientConfig::new(Kind::Rr, target, Duration::from_millis(100));
    // The namespace is inherited by the thread that measures.
    let measurement = world
        .client
        .run(|| crate::load::run(config))
        .unwrap()
        .unwrap();
    assert_eq!(measurement.errors, 0, "{measurement:?}");
    assert!(measurement.operations > 100, "{measurement:?}");
}
