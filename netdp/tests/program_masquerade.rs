//! A container's own conversations with the outside under test_run: out by
//! `from_container`, back by `from_netdev`. Needs root.

mod program_world;

use netdp::bpf::{Entry, Key, TestPacket};
use netdp_common::{
    addr::{V4Addr, proto},
    drop::DropReason,
    maps::{Config, Uplink, endpoint_flags, flow_kind},
    tcp::state,
};
use program_world::{
    CLIENT, CLIENT_MAC, Container, DB, DROP, GATEWAY, HOST, HOST_2, HOST_MAC, LONER, NEXT,
    REDIRECT, REMOTE, ROUTER_MAC, WEB, arriving,
    error::{Error, Kind},
    family::Family,
    frame::{ACK, Body, FIN, Frame, PSH, RST, SYN, at, between, raw},
    impatient, world, worlds, worlds_with,
};

/// A segment of a container for a web server outside.
fn segment(container: &Container, flags: u8, sport: u16) -> Frame {
    container.frame(Frame::tcp(
        flags,
        at(container.addr, sport),
        at(REMOTE, 443),
    ))
}

/// What the outside answers to a packet that left.
fn answer(left: &Frame, flags: u8) -> Frame {
    arriving(left.answer(flags))
}

#[test]
fn one_entry_serves_both_directions() {
    worlds(|world| {
        let db = world.db;
        let left = world.leaves(&db, &segment(&db, SYN, 40_000));
        assert_eq!(left.from, at(HOST, 40_000), "the port is kept");
        assert_eq!(left.to, at(REMOTE, 443));
        assert_eq!(left.ttl, 63);
        world.holds(0, 1);
        let pending = world.pending()[0];
        assert_eq!(pending.flow.kind, flow_kind::MASQUERADE);
        assert_eq!(pending.key.remote, REMOTE.into());
        assert_eq!(pending.key.local, V4Addr::default());
        assert_eq!(pending.key.local_port.get(), 40_000);
        // Repeated, it is the same flow.
        assert_eq!(
            world.leaves(&db, &segment(&db, SYN, 40_000)).from,
            left.from
        );
        world.holds(0, 1);

        let seen = world.enters(&answer(&left, SYN | ACK), &db);
        assert_eq!(seen.from, at(REMOTE, 443));
        assert_eq!(seen.to, at(DB, 40_000));
        assert_eq!(seen.ttl, 63);
        world.holds(1, 0);
        let left = world.leaves(&db, &segment(&db, ACK, 40_000));
        assert_eq!(left.from, at(HOST, 40_000));
        world.enters(&answer(&left, PSH | ACK), &db);
        world.holds(1, 0);
        assert_eq!(world.flows()[0].flow.state, state::ESTABLISHED);
        world.leaves(&db, &segment(&db, FIN | ACK, 40_000));
        world.enters(&answer(&left, FIN | ACK), &db);
        let flow = world.flows()[0].flow;
        assert_eq!(flow.state, state::CLOSED);
        assert_eq!(flow.timeout, Config::default().tcp_transitory);
    });
}

#[test]
fn the_next_hop_is_the_routers() {
    worlds(|world| {
        let db = world.db;
        let direct = (0..100)
            .map(|_| world.leaves(&db, &segment(&db, SYN, 40_000)))
            .find(|left| left.destination == ROUTER_MAC)
            .expect("the way out is kept");
        assert_eq!(direct.source, HOST_MAC);
        let near = db.frame(Frame::udp(at(DB, 40_000), at(CLIENT, 53)));
        let direct = (0..100)
            .map(|_| world.leaves(&db, &near))
            .find(|left| left.destination == CLIENT_MAC)
            .expect("the way out is kept");
        assert_eq!(direct.from, at(HOST, 40_000));
    });
}

#[test]
fn an_answer_must_come_from_the_peer_to_the_address_used() {
    worlds(|world| {
        let db = world.db;
        let left = world.leaves(&db, &segment(&db, SYN, 40_000));
        let right = answer(&left, SYN | ACK);
        let strangers = [
            Frame {
                from: at(CLIENT, 443),
                ..right.clone()
            },
            Frame {
                from: at(REMOTE, 444),
                ..right.clone()
            },
            Frame {
                to: at(HOST, 40_001),
                ..right.clone()
            },
            Frame {
                to: at(HOST_2, 40_000),
                ..right.clone()
            },
            Frame {
                body: Body::Udp,
                ..right.clone()
            },
        ];
        for stranger in strangers {
            world.passes(&stranger.bytes());
        }
        world.holds(0, 1);
        world.enters(&right, &db);
    });
}

