use super::*;
use proptest::prelude::*;
use std::vec::Vec;

pub(super) fn ipv4(proto: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = std::vec![0u8; ETH_LEN];
    out.extend([0x45, 0, 0, (20 + payload.len()) as u8, 0xab, 0xcd]);
    out.extend(fragment.to_be_bytes());
    out.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    out.extend(payload);
    out
}

#[test]
fn tcp() {
    let mut tcp = [0u8; 20];
    tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x50]);
    tcp[13] = tcp_flags::SYN;
    let packet = parse::<V4>(ipv4(proto::TCP, 0x4000, &tcp).as_slice()).unwrap();
    assert_eq!(packet.tuple.saddr, V4Addr::new([10, 0, 0, 1]));
    assert_eq!(packet.tuple.sport.get(), 40000);
    assert_eq!(packet.tuple.dport.get(), 80);
    assert!(packet.transport.is_syn());
    assert!(packet.dont_fragment);
    assert_eq!(packet.l4, 34);
}

#[test]
fn echo_request_and_its_reply_mirror_each_other() {
    let request = parse::<V4>(ipv4(1, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]).as_slice()).unwrap();
    let reply = parse::<V4>(ipv4(1, 0, &[0, 0, 0, 0, 0x12, 0x34, 0, 1]).as_slice()).unwrap();
    assert_eq!(request.tuple.sport.get(), 0x1234);
    assert_eq!(reply.tuple.dport.get(), 0x1234);
    assert_eq!(request.tuple.dport, reply.tuple.sport);
}

#[test]
fn fragments() {
    let udp = [0u8, 1, 0, 2, 0, 8, 0, 0];
    let first = parse::<V4>(ipv4(17, 0x2000, &udp).as_slice()).unwrap();
    assert_eq!(first.fragment, Fragment::First);
    assert_eq!(first.tuple.dport.get(), 2);
    let later = parse::<V4>(ipv4(17, 0x0003, &[1, 2]).as_slice()).unwrap();
    assert_eq!(later.transport, Transport::Later);
    assert_eq!(later.tuple.dport.get(), 0);
}

#[test]
fn too_short_is_malformed() {
    let whole = ipv4(proto::TCP, 0, &[0; 20]);
    for length in 0..ETH_LEN + 20 + 20 {
        assert_eq!(
            parse::<V4>(&whole[..length]),
            Err(DropReason::Malformed),
            "{length} bytes"
        );
    }
    assert!(parse::<V4>(&whole[..ETH_LEN + 40]).is_ok());
}

#[test]
fn contradicting_lengths_are_malformed() {
    let mut bytes = ipv4(proto::UDP, 0, &[0; 8]);
    bytes[ETH_LEN] = 0x44;
    assert_eq!(parse::<V4>(bytes.as_slice()), Err(DropReason::Malformed));
    bytes[ETH_LEN] = 0x46;
    bytes[ETH_LEN + 3] = 20;
    assert_eq!(parse::<V4>(bytes.as_slice()), Err(DropReason::Malformed));
}

/// An IPv6 packet with these extension headers (number, bytes) before the
/// transport's.
pub(super) fn ipv6(extensions: &[(u8, &[u8])], proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = std::vec![0u8; ETH_LEN];
    let length: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum();
    let first = extensions.first().map_or(proto, |(number, _)| *number);
    out.extend([0x60, 0, 0, 0]);
    out.extend(((length + payload.len()) as u16).to_be_bytes());
    out.extend([first, 64]);
    out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    for (i, (_, bytes)) in extensions.iter().enumerate() {
        out.push(extensions.get(i + 1).map_or(proto, |(number, _)| *number));
        out.extend(&bytes[1..]);
    }
    out.extend(payload);
    out
}

const UDP_HEADER: [u8; 8] = [0, 1, 0, 2, 0, 8, 0, 0];
const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
const LONG_OPTIONS: [u8; 24] = [
    0, 2, 1, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// Of type 2, without segments left.
const ROUTED: [u8; 8] = [0, 0, 2, 0, 0, 0, 0, 0];
const AUTHENTICATED: [u8; 24] = [
    0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn ipv6_without_extension_headers() {
    let mut tcp = [0u8; 20];
    tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x50]);
    tcp[13] = tcp_flags::SYN;
    let packet = parse::<V6>(ipv6(&[], proto::TCP, &tcp).as_slice()).unwrap();
    assert_eq!(std::format!("{:?}", packet.tuple.saddr), "fd00::1");
    assert_eq!(std::format!("{:?}", packet.tuple.daddr), "fd00::2");
    assert_eq!(
        (packet.tuple.sport.get(), packet.tuple.dport.get()),
        (40000, 80)
    );
    assert!(packet.transport.is_syn());
    assert!(packet.dont_fragment);
    assert_eq!((packet.ttl, packet.l4), (64, 54));
}

