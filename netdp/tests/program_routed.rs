//! Containers that the outside knows by their own addresses, under test_run:
//! what they send, what reaches them, and what doesn't. Needs root.

mod program_world;

use std::net::Ipv4Addr;

use netdp::bpf::{TestPacket, TestRun};
use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{endpoint_flags, flow_kind},
};
use program_world::{
    CLIENT, CLIENT_MAC, Container, DB, GATEWAY, HOST_MAC, LONER, NEXT, REDIRECT, REMOTE, WEB,
    World, arriving,
    error::{Error, Kind},
    family::Family,
    frame::{ACK, Body, Frame, RST, SYN, at, between, raw},
    world, worlds,
};

/// Lets the outside know this container by its address, and publishes port 80
/// there.
fn route(world: &mut World, container: &Container) -> Container {
    let mut container = *container;
    container.flags |= match Family::of_world() {
        Family::V4 => endpoint_flags::ROUTED4,
        Family::V6 => endpoint_flags::ROUTED6,
    };
    world.connect(&container);
    let own = Some(container.addr);
    world.publish(own, 80, &container, 80, proto::TCP, own);
    container
}

fn unchanged(seen: &Frame, sent: &Frame) {
    assert_eq!(
        (seen.from, seen.to, seen.body),
        (sent.from, sent.to, sent.body)
    );
    assert_eq!(seen.ttl, sent.ttl - 1);
}

#[test]
fn a_container_leaves_as_it_is_and_only_its_peer_may_answer() {
    worlds(|world| {
        let web = route(world, &world.web.clone());
        let (from, to) = (at(WEB, 40_000), at(REMOTE, 443));
        for sent in [
            Frame::tcp(SYN, from, to),
            Frame::udp(from, to),
            Frame::echo_request(WEB, REMOTE, 40_000),
        ] {
            let stranger = |right: &Frame| Frame {
                from: at(CLIENT, right.from.port()),
                ..right.clone()
            };
            let sent = web.frame(sent);
            let right = arriving(sent.answer(SYN | ACK));
            assert_eq!(world.is_kept_out(&right.bytes()), DropReason::NotPublished);
            let left = world.leaves(&web, &sent);
            unchanged(&left, &sent);
            assert_eq!(world.pending()[0].flow.kind, flow_kind::ROUTED);
            assert_eq!(
                world.is_kept_out(&stranger(&right).bytes()),
                DropReason::NotPublished
            );
            let flows = world.flows().len();
            unchanged(&world.enters(&right, &web), &right);
            world.holds(flows + 1, 0);
            // Again, both ways.
            unchanged(&world.leaves(&web, &sent), &sent);
            unchanged(&world.enters(&right, &web), &right);
            assert_eq!(
                world.is_kept_out(&stranger(&right).bytes()),
                DropReason::NotPublished
            );
            world.holds(flows + 1, 0);
        }
        // What opens nothing.
        let reset = web.frame(Frame::tcp(RST, at(WEB, 40_009), to));
        assert_eq!(world.is_refused(&web, &reset.bytes()), DropReason::NoFlow);
        let reply = web.frame(Frame::echo_reply(WEB, REMOTE, 9));
        assert_eq!(
            world.is_refused(&web, &reply.bytes()),
            DropReason::IcmpUnrelated
        );
    });
}

