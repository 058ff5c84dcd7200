//! ICMP errors about translated packets under test_run: to whom each goes, and
//! what it quotes there. Needs root.

mod program_world;

use std::net::Ipv4Addr;

use netdp::bpf::FlowSeen;
use netdp_common::{
    addr::{V4Addr, proto},
    drop::DropReason,
    maps::{FlowKey, flow_kind},
};
use program_world::{
    CLIENT, CLIENT_MAC, Container, DB, GATEWAY, HOST, HOST_2, HOST_MAC, LONER, NEXT, REDIRECT,
    REMOTE, WEB, World, arriving,
    error::{Error, Kind, protocol},
    family::Family,
    frame::{
        ACK, Body, Frame, SYN, at, between, raw, transport_start, with_extension,
        without_extensions,
    },
    world6, worlds,
};

/// A router on the way.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn from_outside(error: &Error) -> Error {
    error.clone().between(CLIENT_MAC, HOST_MAC)
}

fn from_container(error: &Error, container: &Container) -> Error {
    error.clone().between(container.mac, container.host_mac)
}

type States = Vec<(FlowKey<V4Addr>, u8)>;

/// The keys of all entries, main and pending, and the state of each.
fn states(world: &World) -> [States; 2] {
    let of = |seen: &FlowSeen<V4Addr>| (seen.key, seen.flow.state);
    [world.flows(), world.pending()].map(|entries| entries.iter().map(of).collect())
}

trait Errors {
    fn error_enters(&mut self, error: &Error, container: &Container) -> Error;
    fn error_leaves(&mut self, container: &Container, error: &Error) -> Error;
    fn error_passes(&mut self, error: &Error);
}

impl Errors for World {
    /// An error from outside reaches a container; the tables stay as they are.
    #[track_caller]
    fn error_enters(&mut self, error: &Error, container: &Container) -> Error {
        let before = states(self);
        let run = self.run_from_netdev(&from_outside(error).bytes());
        assert_eq!(run.action, REDIRECT, "{:?}", self.drops());
        let seen = Error::of(&run.packet);
        assert_eq!((seen.kind, seen.rest), (error.kind, error.rest));
        assert_eq!(seen.destination, container.mac);
        assert_eq!(seen.to, container.addr);
        assert_eq!(seen.ttl, 63);
        assert_eq!(states(self), before);
        seen
    }

    /// An error of a container is sent on.
    #[track_caller]
    fn error_leaves(&mut self, container: &Container, error: &Error) -> Error {
        let run = self.run_from_container(container, &from_container(error, container).bytes());
        assert_eq!(run.action, REDIRECT, "{:?}", self.drops());
        let seen = Error::of(&run.packet);
        assert_eq!((seen.kind, seen.rest), (error.kind, error.rest));
        seen
    }

    /// An error from outside is for the host's stack, untouched.
    #[track_caller]
    fn error_passes(&mut self, error: &Error) {
        self.passes(&from_outside(error).bytes());
    }
}

/// Whether an error quotes this packet, as it was but for TTL and MAC
/// addresses.
#[track_caller]
fn assert_quotes(error: &Error, packet: &Frame) {
    let quoted = error.quoted();
    assert_eq!(
        (quoted.from, quoted.to, quoted.body, &quoted.payload),
        (packet.from, packet.to, packet.body, &packet.payload)
    );
}

/// What a container may send to the outside from port 40000.
fn packets(container: &Container) -> [Frame; 4] {
    let (from, to) = (at(container.addr, 40_000), at(REMOTE, 443));
    [
        Frame::tcp(SYN, from, to),
        Frame::udp(from, to),
        Frame::new(Body::UdpUnchecked, from, to),
        Frame::echo_request(container.addr, REMOTE, 40_000),
    ]
    .map(|frame| container.frame(frame))
}

