//! What stays on the host under test_run: containers with each other, with
//! published ports of their own host, and with its stack; and what they may
//! not send. Needs root.

mod program_world;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use netdp::bpf::{Entry, Key, TestPacket};
use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{Uplink, endpoint_flags, flow_kind, uplink_flags},
};
use program_world::{
    CLIENT, CLIENT_MAC, Container, DB, GATEWAY, HOST, HOST_2, HOST_MAC, LONER, LONER_GATEWAY, NEXT,
    REDIRECT, REMOTE, WEB, World,
    frame::{ACK, FIN, Frame, Mac, PSH, SYN, at, between, raw},
    world, worlds,
};
use std::net::Ipv4Addr;

/// A packet that one container sends is as another one sees it.
fn reaches(world: &mut World, from: &Container, frame: &Frame, to: &Container) -> Frame {
    let before = world.datapath.stats(to.slot).unwrap();
    let seen = world.leaves(from, frame);
    let after = world.datapath.stats(to.slot).unwrap();
    assert_eq!(after.rx_packets, before.rx_packets + 1);
    assert_eq!((seen.destination, seen.source), (to.mac, to.host_mac));
    assert_eq!(seen.ttl, frame.ttl, "there is no hop in between");
    seen
}

#[test]
fn containers_of_one_network_reach_each_other_without_an_entry() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let frames = [
            Frame::tcp(SYN, at(DB, 40_000), at(WEB, 22)),
            Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80)),
            Frame::udp(at(DB, 40_000), at(WEB, 53)),
            Frame::echo_request(DB, WEB, 7),
        ];
        for frame in frames {
            let there = db.frame(frame);
            let seen = reaches(world, &db, &there, &web);
            assert_eq!((seen.from, seen.to), (there.from, there.to));
            let back = web.frame(seen.answer(SYN | ACK));
            let seen = reaches(world, &web, &back, &db);
            assert_eq!((seen.from, seen.to), (there.to, there.from));
        }
        let sctp = between(raw(132, DB, WEB, &[0; 40]), db.mac, db.host_mac);
        assert_eq!(world.run_from_container(&db, &sctp).action, REDIRECT);
        world.holds(0, 0);
    });
}

#[test]
fn networks_are_apart() {
    worlds(|world| {
        let (web, loner) = (world.web, world.loner);
        for frame in [
            loner.frame(Frame::tcp(SYN, at(LONER, 40_000), at(WEB, 80))),
            loner.frame(Frame::udp(at(LONER, 40_000), at(WEB, 53))),
            loner.frame(Frame::echo_request(LONER, WEB, 7)),
        ] {
            assert_eq!(
                world.is_refused(&loner, &frame.bytes()),
                DropReason::OtherNetwork
            );
        }
        let back = web.frame(Frame::tcp(SYN | ACK, at(WEB, 80), at(LONER, 40_000)));
        assert_eq!(
            world.is_refused(&web, &back.bytes()),
            DropReason::OtherNetwork
        );
        world.holds(0, 0);
    });
}

#[test]
fn without_icc_only_published_ports_are_open() {
    worlds(|world| {
        let (web, mut db) = (world.web, world.db);
        db.flags &= !endpoint_flags::ICC;
        world.connect(&db);
        let direct = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80)));
        assert_eq!(world.is_refused(&db, &direct.bytes()), DropReason::NoIcc);
        let published = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(HOST, 8080)));
        let seen = reaches(world, &db, &published, &web);
        assert_eq!(seen.to, at(WEB, 80));
    });
}

#[test]
fn a_container_reaches_a_published_port_of_another() {
    worlds(|world| {
        let web = world.web;
        // On the same network, and on another one, which is not let in
        // otherwise.
        for (client, addr) in [
            (world.db, HOST),
            (world.loner, HOST_2),
            (world.loner, GATEWAY),
        ] {
            let own = client.addr;
            let segment = |flags| client.frame(Frame::tcp(flags, at(own, 40_000), at(addr, 8080)));
            let reply = |flags| web.frame(Frame::tcp(flags, at(WEB, 80), at(own, 40_000)));
            let held = world.flows().len();
            let seen = reaches(world, &client, &segment(SYN), &web);
            assert_eq!((seen.from, seen.to), (at(own, 40_000), at(WEB, 80)));
            assert_eq!(world.pending().len(), 1);
            let seen = reaches(world, &web, &reply(SYN | ACK), &client);
            assert_eq!((seen.from, seen.to), (at(addr, 8080), at(own, 40_000)));
            world.holds(held + 1, 0);
            reaches(world, &client, &segment(ACK), &web);
            for flags in [ACK, PSH | ACK, FIN | ACK] {
                let seen = reaches(world, &web, &reply(flags), &client);
                assert_eq!(seen.from, at(addr, 8080));
            }
            if addr == HOST_2 {
                // The next client is the same container.
                world.forget_local(HOST_2);
                break;
            }
        }
    });
}

