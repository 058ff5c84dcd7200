//! Containers of another engine under test_run: what the programs carry, and
//! that they leave all else as it is. Needs root.

mod program_world;

use netdp::bpf::{TestPacket, TestRun};
use netdp_common::{addr::proto, left::Left, maps::endpoint_flags, tcp::state};
use program_world::{
    CLIENT, Container, DB, DROP, GATEWAY, HOST, HOST_2, LONER, NEXT, REDIRECT, REMOTE, WEB, World,
    arriving,
    error::{Error, Kind},
    frame::{self, ACK, Body, FIN, Frame, PSH, RST, SYN, at, between},
    worlds_accelerated as worlds,
};

/// `skb->mark` of what these programs send out, until they see it leave; and
/// that of all of netdp's.
const ACCELERATED: u32 = 0x6e64_7002;
const OURS: u32 = 0x6e64_7001;

fn arrives(world: &mut World, bytes: &[u8]) -> TestRun {
    let packet = TestPacket::received(bytes, world.uplink);
    world.datapath.test_run("acc_netdev_in", &packet).unwrap()
}

fn sends(world: &mut World, container: &Container, bytes: &[u8]) -> TestRun {
    let packet = TestPacket::received(bytes, container.ifindex);
    world.datapath.test_run("acc_container", &packet).unwrap()
}

/// A packet leaves by the uplink that came to this host by `from`, or that the
/// host itself sends.
fn leaving(world: &mut World, bytes: &[u8], from: u32, mark: u32) -> TestRun {
    let packet = TestPacket {
        ingress_ifindex: from,
        mark,
        ..TestPacket::sent(bytes, world.uplink)
    };
    world.datapath.test_run("acc_netdev_out", &packet).unwrap()
}

fn enters(world: &mut World, frame: &Frame, container: &Container) -> Frame {
    let run = arrives(world, &frame.bytes());
    assert_eq!(run.action, REDIRECT, "{frame:?}");
    let seen = Frame::of(&run.packet);
    assert_eq!(seen.destination, container.mac);
    assert_eq!(seen.source, container.host_mac);
    assert_eq!(seen.payload, frame.payload);
    seen
}

fn leaves(world: &mut World, container: &Container, frame: &Frame) -> Frame {
    let run = sends(world, container, &frame.bytes());
    assert_eq!(run.action, REDIRECT, "{frame:?}");
    assert_eq!(run.mark, ACCELERATED);
    Frame::of(&run.packet)
}

fn stays_out(world: &mut World, bytes: &[u8]) {
    let run = arrives(world, bytes);
    assert_eq!((run.action, run.packet.as_slice()), (NEXT, bytes));
}

fn stays(world: &mut World, container: &Container, bytes: &[u8]) {
    let run = sends(world, container, bytes);
    assert_eq!((run.action, run.packet.as_slice()), (NEXT, bytes));
}

/// A segment of the client's for port 8080 of the host, published by WEB.
fn segment(flags: u8, sport: u16) -> Frame {
    arriving(Frame::tcp(flags, at(CLIENT, sport), at(HOST, 8080)))
}

/// A segment of WEB's for that client.
fn reply(world: &World, flags: u8, dport: u16) -> Frame {
    let frame = Frame::tcp(flags, at(WEB, 80), at(CLIENT, dport));
    world.web.frame(frame)
}

/// A segment of DB's for a web server outside.
fn request(world: &World, flags: u8, sport: u16) -> Frame {
    let frame = Frame::tcp(flags, at(DB, sport), at(REMOTE, 443));
    world.db.frame(frame)
}

fn connect(world: &mut World, sport: u16) {
    let web = world.web;
    enters(world, &segment(SYN, sport), &web);
    let answer = reply(world, SYN | ACK, sport);
    leaves(world, &web, &answer);
    enters(world, &segment(ACK, sport), &web);
    let data = reply(world, PSH | ACK, sport);
    leaves(world, &web, &data);
}