#[test]
fn echo_is_tracked_by_its_identifier() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let ping = |container: &Container| {
            container.frame(Frame::echo_request(container.addr, REMOTE, 0x77))
        };
        let first = world.leaves(&db, &ping(&db));
        assert_eq!(first.from, at(HOST, 0x77));
        let second = world.leaves(&web, &ping(&web));
        assert_ne!(second.from.port(), 0x77);
        let seen = world.enters(&answer(&second, 0), &web);
        assert_eq!((seen.body, seen.to), (Body::EchoReply, at(WEB, 0x77)));
        let seen = world.enters(&answer(&first, 0), &db);
        assert_eq!(seen.to, at(DB, 0x77));
        assert_eq!(world.leaves(&web, &ping(&web)).from, second.from);
        world.holds(3, 0);
        world.passes(&arriving(Frame::echo_reply(REMOTE, HOST, 0x79)).bytes());
        let unasked = db.frame(Frame::echo_reply(DB, REMOTE, 0x77));
        assert_eq!(
            world.is_refused(&db, &unasked.bytes()),
            DropReason::IcmpUnrelated
        );
    });
}

/// ICMP that has neither ports nor an identifier belongs to no flow, and not
/// to that of identifier 0.
#[test]
fn what_is_no_echo_is_not_taken_for_one() {
    world(|world| {
        let db = world.db;
        let ping = db.frame(Frame::echo_request(DB, REMOTE, 0));
        let left = world.leaves(&db, &ping);
        let mut timestamp = [0; 20];
        (timestamp[0], timestamp[2], timestamp[3]) = (13, !13, !0);
        let sent = between(
            raw(proto::ICMP, DB, REMOTE, &timestamp),
            db.mac,
            db.host_mac,
        );
        assert_eq!(world.is_refused(&db, &sent), DropReason::IcmpUnrelated);
        let came = raw(proto::ICMP, REMOTE, HOST, &timestamp);
        world.passes(&between(came, CLIENT_MAC, HOST_MAC));
        world.enters(&answer(&left, 0), &db);
        assert_eq!(world.is_refused(&db, &sent), DropReason::IcmpUnrelated);
    });
}

#[test]
fn udp_without_a_checksum_has_none_outside() {
    worlds(|world| {
        let db = world.db;
        let query = db.frame(Frame::new(
            Body::UdpUnchecked,
            at(DB, 40_000),
            at(REMOTE, 53),
        ));
        let left = world.leaves(&db, &query);
        assert_eq!(left.body, Body::UdpUnchecked);
        let seen = world.enters(&answer(&left, 0), &db);
        assert_eq!(seen.body, Body::UdpUnchecked);
    });
}

#[test]
fn options_of_the_ip_header_stay() {
    world(|world| {
        let db = world.db;
        // Router alert (RFC 2113), and as many no-operations as fit.
        for (number, options) in [(0, vec![0x94, 4, 0, 0]), (1, vec![1; 40])] {
            for mut packet in [
                segment(&db, SYN, 40_000 + number),
                db.frame(Frame::udp(at(DB, 40_000 + number), at(REMOTE, 53))),
                db.frame(Frame::echo_request(DB, REMOTE, 7 + number)),
            ] {
                packet.options = options.clone();
                let left = world.leaves(&db, &packet);
                assert_eq!((*left.from.ip(), &left.options), (HOST, &options));
                let seen = world.enters(&answer(&left, SYN | ACK), &db);
                assert_eq!((*seen.to.ip(), &seen.options), (DB, &options));
            }
        }
    });
}

