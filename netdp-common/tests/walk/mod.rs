//! Any bytes through all of the pure packet logic, judged by a second reading
//! that shares nothing with it. The tests and the fuzzer both do this.

mod v6;

use netdp_common::{
    addr::{Address, Be16, V4Addr, proto},
    arp,
    checksum::{self, Sum},
    fragment,
    icmp::{self, Quoting},
    maps::Frag,
    nat,
    packet::{self, Bytes, ETH_LEN, Fragment, Packet, Transport, Tuple, V4},
    port,
    tcp::{self, Direction, state},
};

/// # Panics
/// Where the logic contradicts itself or the reading below.
pub fn walk(bytes: &[u8]) {
    ipv4(bytes);
    v6::ipv6(bytes);
    address_resolution(bytes);
    connection(bytes);
    ports(bytes);
    fragments(bytes);
}

/// Two octets in network order.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// RFC 1071, section 4.1.
fn sum(begin: u32, bytes: &[u8]) -> u16 {
    let mut sum = begin;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Of zeros alone, too: the other zero of this arithmetic.
fn is_right(sum: u16) -> bool {
    sum == 0xffff || sum == 0
}

fn pseudo(ip: &[u8], length: usize) -> u32 {
    u32::from(sum(0, &ip[12..20])) + u32::from(ip[9]) + length as u32
}

/// What `bytes` decide where chance would.
fn chosen(bytes: &[u8]) -> Tuple<V4Addr> {
    let mut number = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut next = || {
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        number >> 32
    };
    Tuple {
        saddr: V4Addr::new((next() as u32).to_be_bytes()),
        daddr: V4Addr::new((next() as u32).to_be_bytes()),
        sport: Be16::new(next() as u16),
        dport: Be16::new(next() as u16),
    }
}

fn ipv4(bytes: &[u8]) {
    let Ok(packet) = packet::parse::<V4>(bytes) else {
        return;
    };
    let header = usize::from(bytes[ETH_LEN] & 15) * 4;
    assert_eq!(bytes[ETH_LEN] >> 4, 4, "version");
    assert!(
        header >= 20 && packet.l4 == ETH_LEN + header,
        "header length"
    );
    assert_eq!(packet.tuple.saddr.bytes(), bytes[26..30], "source");
    assert_eq!(packet.tuple.daddr.bytes(), bytes[30..34], "destination");
    assert_eq!((packet.ttl, packet.proto), (bytes[22], bytes[23]));
    let flags = half(bytes, 20);
    assert_eq!(packet.dont_fragment, flags & 0x4000 != 0);
    let later = flags & 0x1fff != 0;
    assert_eq!(
        later,
        packet.fragment == Fragment::Later,
        "a later fragment"
    );
    assert_eq!(
        flags & 0x2000 != 0 && !later,
        matches!(packet.fragment, Fragment::First | Fragment::Tiny),
        "a first fragment"
    );
    if later {
        assert_eq!(packet.transport, Transport::Later);
        assert_eq!((packet.tuple.sport.get(), packet.tuple.dport.get()), (0, 0));
        return;
    }
    if packet.fragment == Fragment::Tiny {
        return;
    }
    transport(bytes, &packet, (proto::ICMP, 8, 0));
    if packet.transport.has_ports() {
        translated(bytes, &packet);
    }
    if packet.transport == Transport::IcmpError {
        quoted(bytes, &packet);
    }
}

/// `icmp` is its protocol, and the types of request and reply.
fn transport<A: Address>(bytes: &[u8], packet: &Packet<A>, icmp: (u8, u8, u8)) {
    let body = &bytes[packet.l4.min(bytes.len())..];
    let (sport, dport) = match (packet.proto, packet.transport) {
        (proto::TCP, Transport::Tcp(flags)) => {
            assert!(body.len() >= 20, "TCP without its header");
            assert_eq!(flags, body[13]);
            (half(body, 0), half(body, 2))
        }
        (proto::UDP, Transport::Udp) => {
            assert!(body.len() >= 8, "UDP without its header");
            (half(body, 0), half(body, 2))
        }
        (number, Transport::EchoRequest) if number == icmp.0 => {
            assert_eq!(body[0], icmp.1);
            (half(body, 4), 0)
        }
        (number, Transport::EchoReply) if number == icmp.0 => {
            assert_eq!(body[0], icmp.2);
            (0, half(body, 4))
        }
        (proto::ICMPV6, Transport::IcmpError) => {
            assert!([1, 2, 3, 4].contains(&body[0]));
            (0, 0)
        }
        (proto::ICMP, Transport::IcmpError) => {
            assert!([3, 5, 11, 12].contains(&body[0]));
            (0, 0)
        }
        (proto::ICMP, Transport::IcmpOther) => {
            assert!(![0, 3, 5, 8, 11, 12].contains(&body[0]));
            (0, 0)
        }
        (proto::TCP | proto::UDP | proto::ICMP, other) => panic!("read as {other:?}"),
        (_, Transport::Other) => (0, 0),
        (_, other) => panic!("read as {other:?}"),
    };
    assert_eq!(packet.tuple.sport.get(), sport, "source port");
    assert_eq!(packet.tuple.dport.get(), dport, "destination port");
    // An answer is of the same flow, seen from the other side.
    let Tuple {
        saddr,
        daddr,
        sport,
        dport,
    } = packet.tuple;
    let answer = Tuple {
        saddr: daddr,
        daddr: saddr,
        sport: dport,
        dport: sport,
    };
    assert_eq!(
        packet.tuple.sent(packet.proto),
        answer.received(packet.proto)
    );
}

/// A new tuple changes the checksums as computing them anew would, and the old
/// one changes all back.
fn translated(bytes: &[u8], packet: &Packet<V4Addr>) {
    let mut to = chosen(bytes);
    if packet.proto == proto::ICMP {
        // The other port of an echo is no field of it.
        match packet.transport {
            Transport::EchoRequest => to.dport = Be16::default(),
            _ => to.sport = Be16::default(),
        }
    }
    let out = translate(bytes, packet, &to, true);
    assert_eq!(out[22], bytes[22].saturating_sub(1), "TTL");
    assert_eq!(out[23], bytes[23], "protocol");
    assert_eq!(out[26..30], to.saddr.bytes());
    assert_eq!(out[30..34], to.daddr.bytes());
    let header = ETH_LEN..packet.l4;
    let was = sum(0, &bytes[header.clone()]);
    let is = sum(0, &out[header]);
    assert_eq!(is_right(was), is_right(is), "sum of the IPv4 header");
    summed(bytes, &out, packet);

    let sums = [24, nat::l4_change(packet, &packet.tuple).offset];
    let back = translate(bytes, packet, &packet.tuple, false);
    same(bytes, &back, &sums);
    let there = translate(bytes, packet, &to, false);
    let seen = packet::parse::<V4>(&there[..]).expect("a packet as before");
    assert_eq!(
        (seen.tuple, seen.transport, seen.l4),
        (to, packet.transport, packet.l4)
    );
    let back = translate(&there, &seen, &packet.tuple, false);
    same(bytes, &back, &sums);
}

/// The packet with this tuple, as the programs write it.
fn translate(bytes: &[u8], packet: &Packet<V4Addr>, to: &Tuple<V4Addr>, hop: bool) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let field = u16::from_ne_bytes([bytes[24], bytes[25]]);
    let (at, words) = nat::v4_header(packet, field, to, hop);
    for (word, place) in words.iter().zip(out[at..at + 12].chunks_mut(4)) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    write_transport(bytes, &mut out, packet, to);
    out
}

