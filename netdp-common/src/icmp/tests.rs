use super::*;
use crate::packet::parse;
use proptest::prelude::*;
use std::vec::Vec;

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IPv4 packet, its header's checksum right.
fn ipv4(protocol: u8, tuple: &Tuple<V4Addr>, payload: &[u8]) -> Vec<u8> {
    let mut out = std::vec![0x45, 0];
    out.extend(((20 + payload.len()) as u16).to_be_bytes());
    out.extend([0, 7, 0x40, 0, 61, protocol, 0, 0]);
    out.extend(tuple.saddr.bytes());
    out.extend(tuple.daddr.bytes());
    let checksum = !sum(&out);
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
    out.extend(payload);
    out
}

/// An error from a router about `quote`, with the length that it gives.
fn error(kind: u8, length: u8, quote: &[u8]) -> Vec<u8> {
    let mut message = std::vec![kind, 4, 0, 0, 0, length, 5, 0];
    message.extend(quote);
    let checksum = !sum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let tuple = Tuple {
        saddr: V4Addr::new([203, 0, 113, 1]),
        daddr: V4Addr::new([192, 0, 2, 1]),
        ..Tuple::default()
    };
    let mut out = std::vec![0; ETH_LEN];
    out.extend(ipv4(proto::ICMP, &tuple, &message));
    out
}

