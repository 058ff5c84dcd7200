//! Direct ports, under test_run: which packets are the host's own, by its sockets
//! and by what was known of them a moment ago. Needs root.

mod program_world;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

use ipnet::IpNet;
use netdp::bpf::{Entry, blocked_key};
use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{endpoint_flags, name, seen},
};
use program_world::{
    CLIENT, DB, HOST, HOST_2, NEXT, REDIRECT, REMOTE, WEB, World, arriving,
    closed::nobody_has,
    family::{Family, ip},
    frame::{Frame, SYN, at},
    worlds,
};

const PORT: u16 = 40_000;
/// Published ports of the world, with their protocol.
const PORTS: [(u8, u16); 2] = [(proto::TCP, 8080), (proto::UDP, 5353)];

/// What opens a conversation with a published port.
fn from(source: Ipv4Addr, (proto, port): (u8, u16)) -> Frame {
    let (from, to) = (at(source, PORT), at(HOST, port));
    if proto == proto::TCP {
        Frame::tcp(SYN, from, to)
    } else {
        Frame::udp(from, to)
    }
}

/// A socket of the host, as a program has it of a direct port.
#[expect(dead_code, reason = "held, and no more")]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

fn listen((proto, port): (u8, u16)) -> Socket {
    if proto == proto::TCP {
        Socket::Tcp(TcpListener::bind((ip(HOST), port)).unwrap())
    } else {
        Socket::Udp(UdpSocket::bind((ip(HOST), port)).unwrap())
    }
}

/// Closes the only socket at a port.
fn close(socket: Socket, port: u16) {
    drop(socket);
    for protocol in ["tcp", "udp"] {
        nobody_has(port, protocol);
    }
}

/// What the programs remember of a port.
#[derive(Clone)]
struct Remembered {
    key: Vec<u8>,
    /// Of all CPUs.
    value: Vec<u8>,
    /// Where the one of this test's is.
    begin: usize,
}

/// Name of the map, and how long an address is in it, behind which port, protocol,
/// the state of the ports and the time follow.
fn map() -> (&'static str, usize) {
    match Family::of_world() {
        Family::V4 => ("known4", 4),
        Family::V6 => ("known6", 16),
    }
}

/// Each as long as programs go on believing it: 16 of the kernel's ticks.
fn tick() -> u32 {
    let timers = fs::read_to_string("/proc/timer_list").unwrap();
    let ticks = timers
        .lines()
        .find_map(|line| line.strip_prefix("jiffies: "));
    let ticks: u64 = ticks.expect("the kernel's ticks").parse().unwrap();
    (ticks >> 4) as u32
}

impl Remembered {
    fn of(world: &World, port: u16) -> Option<Self> {
        let (name, length) = map();
        let contents = world.maps.contents(name).into_iter();
        let mut found = contents.flat_map(|(key, value)| {
            let size = value.len() / aya::util::nr_cpus().unwrap();
            let begins = (0..value.len()).step_by(size);
            let of_port = begins.filter(|begin| value[begin + length..][..2] == port.to_be_bytes());
            let of_port = of_port.map(|begin| Self {
                key: key.clone(),
                value: value.clone(),
                begin,
            });
            of_port.collect::<Vec<_>>()
        });
        let one = found.next();
        assert!(found.next().is_none(), "one CPU has seen packets");
        one
    }

    /// With something else `at` so many bytes behind the address.
    fn with(&self, at: usize, bytes: &[u8]) -> Self {
        let mut other = self.clone();
        other.value[self.begin + map().1 + at..][..bytes.len()].copy_from_slice(bytes);
        other
    }

    fn ports(&self) -> u32 {
        let at = self.begin + map().1 + 4;
        u32::from_ne_bytes(*self.value[at..].first_chunk().unwrap())
    }

    /// Whether a packet is the host's by this, `ago` ticks old; otherwise it goes to
    /// a container, or nowhere.
    fn is_believed(&self, world: &mut World, packet: &Frame, ago: u32) -> bool {
        loop {
            let now = tick();
            let remembered = self.with(8, &(now - ago).to_ne_bytes());
            world.maps.write(map().0, &self.key, &remembered.value);
            let run = world.run_from_netdev(&packet.bytes());
            // What is half as old as it seems proves nothing.
            if tick() == now {
                assert!(run.action != NEXT || run.packet == packet.bytes());
                return run.action == NEXT;
            }
        }
    }
}

/// What a program has heard of a port at which somebody listened until now.
fn remembered(world: &mut World, port: (u8, u16)) -> Remembered {
    world.make_direct(port.1, port.0);
    let socket = listen(port);
    world.passes(&arriving(from(CLIENT, port)).bytes());
    close(socket, port.1);
    Remembered::of(world, port.1).expect("it is remembered")
}

#[test]
fn packets_are_the_hosts_while_it_has_a_socket() {
    worlds(|world| {
        for port in PORTS {
            let (web, packet) = (world.web, arriving(from(CLIENT, port)));
            // One that isn't direct is the container's, whoever listens.
            let socket = listen(port);
            world.enters(&packet, &web);
            close(socket, port.1);
            world.make_direct(port.1, port.0);
            world.enters(&packet, &web);
            assert!(Remembered::of(world, port.1).is_none());
            let _socket = listen(port);
            world.passes(&packet.bytes());
            assert!(Remembered::of(world, port.1).is_some());
            let mut elsewhere = packet;
            elsewhere.to = at(HOST_2, port.1);
            world.enters(&elsewhere, &web);
        }
    });
}