/// Ports and checksum of the transport, as the programs write them.
fn write_transport<A: Address>(bytes: &[u8], out: &mut [u8], packet: &Packet<A>, to: &Tuple<A>) {
    match packet.transport {
        Transport::EchoRequest => put(out, packet.l4 + 4, to.sport),
        Transport::EchoReply => put(out, packet.l4 + 4, to.dport),
        _ => {
            put(out, packet.l4, to.sport);
            put(out, packet.l4 + 2, to.dport);
        }
    }
    let change = nat::l4_change(packet, to);
    let old: [u8; 2] = bytes.read(change.offset).unwrap();
    if change.zero_means_none && old == [0, 0] {
        return;
    }
    let both = Sum::default()
        .add(change.pseudo.wsum())
        .add(change.header.wsum());
    let mut new = checksum::update(u16::from_ne_bytes(old), both);
    if change.zero_means_none && new == 0 {
        new = 0xffff;
    }
    out[change.offset..change.offset + 2].copy_from_slice(&new.to_ne_bytes());
}

/// Whether the sum of the transport is as right as before, where the packet is
/// all there.
fn summed(bytes: &[u8], out: &[u8], packet: &Packet<V4Addr>) {
    let total = ETH_LEN + usize::from(half(bytes, 16));
    let offset = nat::l4_change(packet, &packet.tuple).offset;
    let none = packet.transport == Transport::Udp && half(bytes, offset) == 0;
    if total > bytes.len() || total < packet.l4 + 8 || total < offset + 2 || none {
        return;
    }
    let right = |bytes: &[u8]| {
        let ip = &bytes[ETH_LEN..total];
        let body = &bytes[packet.l4..total];
        let begin = if packet.proto == proto::ICMP {
            0
        } else {
            pseudo(ip, body.len())
        };
        is_right(sum(begin, body))
    };
    assert_eq!(right(bytes), right(out), "sum of the transport");
}

