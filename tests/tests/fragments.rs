//! Datagrams larger than a packet, and their fragments in any order.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use netdp::demo::world::set_sysctls;
use netdp_tests::{
    Place, SIDES, Side, Topology, echo_socket, echo_socket6, hears, ping_through, says_nothing, udp,
};
use nix::sys::socket::{MsgFlags, SockProtocol, SockType, SockaddrStorage, sendto};

/// The largest datagram, and smaller ones that are cut in two and in a few.
const LENGTHS: [usize; 4] = [1473, 5000, 30_000, 65_507];

fn words(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Asks and answers with datagrams of these lengths.
#[track_caller]
fn converse(client: &UdpSocket, to: impl Into<SocketAddr>, server: &UdpSocket) {
    let to = to.into();
    for length in LENGTHS {
        let question = words(length);
        client.send_to(&question, to).unwrap();
        let from = hears(server, &question);
        let answer: Vec<u8> = question.into_iter().rev().collect();
        server.send_to(&answer, from).unwrap();
        assert_eq!(hears(client, &answer), to, "{length} bytes");
    }
}

#[test]
fn datagrams_larger_than_a_packet_are_carried() {
    let Some(topology) = Topology::with_ipv6("fragments-large") else {
        return;
    };
    let world = &topology.world;
    let web = topology.container("web", "--network six -p 5353:53/udp");
    let other = topology.container("other", "--network six");
    set_sysctls(&other.namespace, &[("ipv4/ping_group_range", "0 0")]).unwrap();
    for side in SIDES {
        let published = udp(&web, side.any, 53);
        let at_outside = udp(&world.outside, side.any, 53);
        let other = |port| udp(&other, side.any, port);
        for (client, to, server) in [
            (
                udp(&world.client, side.any, 0),
                (side.host, 5353),
                &published,
            ),
            (
                udp(&world.outside, side.any, 0),
                (side.host, 5353),
                &published,
            ),
            (other(0), (side.host, 5353), &published),
            (other(0), (side.address(&web), 53), &published),
            (other(0), (side.outside, 53), &at_outside),
        ] {
            converse(&client, to, server);
        }
    }
    let echo = [echo_socket(&other, 7), echo_socket6(&other, 7)];
    for (side, socket) in SIDES.iter().zip(&echo) {
        ping_through(socket, side.outside, 1, &words(20_000));
    }
    assert_eq!(topology.dropped("fragment-without-first"), 0);
    assert_eq!(topology.dropped("fragment-overlap"), 0);
}

/// Sends packets whose headers are written by hand (raw(7), IPPROTO_RAW).
struct Packets(OwnedFd);

impl Packets {
    fn open(place: &impl Place, side: Side) -> Self {
        let protocol = Some(SockProtocol::Raw);
        Self(place.open_family(side.family, SockType::Raw, protocol))
    }

    #[track_caller]
    fn send(&self, packet: &[u8], to: IpAddr) {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        let sent = sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty());
        assert_eq!(sent, Ok(packet.len()));
    }
}

const UDP: u8 = 17;