#[test]
fn what_was_known_a_moment_ago_is_believed_of_this_port_alone() {
    worlds(|world| {
        for port in PORTS {
            let packet = arriving(from(CLIENT, port));
            let known = remembered(world, port);
            assert!(known.is_believed(world, &packet, 0));
            // One tick may be over at once.
            assert!(!known.is_believed(world, &packet, 1));
            let other_port = (port.1 + 1).to_be_bytes();
            let other_proto = u16::from(port.0 ^ proto::TCP ^ proto::UDP).to_ne_bytes();
            let other_ports = (known.ports() + 1).to_ne_bytes();
            for other in [
                known.with(0, &other_port),
                known.with(2, &other_proto),
                known.with(4, &other_ports),
            ] {
                assert!(!other.is_believed(world, &packet, 0));
            }
            let mut elsewhere = packet.clone();
            elsewhere.to = at(HOST_2, port.1);
            assert!(!known.is_believed(world, &elsewhere, 0));
            assert!(known.is_believed(world, &arriving(from(REMOTE, port)), 0));
        }
    });
}

#[test]
fn a_change_of_the_ports_ends_it() {
    worlds(|world| {
        let port = PORTS[0];
        let packet = arriving(from(CLIENT, port));
        let known = remembered(world, port);
        let web = world.web;
        world.publish(None, 9999, &web, 99, proto::TCP, Some(HOST));
        assert!(!known.is_believed(world, &packet, 0));
        let known = remembered(world, port);
        assert!(known.is_believed(world, &packet, 0));
        world.forget_local(HOST_2);
        assert!(!known.is_believed(world, &packet, 0));
    });
}

#[test]
fn it_lets_nobody_in_who_may_not() {
    worlds(|world| {
        let port = PORTS[0];
        let known = remembered(world, port);
        for source in [WEB, DB] {
            let spoofed = arriving(from(source, port));
            assert!(!known.is_believed(world, &spoofed, 0));
            let reason = world.is_kept_out(&spoofed.bytes());
            assert_eq!(reason, DropReason::SpoofedSource);
        }
        let bits = match Family::of_world() {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        let source = IpNet::new(ip(REMOTE), bits).unwrap();
        world.put(blocked_key(source), Entry::Blocked);
        let blocked = arriving(from(REMOTE, port));
        assert!(!known.is_believed(world, &blocked, 0));
        // Nor is anybody's believed meanwhile.
        assert!(!known.is_believed(world, &arriving(from(CLIENT, port)), 0));
    });
}

#[test]
fn of_ports_for_some_sources_nothing_is_remembered() {
    worlds(|world| {
        let port = PORTS[0];
        world.make_direct(port.1, port.0);
        world.restrict(port.1, port.0, 7);
        world.allow(7, CLIENT, 32);
        let _socket = listen(port);
        world.passes(&arriving(from(CLIENT, port)).bytes());
        let reason = world.is_kept_out(&arriving(from(REMOTE, port)).bytes());
        assert_eq!(reason, DropReason::NotAllowed);
        assert!(Remembered::of(world, port.1).is_none());
    });
}

#[test]
fn where_clients_of_udp_ask_several_addresses_each_datagram_is_looked_at() {
    worlds(|world| {
        for port in PORTS {
            let packet = arriving(from(CLIENT, port));
            let known = remembered(world, port);
            for (asked, believed) in [(0u32, true), (1, port.0 == proto::TCP)] {
                let key = seen::ASKED.to_ne_bytes();
                let asked = asked.to_ne_bytes();
                world.maps.write(name::DIRECT_SEEN, &key, &asked);
                assert_eq!(known.is_believed(world, &packet, 0), believed);
            }
            let key = seen::ASKED.to_ne_bytes();
            world
                .maps
                .write(name::DIRECT_SEEN, &key, &0u32.to_ne_bytes());
        }
    });
}

#[test]
fn a_neighbour_is_led_to_the_hosts_socket() {
    worlds(|world| {
        let mut web = world.web;
        web.flags |= endpoint_flags::DIRECT;
        world.connect(&web);
        for (proto, port, inside) in [(proto::TCP, 8080, 80), (proto::UDP, 5353, 53)] {
            world.make_direct(port, proto);
            let (db, own) = (world.db, at(WEB, inside));
            let to = |to| match proto {
                proto::TCP => Frame::tcp(SYN, at(DB, PORT), to),
                _ => Frame::udp(at(DB, PORT), to),
            };
            // Nobody listens.
            let run = world.run_from_container(&db, &db.frame(to(own)).bytes());
            assert_eq!((run.action, Frame::of(&run.packet).to), (REDIRECT, own));
            let _socket = listen((proto, port));
            let run = world.run_from_container(&db, &db.frame(to(own)).bytes());
            let seen = Frame::of(&run.packet);
            assert_eq!(
                (run.action, seen.from, seen.to),
                (NEXT, at(DB, PORT), at(HOST, port))
            );
            // And by the published port.
            let hairpin = db.frame(to(at(HOST, port))).bytes();
            world.is_for_the_stack(&db, &hairpin);
        }
    });
}