#[test]
fn udp_reaches_a_published_port_of_another_container() {
    worlds(|world| {
        let (web, loner) = (world.web, world.loner);
        let query = loner.frame(Frame::udp(at(LONER, 40_000), at(HOST, 5353)));
        let seen = reaches(world, &loner, &query, &web);
        assert_eq!(seen.to, at(WEB, 53));
        let answer = web.frame(Frame::udp(at(WEB, 53), at(LONER, 40_000)));
        let seen = reaches(world, &web, &answer, &loner);
        assert_eq!(seen.from, at(HOST, 5353));
        world.holds(1, 0);
    });
}

#[test]
fn a_container_reaches_its_own_published_port() {
    worlds(|world| {
        let web = world.web;
        let segment = |flags| web.frame(Frame::tcp(flags, at(WEB, 40_000), at(HOST, 8080)));
        let reply = |flags| web.frame(Frame::tcp(flags, at(WEB, 80), at(GATEWAY, 40_000)));
        let seen = reaches(world, &web, &segment(SYN), &web);
        assert_eq!(seen.from, at(GATEWAY, 40_000), "not from itself");
        assert_eq!(seen.to, at(WEB, 80));
        world.holds(0, 1);
        assert_eq!(world.pending()[0].flow.kind, flow_kind::HAIRPIN);
        let seen = reaches(world, &web, &reply(SYN | ACK), &web);
        assert_eq!((seen.from, seen.to), (at(HOST, 8080), at(WEB, 40_000)));
        world.holds(1, 0);
        let seen = reaches(world, &web, &segment(PSH | ACK), &web);
        assert_eq!((seen.from, seen.to), (at(GATEWAY, 40_000), at(WEB, 80)));
        let seen = reaches(world, &web, &reply(PSH | ACK), &web);
        assert_eq!((seen.from, seen.to), (at(HOST, 8080), at(WEB, 40_000)));
        world.holds(1, 0);

        let query = web.frame(Frame::udp(at(WEB, 40_000), at(HOST, 5353)));
        let seen = reaches(world, &web, &query, &web);
        assert_eq!((seen.from, seen.to), (at(GATEWAY, 40_000), at(WEB, 53)));
        let answer = web.frame(seen.answer(0));
        let seen = reaches(world, &web, &answer, &web);
        assert_eq!((seen.from, seen.to), (at(HOST, 5353), at(WEB, 40_000)));
    });
}

#[test]
fn a_hairpin_and_a_direct_connection_with_one_tuple_are_told_apart() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let hairpin = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(HOST, 8080)));
        reaches(world, &db, &hairpin, &web);
        let reply = |flags| web.frame(Frame::tcp(flags, at(WEB, 80), at(DB, 40_000)));
        reaches(world, &web, &reply(SYN | ACK), &db);
        let opened = db.frame(Frame::tcp(ACK, at(DB, 40_000), at(HOST, 8080)));
        reaches(world, &db, &opened, &web);
        // Another published port, the same client port.
        world.publish(None, 8081, &web, 80, proto::TCP, None);
        let other = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(HOST, 8081)));
        assert_eq!(
            world.is_refused(&db, &other.bytes()),
            DropReason::TupleTaken
        );
        // A direct one of another client port is answered as it is.
        let direct = db.frame(Frame::tcp(SYN, at(DB, 40_001), at(WEB, 80)));
        reaches(world, &db, &direct, &web);
        let answer = web.frame(Frame::tcp(SYN | ACK, at(WEB, 80), at(DB, 40_001)));
        assert_eq!(reaches(world, &web, &answer, &db).from, at(WEB, 80));
    });
}