#[test]
fn a_published_port_is_reached_at_the_containers_address() {
    worlds(|world| {
        let web = route(world, &world.web.clone());
        // That one listens at all addresses of the host.
        let db = world.db;
        world.publish(None, 80, &db, 80, proto::TCP, Some(program_world::HOST));
        let asks = arriving(Frame::tcp(SYN, at(REMOTE, 40_000), at(WEB, 80)));
        unchanged(&world.enters(&asks, &web), &asks);
        let answers = web.frame(asks.answer(SYN | ACK));
        unchanged(&world.leaves(&web, &answers), &answers);
        world.holds(0, 0);
        for other in [
            Frame::tcp(SYN, at(REMOTE, 40_000), at(WEB, 81)),
            Frame::udp(at(REMOTE, 40_000), at(WEB, 80)),
            Frame::echo_request(REMOTE, WEB, 7),
        ] {
            assert_eq!(
                world.is_kept_out(&arriving(other).bytes()),
                DropReason::NotPublished
            );
        }
        // A neighbour of the same network that is not routed.
        let other = arriving(Frame::tcp(SYN, at(REMOTE, 40_000), at(DB, 80)));
        assert_eq!(world.is_kept_out(&other.bytes()), DropReason::NotPublished);
        for inside in [DB, WEB, GATEWAY] {
            let spoofed = arriving(Frame::tcp(SYN, at(inside, 40_000), at(WEB, 80)));
            assert_eq!(
                world.is_kept_out(&spoofed.bytes()),
                DropReason::SpoofedSource
            );
        }
    });
}

#[test]
fn a_connection_with_a_published_port_is_kept_once_the_container_has_spoken() {
    worlds(|world| {
        let web = route(world, &world.web.clone());
        let asks = arriving(Frame::tcp(SYN, at(REMOTE, 40_000), at(WEB, 80)));
        world.enters(&asks, &web);
        world.leaves(&web, &web.frame(asks.answer(SYN | ACK)));
        let speaks = web.frame(asks.answer(ACK));
        unchanged(&world.leaves(&web, &speaks), &speaks);
        world.holds(1, 0);
        let flow = world.flows()[0];
        assert_eq!(flow.flow.kind, flow_kind::PUBLISHED);
        assert_eq!(flow.key.local, WEB.into());
        // From the same port, on the container's own account.
        let own = web.frame(Frame::tcp(SYN, at(WEB, 80), at(CLIENT, 443)));
        unchanged(&world.leaves(&web, &own), &own);
        let answer = arriving(own.answer(SYN | ACK));
        unchanged(&world.enters(&answer, &web), &answer);
        let goes_on = web.frame(answer.answer(ACK));
        unchanged(&world.leaves(&web, &goes_on), &goes_on);
    });
}

#[test]
fn other_networks_reach_the_published_port_alone() {
    worlds(|world| {
        let (web, loner) = (route(world, &world.web.clone()), world.loner);
        let asks = loner.frame(Frame::tcp(SYN, at(LONER, 40_000), at(WEB, 80)));
        let seen = world.leaves(&loner, &asks);
        assert_eq!(
            (seen.from, seen.to, seen.destination),
            (asks.from, asks.to, web.mac)
        );
        let answer = web.frame(asks.answer(SYN | ACK));
        let seen = world.leaves(&web, &answer);
        assert_eq!(
            (seen.from, seen.to, seen.destination),
            (answer.from, answer.to, loner.mac)
        );
        let other = loner.frame(Frame::tcp(SYN, at(LONER, 40_000), at(WEB, 81)));
        assert_eq!(
            world.is_refused(&loner, &other.bytes()),
            DropReason::OtherNetwork
        );
        let mut internal = loner;
        internal.flags |= endpoint_flags::INTERNAL;
        world.connect(&internal);
        let asks = loner.frame(Frame::tcp(SYN, at(LONER, 40_001), at(WEB, 80)));
        assert_eq!(
            world.is_refused(&internal, &asks.bytes()),
            DropReason::OtherNetwork
        );
    });
}

/// What becomes of a datagram's fragments, put together.
fn whole(
    world: &mut World,
    pieces: [Vec<u8>; 2],
    run: impl Fn(&mut World, &[u8]) -> TestRun,
) -> Frame {
    let pieces = pieces.map(|piece| {
        let run = run(world, &piece);
        assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
        run.packet
    });
    Frame::of_fragments(&pieces)
}

