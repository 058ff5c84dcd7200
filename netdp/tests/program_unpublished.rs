//! Ports that are published no longer, or by another container, under
//! test_run. Needs root.

mod program_world;

use std::net::Ipv4Addr;

use netdp_common::{addr::proto, drop::DropReason, maps::endpoint_flags, tcp::state};
use nix::time::{ClockId, clock_gettime};
use program_world::{
    CLIENT, DB, HOST, HOST_2, REDIRECT, WEB, World, arriving,
    error::{Error, Kind},
    frame::{ACK, FIN, Frame, PSH, RST, SYN, at},
    worlds,
};

const QUIET: u32 = 300;

fn segment(flags: u8, to: Ipv4Addr, port: u16) -> Frame {
    arriving(Frame::tcp(flags, at(CLIENT, 40_000), at(to, port)))
}

fn reply(world: &World, flags: u8) -> Frame {
    world
        .web
        .frame(Frame::tcp(flags, at(WEB, 80), at(CLIENT, 40_000)))
}

fn query(to: Ipv4Addr) -> Frame {
    arriving(Frame::udp(at(CLIENT, 40_000), at(to, 5353)))
}

fn answer(world: &World) -> Frame {
    world.web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000)))
}

fn connect(world: &mut World, to: Ipv4Addr) {
    let web = world.web;
    world.enters(&segment(SYN, to, 8080), &web);
    world.leaves(&web, &reply(world, SYN | ACK));
    world.enters(&segment(ACK, to, 8080), &web);
    world.leaves(&web, &reply(world, PSH | ACK));
    world.leaves(&web, &reply(world, ACK));
    world.holds(1, 0);
}

#[test]
fn an_open_connection_ends_with_the_publication() {
    for to in [HOST, HOST_2] {
        worlds(|world| {
            connect(world, to);
            let mut web = world.web;
            world.unpublish(8080, &mut web, 80, proto::TCP, QUIET);
            for flags in [PSH | ACK, FIN | ACK, RST] {
                let bytes = reply(world, flags).bytes();
                assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);
            }
            world.passes(&segment(PSH | ACK, to, 8080).bytes());
            // So that what is repeated stays inside, too.
            world.holds(1, 0);
            assert_eq!(world.flows()[0].flow.state, state::RESET);

            // Published again, the connection goes on if both sides still know.
            world.publish(None, 8080, &web, 80, proto::TCP, Some(HOST));
            web.generation += 1;
            world.connect(&web);
            world.enters(&segment(PSH | ACK, to, 8080), &web);
            assert_eq!(world.leaves(&web, &reply(world, ACK)).from, at(to, 8080));
        });
    }
}

#[test]
fn a_handshake_ends_with_the_publication() {
    for to in [HOST, HOST_2] {
        worlds(|world| {
            let mut web = world.web;
            world.enters(&segment(SYN, to, 8080), &web);
            world.unpublish(8080, &mut web, 80, proto::TCP, QUIET);
            let bytes = reply(world, SYN | ACK).bytes();
            assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);
        });
    }
}

#[test]
fn other_ports_of_the_container_go_on() {
    worlds(|world| {
        let mut web = world.web;
        connect(world, HOST);
        world.enters(&query(HOST_2), &web);
        world.unpublish(5353, &mut web, 53, proto::UDP, QUIET);
        assert_eq!(world.leaves(&web, &reply(world, ACK)).from, at(HOST, 8080));
        let flow = world.flows()[0];
        assert_eq!(flow.flow.generation, web.generation, "asked once");
        let bytes = answer(world).bytes();
        assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);
    });
}

/// The same client port may come back over another port of the same container.
#[test]
fn the_client_may_come_back_by_another_port() {
    worlds(|world| {
        let mut web = world.web;
        connect(world, HOST);
        world.publish(None, 8081, &web, 80, proto::TCP, None);
        let second = segment(SYN, HOST, 8081);
        assert_eq!(world.is_kept_out(&second.bytes()), DropReason::TupleTaken);
        world.unpublish(8080, &mut web, 80, proto::TCP, QUIET);
        world.enters(&second, &web);
        let seen = world.leaves(&web, &reply(world, SYN | ACK));
        assert_eq!(seen.from, at(HOST, 8081));
    });
}

#[test]
fn datagrams_go_to_the_next_container_and_none_come_from_the_first() {
    for to in [HOST, HOST_2] {
        worlds(|world| {
            let mut web = world.web;
            for _ in 0..2 {
                world.enters(&query(to), &web);
                assert_eq!(world.leaves(&web, &answer(world)).from, at(to, 5353));
            }
            world.unpublish(5353, &mut web, 53, proto::UDP, QUIET);
            world.passes(&query(to).bytes());
            let bytes = answer(world).bytes();
            assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);

            let mut db = world.db;
            db.flags |= endpoint_flags::PUBLISHED;
            world.connect(&db);
            world.publish(None, 5353, &db, 53, proto::UDP, Some(HOST));
            assert_eq!(world.enters(&query(to), &db).to, at(DB, 53));
            let bytes = answer(world).bytes();
            assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);
            let from_db = db.frame(Frame::udp(at(DB, 53), at(CLIENT, 40_000)));
            assert_eq!(world.leaves(&db, &from_db).from, at(to, 5353));
        });
    }
}