#[test]
fn a_published_port_is_carried_from_the_first_segment_to_the_last() {
    worlds(|world| {
        let web = world.web;
        let seen = enters(world, &segment(SYN, 40_000), &web);
        assert_eq!(seen.from, at(CLIENT, 40_000), "the client's own address");
        assert_eq!(seen.to, at(WEB, 80));
        assert_eq!(seen.ttl, 63);
        world.holds(0, 1);
        let answer = reply(world, SYN | ACK, 40_000);
        let left = leaves(world, &web, &answer);
        assert_eq!((left.from, left.to), (at(HOST, 8080), at(CLIENT, 40_000)));
        enters(world, &segment(ACK, 40_000), &web);
        let data = reply(world, PSH | ACK, 40_000);
        leaves(world, &web, &data);
        world.holds(1, 0);
        // The client closes first.
        enters(world, &segment(FIN | ACK, 40_000), &web);
        let last = reply(world, FIN | ACK, 40_000);
        leaves(world, &web, &last);
        assert_eq!(world.flows()[0].flow.state, state::CLOSED);
        enters(world, &segment(ACK, 40_000), &web);
        world.holds(0, 0);
        // The container does.
        connect(world, 40_001);
        let fin = reply(world, FIN | ACK, 40_001);
        leaves(world, &web, &fin);
        enters(world, &segment(FIN | ACK, 40_001), &web);
        let last = reply(world, ACK, 40_001);
        leaves(world, &web, &last);
        world.holds(0, 0);
    });
}

#[test]
fn a_connection_that_began_before_stays_with_the_stack() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        for flags in [ACK, PSH | ACK, FIN | ACK, RST, SYN | ACK] {
            stays_out(world, &segment(flags, 40_000).bytes());
            let answer = reply(world, flags, 40_000).bytes();
            stays(world, &web, &answer);
            let own = request(world, flags, 40_000).bytes();
            stays(world, &db, &own);
            let answer = arriving(Frame::tcp(flags, at(REMOTE, 443), at(HOST, 40_000)));
            stays_out(world, &answer.bytes());
        }
        world.holds(0, 0);
    });
}

#[test]
fn what_is_for_no_published_port_of_the_host_is_left_to_the_engines_rules() {
    worlds(|world| {
        for to in [
            at(WEB, 80),
            at(WEB, 8080),
            at(LONER, 80),
            at(HOST, 80),
            at(GATEWAY, 81),
            at(REMOTE, 8080),
        ] {
            let syn = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), to));
            stays_out(world, &syn.bytes());
            let datagram = arriving(Frame::udp(at(CLIENT, 40_000), to));
            stays_out(world, &datagram.bytes());
        }
        stays_out(
            world,
            &arriving(Frame::echo_request(CLIENT, WEB, 7)).bytes(),
        );
        stays_out(
            world,
            &arriving(Frame::echo_request(CLIENT, HOST, 7)).bytes(),
        );
        // On one address of the host alone.
        let web = world.web;
        world.publish(Some(HOST_2), 9000, &web, 80, proto::TCP, None);
        let syn = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST, 9000)));
        stays_out(world, &syn.bytes());
        let syn = arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(HOST_2, 9000)));
        enters(world, &syn, &web);
        // Of a source that nobody outside has, the stack knows what to do.
        for spoofed in [DB, GATEWAY, HOST] {
            let syn = arriving(Frame::tcp(SYN, at(spoofed, 40_000), at(HOST, 8080)));
            stays_out(world, &syn.bytes());
        }
    });
}

#[test]
fn what_stays_on_the_bridge_is_left_to_it() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        // To another container, and to everybody, by the other's own address.
        let direct = Frame::tcp(SYN, at(DB, 40_000), at(WEB, 80)).between(db.mac, web.mac);
        stays(world, &db, &direct.bytes());
        let everybody = between(request(world, SYN, 40_000).bytes(), db.mac, [0xff; 6]);
        stays(world, &db, &everybody);
        // To the host, another network's container, and by a spoofed address.
        for to in [at(GATEWAY, 53), at(HOST, 8080), at(LONER, 80)] {
            stays(
                world,
                &db,
                &db.frame(Frame::udp(at(DB, 40_000), to)).bytes(),
            );
        }
        let spoofed = db.frame(Frame::tcp(SYN, at(WEB, 40_000), at(REMOTE, 443)));
        stays(world, &db, &spoofed.bytes());
        let mac = between(request(world, SYN, 40_000).bytes(), web.mac, db.host_mac);
        stays(world, &db, &mac);
        world.holds(0, 0);
    });
}

