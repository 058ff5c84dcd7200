//! Published ports under test_run: in by `from_netdev`, back by
//! `from_container`. Needs root.

mod program_world;

use netdp::bpf::TestRun;
use netdp_common::{
    addr::{V4Addr, proto},
    drop::DropReason,
    maps::{Config, flow_kind},
    tcp::state,
};
use program_world::{
    CLIENT, CLIENT_MAC, DB, GATEWAY, HOST, HOST_2, REDIRECT, REMOTE, WEB, World, arriving,
    frame::{self, ACK, Body, FIN, Frame, PSH, RST, SYN, at, raw},
    impatient, world, world6, worlds, worlds_with,
};

/// A segment of the client's for port 8080 of the host, published by WEB.
fn segment(flags: u8, sport: u16) -> Frame {
    arriving(Frame::tcp(flags, at(CLIENT, sport), at(HOST, 8080)))
}

/// A segment of WEB's for that client.
fn reply(world: &World, flags: u8, dport: u16) -> Frame {
    world
        .web
        .frame(Frame::tcp(flags, at(WEB, 80), at(CLIENT, dport)))
}

/// Opens a connection as far as the container's first data.
fn connect(world: &mut World, sport: u16) {
    let web = world.web;
    world.enters(&segment(SYN, sport), &web);
    world.leaves(&web, &reply(world, SYN | ACK, sport));
    world.enters(&segment(ACK, sport), &web);
    world.leaves(&web, &reply(world, PSH | ACK, sport));
}

#[test]
fn a_connection_has_no_entry_until_the_container_speaks() {
    worlds(|world| {
        let web = world.web;
        let syn = segment(SYN, 40_000);
        let seen = world.enters(&syn, &web);
        assert_eq!(seen.from, at(CLIENT, 40_000), "the client's own address");
        assert_eq!(seen.to, at(WEB, 80));
        assert_eq!(seen.ttl, 63);
        assert_eq!(seen.body, Body::Tcp(SYN));
        world.holds(0, 0);

        let seen = world.leaves(&web, &reply(world, SYN | ACK, 40_000));
        assert_eq!(seen.from, at(HOST, 8080));
        assert_eq!(seen.to, at(CLIENT, 40_000));
        assert_eq!(seen.ttl, 63);
        world.enters(&segment(ACK, 40_000), &web);
        world.holds(0, 0);

        let seen = world.leaves(&web, &reply(world, PSH | ACK, 40_000));
        assert_eq!(seen.from, at(HOST, 8080));
        world.holds(1, 0);
        let flow = world.flows()[0];
        assert_eq!(flow.key.remote, CLIENT.into());
        assert_eq!(flow.key.remote_port.get(), 40_000);
        assert_eq!(flow.key.local, WEB.into());
        assert_eq!(flow.key.local_port.get(), 80);
        assert_eq!(flow.flow.kind, flow_kind::PUBLISHED);
        assert_eq!(flow.flow.addr, HOST.into());
        assert_eq!(flow.flow.port.get(), 8080);
    });
}

#[test]
fn the_second_answer_of_a_second_is_sent_to_the_next_hop_itself() {
    worlds(|world| {
        let web = world.web;
        let answer = reply(world, SYN | ACK, 40_000);
        // The way is kept until the clock's second ends.
        let direct = (0..100)
            .map(|_| world.leaves(&web, &answer))
            .find(|seen| seen.destination == CLIENT_MAC)
            .expect("the way out is kept");
        assert_eq!(direct.source, program_world::HOST_MAC);
        let far = web.frame(Frame::tcp(SYN | ACK, at(WEB, 80), at(REMOTE, 40_000)));
        let direct = (0..100)
            .map(|_| world.leaves(&web, &far))
            .find(|seen| seen.destination == program_world::ROUTER_MAC)
            .expect("the way out is kept");
        assert_eq!(direct.from, at(HOST, 8080));
        assert_eq!(direct.to, at(REMOTE, 40_000));
    });
}