/// Another mapping of the same container port answers for its own clients.
#[test]
fn datagrams_are_answered_by_the_port_that_is_left() {
    worlds(|world| {
        let mut web = world.web;
        for _ in 0..2 {
            world.enters(&query(HOST_2), &web);
            world.leaves(&web, &answer(world));
        }
        world.enters(&query(HOST_2), &web);
        world.holds(1, 0);
        world.unpublish(5353, &mut web, 53, proto::UDP, QUIET);
        world.publish(None, 5454, &web, 53, proto::UDP, Some(HOST));
        let query = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5454)));
        world.enters(&query, &web);
        assert_eq!(world.leaves(&web, &answer(world)).from, at(HOST, 5454));
        world.holds(0, 0);
    });
}

/// A container port is the container's own again after a while, and what the
/// container has begun itself is never stopped.
#[test]
fn the_containers_own_conversations_are_its_own() {
    worlds(|world| {
        let mut web = world.web;
        world.unpublish(5353, &mut web, 53, proto::UDP, 0);
        let seen = world.leaves(&web, &answer(world));
        assert_eq!(seen.from, at(HOST, 53));
        // Published and taken back once more, this conversation goes on.
        world.publish(None, 5353, &web, 53, proto::UDP, Some(HOST));
        world.unpublish(5353, &mut web, 53, proto::UDP, QUIET);
        assert_eq!(world.leaves(&web, &answer(world)).from, at(HOST, 53));
        // A connection that it opens from the port is no answer.
        world.unpublish(8080, &mut web, 80, proto::TCP, QUIET);
        assert_eq!(world.leaves(&web, &reply(world, SYN)).from, at(HOST, 80));
        let back = arriving(Frame::tcp(SYN | ACK, at(CLIENT, 40_000), at(HOST, 80)));
        world.enters(&back, &web);
        assert_eq!(world.leaves(&web, &reply(world, ACK)).from, at(HOST, 80));
    });
}

/// The kernel's coarse clock, which the programs read, begins each second up to
/// a tick later than the fine one.
#[test]
fn what_ends_now_has_ended_in_a_second_that_has_just_begun() {
    worlds(|world| {
        let mut web = world.web;
        let fine = || clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let before = fine().tv_sec();
        while fine().tv_sec() == before {}
        world.unpublish(5353, &mut web, 53, proto::UDP, 0);
        assert_eq!(world.leaves(&web, &answer(world)).from, at(HOST, 53));
    });
}

#[test]
fn a_neighbour_is_not_answered_either() {
    worlds(|world| {
        let (mut web, db) = (world.web, world.db);
        let question = db.frame(Frame::udp(at(DB, 4000), at(HOST, 5353)));
        let answer = web.frame(Frame::udp(at(WEB, 53), at(DB, 4000)));
        world.leaves(&db, &question);
        assert_eq!(world.leaves(&web, &answer).from, at(HOST, 5353));
        world.unpublish(5353, &mut web, 53, proto::UDP, QUIET);
        let bytes = answer.bytes();
        assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);
        // Directly it may be asked as before.
        world.leaves(&db, &db.frame(Frame::udp(at(DB, 4000), at(WEB, 53))));
        assert_eq!(world.leaves(&web, &answer).from, at(WEB, 53));
    });
}

#[test]
fn an_error_about_an_unpublished_flow_is_nobodys() {
    worlds(|world| {
        let mut web = world.web;
        let seen = world.enters(&query(HOST_2), &web);
        let error = Error::about(Kind::Port, WEB, &seen).between(web.mac, web.host_mac);
        let bytes = error.bytes();
        assert_eq!(world.run_from_container(&web, &bytes).action, REDIRECT);
        world.unpublish(5353, &mut web, 53, proto::UDP, QUIET);
        assert_eq!(world.is_refused(&web, &bytes), DropReason::IcmpUnrelated);
    });
}

/// The next container that has the address publishes what it publishes.
#[test]
fn the_next_container_at_the_address_has_none_of_the_flows() {
    worlds(|world| {
        connect(world, HOST);
        let mut next = world.web;
        world.unpublish(8080, &mut next, 80, proto::TCP, QUIET);
        next.generation = 77;
        world.connect(&next);
        world.publish(None, 8081, &next, 80, proto::TCP, Some(HOST));
        let bytes = reply(world, PSH | ACK).bytes();
        assert_eq!(world.is_refused(&next, &bytes), DropReason::Unpublished);
        world.enters(&segment(SYN, HOST, 8081), &next);
        let seen = world.leaves(&next, &reply(world, SYN | ACK));
        assert_eq!(seen.from, at(HOST, 8081));
    });
}