#[test]
fn a_containers_own_conversation_is_masqueraded_under_its_own_port() {
    worlds(|world| {
        let db = world.db;
        let syn = request(world, SYN, 40_000);
        let left = leaves(world, &db, &syn);
        assert_eq!((left.from, left.to), (at(HOST, 40_000), at(REMOTE, 443)));
        assert_eq!(left.ttl, 63);
        let seen = enters(world, &arriving(left.answer(SYN | ACK)), &db);
        assert_eq!((seen.from, seen.to), (at(REMOTE, 443), at(DB, 40_000)));
        world.holds(1, 0);
        let ack = request(world, ACK, 40_000);
        leaves(world, &db, &ack);
        for out in [
            Frame::udp(at(DB, 40_000), at(REMOTE, 53)),
            Frame::echo_request(DB, REMOTE, 77),
        ] {
            let left = leaves(world, &db, &db.frame(out));
            assert_eq!(left.from.ip(), at(HOST, 1).ip());
            enters(world, &arriving(left.answer(0)), &db);
        }
    });
}

#[test]
fn a_network_that_is_not_masqueraded_leaves_by_the_stack() {
    worlds(|world| {
        for flags in [
            0,
            endpoint_flags::MASQUERADE | endpoint_flags::ROUTED4 | endpoint_flags::ROUTED6,
        ] {
            world.db.flags = flags;
            let db = world.db;
            world.connect(&db);
            let syn = request(world, SYN, 40_000).bytes();
            stays(world, &db, &syn);
        }
    });
}

/// What the stack has never seen it would answer by a reset.
#[test]
fn a_conversation_goes_on_where_the_table_is_full() {
    worlds(|world| {
        let db = world.db;
        let mut sport = 20_000;
        let left = loop {
            assert!(sport < 24_000, "the table never gets full");
            let syn = request(world, SYN, sport);
            let left = leaves(world, &db, &syn);
            enters(world, &arriving(left.answer(SYN | ACK)), &db);
            if !world.pending().is_empty() {
                break left;
            }
            sport += 1;
        };
        for _ in 0..2 {
            let data = request(world, PSH | ACK, sport);
            assert_eq!(leaves(world, &db, &data).from, left.from);
            enters(world, &arriving(left.answer(ACK)), &db);
        }
        let new = request(world, SYN, 30_000).bytes();
        stays(world, &db, &new);
    });
}

#[test]
fn a_datagram_from_a_published_port_is_an_answer_or_the_stacks() {
    worlds(|world| {
        let web = world.web;
        let answer = web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000)));
        stays(world, &web, &answer.bytes());
        let question = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        for _ in 0..3 {
            let seen = enters(world, &question, &web);
            assert_eq!(seen.to, at(WEB, 53));
            let left = leaves(world, &web, &answer);
            assert_eq!(left.from, at(HOST, 5353));
        }
        world.holds(1, 0);
        // Its own conversations from other ports are masqueraded.
        let own = web.frame(Frame::udp(at(WEB, 54), at(CLIENT, 40_000)));
        assert_eq!(leaves(world, &web, &own).from, at(HOST, 54));
    });
}

#[test]
fn a_port_that_the_stack_has_towards_a_peer_is_not_taken() {
    worlds(|world| {
        let (web, db, uplink) = (world.web, world.db, world.uplink);
        // conntrack masquerades somebody else's, and netdp itself.
        for (sport, from, mark) in [(40_000, db.ifindex, 0), (40_001, uplink, OURS)] {
            let theirs = Frame::tcp(SYN, at(HOST, sport), at(REMOTE, 443)).bytes();
            for _ in 0..2 {
                let run = leaving(world, &theirs, from, mark);
                assert_eq!((run.action, run.packet), (NEXT, theirs.clone()));
            }
            let syn = request(world, SYN, sport);
            let left = leaves(world, &db, &syn);
            assert_ne!(left.from, at(HOST, sport));
            let seen = enters(world, &arriving(left.answer(SYN | ACK)), &db);
            assert_eq!(seen.to, at(DB, sport));
            // The answer to theirs is theirs.
            let answer = arriving(Frame::tcp(ACK, at(REMOTE, 443), at(HOST, sport)));
            stays_out(world, &answer.bytes());
        }
        // Nor is an answer taken for a question to a published port.
        let theirs = Frame::udp(at(HOST, 5353), at(CLIENT, 53)).bytes();
        leaving(world, &theirs, db.ifindex, 0);
        let answer = arriving(Frame::udp(at(CLIENT, 53), at(HOST, 5353)));
        stays_out(world, &answer.bytes());
        let question = arriving(Frame::udp(at(CLIENT, 54), at(HOST, 5353)));
        enters(world, &question, &web);
    });
}