#[test]
fn an_entry_goes_with_the_last_segment_of_a_closed_connection() {
    worlds(|world| {
        let web = world.web;
        // The container closes first.
        connect(world, 40_000);
        world.leaves(&web, &reply(world, FIN | ACK, 40_000));
        world.holds(1, 0);
        assert_eq!(world.flows()[0].flow.state, state::FIN_REPLY);
        world.enters(&segment(FIN | ACK, 40_000), &web);
        world.leaves(&web, &reply(world, ACK, 40_000));
        world.holds(0, 0);
        // The client closes first.
        connect(world, 40_001);
        world.enters(&segment(FIN | ACK, 40_001), &web);
        world.leaves(&web, &reply(world, ACK, 40_001));
        world.holds(1, 0);
        world.leaves(&web, &reply(world, FIN | ACK, 40_001));
        world.holds(0, 0);
        let seen = world.enters(&segment(ACK, 40_001), &web);
        assert_eq!(seen.to, at(WEB, 80));
        // A FIN that got lost is repeated.
        let seen = world.leaves(&web, &reply(world, FIN | ACK, 40_001));
        assert_eq!(seen.from, at(HOST, 8080));
        world.holds(0, 0);
    });
}

#[test]
fn a_reset_shortens_the_time_of_an_entry() {
    worlds(|world| {
        let web = world.web;
        connect(world, 40_000);
        world.leaves(&web, &reply(world, ACK, 40_000));
        let times = Config::default();
        assert_eq!(world.flows()[0].flow.timeout, times.tcp_established);
        world.enters(&segment(RST, 40_000), &web);
        assert_eq!(world.flows()[0].flow.state, state::RESET);
        assert_eq!(world.flows()[0].flow.timeout, times.tcp_transitory);
        // It was forged: the connection goes on, and so does the entry.
        world.leaves(&web, &reply(world, ACK, 40_000));
        assert_eq!(world.flows()[0].flow.timeout, times.tcp_established);
    });
}

#[test]
fn a_client_of_another_address_of_the_host_is_answered_from_it() {
    worlds(|world| {
        let web = world.web;
        let segment = |flags| arriving(Frame::tcp(flags, at(CLIENT, 40_000), at(HOST_2, 8080)));
        world.enters(&segment(SYN), &web);
        world.holds(0, 1);
        let pending = world.pending()[0];
        assert_eq!(pending.flow.addr, HOST_2.into());
        assert_eq!(pending.key.local, WEB.into());
        let seen = world.leaves(&web, &reply(world, SYN | ACK, 40_000));
        assert_eq!(seen.from, at(HOST_2, 8080));
        world.enters(&segment(ACK), &web);
        world.holds(0, 1);
        let seen = world.leaves(&web, &reply(world, ACK, 40_000));
        assert_eq!(seen.from, at(HOST_2, 8080));
        world.holds(1, 0);
        world.enters(&segment(PSH | ACK), &web);
        let seen = world.leaves(&web, &reply(world, PSH | ACK, 40_000));
        assert_eq!(seen.from, at(HOST_2, 8080));
        world.holds(1, 0);
    });
}

#[test]
fn a_client_port_that_the_container_could_not_tell_apart_is_refused() {
    worlds(|world| {
        let web = world.web;
        world.publish(None, 8081, &web, 80, proto::TCP, None);
        connect(world, 40_000);
        world.leaves(&web, &reply(world, ACK, 40_000));
        assert_eq!(world.flows()[0].flow.state, state::ESTABLISHED);
        let other = |flags| arriving(Frame::tcp(flags, at(CLIENT, 40_000), at(HOST, 8081))).bytes();
        assert_eq!(world.is_kept_out(&other(SYN)), DropReason::TupleTaken);
        // Once the first connection is over the second may have the tuple.
        world.enters(&segment(RST, 40_000), &web);
        let seen = world.enters(
            &arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST, 8081))),
            &web,
        );
        assert_eq!(seen.to, at(WEB, 80));
        let seen = world.leaves(&web, &reply(world, SYN | ACK, 40_000));
        assert_eq!(seen.from, at(HOST, 8081));
    });
}

