//! Networks whose containers send packets above 64 KiB (BIG TCP).

use netdp::netlink::{Netlink, PacketLimit};
use netdp::netns::Namespace;
use netdp_tests::{Container, SIDES, Side, Tap, Topology, connect, listen, transfer};

/// Bytes of each direction: enough for TCP to get there.
const LENGTH: u64 = 4 << 20;
/// The largest frame without it: 64 KiB and an Ethernet header.
const SMALL: usize = 65_536 + 14;
const SIX: &str = "--opt big-tcp=auto --ipv6";

fn limit(namespace: &Namespace, interface: &str) -> PacketLimit {
    run(async {
        let netlink = Netlink::open_in(namespace).unwrap();
        netlink
            .link(interface)
            .await
            .unwrap()
            .expect("a link")
            .packet_limit
    })
}

fn set_limit(namespace: &Namespace, interface: &str, limit: PacketLimit) {
    run(async {
        let netlink = Netlink::open_in(namespace).unwrap();
        netlink.set_packet_limit(interface, limit).await.unwrap();
    });
}

fn run<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(what)
}

/// All ways that a container's packets take, and how large they were: to
/// another container, to the client, from it, and from a program of the host.
fn largest(topology: &Topology, web: &Container, other: &Container, side: Side) -> [usize; 4] {
    let client = &topology.world.client;
    let (inside, outside) = (listen(web, side.any, 80), listen(client, side.any, 80));
    let taps = [
        Tap::open(&other.namespace, "eth0"),
        Tap::open(client, "wire0"),
        Tap::open(&web.namespace, "eth0"),
        Tap::open(&web.namespace, "eth0"),
    ];
    let ways = [
        (connect(other, (side.address(web), 80)), inside.accept().0),
        (connect(other, (side.client, 80)), outside.accept().0),
        (connect(client, (side.host, 8080)), inside.accept().0),
        (
            connect(&topology.host_program(), (side.host, 8080)),
            inside.accept().0,
        ),
    ];
    let mut each = [0; 4];
    for ((tap, (near, far)), largest) in taps.iter().zip(ways).zip(&mut each) {
        tap.largest();
        transfer(&near, &far, LENGTH);
        *largest = tap.largest();
    }
    each
}

#[test]
fn packets_are_larger_than_64_kib_by_every_way() {
    let Some(topology) = Topology::start_with_ipv6("big-tcp") else {
        return;
    };
    let world = &topology.world;
    topology.netdp(&format!("network create big {SIX}"));
    assert_eq!(limit(&world.host, "eth0"), PacketLimit::Legacy);
    let web = topology.container("web", "--network big -p 8080:80");
    let other = topology.container("other", "--network big");
    assert_eq!(limit(&world.host, "eth0"), PacketLimit::BigUplink);
    // The wire's other end, which no netdp sees to.
    set_limit(&world.client, "wire0", PacketLimit::Big);
    for side in SIDES {
        let sizes = largest(&topology, &web, &other, side);
        assert!(
            sizes.iter().all(|size| *size > SMALL),
            "{side:?}: {sizes:?}"
        );
    }
    assert_eq!(topology.dropped("malformed"), 0);
}

#[test]
fn the_uplink_is_set_back_when_nobody_needs_it_or_sees_to_it() {
    let Some(mut topology) = Topology::start_with_ipv6("big-tcp-back") else {
        return;
    };
    topology.netdp(&format!("network create big {SIX}"));
    let uplink = |topology: &Topology| limit(&topology.world.host, "eth0");
    let _web = topology.container("web", "--network big");
    assert_eq!(uplink(&topology), PacketLimit::BigUplink);
    topology.netdp("rm web");
    assert_eq!(uplink(&topology), PacketLimit::Legacy);

    let _db = topology.container("db", "--network big");
    topology.world.stop_daemon().unwrap();
    assert_eq!(
        uplink(&topology),
        PacketLimit::Legacy,
        "the daemon has ended"
    );
    topology.start_daemon();
    assert_eq!(uplink(&topology), PacketLimit::BigUplink);
    // It can't see to anything when it is killed, but the next one can.
    topology.world.kill_daemon();
    topology.start_daemon();
    topology.netdp("rm db");
    assert_eq!(uplink(&topology), PacketLimit::Legacy);
}

#[test]
fn what_somebody_sets_of_an_uplink_meanwhile_stays_and_the_rest_is_set_back() {
    let Some(topology) = Topology::start_with_ipv6("big-tcp-mixed") else {
        return;
    };
    let host = &topology.world.host;
    topology.netdp(&format!("network create big {SIX}"));
    let _web = topology.container("web", "--network big");
    topology.ip(host, "link set eth0 gso_max_size 100000\n");
    // The daemon sets the rest back as soon as it looks, here at the latest.
    topology.netdp("rm web");
    // Nothing of netdp's is left; the limits are no longer all the kernel's own.
    assert_eq!(limit(host, "eth0"), PacketLimit::Other);
    topology.ip(host, "link set eth0 gso_max_size 65536\n");
    assert_eq!(limit(host, "eth0"), PacketLimit::Legacy);
}

#[test]
fn it_is_as_ever_where_an_uplink_takes_no_such_packets_or_is_not_netdps_to_set() {
    let Some(topology) = Topology::start_with_ipv6("big-tcp-not") else {
        return;
    };
    let host = &topology.world.host;
    topology.netdp(&format!("network create big {SIX}"));
    topology.netdp(&format!("network create inside --internal {SIX}"));
    topology.netdp("network create small");
    // As somebody has set it.
    topology.ip(host, "link set eth0 gso_max_size 30000\n");
    let names = ["big", "inside", "small"];
    let limits = names.map(|network| {
        let container = topology.container(network, &format!("--network {network}"));
        limit(&container.namespace, "eth0")
    });
    // Nothing leaves an internal network by the uplink.
    let (big, legacy) = (PacketLimit::Big, PacketLimit::Legacy);
    assert_eq!(limits, [legacy, big, legacy]);
    assert_eq!(limit(host, "eth0"), PacketLimit::Other);
}
