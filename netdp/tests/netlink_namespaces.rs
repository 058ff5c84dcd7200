//! Namespaces, and what sandboxes get in theirs, against the kernel. Needs root.

mod netlink_world;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use netdp::{
    netlink::{LinkPair, Netlink, Route, SandboxInterface, configure_sandbox},
    netns::{Namespace, NetnsError},
};
use netlink_world::{HOST_MAC, PATIENCE, SANDBOX_MAC, Topology, interface, is_root};
use tempfile::TempDir;

/// When TCP sends again what was lost at first.
const RETRANSMISSION: Duration = Duration::from_secs(1);

fn ip(namespace: &Namespace, arguments: &str) -> String {
    let output = namespace
        .command("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_namespace_is_mounted_separate_and_removed() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let here = Namespace::current().unwrap();
    let made = Namespace::create(folder.path(), "made").unwrap();
    let path = made.path().to_owned();
    assert_ne!(made.inode(), here.inode());
    assert_ne!(made.cookie().unwrap(), here.cookie().unwrap());
    assert_eq!(made.cookie().unwrap(), made.cookie().unwrap());

    let opened = Namespace::open(&path).unwrap();
    assert_eq!(opened.inode(), made.inode());
    assert_eq!(opened.cookie().unwrap(), made.cookie().unwrap());
    let inside = opened.run(|| Namespace::current().unwrap().inode());
    assert_eq!(inside.unwrap(), made.inode());
    assert_eq!(Namespace::current().unwrap().inode(), here.inode());

    let output = made
        .command("readlink")
        .arg("/proc/self/ns/net")
        .output()
        .unwrap();
    let link = String::from_utf8(output.stdout).unwrap();
    assert_eq!(link.trim_end(), format!("net:[{}]", made.inode()));

    let other = Namespace::create(folder.path(), "other").unwrap();
    let each = [&made, &here, &other, &made];
    let inodes = Namespace::run_in_each(&each, |_| Namespace::current().unwrap().inode());
    let inodes: Vec<u64> = inodes.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(inodes, each.map(Namespace::inode));
    assert_eq!(Namespace::current().unwrap().inode(), here.inode());

    // Loopback answers without further ado.
    made.run(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    })
    .unwrap();

    assert!(matches!(
        Namespace::create(folder.path(), "made"),
        Err(NetnsError::Exists { .. })
    ));
    drop(made);
    assert!(!path.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()));
    // The open descriptor still holds the namespace itself.
    opened.cookie().unwrap();
}

#[test]
fn other_files_are_not_taken_for_namespaces() {
    for path in ["/proc/self/ns/uts", "/etc/passwd", "/dev/null", "/"] {
        let error = Namespace::open(Path::new(path)).unwrap_err();
        assert!(
            matches!(error, NetnsError::NotANamespace(_)),
            "{path}: {error}"
        );
    }
    let error = Namespace::open(Path::new("/no/such/netns")).unwrap_err();
    assert!(error.to_string().contains("/no/such/netns"), "{error}");
}

#[tokio::test]
async fn a_configured_sandbox_talks_to_its_host() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    topology.connect().await;
    // Again, as a repair would: nothing to do, nothing refused.
    configure_sandbox(&topology.sandbox, &interface("eth0"))
        .await
        .unwrap();
    let routes = ip(&topology.sandbox, "-4 route");
    assert!(
        routes.contains("default via 172.17.0.1 dev eth0"),
        "{routes}"
    );
    assert_eq!(routes.matches("default").count(), 1, "{routes}");

    // The gateway isn't on the link's subnet from the host's side: the host
    // route and its source address have to do it.
    let listener = topology
        .host
        .run(|| std::net::TcpListener::bind("172.17.0.1:0").unwrap())
        .unwrap();
    let address = listener.local_addr().unwrap();
    let peer = topology
        .sandbox
        .run(move || {
            let stream = std::net::TcpStream::connect_timeout(&address, PATIENCE);
            stream.unwrap().local_addr().unwrap()
        })
        .unwrap();
    assert_eq!(peer.ip().to_string(), "172.17.0.2");

    let missing = configure_sandbox(&topology.sandbox, &interface("eth9")).await;
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("eth9 in "), "{text}");
}