#[test]
fn udp_needs_no_entry() {
    worlds(|world| {
        let web = world.web;
        for body in [Body::Udp, Body::UdpUnchecked] {
            let query = arriving(Frame::new(body, at(CLIENT, 40_000), at(HOST, 5353)));
            let seen = world.enters(&query, &web);
            assert_eq!(seen.from, at(CLIENT, 40_000));
            assert_eq!(seen.to, at(WEB, 53));
            assert_eq!(seen.body, body, "no checksum stays none");
            let answer = web.frame(Frame::new(body, at(WEB, 53), at(CLIENT, 40_000)));
            let seen = world.leaves(&web, &answer);
            assert_eq!(seen.from, at(HOST, 5353));
            assert_eq!(seen.to, at(CLIENT, 40_000));
            assert_eq!(seen.body, body);
        }
        world.holds(0, 0);
    });
}

#[test]
fn udp_over_another_address_is_a_flow_once_both_have_spoken_and_more_comes() {
    worlds(|world| {
        let web = world.web;
        let query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST_2, 5353)));
        world.enters(&query, &web);
        world.enters(&query, &web);
        world.holds(0, 1);
        let answer = web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000)));
        assert_eq!(world.leaves(&web, &answer).from, at(HOST_2, 5353));
        world.holds(0, 1);
        world.enters(&query, &web);
        world.holds(1, 0);
        assert_eq!(world.leaves(&web, &answer).from, at(HOST_2, 5353));
    });
}

/// A UDP checksum that comes out as 0 is sent as all ones (RFC 768).
#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    worlds(|world| {
        let mut wanted = Frame::udp(at(CLIENT, 40_000), at(WEB, 53));
        wanted.payload = vec![0; 4];
        let at_field = frame::transport_start() + 6;
        let field = |bytes: &[u8]| u16::from_be_bytes([bytes[at_field], bytes[at_field + 1]]);
        // Adding the complement of what is missing makes the sum all ones.
        let missing = field(&wanted.bytes());
        wanted.payload[..2].copy_from_slice(&missing.to_be_bytes());
        assert_eq!(field(&wanted.bytes()), 0xffff);
        let mut query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        query.payload = wanted.payload;
        let run = world.run_from_netdev(&query.bytes());
        assert_eq!(field(&run.packet), 0xffff);
        assert_eq!(Frame::of(&run.packet).body, Body::Udp);
    });
}

#[test]
fn nothing_else_gets_in() {
    worlds(|world| {
        let web = world.web;
        let unpublished = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST, 8081)));
        world.passes(&unpublished.bytes());
        let udp = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 8080)));
        world.passes(&udp.bytes());
        let foreign = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(REMOTE, 8080)));
        world.passes(&foreign.bytes());
        world.passes(&raw(132, CLIENT, HOST, &[0; 40]));
        world.passes(&arriving(Frame::echo_request(CLIENT, HOST, 7)).bytes());
        // A neighbour that routes to the containers itself.
        for port in [80, 8080, 22] {
            let direct = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(WEB, port)));
            assert_eq!(world.is_kept_out(&direct.bytes()), DropReason::NotPublished);
        }
        let direct = arriving(Frame::echo_request(CLIENT, DB, 7));
        assert_eq!(world.is_kept_out(&direct.bytes()), DropReason::NotPublished);
        // Published on one address, reached over another.
        world.publish(Some(HOST_2), 9000, &web, 90, proto::TCP, Some(HOST_2));
        world.passes(&arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST, 9000))).bytes());
        let seen = world.enters(
            &arriving(Frame::tcp(SYN, at(CLIENT, 1), at(HOST_2, 9000))),
            &web,
        );
        assert_eq!(seen.to, at(WEB, 90));
        world.holds(0, 0);
    });
}

#[test]
fn the_gateway_address_is_published_on_as_any_address_of_the_host() {
    worlds(|world| {
        let web = world.web;
        let seen = world.enters(
            &arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(GATEWAY, 8080))),
            &web,
        );
        assert_eq!(seen.to, at(WEB, 80));
        let seen = world.leaves(&web, &reply(world, SYN | ACK, 40_000));
        assert_eq!(seen.from, at(GATEWAY, 8080));
    });
}

#[test]
fn the_last_hop_of_a_packet_is_the_container() {
    worlds(|world| {
        let web = world.web;
        let seen = world.enters(&segment(SYN, 40_000).with_ttl(1), &web);
        assert_eq!(seen.ttl, 1);
        let seen = world.enters(&segment(SYN, 40_000).with_ttl(2), &web);
        assert_eq!(seen.ttl, 1);
    });
}