#[test]
fn services_of_the_host_are_its_stacks() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        for addr in [HOST, HOST_2, GATEWAY, LONER_GATEWAY] {
            let frames = [
                Frame::tcp(SYN, at(DB, 40_000), at(addr, 22)),
                Frame::udp(at(DB, 40_000), at(addr, 53)),
                Frame::echo_request(DB, addr, 7),
            ];
            for frame in frames {
                world.is_for_the_stack(&db, &db.frame(frame).bytes());
            }
        }
        // An answer of a container that also publishes ports.
        let answer = web.frame(Frame::tcp(SYN | ACK, at(WEB, 80), at(GATEWAY, 40_000)));
        world.is_for_the_stack(&web, &answer.bytes());
        world.holds(0, 0);
    });
}

#[test]
fn only_the_hosts_own_packets_reach_a_container_by_its_stack() {
    worlds(|world| {
        let web = world.web;
        let bytes = Frame::tcp(SYN, at(GATEWAY, 40_000), at(WEB, 80))
            .between(web.host_mac, web.mac)
            .bytes();
        let own = TestPacket::sent(&bytes, web.ifindex);
        let run = world.datapath.test_run("to_container", &own).unwrap();
        assert_eq!((run.action, run.packet.as_slice()), (NEXT, &bytes[..]));
        let stats = world.datapath.stats(web.slot).unwrap();
        assert_eq!(stats.rx_packets, 1);
        assert_eq!(stats.rx_bytes, bytes.len() as u64);
        for ingress_ifindex in [world.uplink, world.loner.ifindex] {
            let forwarded = TestPacket {
                ingress_ifindex,
                ..own
            };
            let reason =
                world.reason(|world| world.datapath.test_run("to_container", &forwarded).unwrap());
            assert_eq!(reason, DropReason::NotPublished);
        }
    });
}

/// What the host's stack sends to a container: what became of it, if it was
/// forwarded and not the host's own.
fn forwarded(world: &mut World, to: &Container, bytes: &[u8]) -> Option<DropReason> {
    let packet = TestPacket {
        ingress_ifindex: world.uplink,
        ..TestPacket::sent(bytes, to.ifindex)
    };
    let before = world.datapath.drops().unwrap();
    let run = world.datapath.test_run("to_container", &packet).unwrap();
    let after = world.datapath.drops().unwrap();
    if run.action == NEXT {
        assert_eq!((run.packet.as_slice(), after), (bytes, before));
        return None;
    }
    let mut counted = before.iter().zip(&after).filter(|(old, new)| old != new);
    Some(counted.next().expect("a drop is counted").1.0)
}

#[test]
fn what_the_host_forwards_passes_where_it_answers_the_container() {
    worlds(|world| {
        let (db, web, loner) = (world.db, world.web, world.loner);
        let to_db = |frame: Frame| frame.between(db.host_mac, db.mac);
        let answers = [
            Frame::tcp(SYN | ACK, at(HOST, 9090), at(DB, 40_000)),
            Frame::tcp(PSH | ACK, at(HOST, 9090), at(DB, 40_000)),
            Frame::udp(at(HOST, 9090), at(DB, 40_000)),
        ]
        .map(to_db);
        for answer in &answers {
            let dropped = forwarded(world, &db, &answer.bytes());
            assert_eq!(dropped, Some(DropReason::NotPublished), "nobody has asked");
        }
        for ask in [
            // Nothing is noted of what opens nothing.
            Frame::tcp(ACK, at(DB, 40_000), at(HOST, 9091)),
            Frame::tcp(SYN, at(DB, 40_000), at(HOST, 9090)),
            Frame::udp(at(DB, 40_000), at(HOST, 9090)),
            Frame::echo_request(DB, HOST, 7),
        ] {
            world.is_for_the_stack(&db, &db.frame(ask).bytes());
        }
        let before = world.datapath.stats(db.slot).unwrap().rx_packets;
        for answer in &answers {
            assert_eq!(forwarded(world, &db, &answer.bytes()), None);
        }
        let mut large = answers[2].clone();
        large.payload = vec![7; 3_000];
        large.id = 77;
        let [first, later] = large.fragments(1_480);
        for (fragment, passes) in [(&later, false), (&first, true), (&later, true)] {
            let dropped = forwarded(world, &db, fragment);
            assert_eq!(dropped.is_none(), passes, "{dropped:?}");
        }
        let after = world.datapath.stats(db.slot).unwrap().rx_packets;
        assert_eq!(after, before + 5);
        // Another port, another address of the host, what opens a connection,
        // and another container with the same address.
        for wrong in [
            Frame::tcp(SYN | ACK, at(HOST, 9091), at(DB, 40_000)),
            Frame::tcp(SYN | ACK, at(HOST, 9090), at(DB, 40_001)),
            Frame::tcp(SYN | ACK, at(HOST_2, 9090), at(DB, 40_000)),
            Frame::tcp(SYN, at(HOST, 9090), at(DB, 40_000)),
            Frame::udp(at(CLIENT, 9090), at(DB, 40_000)),
            Frame::echo_request(HOST, DB, 7),
        ]
        .map(to_db)
        {
            let dropped = forwarded(world, &db, &wrong.bytes());
            assert_eq!(dropped, Some(DropReason::NotPublished), "{wrong:?}");
        }
        for other in [&web, &loner] {
            let dropped = forwarded(world, other, &answers[0].bytes());
            assert_eq!(dropped, Some(DropReason::NotPublished));
        }
        world.holds(0, 0);
    });
}

