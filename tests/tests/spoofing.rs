//! What a container must not send.

use std::net::Ipv4Addr;

use netdp::demo::world::OUTSIDE_ADDRESS;
use netdp_tests::{Frames, Topology, datagram, hears, says_nothing, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

#[test]
fn only_its_own_addresses_leave_a_container() {
    let Some(topology) = Topology::start("spoof") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let outside = udp(&topology.world.outside, ANY, 53);
    let neighbour = udp(&other, ANY, 53);
    let gateway = one.gateway_mac();
    let frames = Frames::open(&one.namespace, "eth0");

    // As it should be, so that the rest is refused for nothing but its source.
    for (to, server) in [(OUTSIDE_ADDRESS, &outside), (other.address, &neighbour)] {
        frames.send(&datagram(
            (one.mac, gateway),
            (one.address, 40_000),
            (to, 53),
            b"mine",
        ));
        hears(server, b"mine");
    }

    let spoofed = topology.dropped("spoofed-source");
    let of_endpoint = || {
        let statistics = topology.statistics();
        let found = statistics.endpoints.into_iter().find(|of| of.name == "one");
        found.expect("counters of one").drops
    };
    let refused = of_endpoint();
    let nobody = Ipv4Addr::new(203, 0, 113, 9);
    for to in [(OUTSIDE_ADDRESS, 53), (other.address, 53)] {
        for (mac, address) in [
            (one.mac, other.address),
            (one.mac, nobody),
            (one.mac, one.gateway),
            (other.mac, one.address),
            (other.mac, other.address),
        ] {
            frames.send(&datagram(
                (mac, gateway),
                (address, 40_000),
                to,
                b"not mine",
            ));
        }
    }
    // An ARP reply that says the gateway's address is here.
    let mut arp = [[0xff; 6], one.mac].concat();
    arp.extend(ETHERTYPE_ARP);
    arp.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    arp.extend(one.mac);
    arp.extend(one.gateway.octets());
    arp.extend(other.mac);
    arp.extend(other.address.octets());
    frames.send(&arp);

    says_nothing(&outside);
    says_nothing(&neighbour);
    assert_eq!(topology.dropped("spoofed-source"), spoofed + 10);
    assert_eq!(of_endpoint(), refused + 11);
}

/// A frame behind a tag of this kind, with this priority and VLAN.
fn tagged(frame: &[u8], kind: [u8; 2], tag: [u8; 2]) -> Vec<u8> {
    [&frame[..12], &kind, &tag, &frame[12..]].concat()
}

#[test]
fn no_tag_of_a_vlan_leaves_a_container() {
    let Some(topology) = Topology::start("spoof-vlan") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let outside = udp(&topology.world.outside, ANY, 53);
    let neighbour = udp(&other, ANY, 53);
    let macs = (one.mac, one.gateway_mac());
    let frames = Frames::open(&one.namespace, "eth0");
    let refused = topology.dropped("unknown-ethertype");
    for to in [OUTSIDE_ADDRESS, other.address] {
        let frame = datagram(macs, (one.address, 40_000), (to, 53), b"words");
        for (kind, tag) in [
            ([0x81, 0], [0, 5]),
            ([0x88, 0xa8], [0, 5]),
            ([0x81, 0], [0xe0, 0]),
        ] {
            frames.send(&tagged(&frame, kind, tag));
        }
    }
    says_nothing(&outside);
    says_nothing(&neighbour);
    assert_eq!(topology.dropped("unknown-ethertype"), refused + 6);
}

#[test]
fn what_is_not_ipv4_or_is_malformed_ends_at_the_container() {
    let Some(topology) = Topology::start("spoof-malformed") else {
        return;
    };
    let one = topology.container("one", "");
    let outside = udp(&topology.world.outside, ANY, 53);
    let gateway = one.gateway_mac();
    let frames = Frames::open(&one.namespace, "eth0");
    let whole = datagram(
        (one.mac, gateway),
        (one.address, 40_000),
        (OUTSIDE_ADDRESS, 53),
        b"words",
    );

    let unknown = topology.dropped("unknown-ethertype");
    let malformed = topology.dropped("malformed");
    let mut other_ethertype = whole.clone();
    other_ethertype[12..14].copy_from_slice(&[0x88, 0xcc]);
    frames.send(&other_ethertype);
    // Headers that are cut off or contradict themselves.
    let cut = &whole[..14 + 12];
    frames.send(cut);
    let mut version = whole.clone();
    version[14] = 0x65;
    frames.send(&version);
    let mut header_length = whole.clone();
    header_length[14] = 0x41;
    frames.send(&header_length);
    let mut total_length = whole.clone();
    total_length[16..18].copy_from_slice(&19_u16.to_be_bytes());
    frames.send(&total_length);
    says_nothing(&outside);
    assert_eq!(topology.dropped("unknown-ethertype"), unknown + 1);
    assert_eq!(topology.dropped("malformed"), malformed + 4);
    frames.send(&whole);
    hears(&outside, b"words");
}

#[test]
fn a_frame_is_what_its_header_says() {
    let Some(topology) = Topology::start("spoof-protocol") else {
        return;
    };
    let one = topology.container("one", "");
    let macs = (one.mac, one.gateway_mac());
    let from = (one.address, 40_000);
    let outside = udp(&topology.world.outside, ANY, 53);
    let frames = Frames::open_as(&one.namespace, "eth0", libc::ETH_P_IP as u16);
    let words = datagram(macs, from, (OUTSIDE_ADDRESS, 53), b"words");
    frames.send(&words);
    hears(&outside, b"words");

    let unknown = topology.dropped("unknown-ethertype");
    let mut other = words;
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    frames.offer(&other);
    topology.wait_until("dropped", || {
        topology.dropped("unknown-ethertype") == unknown + 1
    });
    says_nothing(&outside);
}
