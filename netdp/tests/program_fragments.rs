//! Fragments under test_run. Needs root.

mod program_world;

use std::os::fd::{AsRawFd, OwnedFd};

use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{EARLY_IN_GROUP, endpoint_flags},
};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt},
    time::{TimeVal, TimeValLike},
};
use program_world::{
    CLIENT, DB, DROP, HOST, REDIRECT, REMOTE, WEB, arriving,
    family::Family,
    frame::{self, Frame, SYN, at},
    world6, worlds,
};

#[test]
fn fragments_from_outside_follow_their_first() {
    worlds(|world| {
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = (0..200).collect();
        let [first, later] = query.fragments(64);
        let seen = [&first, &later].map(|bytes| {
            let run = world.run_from_netdev(bytes);
            assert_eq!(run.action, REDIRECT);
            run.packet
        });
        for bytes in &seen {
            assert_eq!(bytes[..6], world.web.mac);
        }
        let whole = Frame::of_fragments(&seen);
        assert_eq!((whole.from, whole.to), (at(CLIENT, 40_000), at(WEB, 53)));
        assert_eq!(whole.payload, query.payload);
        // Those of another datagram are another's.
        query.id += 1;
        world.passes(&query.fragments(64)[1]);
        // The stack's own, whatever came before.
        let mut to_host = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 53)));
        to_host.id += 7;
        to_host.payload = query.payload.clone();
        let [first, later] = to_host.fragments(64);
        for bytes in [&later, &first, &later] {
            world.passes(bytes);
        }
    });
}

#[test]
fn fragments_of_a_container_follow_their_first() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        for (container, to, left) in [
            (db, REMOTE, at(HOST, 40_000)),
            (db, WEB, at(DB, 40_000)),
            (web, CLIENT, at(HOST, 5353)),
        ] {
            let sport = if container.addr == WEB { 53 } else { 40_000 };
            let mut datagram = container.frame(Frame::udp(at(container.addr, sport), at(to, 7)));
            datagram.payload = (0..200).collect();
            let [first, later] = datagram.fragments(64);
            let seen = [&first, &later].map(|bytes| {
                let run = world.run_from_container(&container, bytes);
                assert_eq!(run.action, REDIRECT);
                run.packet
            });
            let whole = Frame::of_fragments(&seen);
            assert_eq!((whole.from, whole.to), (left, at(to, 7)));
            assert_eq!(whole.payload, datagram.payload);
        }
    });
}

/// A first fragment too small for its transport header (RFC 1858) hides its
/// flags.
#[test]
fn a_transport_header_must_be_in_the_first_fragment() {
    worlds(|world| {
        let db = world.db;
        let to_published = arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST, 8080)));
        let outbound = db.frame(Frame::tcp(SYN, at(DB, 1), at(REMOTE, 443)));
        for length in [8, 16] {
            let [first, later] = to_published.fragments(length);
            assert_eq!(world.is_kept_out(&first), DropReason::FragmentTiny);
            // Also where the link fills the frame up.
            let padded = [&first[..], &[0; 20]].concat();
            assert_eq!(world.is_kept_out(&padded), DropReason::FragmentTiny);
            // Nobody knows whose it is.
            world.passes(&later);
            let [first, _] = outbound.fragments(length);
            assert_eq!(world.is_refused(&db, &first), DropReason::FragmentTiny);
        }
        // The host's own are the host's business.
        let to_host = arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST, 22)));
        world.passes(&to_host.fragments(8)[0]);
        world.holds(0, 0);
    });
}

/// Nor may extension headers drive it out (RFC 7112).
#[test]
fn extension_headers_leave_the_transport_in_the_first_fragment() {
    const OPTIONS: &[u8] = &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    world6(|world| {
        let db = world.db;
        let to_published = arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST, 8080)));
        let outbound = db.frame(Frame::tcp(SYN, at(DB, 1), at(REMOTE, 443)));
        let first = |frame: &Frame, length: usize| {
            let whole = frame::with_extension(&frame.bytes(), 60, OPTIONS);
            let piece = frame::piece_v6(&whole, 0, 16 + length, frame.id);
            [&piece[..], &[0; 20]].concat()
        };
        for length in [8, 16] {
            let kept_out = world.is_kept_out(&first(&to_published, length));
            assert_eq!(kept_out, DropReason::FragmentTiny);
            let refused = world.is_refused(&db, &first(&outbound, length));
            assert_eq!(refused, DropReason::FragmentTiny);
        }
        let run = world.run_from_netdev(&first(&to_published, 24));
        assert_eq!(run.action, REDIRECT);
        let run = world.run_from_container(&db, &first(&outbound, 24));
        assert_eq!(run.action, REDIRECT);
    });
}