#[test]
fn errors_about_masqueraded_packets_reach_the_container() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        // The second has the port of the first, and gets another.
        for container in [db, web] {
            for packet in packets(&container) {
                let left = world.leaves(&container, &packet);
                let entries = states(world);
                for error in [
                    Error::about(Kind::TooBig, ROUTER, &left),
                    Error::about(Kind::Port, REMOTE, &left),
                    Error::about(Kind::Exceeded, ROUTER, &left),
                ] {
                    let seen = world.error_enters(&error, &container);
                    assert_eq!(seen.from, error.from);
                    assert_quotes(&seen, &packet);
                }
                // Neither answered nor over.
                assert_eq!(states(world), entries);
            }
        }
        assert!(
            world
                .pending()
                .iter()
                .any(|seen| seen.flow.kind == flow_kind::MASQUERADE_OUT)
        );
    });
}

#[test]
fn errors_about_answers_of_a_published_port_reach_the_container() {
    worlds(|world| {
        let web = world.web;
        let client = at(CLIENT, 50_000);
        // The tables alone know the way; for another address an entry does.
        for host in [HOST, HOST_2] {
            for (frame, body) in [
                (
                    Frame::tcp(SYN, client, at(host, 8080)),
                    Body::Tcp(SYN | ACK),
                ),
                (Frame::udp(client, at(host, 5353)), Body::Udp),
            ] {
                let asked = world.enters(&arriving(frame), &web);
                let answer = Frame {
                    body,
                    ..web.frame(asked.answer(SYN | ACK))
                };
                let left = world.leaves(&web, &answer);
                assert_eq!(*left.from.ip(), host);
                let error = Error::about(Kind::TooBig, ROUTER, &left);
                assert_quotes(&world.error_enters(&error, &web), &answer);
            }
        }
        // Nobody came by this address from there.
        let stray = Frame::tcp(ACK, at(HOST_2, 8080), at(REMOTE, 1));
        world.error_passes(&Error::about(Kind::TooBig, ROUTER, &stray));
    });
}

#[test]
fn a_quote_may_end_after_eight_bytes_of_transport() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        world.leaves(&db, &packets(&db)[0]);
        for packet in packets(&web) {
            let left = world.leaves(&web, &packet);
            let mut error = Error::about(Kind::TooBig, ROUTER, &left);
            let l4 = transport_start() - 14;
            error.quote.truncate(l4 + 8);
            let seen = world.error_enters(&error, &web);
            // Its own checksums apart, the rest is as the container sent it.
            let sent = &packet.bytes()[14..14 + l4 + 8];
            let addresses = match Family::of_world() {
                Family::V4 => 12..20,
                Family::V6 => 8..40,
            };
            assert_eq!(seen.quote[addresses.clone()], sent[addresses]);
            assert_eq!(
                seen.quote[l4..l4 + 2],
                sent[l4..l4 + 2],
                "{:?}",
                packet.body
            );
            assert_eq!(seen.quote[l4 + 4..], sent[l4 + 4..]);
            error.quote.truncate(l4 + 7);
            world.error_passes(&error);
            error.quote.truncate(l4 - 1);
            world.error_passes(&error);
        }
    });
}

#[test]
fn extensions_after_the_quote_stay_as_they_are() {
    worlds(|world| {
        let web = world.web;
        world.leaves(&world.db.clone(), &packets(&world.db)[0]);
        let packet = &packets(&web)[0];
        let left = world.leaves(&web, packet);
        let whole = Error::about(Kind::Exceeded, ROUTER, &left);
        // RFC 4884, section 4: the quote is padded to 128 bytes at least.
        let mut error = whole.clone().with_length(128);
        let extension = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0xab, 0xcd, 0xe1, 1];
        error.quote.extend(extension);
        let seen = world.error_enters(&error, &web);
        assert_eq!(seen.quote[128..], extension);
        let mut quoted = seen.clone();
        quoted.quote.truncate(whole.quote.len());
        assert_quotes(&quoted, packet);
        // One that breaks the rule, and has its extension where the checksum
        // would be.
        let l4 = transport_start() - 14;
        let mut error = whole.with_length(l4 + 8);
        error.quote.extend(extension);
        let seen = world.error_enters(&error, &web);
        assert_eq!(seen.quote[l4 + 8..], extension);
    });
}