/// The same packet; checksums, which are in these places, may be the other zero.
fn same(bytes: &[u8], out: &[u8], checksums: &[usize]) {
    let plain = |bytes: &[u8]| {
        let mut plain = bytes.to_vec();
        for &at in checksums {
            if plain[at..at + 2] == [0xff, 0xff] {
                plain[at..at + 2].fill(0);
            }
        }
        plain
    };
    assert_eq!(plain(bytes), plain(out), "there and back");
}

fn put(out: &mut [u8], at: usize, port: Be16) {
    out[at..at + 2].copy_from_slice(&port.get().to_be_bytes());
}

/// A quote with a new tuple leaves all checksums as right as they were.
fn quoted(bytes: &[u8], packet: &Packet<V4Addr>) {
    let mut quote = icmp::Quote::default();
    if !icmp::parse_quote::<V4>(bytes, packet, &mut quote) {
        return;
    }
    assert!([3, 11, 12].contains(&bytes[packet.l4]), "about no flow");
    assert_eq!(quote.l3, packet.l4 + 8);
    assert!(quote.l4 >= quote.l3 + 20 && quote.l4 + 8 <= bytes.len());
    assert!(
        quote.l4 + 8 <= quote.end,
        "a quote that ends before its ports"
    );
    assert_eq!(quote.tuple.saddr.bytes(), bytes[quote.l3 + 12..][..4]);
    assert_eq!(quote.tuple.daddr.bytes(), bytes[quote.l3 + 16..][..4]);
    assert_eq!(quote.proto, bytes[quote.l3 + 9]);
    assert_eq!(half(bytes, quote.l3 + 6) & 0x1fff, 0, "a later fragment's");
    let total = ETH_LEN + usize::from(half(bytes, 16));
    if total > bytes.len() || !(total - packet.l4).is_multiple_of(2) {
        // What the last octet of an odd length counts is its own affair.
        return;
    }
    let mut to = chosen(bytes);
    if quote.proto == proto::ICMP {
        to.dport = Be16::default();
    }
    let mut out = bytes.to_vec();
    let at = quote.l3 + 10;
    let field = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let (field, words) = icmp::v4_quoted(&quote, field, &to);
    out[at..at + 2].copy_from_slice(&field.to_ne_bytes());
    for (word, place) in words.iter().zip(out[at + 2..at + 10].chunks_mut(4)) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    write_quote::<V4>(bytes, &mut out, packet, &quote, &to);
    let inner = |bytes: &[u8]| is_right(sum(0, &bytes[quote.l3..quote.l4]));
    assert_eq!(inner(bytes), inner(&out), "sum of the quoted header");
    // A header whose sum was wrong is changed by something else than its sum
    // makes up for, and so is one that the field of zero stands for.
    if inner(bytes) {
        let outer = |bytes: &[u8]| is_right(sum(0, &bytes[packet.l4..total]));
        assert_eq!(outer(bytes), outer(&out), "sum of the message");
    }
}

