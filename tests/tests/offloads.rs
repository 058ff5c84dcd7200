//! Checksums and segmentation, left to devices or not: each path with packets
//! as the stack, or a device, may hand them over.

use std::net::IpAddr;

use netdp::netns::Namespace;
use netdp_tests::{
    Container, Offload, SIDES, Side, Topology, connect, hears, listen, set_offload, transfer, udp,
};

/// Bytes of each direction.
const LENGTH: u64 = 1 << 20;

/// TCP and UDP by every path; datagrams of odd length, the last byte of which
/// is summed by itself.
#[track_caller]
fn converse(topology: &Topology, web: &Container, other: &Container, side: Side) {
    let outside = &topology.world.outside;
    let published = listen(web, side.any, 80);
    let direct = listen(web, side.any, 81);
    let remote = listen(outside, side.any, 80);
    for (near, far) in [
        (connect(outside, (side.host, 8080)), published.accept().0),
        (connect(other, (side.host, 8080)), published.accept().0),
        (connect(other, (side.address(web), 81)), direct.accept().0),
        (connect(other, (side.outside, 80)), remote.accept().0),
    ] {
        transfer(&near, &far, LENGTH);
    }
    let names = udp(web, side.any, 53);
    let far_names = udp(outside, side.any, 53);
    for (client, to, server) in [
        (udp(outside, side.any, 0), (side.host, 5353), &names),
        (udp(other, side.any, 0), (side.host, 5353), &names),
        (udp(other, side.any, 0), (side.address(web), 53), &names),
        (udp(other, side.any, 0), (side.outside, 53), &far_names),
    ] {
        for question in [&b"odd"[..], &[0xa5; 1401], &[0x5a; 4001]] {
            client.send_to(question, to).unwrap();
            let from = hears(server, question);
            server.send_to(&question[1..], from).unwrap();
            hears(&client, &question[1..]);
        }
    }
}

/// How many packets a namespace's stack found wrong: `InCsumErrors` of
/// `/proc/net/snmp` (names in one line, values in the next; TCP of both
/// families) and of `/proc/net/snmp6`.
fn wrong_checksums(namespace: &Namespace) -> u64 {
    let read = |path: &str| {
        let output = namespace.command("cat").arg(path).output();
        String::from_utf8(output.expect("read the counters").stdout).unwrap()
    };
    let text = read("/proc/net/snmp");
    let mut lines = text.lines();
    let mut wrong = 0;
    let mut counters = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            if name == "InCsumErrors" {
                wrong += value.parse::<u64>().unwrap();
                counters += 1;
            }
        }
    }
    for line in read("/proc/net/snmp6").lines() {
        let (name, value) = line.split_once(char::is_whitespace).unwrap();
        if name.ends_with("InCsumErrors") {
            wrong += value.trim().parse::<u64>().unwrap();
            counters += 1;
        }
    }
    assert!(counters >= 5, "few counters");
    wrong
}

#[test]
fn checksums_are_right_whoever_computes_them() {
    use Offload::{LateSegmentation, Merging, Segmentation, SendChecksums};
    let Some(topology) = Topology::with_ipv6("offloads") else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80 -p 5353:53/udp");
    let other = topology.container("other", "--network six");
    let (host, client) = (&topology.world.host, &topology.world.client);
    let outside = &topology.world.outside;
    // All left to the last device, which is none: nothing is computed at all.
    let all = || SIDES.map(|side| converse(&topology, &web, &other, side));
    all();
    let steps: [&[(&Namespace, &str, Offload, bool)]; 5] = [
        // Computed where the host sends what a container left undone.
        &[(host, "eth0", SendChecksums, false)],
        // Cut by the host.
        &[
            (host, "eth0", SendChecksums, true),
            (host, "eth0", Segmentation, false),
            (host, "eth0", LateSegmentation, false),
        ],
        // Computed by the containers' stacks, each segment by itself.
        &[
            (&web.namespace, "eth0", SendChecksums, false),
            (&other.namespace, "eth0", SendChecksums, false),
        ],
        // By all of them.
        &[
            (outside, "eth0", SendChecksums, false),
            (client, "wire0", SendChecksums, false),
            (host, "eth0", SendChecksums, false),
        ],
        // Put together again where they arrive.
        &[
            (host, "eth0", Merging, true),
            (&web.namespace, "eth0", Merging, true),
            (&other.namespace, "eth0", Merging, true),
        ],
    ];
    for step in steps {
        for (namespace, interface, offload, on) in step {
            set_offload(namespace, interface, *offload, *on);
        }
        all();
    }
    for namespace in [host, client, outside, &web.namespace, &other.namespace] {
        assert_eq!(
            wrong_checksums(namespace),
            0,
            "{}",
            namespace.path().display()
        );
    }
}

/// The sum over the whole packet that hardware may hand over with it
/// (`CHECKSUM_COMPLETE`), as the stack itself does behind a VXLAN tunnel whose
/// outer checksum it has verified (`skb_checksum_try_convert`).
#[test]
fn a_sum_that_the_device_took_stays_right() {
    let Some(mut topology) = Topology::without_daemon("offloads-complete") else {
        return;
    };
    let (host, client) = (&topology.world.host, &topology.world.client);
    for (namespace, below, number, peer) in [
        (host, "eth0", 2, "198.18.0.1"),
        (client, "wire0", 1, "198.18.0.2"),
    ] {
        set_offload(namespace, below, Offload::SendChecksums, false);
        let link = format!(
            "link add vx0 type vxlan id 7 dev {below} remote {peer} dstport 4789 udpcsum\n\
             address add 10.99.0.{number}/24 dev vx0\n\
             address add 2001:db8:99::{number}/64 dev vx0 nodad\n\
             link set vx0 up\n"
        );
        topology.ip(namespace, &link);
        set_offload(namespace, "vx0", Offload::SendChecksums, false);
    }
    topology
        .world
        .start_daemon(&["--uplink", "vx0"])
        .unwrap_or_else(|error| panic!("{error}"));
    topology.netdp("network create six --ipv6");
    let web = topology.container("web", "--network six -p 8080:80 -p 5353:53/udp");
    let client = &topology.world.client;
    for (side, host, near) in [
        (SIDES[0], "10.99.0.2", "10.99.0.1"),
        (SIDES[1], "2001:db8:99::2", "2001:db8:99::1"),
    ] {
        let [host, near] = [host, near].map(|addr| addr.parse::<IpAddr>().unwrap());
        let published = listen(&web, side.any, 80);
        let names = udp(&web, side.any, 53);
        let remote = listen(client, near, 80);
        for (near, far) in [
            (connect(client, (host, 8080)), published.accept().0),
            (connect(&web, (near, 80)), remote.accept().0),
        ] {
            transfer(&near, &far, LENGTH);
        }
        let asker = udp(client, near, 0);
        for question in [&b"odd"[..], &[0xa5; 1001]] {
            asker.send_to(question, (host, 5353)).unwrap();
            let from = hears(&names, question);
            names.send_to(&question[1..], from).unwrap();
            hears(&asker, &question[1..]);
        }
    }
    for namespace in [&topology.world.host, client, &web.namespace] {
        assert_eq!(wrong_checksums(namespace), 0);
    }
}
