//! Packets made for programs, as the stacks at both ends would send them.

use std::net::SocketAddrV4;

use netdp_common::{
    addr::{Mac, proto},
    packet::{ethertype, tcp_flags},
};

/// Of a packet of TCP, its flags; or a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    Tcp(u8),
    Udp,
}

pub(super) const SYN: Body = Body::Tcp(tcp_flags::SYN);
pub(super) const SYN_ACK: Body = Body::Tcp(tcp_flags::SYN | tcp_flags::ACK);
pub(super) const ACK: Body = Body::Tcp(tcp_flags::ACK);
pub(super) const FIN: Body = Body::Tcp(tcp_flags::FIN | tcp_flags::ACK);

const PAYLOAD: &[u8] = b"some bytes of it";
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const TTL: u8 = 64;

/// An Ethernet frame with IPv4 and all checksums.
pub(super) fn frame(macs: [Mac; 2], from: SocketAddrV4, to: SocketAddrV4, body: Body) -> Vec<u8> {
    let [source, destination] = macs;
    let (number, header) = match body {
        Body::Tcp(_) => (proto::TCP, TCP_HEADER),
        Body::Udp => (proto::UDP, UDP_HEADER),
    };
    let length = (header + PAYLOAD.len()) as u16;
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let checksum = match body {
        Body::Tcp(flags) => {
            let (sequence, acknowledged, window) = (1000u32, 2000u32, 4096u16);
            segment.extend(sequence.to_be_bytes());
            segment.extend(acknowledged.to_be_bytes());
            segment.extend([(TCP_HEADER as u8 / 4) << 4, flags]);
            segment.extend(window.to_be_bytes());
            // Checksum and urgent pointer.
            segment.extend([0; 4]);
            16
        }
        Body::Udp => {
            segment.extend(length.to_be_bytes());
            segment.extend([0; 2]);
            6
        }
    };
    segment.extend(PAYLOAD);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut pseudo = addresses.clone();
    pseudo.extend([0, number]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&segment);
    segment[checksum..checksum + 2].copy_from_slice(&sum(&pseudo));

    let total = IP_HEADER as u16 + length;
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    // Identification, and not to be fragmented.
    ip.extend([0, 1, 0x40, 0, TTL, number, 0, 0]);
    ip.extend(addresses);
    let checksum = sum(&ip);
    ip[10..12].copy_from_slice(&checksum);

    let ethernet = [&destination[..], &source, &ethertype::IPV4.to_be_bytes()];
    [&ethernet.concat()[..], &ip, &segment].concat()
}

/// The Internet checksum (RFC 1071).
fn sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2);
    let words = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    fn parsed(body: Body) -> Vec<u8> {
        let from: SocketAddrV4 = "198.18.0.1:20000".parse().unwrap();
        let to: SocketAddrV4 = "198.18.0.2:7001".parse().unwrap();
        frame([[2; 6], [4; 6]], from, to, body)
    }

    #[test]
    fn headers_and_checksums_are_what_others_read() {
        for body in [SYN, FIN, Body::Udp] {
            let bytes = parsed(body);
            let packet = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
            let Some(NetHeaders::Ipv4(ip, _)) = packet.net else {
                panic!("no IPv4: {packet:?}");
            };
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len) + 14, bytes.len());
            let payload = packet.payload.slice();
            assert_eq!(payload, PAYLOAD);
            match packet.transport.unwrap() {
                TransportHeader::Tcp(tcp) => {
                    assert_eq!((tcp.syn, tcp.fin), (body == SYN, body == FIN));
                    assert_eq!(tcp.destination_port, 7001);
                    let checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
                    assert_eq!(tcp.checksum, checksum);
                }
                TransportHeader::Udp(udp) => {
                    assert_eq!(udp.source_port, 20000);
                    let checksum = udp.calc_checksum_ipv4(&ip, payload).unwrap();
                    assert_eq!(udp.checksum, checksum);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