/// Writes ports and checksums of a quote, and its message's, as the programs do.
fn write_quote<Q: Quoting>(
    bytes: &[u8],
    out: &mut [u8],
    packet: &Packet<Q::Addr>,
    quote: &icmp::Quote<Q::Addr>,
    to: &Tuple<Q::Addr>,
) {
    if quote.proto == Q::ICMP {
        put(out, quote.l4 + 4, to.sport);
    } else {
        put(out, quote.l4, to.sport);
        put(out, quote.l4 + 2, to.dport);
    }
    let at = icmp::checksum_offset(quote);
    let (mut old, mut new) = (0, 0);
    if at != 0 {
        old = u16::from_ne_bytes(bytes.read(at).unwrap());
        new = icmp::transport_checksum(quote, old, to);
        out[at..at + 2].copy_from_slice(&new.to_ne_bytes());
    }
    let change = icmp::message_change::<Q>(quote, to, old, new);
    let at = packet.l4 + 2;
    let message = checksum::update(u16::from_ne_bytes([bytes[at], bytes[at + 1]]), change);
    out[at..at + 2].copy_from_slice(&message.to_ne_bytes());
}

fn address_resolution(bytes: &[u8]) {
    let Some(request) = arp::Request::parse(bytes) else {
        return;
    };
    assert_eq!(request.sender_mac, bytes[22..28]);
    assert_eq!(request.sender.bytes(), bytes[28..32]);
    assert_eq!(request.target.bytes(), bytes[38..42]);
    let mac = [2, 3, 4, 5, 6, 7];
    let reply = request.reply(mac);
    assert!(arp::Request::parse(&reply[..]).is_none(), "a reply asks");
    assert_eq!(reply[..6], request.sender_mac);
    assert_eq!(reply[22..28], mac);
    assert_eq!(reply[28..32], request.target.bytes());
    assert_eq!(reply[38..42], request.sender.bytes());
}

/// The bytes as segments of one connection: flags, and the lowest bit of the
/// next octet as the direction.
fn connection(bytes: &[u8]) {
    let (mut now, mut fins) = (0, (false, false));
    for segment in bytes.chunks_exact(2) {
        let (flags, reply) = (segment[0], segment[1] & 1 != 0);
        let direction = if reply {
            Direction::Reply
        } else {
            Direction::Original
        };
        let before = now;
        now = tcp::next(now, flags, direction);
        assert_ne!(tcp::name(now), "unknown");
        assert_eq!(now == state::RESET, flags & 4 != 0, "reset by a RST alone");
        if flags & 6 == 0 && flags & 1 != 0 {
            if reply {
                fins.1 = true;
            } else {
                fins.0 = true;
            }
        }
        if now == state::CLOSED {
            assert!(fins.0 && fins.1, "closed by one side alone");
        }
        if tcp::is_established(now) {
            assert_eq!(flags & 4, 0);
            assert!(
                flags & 2 == 0 || tcp::is_established(before),
                "established by a SYN"
            );
        }
        if now == state::OPENING || now == state::RESET || tcp::is_established(now) {
            fins = (false, false);
        }
    }
}

fn ports(bytes: &[u8]) {
    let Some(words) = bytes.first_chunk::<14>() else {
        return;
    };
    let (wanted, first, last) = (half(words, 0), half(words, 2), half(words, 4));
    let random = u32::from_be_bytes([words[6], words[7], words[8], words[9]]);
    let (attempt, number) = (u32::from(half(words, 10)), words[12]);
    let port = port::candidate(Be16::new(wanted), number, attempt, random, first, last).get();
    if attempt == 0 {
        assert_eq!(port, wanted, "the own port comes first");
    } else if first < last {
        assert!((first..=last).contains(&port), "{port} is out of range");
        if number == proto::UDP {
            assert_eq!(port & 1, wanted & 1, "parity");
        }
    }
}

/// The bytes as fragments of one datagram: none that is taken overlaps what is
/// known to be there.
fn fragments(bytes: &[u8]) {
    let piece = |octets: &[u8]| {
        let begin = u16::from(octets[0]) * 8;
        Packet::<V4Addr> {
            begin,
            end: begin + u16::from(octets[1]),
            proto: proto::UDP,
            more: octets[1] & 1 == 0,
            ..Packet::default()
        }
    };
    let mut pieces = bytes.chunks_exact(2).take(64).map(piece);
    let Some(mut first) = pieces.next() else {
        return;
    };
    (first.begin, first.end) = (0, first.end.max(8));
    let mut known: Frag = fragment::begin(&first, 0);
    for piece in pieces {
        let (seen, island) = (known.seen, known.island..known.island_end);
        if fragment::add(&mut known, &piece) == Fragment::Later {
            assert!(piece.begin >= seen, "overlaps what is there");
            assert!(
                piece.end <= island.start || piece.begin >= island.end,
                "overlaps an island"
            );
            assert!(known.seen >= seen);
        }
    }
}