#[test]
fn who_comes_later_gives_way_to_a_flow() {
    worlds(|world| {
        let db = world.db;
        let syn = request(world, SYN, 40_000);
        leaves(world, &db, &syn);
        let theirs = Frame::tcp(SYN, at(HOST, 40_000), at(REMOTE, 443)).bytes();
        for (from, mark) in [(0, 0), (db.ifindex, 0), (db.ifindex, OURS)] {
            let run = leaving(world, &theirs, from, mark);
            assert_eq!(run.action, NEXT);
            let left = Frame::of(&run.packet);
            assert_ne!(left.from, at(HOST, 40_000));
            let back = arrives(world, &arriving(left.answer(SYN | ACK)).bytes());
            assert_eq!(back.action, NEXT);
            assert_eq!(Frame::of(&back.packet).to, at(HOST, 40_000));
        }
        let answer = arriving(Frame::tcp(SYN | ACK, at(REMOTE, 443), at(HOST, 40_000)));
        enters(world, &answer, &db);
    });
}

#[test]
fn what_was_sent_is_marked_as_netdps() {
    worlds(|world| {
        let (db, uplink) = (world.db, world.uplink);
        let syn = request(world, SYN, 40_000);
        let left = leaves(world, &db, &syn).bytes();
        let run = leaving(world, &left, db.ifindex, ACCELERATED);
        assert_eq!((run.action, run.mark, run.packet), (NEXT, OURS, left));
        assert_ne!(uplink, 0);
    });
}

#[test]
fn fragments_are_the_stacks() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        connect(world, 40_000);
        let mut question = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        question.payload = (0..200).collect();
        let mut own = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        own.payload = (0..200).collect();
        let mut answer = web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000)));
        answer.payload = (0..200).collect();
        for piece in 0..2 {
            stays_out(world, &question.fragments(64)[piece]);
            stays(world, &db, &own.fragments(64)[piece]);
            stays(world, &web, &answer.fragments(64)[piece]);
        }
    });
}

#[test]
fn a_container_that_is_gone_costs_no_packet() {
    worlds(|world| {
        let mut web = world.web;
        // The daemon has not heard yet.
        web.ifindex += 1000;
        world.publish(None, 8080, &web, 80, proto::TCP, Some(HOST));
        stays_out(world, &segment(SYN, 40_000).bytes());
    });
}

#[test]
fn what_expires_or_is_too_long_is_the_stacks_to_answer() {
    worlds(|world| {
        let db = world.db;
        let syn = request(world, SYN, 40_000).with_ttl(1);
        stays(world, &db, &syn.bytes());
        let mut long = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        long.payload = vec![0; 2000];
        stays(world, &db, &long.bytes());
        world.holds(0, 0);
    });
}

#[test]
fn errors_about_flows_reach_whom_they_are_for() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let left = {
            let syn = request(world, SYN, 40_000);
            leaves(world, &db, &syn)
        };
        let error = Error::about(Kind::Port, CLIENT, &left);
        let run = arrives(world, &arriving_error(error).bytes());
        assert_eq!(run.action, REDIRECT);
        assert_eq!(Error::of(&run.packet).quoted().from, at(DB, 40_000));
        // About what nobody has sent.
        let strange = Frame::udp(at(HOST, 40_000), at(REMOTE, 53));
        let error = arriving_error(Error::about(Kind::Port, CLIENT, &strange));
        stays_out(world, &error.bytes());
        // Of a container, about a datagram for its published port.
        let question = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        let seen = enters(world, &question, &web);
        let error = Error::about(Kind::Port, WEB, &seen).between(web.mac, web.host_mac);
        let run = sends(world, &web, &error.bytes());
        assert_eq!(run.action, REDIRECT);
        assert_eq!(Error::of(&run.packet).quoted().to, at(HOST, 5353));
    });
}