#[test]
fn what_belongs_to_no_container_is_the_hosts() {
    worlds(|world| {
        let db = world.db;
        let left = world.leaves(&db, &packets(&db)[1]);
        let right = Error::about(Kind::Port, REMOTE, &left);
        let about = |frame: Frame| Error::about(Kind::Port, REMOTE, &frame);
        let strangers = [
            // For another address than the quoted packet's source.
            Error {
                to: HOST_2,
                ..right.clone()
            },
            about(Frame {
                from: at(HOST_2, 40_000),
                ..left.clone()
            }),
            about(Frame {
                from: at(HOST, 40_001),
                ..left.clone()
            }),
            about(Frame {
                to: at(REMOTE, 444),
                ..left.clone()
            }),
            about(Frame {
                body: Body::Tcp(SYN),
                ..left.clone()
            }),
            // Where the host's packets go is the host's business.
            Error {
                kind: Kind::Redirect,
                ..right.clone()
            },
        ];
        for stranger in strangers {
            world.error_passes(&stranger);
        }
        // A later fragment has no ports.
        let mut later = right.clone();
        later.quote = left.fragments(16)[1][14..].to_vec();
        world.error_passes(&later);
        world.error_enters(&right, &db);
    });
}

#[test]
fn errors_of_a_container_quote_what_the_outside_sent() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let client = at(CLIENT, 50_000);
        for host in [HOST, HOST_2] {
            for frame in [
                Frame::tcp(SYN, client, at(host, 8080)),
                Frame::udp(client, at(host, 5353)),
            ] {
                let asked = arriving(frame);
                let seen = world.enters(&asked, &web);
                let error = Error::about(Kind::Port, WEB, &seen);
                let left = world.error_leaves(&web, &error);
                assert_eq!((left.from, left.to, left.ttl), (host, CLIENT, 63));
                assert_quotes(&left, &asked);
            }
        }
        for container in [db, web] {
            for packet in packets(&container).into_iter().take(3) {
                let left = world.leaves(&container, &packet);
                let answer = arriving(left.answer(SYN | ACK));
                let seen = world.enters(&answer, &container);
                let error = Error::about(Kind::Port, container.addr, &seen);
                let left = world.error_leaves(&container, &error);
                assert_eq!((left.from, left.to), (HOST, REMOTE));
                assert_quotes(&left, &answer);
            }
        }
    });
}

#[test]
fn a_container_speaks_of_what_it_received_alone() {
    worlds(|world| {
        let (db, web, loner) = (world.db, world.web, world.loner);
        let refused = |world: &mut World, container: &Container, error: Error| {
            world.is_refused(container, &from_container(&error, container).bytes())
        };
        // Never received, sent to another, and for another than its sender.
        let stray = Frame::udp(at(REMOTE, 53), at(DB, 40_000));
        assert_eq!(
            refused(world, &db, Error::about(Kind::Port, DB, &stray)),
            DropReason::IcmpUnrelated
        );
        let others = Frame::udp(at(WEB, 53), at(LONER, 40_000));
        assert_eq!(
            refused(world, &db, Error::about(Kind::Port, DB, &others)),
            DropReason::IcmpUnrelated
        );
        let direct = Frame::udp(at(WEB, 53), at(DB, 40_000));
        let right = Error::about(Kind::Port, DB, &direct);
        let to_other = Error {
            to: CLIENT,
            ..right.clone()
        };
        assert_eq!(refused(world, &db, to_other), DropReason::IcmpUnrelated);
        let redirect = Error {
            kind: Kind::Redirect,
            ..right.clone()
        };
        let reason = match Family::of_world() {
            Family::V4 => DropReason::IcmpUnrelated,
            Family::V6 => DropReason::SpoofedNeighbour,
        };
        assert_eq!(refused(world, &db, redirect), reason);
        // No echo request reaches a container from outside, not even one that
        // looks like the answer to its own.
        world.leaves(&db, &db.frame(Frame::echo_request(DB, REMOTE, 0)));
        let echo = Error::about(Kind::Exceeded, DB, &Frame::echo_request(REMOTE, DB, 0));
        assert_eq!(refused(world, &db, echo), DropReason::IcmpUnrelated);
        // Directly, by the rules of the network.
        let seen = world.error_leaves(&db, &right);
        assert_eq!(seen.destination, web.mac);
        assert_eq!((seen.from, seen.to), (DB, WEB));
        assert_quotes(&seen, &direct);
        let far = Frame::udp(at(DB, 53), at(LONER, 40_000));
        assert_eq!(
            refused(world, &loner, Error::about(Kind::Port, LONER, &far)),
            DropReason::OtherNetwork
        );
        // The host knows itself what it has sent.
        let hosts = Frame::udp(at(GATEWAY, 53), at(DB, 40_000));
        let error = from_container(&Error::about(Kind::Port, DB, &hosts), &db);
        world.is_for_the_stack(&db, &error.bytes());
    });
}