#[test]
fn the_transport_is_found_behind_extension_headers() {
    let chains: &[&[(u8, &[u8])]] = &[
        &[(0, &OPTIONS)],
        &[(60, &LONG_OPTIONS)],
        &[(43, &ROUTED)],
        &[(0, &OPTIONS), (60, &OPTIONS), (43, &ROUTED), (60, &OPTIONS)],
    ];
    for chain in chains {
        let bytes = ipv6(chain, proto::UDP, &UDP_HEADER);
        let packet = parse::<V6>(bytes.as_slice()).unwrap();
        assert_eq!(packet.l4, bytes.len() - 8, "{chain:?}");
        assert_eq!(packet.proto, proto::UDP);
        assert_eq!(packet.transport, Transport::Udp);
        assert_eq!(packet.tuple.dport.get(), 2);
        for length in 0..bytes.len() {
            assert_eq!(
                parse::<V6>(&bytes[..length]),
                Err(DropReason::Malformed),
                "{length} bytes"
            );
        }
    }
}

#[test]
fn what_is_authenticated_is_not_looked_into() {
    for chain in [
        &[(51, AUTHENTICATED.as_slice())][..],
        &[(0, &OPTIONS), (51, &AUTHENTICATED)],
    ] {
        let bytes = ipv6(chain, proto::UDP, &UDP_HEADER);
        let packet = parse::<V6>(bytes.as_slice()).unwrap();
        assert_eq!((packet.proto, packet.transport), (51, Transport::Other));
    }
}

#[test]
fn fragments_of_ipv6() {
    let of = |fragment: &[u8; 8], extension: &[(u8, &[u8])]| {
        let mut chain: Vec<(u8, &[u8])> = std::vec![(44, fragment.as_slice())];
        chain.extend(extension);
        parse::<V6>(ipv6(&chain, proto::UDP, &UDP_HEADER).as_slice()).unwrap()
    };
    let atomic = of(&[0, 0, 0, 0, 1, 2, 3, 4], &[]);
    assert_eq!(
        (atomic.fragment, atomic.tuple.dport.get()),
        (Fragment::Whole, 2)
    );
    let first = of(&[0, 0, 0, 1, 1, 2, 3, 4], &[(60, &OPTIONS)]);
    assert_eq!(
        (first.fragment, first.tuple.dport.get()),
        (Fragment::First, 2)
    );
    assert_eq!(first.id.to_ne_bytes(), [1, 2, 3, 4]);
    let later = of(&[0, 0, 0, 8, 1, 2, 3, 4], &[]);
    assert_eq!(
        (later.fragment, later.transport),
        (Fragment::Later, Transport::Later)
    );
    assert_eq!((later.tuple.dport.get(), later.id), (0, first.id));
}

#[test]
fn the_first_fragment_has_all_headers() {
    let of = |length: usize| {
        let mut tcp = [0u8; 20];
        tcp[3] = 80;
        let first = [0, 0, 0, 1, 1, 2, 3, 4];
        let chain: [(u8, &[u8]); 2] = [(44, &first), (60, &LONG_OPTIONS)];
        let bytes = ipv6(&chain, proto::TCP, &tcp[..length]);
        // What fills the frame up is no header.
        let padded = [&bytes[..], &[0; 20]].concat();
        parse::<V6>(padded.as_slice()).unwrap()
    };
    assert_eq!(of(20).fragment, Fragment::First);
    for length in [0, 4, 16, 19] {
        let packet = of(length);
        assert_eq!(packet.fragment, Fragment::Tiny, "{length} bytes");
        assert_eq!(packet.transport, Transport::Later);
    }
    assert_eq!(of(4).tuple.dport.get(), 80);
}

#[test]
fn chains_that_nobody_has_to_follow() {
    let parse = |chain: &[(u8, &[u8])]| {
        parse::<V6>(ipv6(chain, proto::UDP, &UDP_HEADER).as_slice()).map(|packet| packet.l4)
    };
    fn repeated(count: usize, bytes: &[u8]) -> Vec<(u8, &[u8])> {
        std::vec![(60, bytes); count]
    }
    assert!(parse(&repeated(6, &OPTIONS)).is_ok());
    assert_eq!(
        parse(&repeated(7, &OPTIONS)),
        Err(DropReason::UnknownProtocol)
    );
    assert_eq!(
        parse(&repeated(6, &LONG_OPTIONS)),
        Err(DropReason::UnknownProtocol)
    );
    assert_eq!(
        parse(&[(60, &OPTIONS), (0, &OPTIONS)]),
        Err(DropReason::Malformed)
    );
    // Type 0, and with segments left.
    for routed in [[0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 2, 1, 0, 0, 0, 0]] {
        assert_eq!(parse(&[(43, &routed)]), Err(DropReason::Malformed));
    }
    let mut short = ipv6(&[(60, &OPTIONS)], proto::UDP, &UDP_HEADER);
    short[ETH_LEN + 5] = 7;
    assert_eq!(
        super::parse::<V6>(short.as_slice()),
        Err(DropReason::Malformed)
    );
    short[ETH_LEN] = 0x45;
    assert_eq!(
        super::parse::<V6>(short.as_slice()),
        Err(DropReason::Malformed)
    );
}

