//! A host that has its IPv6 address and route from a router (RFC 4861, 4862):
//! it goes on listening to it, whatever networks there are.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::PacketBuilder;
use netdp::demo::world::{CLIENT_ADDRESS6, HOST_ADDRESS6, OUTSIDE_ADDRESS6, set_sysctls};
use netdp_tests::{Frames, SILENCE, Topology, connect_within, listen, talk};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// The client's address on its link, by which it is a router.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_MAC: [u8; 6] = [2, 0x6e, 0x64, 0x70, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// What the host's interface makes of its MAC address (RFC 4291, appendix A).
const INTERFACE: u64 = 0x006e_64ff_fe70_0002;

/// A router advertisement: this router is one for half an hour, and these 64
/// bits are a prefix for addresses of one's own for an hour.
fn advertisement(prefix: Ipv6Addr) -> Vec<u8> {
    const TYPE: u8 = 134;
    const PREFIX_INFORMATION: u8 = 3;
    const ON_LINK_AND_AUTONOMOUS: u8 = 0xc0;
    let hour = 3600_u32.to_be_bytes();
    let [high, low] = 1800_u16.to_be_bytes();
    let mut rest = vec![0; 8];
    rest.extend([PREFIX_INFORMATION, 4, 64, ON_LINK_AND_AUTONOMOUS]);
    rest.extend([hour, hour, [0; 4]].concat());
    rest.extend(prefix.octets());
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, ALL_NODES_MAC)
        .ipv6(ROUTER.octets(), ALL_NODES.octets(), 255)
        .icmpv6_raw(TYPE, 0, [64, 0, high, low]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &rest).unwrap();
    frame
}

fn own_address(prefix: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) | u128::from(INTERFACE))
}

#[test]
fn an_uplink_goes_on_hearing_its_router() {
    let Some(mut topology) = Topology::without_daemon("six-router") else {
        return;
    };
    let world = &topology.world;
    world.add_ipv6().unwrap();
    let (host, client) = (&world.host, &world.client);
    topology.ip(
        host,
        &format!(
            "route del default via {CLIENT_ADDRESS6} dev eth0\n\
             addr del {HOST_ADDRESS6}/64 dev eth0\n"
        ),
    );
    topology.ip(client, &format!("addr add {ROUTER}/64 dev wire0 nodad\n"));
    let settings = ["accept_ra", "autoconf"].map(|key| (format!("ipv6/conf/eth0/{key}"), "1"));
    let settings = settings
        .each_ref()
        .map(|(key, value)| (key.as_str(), *value));
    set_sysctls(host, &settings).unwrap();
    set_sysctls(host, &[("ipv6/conf/eth0/accept_dad", "0")]).unwrap();

    topology.start_daemon();
    topology.netdp("network create six --ipv6");
    let web = topology.container("web", "--network six -p 8080:80");
    let world = &topology.world;
    let (http, outside) = (listen(&web, ANY, 80), listen(&world.outside, ANY, 80));
    let refused = connect_within(&web, None, (OUTSIDE_ADDRESS6, 80), SILENCE);
    assert!(refused.is_err(), "there is no way out yet");

    let router = Frames::open(&world.client, "wire0");
    let mut told: Vec<IpAddr> = Vec::new();
    for subnet in [0x18, 0x28] {
        let prefix = Ipv6Addr::new(0x2001, 2, 0, subnet, 0, 0, 0, 0);
        let line = format!("route replace {prefix}/64 dev wire0\n");
        topology.ip(&world.client, &line);
        router.send(&advertisement(prefix));
        let own = own_address(prefix);
        told.push(own.into());
        topology.wait_until("reached at the address that the router told of", || {
            let Ok(near) = connect_within(&world.client, None, (own, 8080), SILENCE) else {
                return false;
            };
            let (far, _) = http.accept();
            talk(&near, &far);
            true
        });
        topology.wait_until("masqueraded under such an address", || {
            let Ok(near) = connect_within(&web, None, (OUTSIDE_ADDRESS6, 80), SILENCE) else {
                return false;
            };
            let (far, seen) = outside.accept();
            talk(&near, &far);
            assert!(told.contains(&seen.ip()), "{seen}");
            true
        });
        // Every network and sandbox more is a chance to spoil it.
        topology.netdp(&format!("network create more{subnet} --ipv6"));
        topology.container(&format!("c{subnet}"), &format!("--network more{subnet}"));
    }
}
