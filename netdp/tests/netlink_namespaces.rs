//! Namespaces and netlink against the kernel. Needs root.

use std::path::Path;
use std::time::{Duration, Instant};

use netdp::netlink::{
    Change, Family, LinkEvent, Netlink, NetlinkError, Route, SandboxInterface, Sysctl, VethPair,
    configure_sandbox,
};
use netdp::netns::{Namespace, NetnsError};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(5);
/// When TCP sends again what was lost at first.
const RETRANSMISSION: Duration = Duration::from_secs(1);
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SANDBOX_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: making network namespaces needs root");
    }
    root
}

/// A namespace that plays the host and one that plays the sandbox.
struct Topology {
    host: Namespace,
    sandbox: Namespace,
    netlink: Netlink,
    folder: TempDir,
}

impl Topology {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let host = Namespace::create(folder.path(), "host").unwrap();
        let sandbox = Namespace::create(folder.path(), "sandbox").unwrap();
        let netlink = Netlink::open_in(&host).unwrap();
        Self {
            host,
            sandbox,
            netlink,
            folder,
        }
    }

    fn pair<'a>(&'a self, host_name: &'a str, peer_name: &'a str) -> VethPair<'a> {
        VethPair {
            host_name,
            host_mac: HOST_MAC,
            peer_name,
            peer_mac: SANDBOX_MAC,
            mtu: 1400,
            alias: "an endpoint",
            peer_netns: &self.sandbox,
        }
    }

    /// A connected pair: 172.17.0.1 on the host, 172.17.0.2 in the sandbox.
    async fn connect(&self) -> u32 {
        let index = self
            .netlink
            .create_veth(&self.pair("veth1", "eth0"))
            .await
            .unwrap();
        self.netlink.set_up("veth1").await.unwrap();
        configure_sandbox(&self.sandbox, &interface("eth0"))
            .await
            .unwrap();
        let lo = self.netlink.link("lo").await.unwrap().unwrap();
        let gateway = "172.17.0.1/32".parse().unwrap();
        self.netlink.add_address(lo.index, gateway).await.unwrap();
        self.netlink
            .add_route(&host_route("172.17.0.2/32", index))
            .await
            .unwrap();
        index
    }

    fn ip(&self, namespace: &Namespace, arguments: &str) -> String {
        let output = namespace
            .command("ip")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn interface(name: &str) -> SandboxInterface {
    SandboxInterface {
        name: name.into(),
        mac: SANDBOX_MAC,
        addresses: vec!["172.17.0.2/16".parse().unwrap()],
        gateways: vec!["172.17.0.1".parse().unwrap()],
        mtu: 1400,
        default_route: true,
        routes: vec![],
    }
}

fn host_route(dst: &str, oif: u32) -> Route {
    Route::on_link(dst.parse().unwrap(), oif).with_src("172.17.0.1".parse().unwrap())
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
async fn a_bridge_is_made_as_asked_and_its_name_is_taken() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let netlink = &topology.netlink;
    let index = netlink
        .create_bridge("netdp0", HOST_MAC, 1500, "network netdp0")
        .await
        .unwrap();
    let link = netlink.link("netdp0").await.unwrap().unwrap();
    assert_eq!(link.index, index);
    assert_eq!(link.kind.as_deref(), Some("bridge"));
    assert_eq!(link.mac, HOST_MAC);
    assert_eq!(link.alias.as_deref(), Some("network netdp0"));
    assert!(link.up);
    assert_eq!(netlink.link_by_index(index).await.unwrap(), Some(link));

    let again = netlink
        .create_bridge("netdp0", HOST_MAC, 1500, "x")
        .await
        .unwrap_err();
    assert!(again.is_exists(), "{again}");
    assert!(again.to_string().contains("netdp0"), "{again}");

    netlink.set_mtu("netdp0", 1280).await.unwrap();
    netlink.set_down("netdp0").await.unwrap();
    let link = netlink.link("netdp0").await.unwrap().unwrap();
    assert_eq!((link.mtu, link.up), (1280, false));

    netlink.delete_link("netdp0").await.unwrap();
    netlink.delete_link("netdp0").await.unwrap();
    assert_eq!(netlink.link("netdp0").await.unwrap(), None);
    let absent = netlink.set_up("netdp0").await.unwrap_err();
    assert!(absent.is_absent(), "{absent}");
    let long = netlink.set_up("a-name-of-sixteen").await.unwrap_err();
    assert!(matches!(long, NetlinkError::InvalidName(_)), "{long}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clones_list_at_the_same_time() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    // More than one answer of a dump holds.
    for n in 0..40 {
        let name = format!("br{n}");
        let made = topology
            .netlink
            .create_bridge(&name, HOST_MAC, 1500, "one of many");
        made.await.unwrap();
    }
    let listing: Vec<_> = (0..16)
        .map(|_| {
            let clone = topology.netlink.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(clone.links().await.unwrap().len(), 41);
                }
            })
        })
        .collect();
    for task in listing {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_veth_peer_appears_in_the_sandbox_under_its_name() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let index = topology.connect().await;
    let host_end = topology.netlink.link("veth1").await.unwrap().unwrap();
    assert_eq!(host_end.kind.as_deref(), Some("veth"));
    assert_eq!((host_end.mac, host_end.mtu), (HOST_MAC, 1400));
    assert_eq!(host_end.alias.as_deref(), Some("an endpoint"));
    assert!(host_end.running);
    assert!(host_end.peer_netnsid.is_some());
    assert_eq!(topology.netlink.links().await.unwrap().len(), 2);

    let inside = Netlink::open_in(&topology.sandbox).unwrap();
    let eth0 = inside.link("eth0").await.unwrap().unwrap();
    assert_eq!((eth0.mac, eth0.mtu), (SANDBOX_MAC, 1400));
    assert_eq!(eth0.peer_index, Some(index));
    assert_eq!(host_end.peer_index, Some(eth0.index));

    // A name that is taken on either side leaves nothing behind.
    let refused = topology
        .netlink
        .create_veth(&topology.pair("veth2", "eth0"))
        .await
        .unwrap_err();
    assert!(refused.is_exists(), "{refused}");
    assert_eq!(topology.netlink.link("veth2").await.unwrap(), None);

    topology.netlink.delete_link("veth1").await.unwrap();
    assert_eq!(inside.link("eth0").await.unwrap(), None);
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
    let routes = topology.ip(&topology.sandbox, "-4 route");
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
    let routes = topology.ip(&topology.sandbox, "-6 route");
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
        .create_veth(&VethPair {
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
    let way_out = || topology.ip(&topology.sandbox, "route get 192.0.2.1");
    assert!(way_out().contains("dev eth0"), "{}", way_out());
    let defaults = topology.ip(&topology.sandbox, "route show default");
    assert_eq!(defaults.lines().count(), 2, "{defaults}");

    let inside = Netlink::open_in(&topology.sandbox).unwrap();
    let names = inside.default_route_interfaces().await.unwrap();
    let names: Vec<_> = names.into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["eth0", "eth1"]);

    topology.netlink.delete_link("veth1").await.unwrap();
    assert!(way_out().contains("dev eth1"), "{}", way_out());
}

#[tokio::test]
async fn addresses_routes_and_neighbours_are_added_once() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let netlink = &topology.netlink;
    let index = topology.connect().await;
    for net in ["192.0.2.1/24", "2001:db8::1/64"] {
        let net = net.parse().unwrap();
        for _ in 0..2 {
            netlink.add_address(index, net).await.unwrap();
        }
        let held = |found: &netdp::netlink::Address| found.ifindex == index && found.net == net;
        assert_eq!(
            netlink
                .addresses()
                .await
                .unwrap()
                .iter()
                .filter(|found| held(found))
                .count(),
            1
        );
        for _ in 0..2 {
            netlink.del_address(index, net).await.unwrap();
        }
        assert!(!netlink.addresses().await.unwrap().iter().any(held));
    }

    let route = host_route("172.17.0.9/32", index);
    for _ in 0..2 {
        netlink.add_route(&route).await.unwrap();
    }
    assert!(netlink.routes().await.unwrap().contains(&route));
    let lo = netlink.link("lo").await.unwrap().unwrap();
    let other = netlink
        .add_route(&host_route("172.17.0.9/32", lo.index))
        .await
        .unwrap_err();
    assert!(matches!(other, NetlinkError::RouteExists { .. }), "{other}");
    for _ in 0..2 {
        netlink.del_route(&route).await.unwrap();
    }
    assert!(!netlink.routes().await.unwrap().contains(&route));

    let v6 = Route::on_link("2001:db8::9/128".parse().unwrap(), index);
    for _ in 0..2 {
        netlink.add_route(&v6).await.unwrap();
    }
    netlink.del_route(&v6).await.unwrap();

    for address in ["172.17.0.9", "2001:db8::9"] {
        let address = address.parse().unwrap();
        for mac in [HOST_MAC, SANDBOX_MAC] {
            netlink
                .add_permanent_neighbour(index, address, mac)
                .await
                .unwrap();
            let found = netlink.neighbours().await.unwrap();
            let found = found
                .iter()
                .find(|neighbour| neighbour.address == address)
                .unwrap();
            assert_eq!((found.mac, found.permanent), (mac, true));
        }
        for _ in 0..2 {
            netlink.del_neighbour(index, address).await.unwrap();
        }
    }

    let absent = netlink
        .add_address(9999, "192.0.2.1/24".parse().unwrap())
        .await
        .unwrap_err();
    assert!(absent.is_absent(), "{absent}");
}