/// RFC 7857, section 10, would have them changed.
#[test]
fn identifications_stay_as_the_container_chose_them() {
    world(|world| {
        // Two containers that choose the same.
        for container in [world.db, world.web] {
            for (number, id) in [(0, 0), (1, 7), (2, 0xffff)] {
                let mut packet = segment(&container, SYN, 40_000 + number);
                packet.id = id;
                assert_eq!(world.leaves(&container, &packet).id, id);
                let mut packet = container.frame(Frame::udp(
                    at(container.addr, 41_000 + number),
                    at(REMOTE, 53),
                ));
                (packet.id, packet.dont_fragment) = (id, false);
                assert_eq!(world.leaves(&container, &packet).id, id);
                // Of fragments as well, by which alone they are told apart.
                packet.payload = vec![7; 64];
                for piece in packet.fragments(32) {
                    let left = world.run_from_container(&container, &piece);
                    assert_eq!(left.action, REDIRECT);
                    assert_eq!(left.packet[18..20], id.to_be_bytes());
                }
            }
        }
    });
}

#[test]
fn what_cannot_be_masqueraded_is_refused() {
    worlds(|world| {
        let db = world.db;
        let stray = segment(&db, RST, 40_000).bytes();
        assert_eq!(world.is_refused(&db, &stray), DropReason::NoFlow);
        // GRE, ESP, IGMP, UDP-Lite, and one for experiments.
        for protocol in [proto::SCTP, 47, 50, 2, 136, 253] {
            let bytes = between(raw(protocol, DB, REMOTE, &[0; 40]), db.mac, db.host_mac);
            assert_eq!(
                world.is_refused(&db, &bytes),
                DropReason::UnknownProtocol,
                "protocol {protocol}"
            );
        }
        let nowhere = db.frame(Frame::udp(at(DB, 1), at([172, 20, 0, 99].into(), 1)));
        world.holds(0, 0);
        // No route of the host leads there but by an interface that is no
        // uplink.
        world.datapath.remove(&Key::Uplink(world.uplink)).unwrap();
        assert_eq!(world.is_refused(&db, &nowhere.bytes()), DropReason::NoRoute);
        let nameless = Uplink {
            mac: HOST_MAC,
            ..Uplink::default()
        };
        world.put(Key::Uplink(world.uplink), Entry::Uplink(nameless));
        assert_eq!(
            world.is_refused(&db, &segment(&db, SYN, 40_000).bytes()),
            DropReason::NoUplinkAddress
        );
        world.holds(0, 0);
    });
}

#[test]
fn an_internal_network_reaches_nothing_outside() {
    worlds(|world| {
        let mut db = world.db;
        db.flags &= !endpoint_flags::MASQUERADE;
        db.flags |= endpoint_flags::INTERNAL;
        world.connect(&db);
        let web = world.web;
        world.publish(None, 8080, &web, 80, proto::TCP, Some(HOST));
        for frame in [
            segment(&db, SYN, 40_000),
            db.frame(Frame::udp(at(DB, 40_000), at(CLIENT, 53))),
            db.frame(Frame::echo_request(DB, REMOTE, 7)),
            // A published port may lead to another network.
            db.frame(Frame::tcp(SYN, at(DB, 40_000), at(HOST, 8080))),
            db.frame(Frame::tcp(SYN, at(DB, 40_000), at(GATEWAY, 8080))),
        ] {
            assert_eq!(world.is_refused(&db, &frame.bytes()), DropReason::Internal);
        }
        let host = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(GATEWAY, 22)));
        world.is_for_the_stack(&db, &host.bytes());
        let inside = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80)));
        assert_eq!(world.leaves(&db, &inside).to, at(WEB, 80));
    });
}

#[test]
fn the_stack_of_ipv4_answers_the_last_hop_and_what_is_too_big() {
    world(|world| {
        let db = world.db;
        let syn = segment(&db, SYN, 40_000);
        world.is_for_the_stack(&db, &syn.clone().with_ttl(1).bytes());
        world.leaves(&db, &syn);
        world.is_for_the_stack(&db, &syn.clone().with_ttl(1).bytes());
        assert_eq!(world.leaves(&db, &syn.with_ttl(2)).ttl, 1);
        world.holds(0, 1);
        let mut big = db.frame(Frame::udp(at(DB, 40_000), at(CLIENT, 53)));
        big.dont_fragment = true;
        big.payload = vec![7; 1600];
        world.is_for_the_stack(&db, &big.bytes());
    });
}

