//! Blocked sources, under test_run: at tcx and in the driver. Needs root.

mod program_world;

use std::net::Ipv4Addr;

use ipnet::IpNet;
use netdp::bpf::{Entry, Key, TestPacket, blocked_key};
use netdp_common::{drop::DropReason, maps::Uplink};
use program_world::{
    CLIENT, HOST, HOST_2, HOST_MAC, NEXT, REDIRECT, REMOTE, WEB, World, arriving,
    family::{Family, ip},
    frame::{ACK, Frame, SYN, at},
    world, worlds, worlds_accelerated,
};

/// `XDP_DROP` and `XDP_PASS` of `include/uapi/linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// `lo`, by which the kernel has frames arrive at an XDP program that is tried.
const LO: u32 = 1;
const PORT: u16 = 40_000;
/// The network of REMOTE, and others of it.
const NEAR_REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);
const BESIDE_REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 101, 7);

/// A network of IPv4, in a world of IPv6 the one that embeds it.
fn net(addr: Ipv4Addr, bits: u8) -> IpNet {
    let bits = match Family::of_world() {
        Family::V4 => bits,
        Family::V6 => 96 + bits,
    };
    IpNet::new(ip(addr), bits).unwrap().trunc()
}

fn block(world: &mut World, addr: Ipv4Addr, bits: u8) -> IpNet {
    let source = net(addr, bits);
    world.put(blocked_key(source), Entry::Blocked);
    source
}

/// To a published port, to one of the host, to a container itself, to nobody
/// here, in answer, and about something.
fn of(source: Ipv4Addr) -> Vec<Vec<u8>> {
    let frames = [
        Frame::tcp(SYN, at(source, PORT), at(HOST, 8080)),
        Frame::tcp(ACK, at(source, 80), at(HOST, PORT)),
        Frame::tcp(SYN, at(source, PORT), at(HOST, 22)),
        Frame::udp(at(source, PORT), at(HOST_2, 5353)),
        Frame::udp(at(source, PORT), at(WEB, 53)),
        Frame::udp(at(source, PORT), at(Ipv4Addr::new(203, 0, 113, 7), 53)),
        Frame::echo_request(source, HOST, 7),
    ];
    let mut packets: Vec<_> = frames.map(|frame| arriving(frame).bytes()).into();
    packets.extend(arriving(Frame::udp(at(source, PORT), at(HOST, 5353))).fragments(16));
    packets
}

#[test]
fn nothing_of_a_blocked_source_gets_in() {
    worlds(|world| {
        let web = world.web;
        // A conversation that the container began, and one with its port.
        let asked = web.frame(Frame::tcp(SYN, at(WEB, PORT), at(REMOTE, 443)));
        let left = world.leaves(&web, &asked);
        let answer = arriving(left.answer(SYN | ACK));
        world.enters(&answer, &web);
        let request = arriving(Frame::tcp(SYN, at(REMOTE, PORT), at(HOST, 8080)));
        world.enters(&request, &web);

        let source = block(world, REMOTE, 24);
        let mut packets = of(REMOTE);
        packets.extend(of(NEAR_REMOTE));
        packets.push(answer.bytes());
        packets.push(request.bytes());
        // What no program can parse.
        let mut strange = request.bytes();
        strange.truncate(match Family::of_world() {
            Family::V4 => 14 + 21,
            Family::V6 => 14 + 41,
        });
        packets.push(strange);
        for packet in &packets {
            assert_eq!(world.is_kept_out(packet), DropReason::BlockedSource);
        }
        let counted = world.datapath.blocked_packets(source).unwrap();
        assert_eq!(counted, packets.len() as u64);
        world.enters(
            &arriving(Frame::tcp(SYN, at(BESIDE_REMOTE, PORT), at(HOST, 8080))),
            &web,
        );
        // What the container says goes out.
        world.leaves(
            &web,
            &web.frame(Frame::tcp(ACK, at(WEB, PORT), at(REMOTE, 443))),
        );

        world.datapath.remove(&blocked_key(source)).unwrap();
        world.enters(&answer, &web);
        world.enters(&request, &web);
        assert_eq!(world.datapath.blocked_packets(source).unwrap(), 0);
    });
}

#[test]
fn the_longest_prefix_counts() {
    worlds(|world| {
        let wide = block(world, REMOTE, 16);
        let one = block(world, REMOTE, 32);
        let packet = arriving(Frame::udp(at(REMOTE, PORT), at(HOST, 5353))).bytes();
        let other = arriving(Frame::udp(at(BESIDE_REMOTE, PORT), at(HOST, 5353))).bytes();
        for packet in [&packet, &packet, &other] {
            assert_eq!(world.is_kept_out(packet), DropReason::BlockedSource);
        }
        let counted = [wide, one].map(|it| world.datapath.blocked_packets(it).unwrap());
        assert_eq!(counted, [1, 2]);
        // Put once more, it goes on counting.
        world.put(blocked_key(one), Entry::Blocked);
        assert_eq!(world.datapath.blocked_packets(one).unwrap(), 2);
        world.datapath.remove(&blocked_key(one)).unwrap();
        assert_eq!(world.is_kept_out(&packet), DropReason::BlockedSource);
        assert_eq!(world.datapath.blocked_packets(wide).unwrap(), 2);
        world.datapath.remove(&blocked_key(wide)).unwrap();
        let web = world.web;
        world.enters(&Frame::of(&packet), &web);
    });
}