fn arriving_error(error: Error) -> Error {
    error.between(program_world::CLIENT_MAC, program_world::HOST_MAC)
}

/// Whatever a packet is, these programs hand it on or redirect it.
/// Packets that were left to the stack for a reason since the last time.
fn counted(world: &World, before: &mut Vec<(Left, u64)>) -> Vec<Left> {
    let now = world.datapath.left().unwrap();
    let risen = now.iter().zip(&*before).filter(|(now, was)| now.1 > was.1);
    let risen = risen.map(|((reason, _), _)| *reason).collect();
    *before = now;
    risen
}

#[test]
fn what_is_left_to_the_stack_is_counted_by_its_reason() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let mut before = world.datapath.left().unwrap();
        // What is carried is counted with the endpoint.
        connect(world, 40_000);
        assert_eq!(counted(world, &mut before), []);
        let stats = world.datapath.stats(web.slot).unwrap();
        assert_eq!((stats.rx_packets, stats.tx_packets), (2, 2));

        // From outside: only what is for a published port.
        stays_out(world, &segment(ACK, 41_000).bytes());
        assert_eq!(counted(world, &mut before), [Left::Began]);
        let other = arriving(Frame::tcp(SYN, at(CLIENT, 41_000), at(HOST, 8081)));
        stays_out(world, &other.bytes());
        assert_eq!(counted(world, &mut before), []);
        let elsewhere = arriving(Frame::tcp(SYN, at(CLIENT, 41_000), at(REMOTE, 8080)));
        stays_out(world, &elsewhere.bytes());
        assert_eq!(counted(world, &mut before), [Left::Elsewhere]);

        // From a container.
        let neighbour = Frame {
            destination: web.mac,
            ..db.frame(Frame::tcp(SYN, at(DB, 41_000), at(WEB, 80)))
        };
        stays(world, &db, &neighbour.bytes());
        assert_eq!(counted(world, &mut before), [Left::Bridge]);
        let began = request(world, ACK, 41_000).bytes();
        stays(world, &db, &began);
        assert_eq!(counted(world, &mut before), [Left::Began]);
        let host = db.frame(Frame::tcp(SYN, at(DB, 41_000), at(HOST, 22)));
        stays(world, &db, &host.bytes());
        assert_eq!(counted(world, &mut before), [Left::Elsewhere]);
        let spoofed = db.frame(Frame::tcp(SYN, at(WEB, 41_000), at(REMOTE, 443)));
        stays(world, &db, &spoofed.bytes());
        assert_eq!(counted(world, &mut before), [Left::Source]);
    });
}

#[test]
fn nothing_is_ever_dropped() {
    worlds(|world| {
        let (web, db, uplink) = (world.web, world.db, world.uplink);
        connect(world, 40_000);
        let mut frames = Vec::new();
        for body in [
            Body::Udp,
            Body::Tcp(SYN),
            Body::Tcp(RST | ACK),
            Body::Tcp(0xff),
            Body::Tcp(0),
        ] {
            for from in [at(CLIENT, 40_000), at(REMOTE, 443), at(WEB, 80), at(DB, 9)] {
                for to in [
                    at(HOST, 8080),
                    at(HOST, 40_000),
                    at(REMOTE, 443),
                    at(WEB, 80),
                ] {
                    frames.push(Frame::new(body, from, to).bytes());
                }
            }
        }
        frames.push(frame::raw(132, WEB, REMOTE, &[0; 32]));
        frames.push(frame::raw(47, CLIENT, HOST, &[0; 32]));
        for whole in frames {
            for length in [whole.len(), 60, 54] {
                let bytes = &whole[..length.min(whole.len())];
                for container in [web, db] {
                    for (from, to) in [
                        (container.mac, container.host_mac),
                        (program_world::CLIENT_MAC, program_world::HOST_MAC),
                    ] {
                        let bytes = between(bytes.to_vec(), from, to);
                        for run in [
                            arrives(world, &bytes),
                            sends(world, &container, &bytes),
                            leaving(world, &bytes, 0, 0),
                            leaving(world, &bytes, uplink, 0),
                        ] {
                            assert_ne!(run.action, DROP, "{bytes:x?}");
                        }
                    }
                }
            }
        }
        assert!(world.drops().is_empty(), "{:?}", world.drops());
    });
}