/// Also where the way to the destination is kept already.
#[test]
fn what_is_too_big_is_never_sent_out() {
    worlds(|world| {
        let db = world.db;
        let small = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        let mut big = small.clone();
        big.dont_fragment = true;
        big.payload = vec![7; 1600];
        for _ in 0..20 {
            world.leaves(&db, &small);
            if Family::is_v6_world() {
                assert_eq!(world.is_refused(&db, &big.bytes()), DropReason::TooBig);
            } else {
                world.is_for_the_stack(&db, &big.bytes());
            }
        }
        big.dont_fragment = false;
        assert_eq!(world.is_refused(&db, &big.bytes()), DropReason::TooBig);
    });
}

#[test]
fn unanswered_entries_expire() {
    worlds_with(impatient(), 1024, |world| {
        let db = world.db;
        world.leaves(&db, &segment(&db, SYN, 40_000));
        world.leaves(&db, &db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53))));
        world.leaves(&db, &db.frame(Frame::echo_request(DB, REMOTE, 7)));
        world.holds(0, 3);
        world.let_pass(2);
        world.sweep_until(|world| world.pending().is_empty());
    });
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    worlds_with(Config::default(), 4, |world| {
        let db = world.db;
        let mut held = Vec::new();
        loop {
            let sport = 40_000 + held.len() as u16;
            let left = world.leaves(&db, &segment(&db, SYN, sport));
            let bytes = answer(&left, SYN | ACK).bytes();
            let before = world.drops();
            let run = world.run_from_netdev(&bytes);
            if run.action == DROP {
                assert!(before.is_empty());
                assert_eq!(world.drops(), [(DropReason::TableFull, 1)]);
                break;
            }
            held.push(left);
            assert!(held.len() < 1000, "the table never gets full");
        }
        assert!(held.len() >= 4);
        world.holds(held.len(), 0);
        // The one that got no answer, and others, are told when they try again.
        for sport in [40_000 + held.len() as u16, 39_000] {
            let run = world.run_from_container(&db, &segment(&db, SYN, sport).bytes());
            assert_eq!(run.action, REDIRECT);
            assert_eq!(Error::of(&run.packet).kind, Kind::Prohibited);
        }
        assert_eq!(world.drops(), [(DropReason::TableFull, 3)]);
        world.holds(held.len(), 0);
        for left in &held {
            let seen = world.enters(&answer(left, ACK), &db);
            assert_eq!(seen.to, at(DB, left.from.port()));
        }
    });
}

#[test]
fn a_container_gets_out_translated_or_not_at_all() {
    worlds(|world| {
        let db = world.db;
        // What the stack would forward of a container's, as it is.
        let bytes = segment(&db, SYN, 40_000).bytes();
        let forwarded = TestPacket {
            ingress_ifindex: db.ifindex,
            ..TestPacket::sent(&bytes, world.uplink)
        };
        let reason =
            world.reason(|world| world.datapath.test_run("to_netdev", &forwarded).unwrap());
        assert_eq!(reason, DropReason::NoFlow);
        // What `from_container` sends carries a mark until it is out.
        let packet = TestPacket::received(&bytes, db.ifindex);
        let run = world.datapath.test_run("from_container", &packet).unwrap();
        assert_eq!(run.action, REDIRECT);
        assert_ne!(run.mark, 0);
        let leaving = TestPacket {
            mark: run.mark,
            ..TestPacket::sent(&run.packet, world.uplink)
        };
        let out = world.datapath.test_run("to_netdev", &leaving).unwrap();
        assert_eq!((out.action, out.mark), (NEXT, 0));
        assert_eq!(out.packet, run.packet);
    });
}

#[test]
fn each_network_is_masqueraded() {
    worlds(|world| {
        let loner = world.loner;
        let left = world.leaves(&loner, &segment(&loner, SYN, 40_000));
        assert_eq!(left.from, at(HOST, 40_000));
        let seen = world.enters(&answer(&left, SYN | ACK), &loner);
        assert_eq!(seen.to, at(LONER, 40_000));
        // Answers reach no address of the host but the one used.
        let mut stray = answer(&left, ACK);
        stray.to = at(GATEWAY, 40_000);
        world.passes(&stray.bytes());
    });
}