/// Broadcast and multicast, which the host's own programs hear.
#[test]
fn what_is_for_many_is_dropped_too() {
    worlds(|world| {
        let mut frame = Frame::udp(at(REMOTE, PORT), at(Ipv4Addr::new(224, 0, 0, 251), 5353));
        frame = frame.between([2, 0, 0, 0, 3, 1], [0xff; 6]);
        world.passes(&frame.bytes());
        block(world, REMOTE, 32);
        assert_eq!(world.is_kept_out(&frame.bytes()), DropReason::BlockedSource);
    });
}

/// What another interface of the link is for, as macvlan's, is left to it.
#[test]
fn what_is_for_others_on_the_link_passes() {
    worlds(|world| {
        block(world, REMOTE, 24);
        let frame = Frame::tcp(SYN, at(REMOTE, PORT), at(HOST, 8080));
        let frame = frame.between([2, 0, 0, 0, 3, 1], [2, 0, 0, 0, 9, 9]);
        world.passes(&frame.bytes());
        serve_lo(world);
        assert_eq!(world.datapath.test_xdp(&frame.bytes()).unwrap(), XDP_PASS);
    });
}

/// An uplink for what arrives by `lo`.
fn serve_lo(world: &mut World) {
    let uplink = Uplink {
        mac: HOST_MAC,
        ..Uplink::default()
    };
    world.put(Key::Uplink(LO), Entry::Uplink(uplink));
}

fn blocked_drops(world: &World) -> u64 {
    let drops = world.drops();
    let mut of_blocked = drops
        .iter()
        .filter(|(it, _)| *it == DropReason::BlockedSource);
    of_blocked.next().map_or(0, |(_, count)| *count)
}

fn tagged(frame: &[u8], kind: u16, tag: u16) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    [macs, &kind.to_be_bytes(), &tag.to_be_bytes(), rest].concat()
}

#[test]
fn the_driver_drops_the_same() {
    worlds(|world| {
        serve_lo(world);
        let source = block(world, REMOTE, 24);
        let dropped = of(REMOTE).into_iter().chain(of(NEAR_REMOTE));
        let dropped: Vec<_> = dropped.collect();
        for packet in &dropped {
            assert_eq!(world.datapath.test_xdp(packet).unwrap(), XDP_DROP);
        }
        let count = dropped.len() as u64;
        assert_eq!(blocked_drops(world), count);
        assert_eq!(world.datapath.blocked_packets(source).unwrap(), count);
        for source in [BESIDE_REMOTE, CLIENT] {
            for packet in of(source) {
                assert_eq!(world.datapath.test_xdp(&packet).unwrap(), XDP_PASS);
            }
        }
        let frame = &dropped[0];
        for (kind, tag, action) in [
            // A priority alone.
            (0x8100, 0, XDP_DROP),
            (0x8100, 7 << 13, XDP_DROP),
            (0x88a8, 0, XDP_DROP),
            // A VLAN's.
            (0x8100, 5, XDP_PASS),
            (0x8100, 0xfff, XDP_PASS),
            (0x88a8, 5, XDP_PASS),
            (0x9100, 0, XDP_PASS),
        ] {
            let tagged = tagged(frame, kind, tag);
            let done = world.datapath.test_xdp(&tagged).unwrap();
            assert_eq!(done, action, "{kind:#x} {tag:#x}");
        }
        // Two tags: the inner one's VLAN, whatever it is.
        let twice = tagged(&tagged(frame, 0x8100, 5), 0x88a8, 0);
        assert_eq!(world.datapath.test_xdp(&twice).unwrap(), XDP_PASS);
        // For many.
        let mut many = frame.clone();
        many[..6].copy_from_slice(&[0xff; 6]);
        assert_eq!(world.datapath.test_xdp(&many).unwrap(), XDP_DROP);
        // Of every length.
        for length in 14..frame.len() {
            let header = match Family::of_world() {
                Family::V4 => 14 + 16,
                Family::V6 => 14 + 24,
            };
            let action = if length < header { XDP_PASS } else { XDP_DROP };
            let done = world.datapath.test_xdp(&frame[..length]).unwrap();
            assert_eq!(done, action, "{length} bytes");
        }
        // Not an uplink any more.
        world.datapath.remove(&Key::Uplink(LO)).unwrap();
        assert_eq!(world.datapath.test_xdp(frame).unwrap(), XDP_PASS);
    });
}

/// Neither of the families has the other's entries.
#[test]
fn a_family_is_blocked_by_itself() {
    world(|world| {
        serve_lo(world);
        let everything6: IpNet = "2000::/3".parse().unwrap();
        world.put(blocked_key(everything6), Entry::Blocked);
        let web = world.web;
        let frame = arriving(Frame::tcp(SYN, at(REMOTE, PORT), at(HOST, 8080)));
        world.enters(&frame, &web);
        assert_eq!(world.datapath.test_xdp(&frame.bytes()).unwrap(), XDP_PASS);
    });
}

/// Of Docker's own networks: nothing is taken before it can be dropped.
#[test]
fn accelerated_conversations_are_left_to_be_dropped() {
    worlds_accelerated(|world| {
        let request = arriving(Frame::tcp(SYN, at(REMOTE, PORT), at(HOST, 8080))).bytes();
        let arrives = |world: &mut World| {
            let packet = TestPacket::received(&request, world.uplink);
            let run = world.datapath.test_run("acc_netdev_in", &packet);
            run.unwrap().action
        };
        assert_eq!(arrives(world), REDIRECT);
        let source = block(world, REMOTE, 24);
        assert_eq!(arrives(world), NEXT);
        // The program that drops it counts it.
        assert_eq!(world.datapath.blocked_packets(source).unwrap(), 0);
        assert_eq!(blocked_drops(world), 0);
        world.datapath.remove(&blocked_key(source)).unwrap();
        assert_eq!(arrives(world), REDIRECT);
    });
}