#[test]
fn a_bridge_of_others_may_bring_answers_and_be_asked() {
    worlds(|world| {
        let uplink = world.uplink;
        let asked = Frame::tcp(SYN, at(DB, 40_000), at(CLIENT, 80)).bytes();
        let answer = |flags| Frame::tcp(flags, at(CLIENT, 80), at(DB, 40_000));
        let answer = |flags| answer(flags).between(CLIENT_MAC, HOST_MAC).bytes();
        let ask = |world: &mut World| {
            let packet = TestPacket {
                ingress_ifindex: world.db.ifindex,
                ..TestPacket::sent(&asked, uplink)
            };
            world.datapath.test_run("to_netdev", &packet).unwrap()
        };
        assert_eq!(world.reason(ask), DropReason::NoFlow);
        let refused = world.is_kept_out(&answer(SYN | ACK));
        assert_eq!(refused, DropReason::NotPublished);
        let bridge = Uplink {
            flags: uplink_flags::BESIDE,
            ..Uplink::default()
        };
        world.put(Key::Uplink(uplink), Entry::Uplink(bridge));
        assert_eq!(ask(world).action, NEXT);
        for flags in [SYN | ACK, ACK] {
            world.passes(&answer(flags));
        }
        let opening = world.is_kept_out(&answer(SYN));
        assert_eq!(opening, DropReason::NotPublished);
    });
}

#[test]
fn what_an_internal_network_asks_the_host_for_is_not_answered_from_behind_it() {
    worlds(|world| {
        let mut db = world.db;
        db.flags |= endpoint_flags::INTERNAL;
        world.connect(&db);
        let ask = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(HOST, 9090)));
        world.is_for_the_stack(&db, &ask.bytes());
        let answer = Frame::tcp(SYN | ACK, at(HOST, 9090), at(DB, 40_000));
        let answer = answer.between(db.host_mac, db.mac).bytes();
        assert_eq!(
            forwarded(world, &db, &answer),
            Some(DropReason::NotPublished)
        );
    });
}

#[test]
fn sources_that_are_not_the_containers_own_are_refused() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let honest = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)));
        for addr in [WEB, GATEWAY, HOST, CLIENT, REMOTE, Ipv4Addr::UNSPECIFIED] {
            for to in [REMOTE, WEB, HOST] {
                let spoofed = Frame {
                    from: at(addr, 40_000),
                    to: at(to, 443),
                    ..honest.clone()
                };
                assert_eq!(
                    world.is_refused(&db, &spoofed.bytes()),
                    DropReason::SpoofedSource,
                    "{addr} to {to}"
                );
            }
        }
        for mac in [web.mac, db.host_mac, CLIENT_MAC, [0; 6]] {
            let spoofed = honest.clone().between(mac, db.host_mac);
            assert_eq!(
                world.is_refused(&db, &spoofed.bytes()),
                DropReason::SpoofedSource
            );
        }
        world.holds(0, 0);
    });
}

