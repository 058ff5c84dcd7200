//! What the fast path must look at under test_run: each test has the way out kept, so
//! that its packets could be decided there. Needs root.

mod program_world;

use std::{net::Ipv4Addr, process::Command};

use netdp::bpf::{Entry, Key, TestPacket};
use netdp_common::{
    addr::{Be16, proto},
    drop::DropReason,
    maps::{PortKey, Uplink, name},
    own,
};
use program_world::{
    CLIENT, Container, HOST, HOST_2, NEXT, REMOTE, ROUTER_MAC, SECOND_MAC, WEB, World, arriving,
    family::Family,
    fast::{is_fast, open_outward, open_published},
    frame::{ACK, FIN, Frame, RST, SYN, at},
    v4, v6, world, worlds,
};

/// Until the way out is kept, for a second: the packet is one that the fast path
/// decides then.
#[track_caller]
fn keep_the_way(world: &mut World, from: &Container, frame: &Frame) {
    assert!(is_fast(world, Some(from), frame), "{frame:?}");
}

/// WEB's datagram to this address, which the tables alone decide about.
fn any_answer(world: &World, to: Ipv4Addr) -> Frame {
    world.web.frame(Frame::udp(at(WEB, 53), at(to, 40_000)))
}

#[test]
fn a_connection_of_ones_own_from_a_published_port_stays_its_own() {
    worlds(|world| {
        let web = world.web;
        let segment = |flags| web.frame(Frame::tcp(flags, at(WEB, 80), at(REMOTE, 443)));
        let seen = world.leaves(&web, &segment(SYN));
        assert_eq!(seen.from, at(HOST, 80));
        world.enters(&arriving(seen.answer(SYN | ACK)), &web);
        let way = any_answer(world, REMOTE);
        for flags in [SYN | ACK, FIN | ACK, RST] {
            keep_the_way(world, &web, &way);
            let seen = world.leaves(&web, &segment(flags));
            assert_eq!(seen.from, at(HOST, 80), "{flags:#x}");
        }
    });
}

#[test]
fn a_first_segment_makes_an_entry_where_the_way_is_kept() {
    worlds(|world| {
        let web = world.web;
        let way = any_answer(world, REMOTE);
        keep_the_way(world, &web, &way);
        let syn = web.frame(Frame::tcp(SYN, at(WEB, 80), at(REMOTE, 443)));
        assert_eq!(world.leaves(&web, &syn).from, at(HOST, 80));
        world.holds(0, 1);
    });
}

#[test]
fn an_answer_to_another_address_of_the_host_is_the_stacks() {
    worlds(|world| {
        let (_, back) = open_outward(world);
        assert!(is_fast(world, None, &back));
        let mut other = back.clone();
        other.to = at(HOST_2, back.to.port());
        world.passes(&other.bytes());
    });
}

#[test]
fn a_last_hop_is_told_of_where_the_way_is_kept() {
    worlds(|world| {
        let db = world.db;
        let (data, _) = open_outward(world);
        keep_the_way(world, &db, &data);
        let last = data.with_ttl(1).bytes();
        match Family::of_world() {
            Family::V4 => world.is_for_the_stack(&db, &last),
            Family::V6 => assert_eq!(world.is_refused(&db, &last), DropReason::Expired),
        }
    });
}

/// Makes the one flow one of another uplink's.
fn move_flows(world: &mut World) {
    const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
    let ifindex = nix::net::if_::if_nametoindex("wire1").unwrap();
    let uplink = Uplink {
        mac: SECOND_MAC,
        prefix4: 24,
        prefix6: 120,
        addr4: v4(SECOND),
        gateway4: v4(GATEWAY),
        addr6: v6(SECOND),
        gateway6: v6(GATEWAY),
        ..Uplink::default()
    };
    world.put(Key::Uplink(ifindex), Entry::Uplink(uplink));
    macro_rules! move_all {
        ($addr:ty) => {{
            let mut seen = world.datapath.flows::<$addr>().unwrap();
            seen.iter_mut().for_each(|seen| seen.flow.ifindex = ifindex);
            world
                .datapath
                .flow_tables::<$addr>()
                .rewrite(&seen)
                .unwrap();
        }};
    }
    move_all!(netdp_common::addr::V4Addr);
    move_all!(netdp_common::addr::V6Addr);
}