/// Bytes `begin..end` of a datagram, counted from the end of its IP header.
fn piece(datagram: &Frame, begin: usize, end: usize) -> Vec<u8> {
    const HEADERS: usize = 14 + 20;
    let whole = datagram.bytes();
    if Family::is_v6_world() {
        return frame::piece_v6(&whole, begin, end, datagram.id);
    }
    let mut bytes = whole[..HEADERS].to_vec();
    bytes.extend(&whole[HEADERS + begin..HEADERS + end]);
    let total = (20 + end - begin) as u16;
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    let more = u16::from(HEADERS + end < whole.len()) << 13;
    bytes[20..22].copy_from_slice(&(more | (begin / 8) as u16).to_be_bytes());
    bytes[24..26].fill(0);
    let sum: u32 = bytes[14..HEADERS]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn fragments_that_overlap_are_refused() {
    worlds(|world| {
        let db = world.db;
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = (0..200).collect();
        let mut own = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        own.payload = query.payload.clone();
        let end = 8 + 200;
        for (begin, stop) in [(0, 64), (128, 160), (64, 128), (160, end - 8)] {
            let from_netdev = world.run_from_netdev(&piece(&query, begin, stop));
            assert_eq!(from_netdev.action, REDIRECT, "{begin}");
            let from_container = world.run_from_container(&db, &piece(&own, begin, stop));
            assert_eq!(from_container.action, REDIRECT, "{begin}");
            // Over the ports, over what is there, or the same again.
            for (begin, stop) in [(8, 72), (56, 64), (begin.max(8), stop)] {
                let over = piece(&query, begin, stop);
                assert_eq!(world.is_kept_out(&over), DropReason::FragmentOverlap);
                let over = piece(&own, begin, stop);
                assert_eq!(world.is_refused(&db, &over), DropReason::FragmentOverlap);
            }
        }
        // The host's own are the host's business.
        let mut to_host = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 53)));
        to_host.id += 1;
        to_host.payload = query.payload.clone();
        for (begin, stop) in [(0, 64), (8, 72), (0, 64)] {
            world.passes(&piece(&to_host, begin, stop));
        }
    });
}

/// Until its datagram is whole: then it is the next one's.
#[test]
fn a_first_fragment_comes_once() {
    worlds(|world| {
        let db = world.db;
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = (0..200).collect();
        let mut own = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        own.payload = query.payload.clone();
        for _ in 0..2 {
            // The same again, a longer one, and one with another port.
            let mut other = query.clone();
            other.from.set_port(40_001);
            assert_eq!(
                world.run_from_netdev(&piece(&query, 0, 64)).action,
                REDIRECT
            );
            for again in [
                piece(&query, 0, 64),
                piece(&query, 0, 72),
                piece(&other, 0, 64),
            ] {
                assert_eq!(world.is_kept_out(&again), DropReason::FragmentOverlap);
            }
            assert_eq!(
                world.run_from_netdev(&piece(&query, 64, 208)).action,
                REDIRECT
            );
            let run = world.run_from_container(&db, &piece(&own, 0, 64));
            assert_eq!(run.action, REDIRECT);
            for again in [piece(&own, 0, 64), piece(&own, 0, 72)] {
                assert_eq!(world.is_refused(&db, &again), DropReason::FragmentOverlap);
            }
            let run = world.run_from_container(&db, &piece(&own, 64, 208));
            assert_eq!(run.action, REDIRECT);
        }
    });
}

/// Hears every frame that arrives at an interface (packet(7)).
struct Arrivals(OwnedFd);

impl Arrivals {
    fn at(ifindex: u32) -> Self {
        const ALL: u16 = libc::ETH_P_ALL as u16;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        // SAFETY: all bytes zero is a valid value of this struct of integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL.to_be();
        address.sll_ifindex = ifindex as i32;
        // SAFETY: the address is of the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        nix::errno::Errno::result(bound).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
        Self(socket)
    }

    #[track_caller]
    fn next(&self) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let length = nix::unistd::read(&self.0, &mut bytes).expect("a frame arrives");
        bytes.truncate(length);
        bytes
    }
}