/// A UDP datagram in fragments, in order.
fn fragments(from: SocketAddr, to: SocketAddr, id: u16, words: &[u8]) -> Vec<Vec<u8>> {
    const PART: usize = 1448;
    let length = 8 + words.len() as u16;
    let mut datagram = Vec::new();
    for field in [from.port(), to.port(), length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(words);
    if from.is_ipv6() {
        let checksum = checksum(from.ip(), to.ip(), &datagram);
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    let count = datagram.chunks(PART).count();
    let packet = |(index, part): (usize, &[u8])| {
        let (offset, more) = ((index * PART) as u16, index + 1 < count);
        let mut packet = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                // The kernel fills in the checksum of this header; the
                // datagram has none (RFC 768).
                let mut header = vec![0x45, 0];
                header.extend((20 + part.len() as u16).to_be_bytes());
                header.extend(id.to_be_bytes());
                header.extend(((u16::from(more) << 13) | (offset / 8)).to_be_bytes());
                header.extend([64, UDP, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                header
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                const FRAGMENT: u8 = 44;
                let mut header = vec![0x60, 0, 0, 0];
                header.extend((8 + part.len() as u16).to_be_bytes());
                header.extend([FRAGMENT, 64]);
                header.extend(from.octets());
                header.extend(to.octets());
                header.extend([UDP, 0]);
                header.extend((offset | u16::from(more)).to_be_bytes());
                header.extend(u32::from(id).to_be_bytes());
                header
            }
            _ => panic!("two families"),
        };
        packet.extend(part);
        packet
    };
    datagram.chunks(PART).enumerate().map(packet).collect()
}

/// RFC 8200, section 8.1.
fn checksum(from: IpAddr, to: IpAddr, datagram: &[u8]) -> u16 {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else {
        panic!("{from} is not IPv6");
    };
    let length = (datagram.len() as u32).to_be_bytes();
    let summed = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, UDP],
        datagram,
    ]
    .concat();
    let mut sum = 0u64;
    for pair in summed.chunks(2) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Sends datagrams in all orders of few fragments, and backwards; each arrives
/// once.
#[track_caller]
fn arrive_in_any_order(
    packets: &Packets,
    from: SocketAddr,
    to: SocketAddr,
    server: &UdpSocket,
    seen_from: SocketAddr,
) {
    // Identifications are used again.
    let mut id = 100;
    let mut send = |length: usize, order: &dyn Fn(&mut Vec<Vec<u8>>)| {
        id += 1;
        let words = words(length);
        let mut parts = fragments(from, to, id, &words);
        order(&mut parts);
        for packet in &parts {
            packets.send(packet, to.ip());
        }
        assert_eq!(hears(server, &words), seen_from, "{length} bytes");
    };
    send(2000, &|parts| parts.swap(0, 1));
    for first in 0..3 {
        for second in 0..2 {
            send(4000, &|parts| {
                let mut rest = parts.split_off(0);
                parts.push(rest.remove(first));
                parts.push(rest.remove(second));
                parts.append(&mut rest);
            });
        }
    }
    send(60_000, &|parts| parts.reverse());
    says_nothing(server);
}

#[test]
fn fragments_may_overtake_their_first() {
    let Some(topology) = Topology::with_ipv6("fragments-disorder") else {
        return;
    };
    let web = topology.container("web", "--network six -p 5353:53/udp");
    let other = topology.container("other", "--network six");
    let at = SocketAddr::new;
    for side in SIDES {
        let published = udp(&web, side.any, 53);
        let at_outside = udp(&topology.world.outside, side.any, 53);

        // From outside to a published port.
        let client = at(side.outside, 4000);
        let outside = Packets::open(&topology.world.outside, side);
        let to = at(side.host, 5353);
        arrive_in_any_order(&outside, client, to, &published, client);
        // To a masqueraded flow.
        let asker = udp(&other, side.any, 4001);
        asker.send_to(b"question", (side.outside, 53)).unwrap();
        let seen = hears(&at_outside, b"question");
        let server = at(side.outside, 53);
        arrive_in_any_order(&outside, server, seen, &asker, server);
        // From a container to the outside, to another one, and by its published
        // port.
        let container = Packets::open(&other, side);
        let own = at(side.address(&other), 4002);
        let masqueraded = at(side.host, 4002);
        arrive_in_any_order(&container, own, server, &at_outside, masqueraded);
        for to in [at(side.address(&web), 53), at(side.host, 5353)] {
            arrive_in_any_order(&container, own, to, &published, own);
        }
        // To the host's own sockets, from both.
        let host = udp(&topology.host_program(), side.any, 7000);
        let to = at(side.host, 7000);
        arrive_in_any_order(&outside, client, to, &host, client);
        arrive_in_any_order(&container, own, to, &host, own);
    }
    assert_eq!(topology.dropped("fragment-without-first"), 0);
    assert_eq!(topology.dropped("fragment-overlap"), 0);
}