#[test]
fn errors_between_containers_follow_the_published_port() {
    worlds(|world| {
        let (db, web, loner) = (world.db, world.web, world.loner);
        // From its network, from another, and to itself.
        for client in [db, loner, web] {
            for (frame, body) in [
                (
                    Frame::udp(at(client.addr, 40_000), at(HOST, 5353)),
                    Body::Udp,
                ),
                (
                    Frame::tcp(SYN, at(client.addr, 40_001), at(HOST, 8080)),
                    Body::Tcp(SYN | ACK),
                ),
            ] {
                let asked = client.frame(frame);
                let seen = world.leaves(&client, &asked);
                assert_eq!(seen.destination, web.mac);
                let error = Error::about(Kind::Port, WEB, &seen);
                let told = world.error_leaves(&web, &error);
                assert_eq!((told.from, told.to), (HOST, client.addr));
                assert_eq!(told.destination, client.mac);
                assert_quotes(&told, &asked);

                let answer = Frame {
                    body,
                    ..web.frame(seen.answer(SYN | ACK))
                };
                let answered = world.leaves(&web, &answer);
                assert_eq!(answered.destination, client.mac);
                let error = Error::about(Kind::Port, client.addr, &answered);
                let told = world.error_leaves(&client, &error);
                assert_eq!(told.destination, web.mac);
                assert_eq!(told.to, WEB);
                assert_quotes(&told, &answer);
            }
        }
    });
}

#[test]
fn a_renumbered_socket_of_the_host_hears_of_its_own_port() {
    worlds(|world| {
        let db = world.db;
        let (from, to) = (at(DB, 40_000), at(REMOTE, 443));
        let left = world.leaves(&db, &db.frame(Frame::udp(from, to)));
        assert_eq!(left.from, at(HOST, 40_000));
        let own = Frame::udp(at(HOST, 40_000), to);
        let run = world.run_to_netdev(&own.bytes());
        assert_eq!(run.action, NEXT);
        let sent = Frame::of(&run.packet);
        assert_ne!(sent.from, own.from);
        let error = Error::about(Kind::TooBig, ROUTER, &sent);
        let run = world.run_from_netdev(&from_outside(&error).bytes());
        assert_eq!(run.action, NEXT);
        let seen = Error::of(&run.packet);
        assert_eq!(seen.to, HOST);
        assert_quotes(&seen, &own);
    });
}

