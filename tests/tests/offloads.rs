//! Checksums and segmentation, left to devices or not: each path with packets
//! as the stack, or a device, may hand them over.

use std::net::Ipv4Addr;

use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{
    Container, Offload, Topology, connect, hears, listen, set_offload, transfer, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Bytes of each direction.
const LENGTH: u64 = 1 << 20;

/// TCP and UDP by every path; datagrams of odd length, the last byte of which
/// is summed by itself.
#[track_caller]
fn converse(topology: &Topology, web: &Container, other: &Container) {
    let outside = &topology.world.outside;
    let published = listen(web, ANY, 80);
    let direct = listen(web, ANY, 81);
    let remote = listen(outside, ANY, 80);
    for (near, far) in [
        (connect(outside, (HOST_ADDRESS, 8080)), published.accept().0),
        (connect(other, (HOST_ADDRESS, 8080)), published.accept().0),
        (connect(other, (web.address, 81)), direct.accept().0),
        (connect(other, (OUTSIDE_ADDRESS, 80)), remote.accept().0),
    ] {
        transfer(&near, &far, LENGTH);
    }
    let names = udp(web, ANY, 53);
    let far_names = udp(outside, ANY, 53);
    for (client, to, server) in [
        (udp(outside, ANY, 0), (HOST_ADDRESS, 5353), &names),
        (udp(other, ANY, 0), (HOST_ADDRESS, 5353), &names),
        (udp(other, ANY, 0), (web.address, 53), &names),
        (udp(other, ANY, 0), (OUTSIDE_ADDRESS, 53), &far_names),
    ] {
        for question in [&b"odd"[..], &[0xa5; 1401], &[0x5a; 4001]] {
            client.send_to(question, to).unwrap();
            let from = hears(server, question);
            server.send_to(&question[1..], from).unwrap();
            hears(&client, &question[1..]);
        }
    }
}

/// How many segments and datagrams a namespace's stack found wrong
/// (`InCsumErrors` of `/proc/net/snmp`).
fn wrong_checksums(namespace: &Namespace) -> u64 {
    let output = namespace.command("cat").arg("/proc/net/snmp").output();
    let text = String::from_utf8(output.expect("read the counters").stdout).unwrap();
    let mut lines = text.lines();
    let mut wrong = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            if name == "InCsumErrors" {
                wrong += value.parse::<u64>().unwrap();
            }
        }
    }
    wrong
}

#[test]
fn checksums_are_right_whoever_computes_them() {
    use Offload::{LateSegmentation, Merging, Segmentation, SendChecksums};
    let Some(topology) = Topology::start("offloads") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let other = topology.container("other", "");
    let (host, client) = (&topology.world.host, &topology.world.client);
    let outside = &topology.world.outside;
    // All left to the last device, which is none: nothing is computed at all.
    converse(&topology, &web, &other);
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
        converse(&topology, &web, &other);
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
    const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    let Some(mut topology) = Topology::without_daemon("offloads-complete") else {
        return;
    };
    let (host, client) = (&topology.world.host, &topology.world.client);
    for (namespace, below, own, peer) in [
        (host, "eth0", HOST, "198.18.0.1"),
        (client, "wire0", CLIENT, "198.18.0.2"),
    ] {
        set_offload(namespace, below, Offload::SendChecksums, false);
        let link = format!(
            "link add vx0 type vxlan id 7 dev {below} remote {peer} dstport 4789 udpcsum\n\
             address add {own}/24 dev vx0\nlink set vx0 up\n"
        );
        topology.ip(namespace, &link);
        set_offload(namespace, "vx0", Offload::SendChecksums, false);
    }
    topology
        .world
        .start_daemon(&["--uplink", "vx0"])
        .unwrap_or_else(|error| panic!("{error}"));
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let published = listen(&web, ANY, 80);
    let names = udp(&web, ANY, 53);
    let remote = listen(&topology.world.client, CLIENT, 80);
    for (near, far) in [
        (
            connect(&topology.world.client, (HOST, 8080)),
            published.accept().0,
        ),
        (connect(&web, (CLIENT, 80)), remote.accept().0),
    ] {
        transfer(&near, &far, LENGTH);
    }
    let asker = udp(&topology.world.client, CLIENT, 0);
    for question in [&b"odd"[..], &[0xa5; 1001]] {
        asker.send_to(question, (HOST, 5353)).unwrap();
        let from = hears(&names, question);
        names.send_to(&question[1..], from).unwrap();
        hears(&asker, &question[1..]);
    }
    for namespace in [&topology.world.host, &topology.world.client, &web.namespace] {
        assert_eq!(wrong_checksums(namespace), 0);
    }
}