#[test]
fn what_is_neither_ipv4_nor_arp_is_refused() {
    world(|world| {
        let db = world.db;
        let mut ipv6 = Vec::new();
        PacketBuilder::ethernet2(db.mac, db.host_mac)
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .udp(1, 2)
            .write(&mut ipv6, &[0; 8])
            .unwrap();
        assert_eq!(world.is_refused(&db, &ipv6), DropReason::UnknownEthertype);
        // A VLAN tag, LLDP, and a length of IEEE 802.3.
        for ethertype in [[0x81, 0], [0x88, 0xcc], [0, 40]] {
            let mut frame = between(raw(17, DB, WEB, &[0; 40]), db.mac, db.host_mac);
            frame[12..14].copy_from_slice(&ethertype);
            assert_eq!(world.is_refused(&db, &frame), DropReason::UnknownEthertype);
        }
        // From outside they are the stack's.
        world.passes(&ipv6);
    });
}

#[test]
fn multicast_is_not_carried() {
    worlds(|world| {
        let db = world.db;
        for group in [[224, 0, 0, 251], [239, 1, 2, 3], [255, 255, 255, 255]] {
            let frame = db.frame(Frame::udp(at(DB, 5353), at(group.into(), 5353)));
            assert_eq!(world.is_refused(&db, &frame.bytes()), DropReason::Multicast);
        }
    });
}

#[test]
fn an_interface_without_an_entry_has_no_network() {
    worlds(|world| {
        let db = world.db;
        world.datapath.remove(&Key::Endpoint(db.ifindex)).unwrap();
        let frame = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80)));
        let reason = world.reason(|world| world.run_from_container(&db, &frame.bytes()));
        assert_eq!(reason, DropReason::NoEndpoint);
    });
}

/// An ARP packet of a container.
fn arp(operation: ArpOperation, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    )
    .unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac, [0xff; 6])
        .arp(packet)
        .write(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn arp_is_answered_for_the_gateway_and_the_neighbours() {
    world(|world| {
        let db = world.db;
        for (sender, target) in [(DB, GATEWAY), (DB, WEB), (Ipv4Addr::UNSPECIFIED, GATEWAY)] {
            let request = arp(ArpOperation::REQUEST, db.mac, sender, target);
            let run = world.run_from_container(&db, &request);
            assert_eq!(run.action, REDIRECT);
            assert_eq!(run.packet.len(), request.len());
            let (ethernet, rest) = etherparse::Ethernet2Header::from_slice(&run.packet).unwrap();
            assert_eq!(ethernet.destination, db.mac);
            assert_eq!(ethernet.source, db.host_mac);
            let reply = etherparse::ArpPacketSlice::from_slice(rest).unwrap();
            assert_eq!(reply.operation(), ArpOperation::REPLY);
            assert_eq!(reply.sender_hw_addr(), db.host_mac);
            assert_eq!(reply.sender_protocol_addr(), target.octets());
            assert_eq!(reply.target_hw_addr(), db.mac);
            assert_eq!(reply.target_protocol_addr(), sender.octets());
        }
    });
}

#[test]
fn other_arp_is_refused() {
    world(|world| {
        let (db, web) = (world.db, world.web);
        let request = |target| arp(ArpOperation::REQUEST, db.mac, DB, target);
        // Its own address is asked for to find a duplicate.
        for target in [LONER, HOST, REMOTE, [172, 20, 0, 99].into(), DB] {
            assert_eq!(
                world.is_refused(&db, &request(target)),
                DropReason::ArpUnknown,
                "for {target}"
            );
        }
        let gratuitous = arp(ArpOperation::REPLY, db.mac, DB, GATEWAY);
        assert_eq!(world.is_refused(&db, &gratuitous), DropReason::ArpUnknown);
        let spoofed = arp(ArpOperation::REQUEST, db.mac, WEB, GATEWAY);
        assert_eq!(world.is_refused(&db, &spoofed), DropReason::SpoofedSource);
        let spoofed = arp(ArpOperation::REQUEST, web.mac, DB, GATEWAY);
        assert_eq!(world.is_refused(&db, &spoofed), DropReason::SpoofedSource);
        let inner = between(spoofed, db.mac, [0xff; 6]);
        assert_eq!(world.is_refused(&db, &inner), DropReason::SpoofedSource);
        let whole = request(GATEWAY);
        assert_eq!(
            world.is_refused(&db, &whole[..whole.len() - 1]),
            DropReason::ArpUnknown
        );
    });
}
