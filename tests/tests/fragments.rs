//! Datagrams larger than a packet, and their fragments in any order.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS, set_sysctls};
use netdp_tests::{Place, Topology, echo_socket, hears, ping_through, says_nothing, udp};
use nix::sys::socket::{MsgFlags, SockProtocol, SockType, SockaddrIn, sendto};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
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
    let Some(topology) = Topology::start("fragments-large") else {
        return;
    };
    let web = topology.container("web", "-p 5353:53/udp");
    let other = topology.container("other", "");
    let published = udp(&web, ANY, 53);
    let at_outside = udp(&topology.world.outside, ANY, 53);
    for (client, to, server) in [
        (
            udp(&topology.world.client, ANY, 0),
            (HOST_ADDRESS, 5353),
            &published,
        ),
        (
            udp(&topology.world.outside, ANY, 0),
            (HOST_ADDRESS, 5353),
            &published,
        ),
        (udp(&other, ANY, 0), (HOST_ADDRESS, 5353), &published),
        (udp(&other, ANY, 0), (web.address, 53), &published),
        (udp(&other, ANY, 0), (OUTSIDE_ADDRESS, 53), &at_outside),
    ] {
        converse(&client, to, server);
    }
    set_sysctls(&other.namespace, &[("ipv4/ping_group_range", "0 0")]).unwrap();
    ping_through(&echo_socket(&other, 7), OUTSIDE_ADDRESS, 1, &words(20_000));
    assert_eq!(topology.dropped("fragment-without-first"), 0);
    assert_eq!(topology.dropped("fragment-overlap"), 0);
}

/// Sends IPv4 packets whose headers are written by hand (raw(7), IPPROTO_RAW).
struct Packets(OwnedFd);

impl Packets {
    fn open(place: &impl Place) -> Self {
        Self(place.open(SockType::Raw, Some(SockProtocol::Raw)))
    }

    #[track_caller]
    fn send(&self, packet: &[u8]) {
        let to: [u8; 4] = packet[16..20].try_into().unwrap();
        let to = SockaddrIn::from(SocketAddrV4::new(to.into(), 0));
        let sent = sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty());
        assert_eq!(sent, Ok(packet.len()));
    }
}

/// A UDP datagram in fragments, in order. The kernel fills in the checksums of
/// their own headers; the datagram has none (RFC 768).
fn fragments(from: SocketAddrV4, to: SocketAddrV4, id: u16, words: &[u8]) -> Vec<Vec<u8>> {
    const UDP: u8 = 17;
    const PART: usize = 1480;
    let length = 8 + words.len() as u16;
    let mut datagram = Vec::new();
    for field in [from.port(), to.port(), length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(words);
    let count = datagram.chunks(PART).count();
    let packet = |(index, part): (usize, &[u8])| {
        let more = u16::from(index + 1 < count) << 13;
        let mut packet = vec![0x45, 0];
        packet.extend((20 + part.len() as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend((more | (index * PART / 8) as u16).to_be_bytes());
        packet.extend([64, UDP, 0, 0]);
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(part);
        packet
    };
    datagram.chunks(PART).enumerate().map(packet).collect()
}

/// Sends datagrams in all orders of few fragments, and backwards; each arrives
/// once.
#[track_caller]
fn arrive_in_any_order(
    packets: &Packets,
    from: SocketAddrV4,
    to: SocketAddrV4,
    server: &UdpSocket,
    seen_from: SocketAddrV4,
) {
    // Identifications are used again.
    let mut id = 100;
    let mut send = |length: usize, order: &dyn Fn(&mut Vec<Vec<u8>>)| {
        id += 1;
        let words = words(length);
        let mut parts = fragments(from, to, id, &words);
        order(&mut parts);
        for packet in &parts {
            packets.send(packet);
        }
        assert_eq!(hears(server, &words), seen_from.into(), "{length} bytes");
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
    let Some(topology) = Topology::start("fragments-disorder") else {
        return;
    };
    let web = topology.container("web", "-p 5353:53/udp");
    let other = topology.container("other", "");
    let published = udp(&web, ANY, 53);
    let at_outside = udp(&topology.world.outside, ANY, 53);
    let at = SocketAddrV4::new;

    // From outside to a published port.
    let client = at(OUTSIDE_ADDRESS, 4000);
    let outside = Packets::open(&topology.world.outside);
    let to = at(HOST_ADDRESS, 5353);
    arrive_in_any_order(&outside, client, to, &published, client);
    // To a masqueraded flow.
    let asker = udp(&other, ANY, 4001);
    asker.send_to(b"question", (OUTSIDE_ADDRESS, 53)).unwrap();
    let SocketAddr::V4(seen) = hears(&at_outside, b"question") else {
        panic!("not IPv4");
    };
    let server = at(OUTSIDE_ADDRESS, 53);
    arrive_in_any_order(&outside, server, seen, &asker, server);
    // From a container to the outside, to another one, and by its published
    // port.
    let container = Packets::open(&other);
    let own = at(other.address, 4002);
    arrive_in_any_order(&container, own, server, &at_outside, at(HOST_ADDRESS, 4002));
    for to in [at(web.address, 53), at(HOST_ADDRESS, 5353)] {
        arrive_in_any_order(&container, own, to, &published, own);
    }
    // To the host's own sockets, from both.
    let host = udp(&topology.host_program(), ANY, 7000);
    let to = at(HOST_ADDRESS, 7000);
    arrive_in_any_order(&outside, client, to, &host, client);
    arrive_in_any_order(&container, own, to, &host, own);
    assert_eq!(topology.dropped("fragment-without-first"), 0);
    assert_eq!(topology.dropped("fragment-overlap"), 0);
}
