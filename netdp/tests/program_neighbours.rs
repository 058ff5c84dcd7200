//! Neighbour discovery of a container under test_run: what is answered for
//! it, and what it may not say of others. Needs root.

mod program_world;

use std::net::Ipv6Addr;

use netdp_common::drop::DropReason;
use program_world::{
    Container, DB, DROP, GATEWAY, HOST, LONER, REDIRECT, REMOTE, WEB, World,
    family::embed,
    frame::{Frame, Mac, SYN, at},
    world6,
};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECTED: u8 = 137;
const LISTENER_REPORT: u8 = 143;
/// Options (RFC 4861, section 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const ETHERNET: usize = 14;
const ICMP: usize = ETHERNET + 40;

fn link_local(container: &Container) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, container.slot as u16)
}

/// The group that asks for an address (RFC 4291, section 2.7.1).
fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let low = addr.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// A message of ICMPv6 as it lies in a packet.
#[derive(Clone)]
struct Message {
    from: Ipv6Addr,
    to: Ipv6Addr,
    hops: u8,
    kind: u8,
    /// Behind type, code and checksum.
    rest: Vec<u8>,
}

impl Message {
    /// About one address, with a MAC address as option.
    fn about(kind: u8, from: Ipv6Addr, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Self {
        let mut rest = vec![0; 4];
        rest.extend(target.octets());
        if let Some((number, mac)) = option {
            rest.extend([number, 1]);
            rest.extend(mac);
        }
        let to = solicited_node(target);
        Self {
            from,
            to,
            hops: 255,
            kind,
            rest,
        }
    }

    fn bytes(&self, container: &Container) -> Vec<u8> {
        let [.., a, b, c] = self.to.octets();
        let mut bytes = vec![0x33, 0x33, 0xff, a, b, c];
        bytes.extend(container.mac);
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((4 + self.rest.len() as u16).to_be_bytes());
        bytes.extend([58, self.hops]);
        bytes.extend(self.from.octets());
        bytes.extend(self.to.octets());
        bytes.extend([self.kind, 0, 0, 0]);
        bytes.extend(&self.rest);
        let checksum = !sum(&bytes);
        bytes[ICMP + 2..ICMP + 4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// Over the pseudo header and the message of a packet (RFC 8200, section 8.1).
fn sum(bytes: &[u8]) -> u16 {
    let length = bytes.len() - ICMP;
    let words = bytes[ETHERNET + 8..].chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum = words.sum::<u32>() + length as u32 + 58;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn solicitation(container: &Container, from: Ipv6Addr, target: Ipv6Addr) -> Message {
    let own = Some((SOURCE_LINK_LAYER, container.mac));
    Message::about(SOLICITATION, from, target, own)
}

/// Nobody hears it, and nobody needs to know.
fn goes_unheard(world: &mut World, container: &Container, message: &Message) {
    let before = (world.drops(), world.datapath.stats(container.slot).unwrap());
    let bytes = message.bytes(container);
    let run = world.run_from_container(container, &bytes);
    assert_eq!((run.action, run.packet), (DROP, bytes));
    let after = (world.drops(), world.datapath.stats(container.slot).unwrap());
    assert_eq!((after.0, after.1.drops), (before.0, before.1.drops));
}

#[test]
fn solicitations_are_answered_for_the_gateway_and_the_neighbours() {
    world6(|world| {
        let db = world.db;
        let own = Some((SOURCE_LINK_LAYER, db.mac));
        for (sender, target, option, router) in [
            (embed(DB), GATEWAY, own, true),
            (embed(DB), WEB, own, false),
            (link_local(&db), GATEWAY, own, true),
            // To see whether it is still there.
            (embed(DB), GATEWAY, None, true),
            // Of a kind that isn't looked at.
            (embed(DB), GATEWAY, Some((14, [7; 6])), true),
        ] {
            let target = embed(target);
            let asked = Message::about(SOLICITATION, sender, target, option);
            let run = world.run_from_container(&db, &asked.bytes(&db));
            assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
            let seen = run.packet;
            assert_eq!(seen.len(), ICMP + 32);
            assert_eq!((&seen[..6], &seen[6..12]), (&db.mac[..], &db.host_mac[..]));
            assert_eq!(seen[12..18], [0x86, 0xdd, 0x60, 0, 0, 0]);
            assert_eq!(seen[18..22], [0, 32, 58, 255]);
            assert_eq!(seen[22..38], target.octets());
            assert_eq!(seen[38..54], sender.octets());
            assert_eq!(sum(&seen), 0xffff);
            // Solicited, and in place of what was known before.
            let flags = if router { 0xe0 } else { 0x60 };
            assert_eq!(seen[ICMP..ICMP + 2], [ADVERTISEMENT, 0]);
            assert_eq!(seen[ICMP + 4..ICMP + 8], [flags, 0, 0, 0]);
            assert_eq!(seen[ICMP + 8..ICMP + 24], target.octets());
            assert_eq!(seen[ICMP + 24..ICMP + 26], [TARGET_LINK_LAYER, 1]);
            assert_eq!(seen[ICMP + 26..], db.host_mac);
        }
    });
}

#[test]
fn what_needs_no_answer_goes_unheard() {
    world6(|world| {
        let db = world.db;
        let nobody = Ipv6Addr::UNSPECIFIED;
        let routers = "ff02::2".parse().unwrap();
        let report = Message {
            to: "ff02::16".parse().unwrap(),
            hops: 1,
            kind: LISTENER_REPORT,
            rest: vec![0; 24],
            ..Message::about(LISTENER_REPORT, link_local(&db), nobody, None)
        };
        for message in [
            // Whether others have the addresses that it is about to take.
            Message::about(SOLICITATION, nobody, embed(DB), None),
            Message::about(SOLICITATION, nobody, link_local(&db), None),
            // It has them.
            Message::about(
                ADVERTISEMENT,
                embed(DB),
                embed(DB),
                Some((TARGET_LINK_LAYER, db.mac)),
            ),
            Message::about(ADVERTISEMENT, link_local(&db), link_local(&db), None),
            Message {
                to: routers,
                rest: vec![0; 4],
                ..Message::about(ROUTER_SOLICITATION, link_local(&db), nobody, None)
            },
            report,
        ] {
            goes_unheard(world, &db, &message);
        }
    });
}

#[test]
fn a_container_speaks_for_nobody_else() {
    world6(|world| {
        let (db, web) = (world.db, world.web);
        let own = Some((TARGET_LINK_LAYER, db.mac));
        let messages = [
            Message::about(ADVERTISEMENT, embed(DB), embed(WEB), own),
            Message::about(ADVERTISEMENT, embed(DB), embed(GATEWAY), own),
            Message::about(ADVERTISEMENT, embed(WEB), embed(WEB), own),
            Message::about(ADVERTISEMENT, link_local(&db), embed(REMOTE), own),
            Message::about(REDIRECTED, embed(GATEWAY), embed(REMOTE), own),
            Message::about(ROUTER_ADVERTISEMENT, link_local(&db), embed(REMOTE), own),
            // It is about to take an address of another's.
            Message::about(SOLICITATION, Ipv6Addr::UNSPECIFIED, embed(WEB), None),
            Message::about(SOLICITATION, Ipv6Addr::UNSPECIFIED, embed(GATEWAY), None),
        ];
        for message in messages {
            let bytes = message.bytes(&db);
            assert_eq!(
                world.is_refused(&db, &bytes),
                DropReason::SpoofedNeighbour,
                "{} from {}",
                message.kind,
                message.from
            );
        }
        for message in [
            solicitation(&db, embed(WEB), embed(GATEWAY)),
            solicitation(&db, embed(GATEWAY), embed(WEB)),
            solicitation(&web, embed(DB), embed(GATEWAY)),
        ] {
            let bytes = message.bytes(&db);
            assert_eq!(world.is_refused(&db, &bytes), DropReason::SpoofedSource);
        }
        let inner = solicitation(&web, embed(DB), embed(GATEWAY)).bytes(&web);
        assert_eq!(world.is_refused(&db, &inner), DropReason::SpoofedSource);
    });
}

#[test]
fn other_solicitations_are_refused() {
    world6(|world| {
        let db = world.db;
        for target in [LONER, HOST, REMOTE, DB].map(embed) {
            let bytes = solicitation(&db, embed(DB), target).bytes(&db);
            assert_eq!(
                world.is_refused(&db, &bytes),
                DropReason::NeighbourUnknown,
                "for {target}"
            );
        }
        let asked = solicitation(&db, embed(DB), embed(GATEWAY));
        // Through a router, cut off, and in a fragment (RFC 6980).
        let routed = Message {
            hops: 254,
            ..asked.clone()
        };
        let whole = asked.bytes(&db);
        let mut fragment = whole[..ICMP].to_vec();
        fragment[ETHERNET + 6] = 44;
        fragment[ETHERNET + 5] += 8;
        fragment.extend([58, 0, 0, 1, 1, 2, 3, 4]);
        fragment.extend(&whole[ICMP..]);
        for bytes in [&routed.bytes(&db)[..], &whole[..ICMP + 23], &fragment] {
            assert_eq!(world.is_refused(&db, bytes), DropReason::Malformed);
        }
    });
}

#[test]
fn what_is_of_the_link_alone_goes_nowhere_else() {
    world6(|world| {
        let db = world.db;
        // Any other packet from or to a link-local address.
        let mut packet = db
            .frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)))
            .bytes();
        packet[38..54].copy_from_slice(&link_local(&world.web).octets());
        assert_eq!(world.is_refused(&db, &packet), DropReason::NoRoute);
        packet[22..38].copy_from_slice(&link_local(&db).octets());
        assert_eq!(world.is_refused(&db, &packet), DropReason::SpoofedSource);
        // The host's own neighbours are the host's.
        let asked = solicitation(&db, embed(REMOTE), embed(HOST));
        world.passes(&asked.bytes(&db));
    });
}

#[test]
fn without_an_address_of_ipv6_there_is_no_ipv6() {
    program_world::world(|world| {
        let db = world.db;
        let asked = solicitation(&db, embed(DB), embed(GATEWAY));
        let bytes = asked.bytes(&db);
        assert_eq!(world.is_refused(&db, &bytes), DropReason::UnknownEthertype);
    });
}
