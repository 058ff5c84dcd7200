//! Links that are followed by what the kernel announces, beside lists of all of
//! them. Needs root.

use std::time::Duration;

use netdp::netlink::{FollowedLinks, Link, Netlink};
use netdp::netns::Namespace;
use netdp::world::{ip, set_sysctls};
use tempfile::TempDir;

/// Two namespaces; links are followed in the first.
struct Topology {
    host: Namespace,
    sandbox: Namespace,
    netlink: Netlink,
    _folder: TempDir,
}

impl Topology {
    /// None, with the reason printed, without root.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: making network namespaces needs root");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let host = Namespace::create(folder.path(), "host").unwrap();
        Some(Self {
            sandbox: Namespace::create(folder.path(), "sandbox").unwrap(),
            netlink: Netlink::open_in(&host).unwrap(),
            host,
            _folder: folder,
        })
    }
}

/// A cable is noticed in the kernel's own time, between two looks perhaps.
fn without_cables(mut links: Vec<Link>) -> Vec<Link> {
    for link in &mut links {
        (link.carrier, link.running) = (false, false);
    }
    links
}

#[track_caller]
fn assert_same(followed: Vec<Link>, listed: Vec<Link>, after: &str) {
    assert_eq!(
        without_cables(followed),
        without_cables(listed),
        "after: {after}"
    );
}

async fn listed(netlink: &Netlink) -> Vec<Link> {
    netlink.links().await.unwrap()
}

#[tokio::test]
async fn what_others_do_to_links_is_seen_at_once() {
    let Some(topology) = Topology::new() else {
        return;
    };
    let mut followed = FollowedLinks::new(&topology.netlink).unwrap();
    followed.now().await.unwrap();
    let (host, sandbox) = (topology.host.path(), topology.sandbox.path());
    let away = format!("link set two netns {}", sandbox.display());
    let back = format!("link set two netns {}", host.display());
    for (namespace, line) in [
        (&topology.host, "link add br0 type bridge"),
        (&topology.host, "link set br0 up"),
        (&topology.host, "link set br0 alias mine"),
        (&topology.host, "link set br0 mtu 1300"),
        (&topology.host, "link set br0 address 02:00:00:00:00:07"),
        (&topology.host, "link set br0 down"),
        (&topology.host, "link set br0 name br1"),
        (&topology.host, "link add one type veth peer name two"),
        (&topology.host, "link set one master br1"),
        // Of where the other end is nothing is announced of this one.
        (&topology.host, &away),
        (&topology.sandbox, &back),
        (&topology.host, "link set two up"),
        (&topology.host, &away),
        (&topology.sandbox, "link del two"),
    ] {
        ip(namespace, line).unwrap();
        let links = followed.now().await.unwrap();
        assert_same(links, listed(&topology.netlink).await, line);
    }
}

#[tokio::test]
async fn which_links_forward_is_seen_at_once() {
    let Some(topology) = Topology::new() else {
        return;
    };
    ip(&topology.host, "link add one type veth peer name two").unwrap();
    let mut followed = FollowedLinks::new(&topology.netlink).unwrap();
    followed.now().await.unwrap();
    for setting in [
        ("ipv4/conf/one/forwarding", "1"),
        ("ipv6/conf/two/forwarding", "1"),
        ("ipv4/ip_forward", "1"),
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ] {
        set_sysctls(&topology.host, &[setting]).unwrap();
        let links = followed.now().await.unwrap();
        assert_same(links, listed(&topology.netlink).await, setting.0);
    }
}

#[tokio::test]
async fn more_changes_than_there_is_room_for_are_seen_too() {
    let Some(topology) = Topology::new() else {
        return;
    };
    let mut followed = FollowedLinks::new(&topology.netlink).unwrap();
    followed.now().await.unwrap();
    for count in [10, 100, 300] {
        let pairs: String = (0..count)
            .map(|number| {
                format!("link add a{count}.{number} type veth peer name b{count}.{number}\n")
            })
            .collect();
        ip(&topology.host, &pairs).unwrap();
        let links = followed.now().await.unwrap();
        assert_same(
            links,
            listed(&topology.netlink).await,
            &format!("{count} pairs"),
        );
    }
}

#[tokio::test]
async fn what_is_not_announced_is_seen_where_it_is_doubted_and_in_a_list() {
    let Some(topology) = Topology::new() else {
        return;
    };
    ip(&topology.host, "link add one type veth peer name two").unwrap();
    let mut followed = FollowedLinks::new(&topology.netlink).unwrap();
    followed.now().await.unwrap();
    ip(&topology.host, "link set one gso_max_size 20000").unwrap();
    let one = topology.netlink.link("one").await.unwrap().unwrap();
    followed.ask_again(one.index);
    let links = followed.now().await.unwrap();
    assert_same(links, listed(&topology.netlink).await, "a size");

    ip(&topology.host, "link set one alias strange").unwrap();
    followed.list_after(Duration::ZERO);
    let links = followed.now().await.unwrap();
    assert_same(links, listed(&topology.netlink).await, "an alias");
}