/// A datagram or a segment of this tuple.
fn transport(protocol: u8, tuple: &Tuple<V4Addr>, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(tuple.sport.raw().to_ne_bytes());
    out.extend(tuple.dport.raw().to_ne_bytes());
    out.extend(rest);
    let field = if protocol == proto::TCP { 16 } else { 6 };
    if out.len() < field + 2 {
        return out;
    }
    out[field..field + 2].fill(0);
    let pseudo: Vec<u8> = [tuple.saddr.bytes(), tuple.daddr.bytes()].concat();
    let start = u32::from(sum(&pseudo)) + u32::from(protocol) + out.len() as u32;
    let total = start + u32::from(sum(&out));
    let checksum = !((total & 0xffff) + (total >> 16)) as u16;
    let checksum = if checksum == 0 && protocol == proto::UDP {
        0xffff
    } else {
        checksum
    };
    out[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    out
}

fn quote_of(bytes: &[u8]) -> Option<Quote<V4Addr>> {
    let packet = parse::<V4>(bytes).unwrap();
    let mut quote = Quote::default();
    parse_quote::<V4>(bytes, &packet, &mut quote).then_some(quote)
}

/// Rewrites a quote as the programs do.
fn rewrite(bytes: &mut [u8], to: &Tuple<V4Addr>) {
    let quote = quote_of(bytes).unwrap();
    let packet = parse::<V4>(&*bytes).unwrap();
    let put16 = |bytes: &mut [u8], at: usize, value: u16| {
        bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    let get16 = |bytes: &[u8], at: usize| u16::from_ne_bytes(bytes.read::<[u8; 2]>(at).unwrap());
    let (checksum, addresses) = v4_quoted(&quote, get16(bytes, quote.l3 + 10), to);
    put16(bytes, quote.l3 + 10, checksum);
    for (index, word) in addresses.iter().enumerate() {
        let at = quote.l3 + 12 + 4 * index;
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    put16(bytes, quote.l4, to.sport.raw());
    put16(bytes, quote.l4 + 2, to.dport.raw());
    let (mut old, mut new) = (0, 0);
    let offset = checksum_offset(&quote);
    if offset != 0 {
        old = get16(bytes, offset);
        new = transport_checksum(&quote, old, to);
        put16(bytes, offset, new);
    }
    let change = message_change::<V4>(&quote, to, old, new);
    let field = checksum::update(get16(bytes, packet.l4 + 2), change);
    put16(bytes, packet.l4 + 2, field);
}

fn tuple() -> impl Strategy<Value = Tuple<V4Addr>> {
    any::<(u32, u32, u16, u16)>().prop_map(|(saddr, daddr, sport, dport)| Tuple {
        saddr: V4Addr(saddr),
        daddr: V4Addr(daddr),
        sport: Be16::new(sport),
        dport: Be16::new(dport),
    })
}

proptest! {
    #[test]
    fn a_rewritten_quote_is_the_packet_of_the_other_tuple(
        from in tuple(), to in tuple(), tcp: bool,
        rest in proptest::collection::vec(any::<u8>(), 4..60),
        extension in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let protocol = if tcp { proto::TCP } else { proto::UDP };
        let [old, new] = [from, to].map(|tuple| {
            ipv4(protocol, &tuple, &transport(protocol, &tuple, &rest))
        });
        // A multiple of the unit that lengths are counted in.
        let length = if extension.is_empty() { 0 } else { old.len() / 4 };
        let mut bytes = error(3, length as u8, &[&old[..], &extension].concat());
        prop_assert_eq!(quote_of(&bytes).unwrap().tuple, from);
        rewrite(&mut bytes, &to);
        prop_assert_eq!(quote_of(&bytes).unwrap().tuple, to);
        prop_assert_eq!(sum(&bytes[ETH_LEN + 20..]), 0xffff);
        let quoted = &bytes[ETH_LEN + 28..];
        // What the length field cuts off may have held the checksum.
        if length == 0 || length * 4 == old.len() {
            prop_assert_eq!(&quoted[..new.len()], &new[..]);
        }
        prop_assert_eq!(&quoted[new.len()..], &extension[..]);
    }

    #[test]
    fn any_message_is_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 20..100), kind in 0u8..20,
    ) {
        if let Some(quote) = quote_of(&error(kind, bytes[0], &bytes)) {
            prop_assert!(matches!(kind, 3 | 11 | 12));
            prop_assert!(quote.l4 + 8 <= quote.end);
            prop_assert!(quote.end <= ETH_LEN + 28 + bytes.len());
        }
    }
}

/// An IPv6 packet.
fn ipv6(next: u8, tuple: &Tuple<V6Addr>, payload: &[u8]) -> Vec<u8> {
    let mut out = std::vec![0x60, 0, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([next, 61]);
    out.extend(tuple.saddr.bytes());
    out.extend(tuple.daddr.bytes());
    out.extend(payload);
    out
}

/// The same with the checksum at `field` of its payload right.
fn ipv6_summed(next: u8, tuple: &Tuple<V6Addr>, payload: &[u8], field: usize) -> Vec<u8> {
    let mut out = ipv6(next, tuple, payload);
    let field = V6_LEN + field;
    out[field..field + 2].fill(0);
    let checksum = match !sum_v6(&out, next) {
        0 if next == proto::UDP => 0xffff,
        checksum => checksum,
    };
    out[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    out
}

/// RFC 8200, section 8.1.
fn sum_v6(packet: &[u8], next: u8) -> u16 {
    let length = (packet.len() - V6_LEN) as u32;
    let mut summed = packet[8..V6_LEN].to_vec();
    summed.extend(length.to_be_bytes());
    summed.extend(u32::from(next).to_be_bytes());
    summed.extend(&packet[V6_LEN..]);
    sum(&summed)
}

fn tuple_v6() -> impl Strategy<Value = Tuple<V6Addr>> {
    any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(saddr, daddr, sport, dport)| Tuple {
        saddr: V6Addr::new(saddr),
        daddr: V6Addr::new(daddr),
        sport: Be16::new(sport),
        dport: Be16::new(dport),
    })
}

proptest! {
    #[test]
    fn a_quote_of_ipv6_is_part_of_what_is_summed(
        from in tuple_v6(), to in tuple_v6(), error_to in tuple_v6(),
        (next, field) in prop_oneof![
            Just((proto::TCP, 16)), Just((proto::UDP, 6)), Just((proto::ICMPV6, 2)),
        ],
        rest in proptest::collection::vec(any::<u8>(), 20..60),
    ) {
        let payload = |tuple: &Tuple<V6Addr>| {
            let mut payload = rest.clone();
            let (sport, dport) = (tuple.sport.raw().to_ne_bytes(), tuple.dport.raw().to_ne_bytes());
            if next == proto::ICMPV6 {
                payload[..2].copy_from_slice(&[128, 0]);
                payload[4..6].copy_from_slice(&sport);
            } else {
                payload[..2].copy_from_slice(&sport);
                payload[2..4].copy_from_slice(&dport);
            }
            payload
        };
        let (mut from, mut to) = (from, to);
        if next == proto::ICMPV6 {
            (from.dport, to.dport) = (Be16::default(), Be16::default());
        }
        let [old, new] = [from, to].map(|tuple| ipv6_summed(next, &tuple, &payload(&tuple), field));
        let outer = Tuple { daddr: from.saddr, ..error_to };
        let error = |outer: &Tuple<V6Addr>, quote: &[u8]| {
            let message = [&[1, 4, 0, 0, 0, 0, 0, 0], quote].concat();
            let mut bytes = std::vec![0; ETH_LEN];
            bytes.extend(ipv6_summed(proto::ICMPV6, outer, &message, 2));
            bytes
        };
        let bytes = error(&outer, &old);
        let packet = parse::<V6>(bytes.as_slice()).unwrap();
        let mut quote = Quote::default();
        prop_assert!(parse_quote::<V6>(bytes.as_slice(), &packet, &mut quote));
        prop_assert_eq!((quote.tuple, quote.proto), (from, next));
        let field_of = |bytes: &[u8], at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let old_sum = field_of(&old, V6_LEN + field);
        let new_sum = transport_checksum(&quote, old_sum, &to);
        // 0 and all ones are the same sum; only UDP tells them apart.
        let same = |one: u16, other: u16| one == other || !one == other && (one == 0 || other == 0);
        prop_assert!(same(new_sum, field_of(&new, V6_LEN + field)));
        let outer_to = Tuple { daddr: to.saddr, ..outer };
        let change = message_change::<V6>(&quote, &to, old_sum, new_sum);
        let change = V6::pseudo_change(&packet, &outer_to).add(change.wsum());
        let updated = checksum::update(field_of(&bytes, packet.l4 + 2), change);
        let expected = error(&outer_to, &new);
        prop_assert!(same(updated, field_of(&expected, packet.l4 + 2)));
    }

    #[test]
    fn a_refusal_has_right_checksums(
        tuple in tuple(), tuple_v6 in tuple_v6(),
        mut quote in proptest::collection::vec(any::<u8>(), 4..100), mtu in 1280u16..,
        (refusal, v4_numbers, v6_numbers) in prop_oneof![
            Just((Refusal::Prohibited, [3, 13], [1, 1])),
            Just((Refusal::NoRoute, [3, 0], [1, 0])),
            Just((Refusal::TooBig, [3, 4], [2, 0])),
            Just((Refusal::Expired, [11, 0], [3, 0])),
        ],
    ) {
        quote.truncate(quote.len() & !3);
        let answer = Answer {
            refusal,
            mtu: mtu.into(),
            length: quote.len() as u16,
            sum: Sum::default().add(u32::from(sum(&quote).to_be())),
        };
        let mtu = mtu.to_be_bytes();
        let header = v4_refusal(tuple.saddr, tuple.daddr, &answer);
        let mut bytes = std::vec![0; ETH_LEN];
        bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(&quote);
        prop_assert_eq!(bytes.len(), ETH_LEN + V4::REFUSAL_LEN + quote.len());
        let packet = parse::<V4>(bytes.as_slice()).unwrap();
        prop_assert_eq!(packet.transport, crate::packet::Transport::IcmpError);
        prop_assert_eq!((packet.tuple.saddr, packet.tuple.daddr), (tuple.saddr, tuple.daddr));
        prop_assert_eq!(sum(&bytes[ETH_LEN..ETH_LEN + 20]), 0xffff);
        prop_assert_eq!(sum(&bytes[ETH_LEN + 20..]), 0xffff);
        prop_assert_eq!(&bytes[ETH_LEN + 20..ETH_LEN + 22], &v4_numbers);
        prop_assert_eq!(&bytes[ETH_LEN + 24..ETH_LEN + 28], &[0, 0, mtu[0], mtu[1]]);

        let tuple = tuple_v6;
        let header = v6_refusal(tuple.saddr, tuple.daddr, &answer);
        let mut bytes = std::vec![0; ETH_LEN];
        bytes.extend(header.0.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(&quote);
        prop_assert_eq!(bytes.len(), ETH_LEN + V6::REFUSAL_LEN + quote.len());
        let packet = parse::<V6>(bytes.as_slice()).unwrap();
        prop_assert_eq!(packet.transport, crate::packet::Transport::IcmpError);
        prop_assert_eq!((packet.tuple.saddr, packet.tuple.daddr), (tuple.saddr, tuple.daddr));
        prop_assert_eq!(V6::datagram_end(bytes.as_slice()), bytes.len());
        prop_assert_eq!(sum_v6(&bytes[ETH_LEN..], proto::ICMPV6), 0xffff);
        let icmp = &bytes[ETH_LEN + V6_LEN..];
        prop_assert_eq!(&icmp[..2], &v6_numbers);
        prop_assert_eq!(&icmp[4..8], &[0, 0, mtu[0], mtu[1]]);
    }
}

#[test]
fn an_echo_request_has_its_identifier_as_source_port() {
    let tuple = Tuple {
        saddr: V4Addr::new([192, 0, 2, 1]),
        daddr: V4Addr::new([198, 51, 100, 1]),
        ..Tuple::default()
    };
    let echo = |kind| ipv4(proto::ICMP, &tuple, &[kind, 0, 1, 2, 0x12, 0x34, 0, 1]);
    let quote = quote_of(&error(11, 0, &echo(8))).unwrap();
    assert_eq!(
        (quote.tuple.sport.get(), quote.tuple.dport.get()),
        (0x1234, 0)
    );
    assert_eq!(
        quote_of(&error(11, 0, &echo(0))),
        None,
        "a reply is no flow's"
    );
}

#[test]
fn a_datagram_without_checksum_gets_none() {
    let quote: Quote<V4Addr> = Quote {
        proto: proto::UDP,
        ..Quote::default()
    };
    let to = Tuple {
        sport: Be16::new(7),
        ..Tuple::default()
    };
    assert_eq!(transport_checksum(&quote, 0, &to), 0);
    assert_ne!(transport_checksum(&quote, 1, &to), 1);
}