#[tokio::test]
async fn both_families_work_from_the_first_moment() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let index = topology.connect().await;
    let mut both = interface("eth0");
    both.addresses.push("fd00:17::2/64".parse().unwrap());
    both.gateways.push("fd00:17::1".parse().unwrap());
    both.routes.push("2001:db8::/32".parse().unwrap());
    for _ in 0..2 {
        configure_sandbox(&topology.sandbox, &both).await.unwrap();
    }
    let netlink = &topology.netlink;
    let lo = netlink.link("lo").await.unwrap().unwrap();
    let gateway = "fd00:17::1/128".parse().unwrap();
    netlink.add_address(lo.index, gateway).await.unwrap();
    let route = Route::on_link("fd00:17::2/128".parse().unwrap(), index)
        .with_src("fd00:17::1".parse().unwrap());
    for _ in 0..2 {
        netlink.add_route(&route).await.unwrap();
    }
    // As the daemon does it: nobody on the host end asks for the sandbox.
    netlink
        .add_permanent_neighbour(index, "fd00:17::2".parse().unwrap(), SANDBOX_MAC)
        .await
        .unwrap();
    // The host end doesn't hold the gateway's address, so nobody answers for it.
    let inside = Netlink::open_in(&topology.sandbox).unwrap();
    let eth0 = inside.link("eth0").await.unwrap().unwrap();
    inside
        .add_permanent_neighbour(eth0.index, "fd00:17::1".parse().unwrap(), HOST_MAC)
        .await
        .unwrap();

    let listener = topology
        .host
        .run(|| std::net::TcpListener::bind("[fd00:17::1]:0").unwrap())
        .unwrap();
    let address = listener.local_addr().unwrap();
    let connect = move || std::net::TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    for name in ["lo", "veth1"] {
        assert!(netlink.wait_ready(name, PATIENCE).await.unwrap());
    }
    let started = Instant::now();
    topology.sandbox.run(connect).unwrap();
    assert!(started.elapsed() < RETRANSMISSION);
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "fd00:17::2");
    let routes = ip(&topology.sandbox, "-6 route");
    assert!(
        routes.contains("default via fd00:17::1 dev eth0"),
        "{routes}"
    );
    assert!(
        routes.contains("2001:db8::/32 via fd00:17::1 dev eth0"),
        "{routes}"
    );
    assert_eq!(routes.matches("default").count(), 1, "{routes}");
}

#[tokio::test]
async fn a_second_endpoint_takes_the_default_route_over_only_when_the_first_goes() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    topology.connect().await;
    topology
        .netlink
        .create_pair(&LinkPair {
            host_mac: [2, 0, 0, 0, 1, 1],
            peer_mac: [2, 0, 0, 0, 1, 2],
            ..topology.pair("veth2", "eth1")
        })
        .await
        .unwrap();
    topology.netlink.set_up("veth2").await.unwrap();
    let second = SandboxInterface {
        mac: [2, 0, 0, 0, 1, 2],
        addresses: vec!["172.18.0.2/16".parse().unwrap()],
        gateways: vec!["172.18.0.1".parse().unwrap()],
        ..interface("eth1")
    };
    for _ in 0..2 {
        configure_sandbox(&topology.sandbox, &second).await.unwrap();
    }
    let way_out = || ip(&topology.sandbox, "route get 192.0.2.1");
    assert!(way_out().contains("dev eth0"), "{}", way_out());
    let defaults = ip(&topology.sandbox, "route show default");
    assert_eq!(defaults.lines().count(), 2, "{defaults}");

    let inside = Netlink::open_in(&topology.sandbox).unwrap();
    let names = inside.default_route_interfaces().await.unwrap();
    let names: Vec<_> = names.into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["eth0", "eth1"]);

    topology.netlink.delete_link("veth1").await.unwrap();
    assert!(way_out().contains("dev eth1"), "{}", way_out());
}

#[tokio::test]
async fn nothing_is_left_when_the_namespaces_go() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    topology.connect().await;
    let folder = topology.host.path().parent().unwrap().to_owned();
    let Topology {
        host,
        sandbox,
        netlink,
        _folder,
    } = topology;
    drop((host, sandbox, netlink));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