#[test]
fn fragments_follow_their_first_as_they_are() {
    worlds(|world| {
        let web = route(world, &world.web.clone());
        let mut sent = web.frame(Frame::udp(at(WEB, 40_000), at(REMOTE, 53)));
        sent.payload = vec![7; 1_200];
        let seen = whole(world, sent.fragments(600), |world, piece| {
            world.run_from_container(&web, piece)
        });
        unchanged(&seen, &sent);
        let mut answer = arriving(sent.answer(0));
        answer.payload = vec![8; 1_200];
        let seen = whole(world, answer.fragments(600), World::run_from_netdev);
        unchanged(&seen, &answer);
    });
}

#[test]
fn errors_pass_as_they_are_where_they_are_about_a_flow() {
    const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    worlds(|world| {
        let web = route(world, &world.web.clone());
        let sent = web.frame(Frame::new(Body::Udp, at(WEB, 40_000), at(REMOTE, 443)));
        let too_big = Error::about(Kind::TooBig, ROUTER, &sent);
        let arrives = |error: &Error| arriving_error(error).bytes();
        assert_eq!(
            world.is_kept_out(&arrives(&too_big)),
            DropReason::NotPublished
        );
        world.leaves(&web, &sent);
        let run = world.run_from_netdev(&arrives(&too_big));
        let seen = Error::of(&run.packet);
        assert_eq!((seen.to, seen.destination), (WEB, web.mac));
        assert_eq!(seen.quote, too_big.quote);

        // Of the published port, for which there is no entry.
        let asks = arriving(Frame::tcp(SYN, at(REMOTE, 40_000), at(WEB, 80)));
        world.enters(&asks, &web);
        let answer = web.frame(asks.answer(SYN | ACK));
        let too_big = Error::about(Kind::TooBig, ROUTER, &answer);
        let run = world.run_from_netdev(&arrives(&too_big));
        assert_eq!(Error::of(&run.packet).destination, web.mac);

        // The container's own errors: about an answer, and about the port.
        for about in [arriving(sent.answer(0)), asks] {
            let error = Error::about(Kind::Port, WEB, &about);
            let bytes = error.clone().between(web.mac, web.host_mac).bytes();
            let run = world.run_from_container(&web, &bytes);
            let seen = Error::of(&run.packet);
            assert_eq!((seen.from, seen.to, seen.quote), (WEB, REMOTE, error.quote));
        }
    });
}

fn arriving_error(error: &Error) -> Error {
    error.clone().between(CLIENT_MAC, HOST_MAC)
}

#[test]
fn the_uplink_lets_it_out() {
    worlds(|world| {
        let web = route(world, &world.web.clone());
        let sent = web.frame(Frame::tcp(SYN, at(WEB, 40_000), at(REMOTE, 443)));
        let left = world.leaves(&web, &sent);
        let bytes = left.bytes();
        let packet = TestPacket::sent(&bytes, world.uplink);
        let run = world.datapath.test_run("to_netdev", &packet).unwrap();
        assert_eq!(run.action, NEXT);
    });
}

#[test]
fn what_is_no_echo_is_not_taken_for_one() {
    world(|world| {
        let web = route(world, &world.web.clone());
        let left = world.leaves(&web, &web.frame(Frame::echo_request(WEB, REMOTE, 0)));
        let mut timestamp = [0; 20];
        (timestamp[0], timestamp[2], timestamp[3]) = (13, !13, !0);
        let sent = between(
            raw(proto::ICMP, WEB, REMOTE, &timestamp),
            web.mac,
            web.host_mac,
        );
        let came = between(
            raw(proto::ICMP, REMOTE, WEB, &timestamp),
            CLIENT_MAC,
            HOST_MAC,
        );
        // Before the echo is answered, and after.
        for _ in 0..2 {
            assert_eq!(world.is_refused(&web, &sent), DropReason::IcmpUnrelated);
            assert_eq!(world.is_kept_out(&came), DropReason::NotPublished);
            world.enters(&arriving(left.answer(0)), &web);
        }
    });
}