/// They are kept as they are, and arrive anew behind their first.
#[test]
fn fragments_wait_for_their_first() {
    worlds(|world| {
        let (db, uplink) = (world.db, world.uplink);
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = (0..=255).cycle().take(1400).collect();
        let mut own = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        own.payload = query.payload.clone();
        for (datagram, ifindex) in [(query, uplink), (own, db.ifindex)] {
            let [first, second, last] = [(0, 64), (64, 1024), (1024, 8 + 1400)]
                .map(|(from, to)| piece(&datagram, from, to));
            let arrivals = Arrivals::at(ifindex);
            for early in [&last, &second] {
                if ifindex == uplink {
                    // The stack may have it for a datagram of its own.
                    world.passes(early);
                } else {
                    let run = world.run_from_container(&db, early);
                    assert_eq!((run.action, &run.packet), (DROP, early));
                }
            }
            let run = |world: &mut program_world::World, bytes: &[u8]| {
                if ifindex == uplink {
                    world.run_from_netdev(bytes)
                } else {
                    world.run_from_container(&db, bytes)
                }
            };
            assert_eq!(run(world, &first).action, DROP);
            let anew = [arrivals.next(), arrivals.next(), arrivals.next()];
            assert_eq!(anew, [first, last, second]);
            for bytes in &anew {
                assert_eq!(run(world, bytes).action, REDIRECT);
            }
        }
        assert_eq!(world.drops(), []);
    });
}

/// Of such a container the stack has no copy.
#[test]
fn fragments_for_a_routed_container_wait_for_their_first() {
    worlds(|world| {
        let mut web = world.web;
        web.flags |= match Family::of_world() {
            Family::V4 => endpoint_flags::ROUTED4,
            Family::V6 => endpoint_flags::ROUTED6,
        };
        world.connect(&web);
        world.publish(Some(WEB), 53, &web, 53, proto::UDP, Some(WEB));
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(WEB, 53)));
        query.payload = (0..=255).cycle().take(1400).collect();
        let [first, second, last] =
            [(0, 64), (64, 1024), (1024, 8 + 1400)].map(|(from, to)| piece(&query, from, to));
        let arrivals = Arrivals::at(world.uplink);
        for early in [&last, &second] {
            let run = world.run_from_netdev(early);
            assert_eq!((run.action, &run.packet), (DROP, early));
        }
        assert_eq!(world.run_from_netdev(&first).action, DROP);
        let anew = [arrivals.next(), arrivals.next(), arrivals.next()];
        assert_eq!(anew, [first, last, second]);
        for bytes in &anew {
            assert_eq!(world.run_from_netdev(bytes).action, REDIRECT);
        }
        assert_eq!(world.drops(), []);
        // Those for others are the stack's.
        let mut to_db = arriving(Frame::udp(at(CLIENT, 40_000), at(DB, 53)));
        to_db.payload = query.payload.clone();
        world.passes(&piece(&to_db, 64, 1024));
    });
}

/// A first fragment never comes: those that wait for it give way to others.
#[test]
fn fragments_that_wait_in_vain_are_counted() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let lone = |id: u32| {
            let mut datagram = Frame::udp(at(DB, 40_000), at(REMOTE, 53));
            datagram.id = id as u16;
            datagram.payload = vec![0; 200];
            datagram.fragments(64)
        };
        let before = world.datapath.stats(db.slot).unwrap();
        for id in 0..EARLY_IN_GROUP + 3 {
            let [_, later] = lone(id).map(|bytes| frame::between(bytes, db.mac, db.host_mac));
            assert_eq!(world.run_from_container(&db, &later).action, DROP);
        }
        assert_eq!(world.drops(), [(DropReason::FragmentWithoutFirst, 3)]);
        // Neither sent nor refused yet.
        assert_eq!(world.datapath.stats(db.slot).unwrap(), before);
        // What another container sends doesn't make way for them.
        let mut other = web.frame(Frame::udp(at(WEB, 40_000), at(REMOTE, 53)));
        other.payload = vec![0; 200];
        let [first, later] = other.fragments(64);
        assert_eq!(world.run_from_container(&web, &later).action, DROP);
        let arrivals = Arrivals::at(web.ifindex);
        assert_eq!(world.run_from_container(&web, &first).action, DROP);
        assert_eq!([arrivals.next(), arrivals.next()], [first, later]);
        assert_eq!(world.drops(), [(DropReason::FragmentWithoutFirst, 3)]);
        // The oldest are gone, the others still there.
        let [first, _] = lone(2).map(|bytes| frame::between(bytes, db.mac, db.host_mac));
        assert_eq!(world.run_from_container(&db, &first).action, REDIRECT);
        let [first, _] = lone(3).map(|bytes| frame::between(bytes, db.mac, db.host_mac));
        assert_eq!(world.run_from_container(&db, &first).action, DROP);
    });
}