#[test]
fn a_flow_of_another_uplink_does_not_leave_by_the_way_that_is_kept() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let (data, _) = open_outward(world);
        let (_, back) = open_published(world);
        keep_the_way(world, &db, &data);
        keep_the_way(world, &web, &back);
        move_flows(world);
        for (from, frame) in [(&db, &data), (&web, &back)] {
            // By the neighbour table of the second, whose MACs nobody has written.
            assert!(!is_fast(world, Some(from), frame));
            let seen = world.leaves(from, frame);
            assert_ne!(seen.source, program_world::HOST_MAC);
            assert_ne!(seen.destination, ROUTER_MAC);
        }
    });
}

#[test]
fn an_answer_from_where_a_container_is_now_is_spoofed() {
    worlds(|world| {
        let (_, back) = open_outward(world);
        assert!(is_fast(world, None, &back));
        let mut moved = world.loner;
        moved.addr = REMOTE;
        world.connect(&moved);
        assert_eq!(world.is_kept_out(&back.bytes()), DropReason::SpoofedSource);
    });
}

#[test]
fn a_datagram_leaves_by_a_range_that_came_after_its_flow() {
    worlds(|world| {
        let web = world.web;
        let asks = web.frame(Frame::udp(at(WEB, 7001), at(CLIENT, 53)));
        let seen = world.leaves(&web, &asks);
        assert_eq!(seen.from, at(HOST, 7001));
        world.enters(&arriving(seen.answer(0)), &web);
        keep_the_way(world, &web, &asks);
        world.publish_range((9000, 9009), &web, 7000, proto::UDP, Some(HOST));
        assert_eq!(world.leaves(&web, &asks).from, at(HOST, 9001));
        let answer = any_answer(world, CLIENT);
        keep_the_way(world, &web, &answer);
        assert_eq!(world.leaves(&web, &asks).from, at(HOST, 9001));
    });
}

#[test]
fn segments_longer_than_the_link_takes_are_not_the_fast_paths() {
    const MTU: &str = "link set wire0 mtu 1300";
    worlds(|world| {
        let db = world.db;
        let done = Command::new("ip").args(MTU.split(' ')).status().unwrap();
        assert!(done.success());
        let (mut data, _) = open_outward(world);
        keep_the_way(world, &db, &data);
        data.dont_fragment = true;
        data.payload = vec![0x5a; 2896];
        let bytes = data.bytes();
        let packet = TestPacket {
            gso_size: 1448,
            ..TestPacket::received(&bytes, db.ifindex)
        };
        let run = |world: &mut World| world.datapath.test_run("from_container", &packet).unwrap();
        match Family::of_world() {
            Family::V4 => {
                let run = run(world);
                assert_eq!(run.action, NEXT, "{:?}", world.drops());
                assert_eq!(run.packet, bytes);
            }
            Family::V6 => assert_eq!(world.reason(run), DropReason::TooBig),
        }
    });
}

/// A port's bit in the filter of what is the host's and containers' own.
fn has_bit(world: &World, port: u16) -> bool {
    let (word, bit) = own::place_of_port(Be16::new(port));
    let words = world.maps.contents(name::OWN);
    let word = words.get(&word.to_ne_bytes()[..]);
    word.is_some_and(|word| u64::from_ne_bytes(word[..].try_into().unwrap()) & bit != 0)
}

/// Only the last of those that share a port's bit takes it away.
#[test]
fn a_port_is_known_until_its_last_mapping_is_taken_back() {
    const PORT: u16 = 8443;
    world(|world| {
        let web = world.web;
        assert!(!has_bit(world, PORT));
        let mut left = Vec::new();
        for family in [Family::V4, Family::V6] {
            family.set_for_world();
            world.connect(&web);
            for addr in [HOST, HOST_2] {
                for proto in [proto::TCP, proto::UDP] {
                    world.publish(Some(addr), PORT, &web, 80, proto, Some(addr));
                    left.push((family, addr, proto));
                }
            }
        }
        while !left.is_empty() {
            assert!(has_bit(world, PORT), "{left:?}");
            for (family, addr, proto) in &left {
                family.set_for_world();
                let (from, to) = (at(CLIENT, 40_000), at(*addr, PORT));
                let frame = match *proto {
                    proto::TCP => Frame::tcp(ACK, from, to),
                    _ => Frame::udp(from, to),
                };
                world.enters(&arriving(frame), &web);
            }
            let (family, addr, proto) = left.remove(left.len() / 2);
            family.set_for_world();
            let port = Be16::new(PORT);
            let key = match family {
                Family::V4 => Key::Port4(PortKey::new(v4(addr), port, proto)),
                Family::V6 => Key::Port6(PortKey::new(v6(addr), port, proto)),
            };
            world.datapath.remove(&key).unwrap();
        }
        assert!(!has_bit(world, PORT));
        Family::V4.set_for_world();
    });
}