#[test]
fn icmpv6() {
    let kind = |kind| {
        let bytes = ipv6(&[], proto::ICMPV6, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
        parse::<V6>(bytes.as_slice()).unwrap()
    };
    assert_eq!(kind(128).transport, Transport::EchoRequest);
    assert_eq!(kind(128).tuple.sport.get(), 0x1234);
    assert_eq!(kind(129).transport, Transport::EchoReply);
    assert_eq!(kind(129).tuple.dport.get(), 0x1234);
    assert_eq!(kind(2).transport, Transport::IcmpError);
    assert_eq!(kind(135).transport, Transport::Neighbour);
    assert_eq!(kind(8).transport, Transport::IcmpOther);
    // ICMP of the other family is none of this.
    let bytes = ipv6(&[], proto::ICMP, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    assert_eq!(
        parse::<V6>(bytes.as_slice()).unwrap().transport,
        Transport::Other
    );
    let bytes = ipv4(proto::ICMPV6, 0, &[128, 0, 0, 0, 0x12, 0x34, 0, 1]);
    assert_eq!(
        parse::<V4>(bytes.as_slice()).unwrap().transport,
        Transport::Other
    );
}

#[test]
fn a_glance_is_for_plain_segments_and_datagrams() {
    let mut tcp = [0u8; 20];
    tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x00, 0x50]);
    let whole = ipv4(proto::TCP, 0x4000, &tcp);
    let tuple = parse::<V4>(whole.as_slice()).unwrap().tuple;
    assert_eq!(V4::glance(whole.as_slice()), Some((proto::TCP, tuple)));
    for fragment in [0x2000, 1] {
        let part = ipv4(proto::TCP, fragment, &tcp);
        assert_eq!(V4::glance(part.as_slice()), None);
    }
    let udp = V4::glance(ipv4(proto::UDP, 0, &tcp).as_slice()).unwrap();
    assert_eq!((udp.0, udp.1.dport.get()), (proto::UDP, 80));
    assert_eq!(V4::glance(ipv4(proto::ICMP, 0, &tcp).as_slice()), None);
    let mut options = whole.clone();
    options[ETH_LEN] = 0x46;
    assert_eq!(V4::glance(options.as_slice()), None);
    assert_eq!(V4::glance(&whole[..ETH_LEN + 23]), None);

    let whole = ipv6(&[], proto::TCP, &tcp);
    let tuple = parse::<V6>(whole.as_slice()).unwrap().tuple;
    assert_eq!(V6::glance(whole.as_slice()), Some((proto::TCP, tuple)));
    let extended = ipv6(&[(60, &[0; 8])], proto::TCP, &tcp);
    assert_eq!(V6::glance(extended.as_slice()), None);
    let udp = V6::glance(ipv6(&[], proto::UDP, &tcp).as_slice()).unwrap();
    assert_eq!((udp.0, udp.1.sport.get()), (proto::UDP, 40_000));
    assert_eq!(V6::glance(ipv6(&[], proto::ICMPV6, &tcp).as_slice()), None);
    assert_eq!(V6::glance(&whole[..ETH_LEN + 43]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        if let Ok(packet) = parse::<V4>(bytes.as_slice()) {
            prop_assert!(packet.l4 <= ETH_LEN + 60);
        }
    }

    #[test]
    fn any_chain_is_followed_or_refused(
        numbers in proptest::collection::vec(
            (prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
             any::<[u8; 16]>()),
            0..9),
        cut in 0usize..256,
    ) {
        let chain: Vec<(u8, &[u8])> = numbers
            .iter()
            .map(|(number, bytes)| (*number, bytes.as_slice()))
            .collect();
        let bytes = ipv6(&chain, proto::UDP, &UDP_HEADER);
        let bytes = &bytes[..cut.min(bytes.len())];
        match parse::<V6>(bytes) {
            Ok(packet) => {
                prop_assert!(packet.l4 >= ETH_LEN + 40 && packet.l4 + 20 <= REACH);
                prop_assert!(
                    packet.fragment == Fragment::Later || !extension::is_one(packet.proto)
                );
            }
            Err(reason) => prop_assert!(
                matches!(reason, DropReason::Malformed | DropReason::UnknownProtocol)
            ),
        }
    }
}
