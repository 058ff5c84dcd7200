//! Requests to netlink, what it announces, and settings of interfaces, against the
//! kernel. Needs root.

mod netlink_world;

use futures_util::future::join_all;
use netdp::netlink::{Change, Family, LinkEvent, Netlink, NetlinkError, Route, Sysctl};
use netlink_world::{HOST_MAC, PATIENCE, SANDBOX_MAC, Topology, host_route, is_root};
use tokio::time::timeout;

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

#[tokio::test]
async fn several_links_go_by_one_request_and_no_others() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let netlink = &topology.netlink;
    let names: Vec<String> = (0..5).map(|number| format!("br{number}")).collect();
    for name in &names {
        let made = netlink.create_bridge(name, HOST_MAC, 1500, "some");
        made.await.unwrap();
    }
    let mut gone: Vec<String> = names[1..4].to_vec();
    gone.push("not-there".to_owned());
    netlink.delete_links(&gone).await.unwrap();
    netlink.delete_links(&gone).await.unwrap();
    let left = netlink.links().await.unwrap();
    let left: Vec<&str> = left.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(left, ["lo", "br0", "br4"]);

    // One that can't be removed keeps none of the others.
    let last = ["br0", "lo", "br4"].map(str::to_owned);
    let refused = netlink.delete_links(&last).await.unwrap_err();
    assert!(refused.to_string().contains("lo"), "{refused}");
    assert_eq!(netlink.links().await.unwrap().len(), 1);
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
        .create_pair(&topology.pair("veth2", "eth0"))
        .await
        .unwrap_err();
    assert!(refused.is_exists(), "{refused}");
    assert_eq!(topology.netlink.link("veth2").await.unwrap(), None);

    topology.netlink.delete_link("veth1").await.unwrap();
    assert_eq!(inside.link("eth0").await.unwrap(), None);
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
        let change = timeout(PATIENCE, changes.recv());
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

/// The kernel drops an answer that the socket has no room for.
#[tokio::test]
async fn every_one_of_many_requests_at_once_is_answered() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let netlink = &topology.netlink;
    let asked = (0..5_000).map(|_| netlink.link("lo"));
    let answers = timeout(PATIENCE, join_all(asked)).await;
    for answer in answers.expect("an answer to each") {
        assert!(answer.unwrap().is_some());
    }
}

#[tokio::test]
async fn kinds_of_filters_that_the_kernel_lacks_are_told_from_those_it_has() {
    if !is_root() {
        return;
    }
    let topology = Topology::new();
    let netlink = &topology.netlink;
    assert!(!netlink.has_qdisc("netdp-none").await.unwrap());
    assert!(netlink.has_qdisc("clsact").await.unwrap());
    assert!(netlink.has_classifier("bpf").await.unwrap());
    assert!(!netlink.has_classifier("netdp-none").await.unwrap());
}