#[test]
fn options_of_the_ip_header_stay() {
    world(|world| {
        let web = world.web;
        let mut syn = segment(SYN, 40_000);
        // Router alert (RFC 2113), and as many no-operations as fit.
        for options in [vec![0x94, 4, 0, 0], vec![1; 40]] {
            syn.options = options;
            let seen = world.enters(&syn, &web);
            assert_eq!(seen.to, at(WEB, 80));
            assert_eq!(seen.options, syn.options);
            let mut answer = reply(world, SYN | ACK, 40_000);
            answer.options = syn.options.clone();
            let seen = world.leaves(&web, &answer);
            assert_eq!(seen.from, at(HOST, 8080));
            assert_eq!(seen.options, syn.options);
        }
    });
}

#[test]
fn extension_headers_of_ipv6_stay() {
    const CHAIN: [(u8, &[u8]); 3] = [
        (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (43, &[0, 4, 0, 0, 0, 0, 0]),
        (0, &[0, 1, 4, 0, 0, 0, 0]),
    ];
    const LENGTH: usize = 16 + 8 + 8;
    world6(|world| {
        let (web, db) = (world.web, world.db);
        let extended = |frame: &Frame| {
            CHAIN.iter().fold(frame.bytes(), |bytes, (number, rest)| {
                frame::with_extension(&bytes, *number, rest)
            })
        };
        let seen = |run: TestRun, sent: &[u8], proto: u8| {
            assert_eq!(run.action, REDIRECT);
            let headers = frame::transport_start()..frame::transport_start() + LENGTH;
            assert_eq!(run.packet[headers.clone()], sent[headers]);
            Frame::of(&frame::without_extensions(&run.packet, LENGTH, proto))
        };
        let asked = extended(&segment(SYN, 40_000));
        let run = world.run_from_netdev(&asked);
        assert_eq!(seen(run, &asked, proto::TCP).to, at(WEB, 80));
        let answer = extended(&reply(world, SYN | ACK, 40_000));
        let run = world.run_from_container(&web, &answer);
        assert_eq!(seen(run, &answer, proto::TCP).from, at(HOST, 8080));
        let own = db.frame(Frame::udp(at(DB, 40_000), at(CLIENT, 53)));
        let sent = extended(&own);
        let run = world.run_from_container(&db, &sent);
        let left = seen(run, &sent, proto::UDP);
        assert_eq!(left.from, at(HOST, 40_000));
        let answer = extended(&arriving(left.answer(0)));
        let run = world.run_from_netdev(&answer);
        assert_eq!(seen(run, &answer, proto::UDP).to, at(DB, 40_000));
    });
}

#[test]
fn a_full_table_refuses_no_conversation() {
    worlds_with(Config::default(), 4, |world| {
        let web = world.web;
        let mut opened = 0;
        while world.flows().len() == usize::from(opened) {
            opened += 1;
            assert!(opened < 1000, "the table never gets full");
            connect(world, 40_000 + opened);
        }
        let held = world.flows();
        assert!(held.len() >= 4);
        assert_eq!(world.drops(), []);
        // The one that found no room goes on by the tables alone.
        world.enters(&segment(PSH | ACK, 40_000 + opened), &web);
        let seen = world.leaves(&web, &reply(world, PSH | ACK, 40_000 + opened));
        assert_eq!(seen.from, at(HOST, 8080));
        // The old ones keep their entries.
        let seen = world.leaves(&web, &reply(world, PSH | ACK, 40_001));
        assert_eq!(seen.from, at(HOST, 8080));
        let keys = |flows: &[netdp::bpf::FlowSeen<V4Addr>]| {
            flows.iter().map(|f| f.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&world.flows()), keys(&held));
    });
}

#[test]
fn entries_expire_without_a_daemon() {
    let config = Config {
        tcp_established: 1,
        ..impatient()
    };
    worlds_with(config, 1024, |world| {
        let web = world.web;
        connect(world, 40_000);
        world.enters(
            &arriving(Frame::udp(at(CLIENT, 40_000), at(HOST_2, 5353))),
            &web,
        );
        world.holds(1, 1);
        world.wait_until(|world| world.all_flows().is_empty());
    });
}