/// Of a packet of IPv6, that is of a fragment too if it is the first.
#[test]
fn a_quoted_transport_is_found_behind_extension_headers() {
    const DESTINATION: (u8, &[u8]) = (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    const FIRST: (u8, &[u8]) = (44, &[0, 0, 1, 1, 2, 3, 4]);
    const LATER: (u8, &[u8]) = (44, &[0, 0, 9, 1, 2, 3, 4]);
    const HOP_BY_HOP: (u8, &[u8]) = (0, &[0, 1, 4, 0, 0, 0, 0]);
    const ROUTED: (u8, &[u8]) = (43, &[0, 4, 0, 0, 0, 0, 0]);
    const ON_THE_WAY: (u8, &[u8]) = (43, &[0, 4, 1, 0, 0, 0, 0]);
    const AUTHENTICATED: (u8, &[u8]) = (51, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    world6(|world| {
        let (db, web) = (world.db, world.web);
        world.leaves(&db, &packets(&db)[0]);
        for packet in packets(&web) {
            let left = world.leaves(&web, &packet);
            let quoting = |chain: &[(u8, &[u8])]| {
                let mut bytes = left.bytes();
                for (number, rest) in chain.iter().rev() {
                    bytes = with_extension(&bytes, *number, rest);
                }
                let mut error = Error::about(Kind::Exceeded, ROUTER, &left);
                error.quote = bytes[14..].to_vec();
                error
            };
            for chain in [
                &[DESTINATION][..],
                &[FIRST],
                &[HOP_BY_HOP, DESTINATION, ROUTED, FIRST, DESTINATION],
            ] {
                let error = quoting(chain);
                let mut seen = world.error_enters(&error, &web);
                let length = chain.iter().map(|(_, rest)| 1 + rest.len()).sum();
                let headers = 40..40 + length;
                assert_eq!(seen.quote[headers.clone()], error.quote[headers]);
                let quote = [&[0; 14], &seen.quote[..]].concat();
                let next = left.bytes()[14 + 6];
                seen.quote = without_extensions(&quote, length, next).split_off(14);
                assert_quotes(&seen, &packet);
            }
            for chain in [
                &[LATER][..],
                &[DESTINATION, HOP_BY_HOP],
                &[ON_THE_WAY],
                &[AUTHENTICATED],
                &[DESTINATION; 7],
            ] {
                world.error_passes(&quoting(chain));
            }
        }
    });
}

/// The family's own kind of echo alone is one, and its own errors are.
#[test]
fn the_other_familys_errors_are_none() {
    worlds(|world| {
        let db = world.db;
        let left = world.leaves(&db, &packets(&db)[1]);
        for kind in [Kind::NoRoute, Kind::Prohibited, Kind::Port, Kind::Parameter] {
            let error = Error::about(kind, ROUTER, &left);
            world.error_enters(&error, &db);
        }
        let error = Error::about(Kind::Port, ROUTER, &left);
        let message = error.bytes().split_off(transport_start());
        let other = 1 + 58 - protocol();
        let bytes = between(raw(other, ROUTER, HOST, &message), CLIENT_MAC, HOST_MAC);
        world.passes(&bytes);
    });
}

/// The router that sends one may have any address: what counts is whose packet
/// it is about.
#[test]
fn errors_about_a_port_for_some_sources_are_about_those_alone() {
    worlds(|world| {
        let web = world.web;
        world.restrict(5353, proto::UDP, 7);
        world.allow(7, CLIENT, 32);
        let about = |to| {
            let sent = Frame::udp(at(HOST, 5353), at(to, 40_000)).between(HOST_MAC, CLIENT_MAC);
            Error::about(Kind::TooBig, ROUTER, &sent)
        };
        let seen = world.error_enters(&about(CLIENT), &web);
        assert_eq!(seen.from, ROUTER);
        let error = from_outside(&about(REMOTE)).bytes();
        assert_eq!(world.is_kept_out(&error), DropReason::NotAllowed);

        // At an address that needs an entry, which is older than the list.
        world.allow(7, REMOTE, 32);
        let asks = arriving(Frame::udp(at(REMOTE, 40_000), at(HOST_2, 5353)));
        world.enters(&asks, &web);
        let sent = Frame::udp(at(HOST_2, 5353), at(REMOTE, 40_000)).between(HOST_MAC, CLIENT_MAC);
        let error = Error::about(Kind::TooBig, ROUTER, &sent);
        world.error_enters(&error, &web);
        world.restrict(5353, proto::UDP, 8);
        world.allow(8, CLIENT, 32);
        let error = from_outside(&error).bytes();
        assert_eq!(world.is_kept_out(&error), DropReason::NotAllowed);
    });
}