#[tokio::test]
async fn sysctls_are_those_of_the_namespace() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    topology.connect().await;
    let forwarding = Sysctl::interface(Family::V4, "veth1", "forwarding").unwrap();
    for value in ["1", "0", "1"] {
        forwarding.set_in(&topology.host, value).unwrap();
        assert_eq!(forwarding.get_in(&topology.host).unwrap(), value);
    }
    let elsewhere = forwarding.get_in(&topology.sandbox).unwrap_err();
    assert!(elsewhere.is_absent(), "{elsewhere}");
    let quiet = Sysctl::interface(Family::V6, "eth0", "disable_ipv6").unwrap();
    assert_eq!(quiet.get_in(&topology.sandbox).unwrap(), "1");
    let refused = forwarding.set_in(&topology.host, "many").unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("net.ipv4.conf.veth1.forwarding"),
        "{refused}"
    );
}

#[tokio::test]
async fn changes_are_announced() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let mut changes = topology.netlink.watch().await.unwrap();
    let index = topology.connect().await;
    topology.netlink.delete_link("veth1").await.unwrap();

    let mut seen = Vec::new();
    loop {
        let change = tokio::time::timeout(PATIENCE, changes.recv());
        let change = change.await.expect("no announcement of the removal");
        let change = change.unwrap();
        let removed = matches!(
            &change,
            Change::Link { name, event: LinkEvent::Removed, .. } if name == "veth1"
        );
        seen.push(change);
        if removed {
            break;
        }
    }
    let added = Change::Link {
        index,
        name: "veth1".into(),
        event: LinkEvent::Added,
    };
    assert_eq!(seen.iter().filter(|change| **change == added).count(), 1);
    assert!(seen.iter().any(|change| matches!(
        change,
        Change::Address { address, added: true } if address.net.to_string() == "172.17.0.1/32"
    )));
    let route = host_route("172.17.0.2/32", index);
    assert!(seen.contains(&Change::Route { route, added: true }));
}

#[tokio::test]
async fn nothing_is_left_when_the_namespaces_go() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    topology.connect().await;
    let folder = topology.folder.path().to_owned();
    let Topology {
        host,
        sandbox,
        netlink,
        folder: _kept,
    } = topology;
    drop((host, sandbox, netlink));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
