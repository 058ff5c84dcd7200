//! Ranges of published ports, and ports that are published to some sources
//! alone, under test_run. Needs root.

mod program_world;

use std::net::Ipv4Addr;

use netdp_common::{addr::proto, drop::DropReason, maps::config_flags};
use program_world::{
    CLIENT, DB, GATEWAY, HOST, HOST_2, LONER, REMOTE, WEB, World, arriving,
    error::{Error, Kind},
    frame::{ACK, Frame, PSH, SYN, at},
    worlds,
};

/// What the first of them lead to in WEB: each to a range of the same size.
const FIRST: u16 = 1000;

fn syn(to: Ipv4Addr, port: u16) -> Frame {
    arriving(Frame::tcp(SYN, at(CLIENT, 40_000), at(to, port)))
}

fn query(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Frame {
    arriving(Frame::udp(at(from, 40_000), at(to, port)))
}

fn publish(world: &mut World, first: u16, last: u16, proto: u8) {
    let web = world.web;
    let inside = FIRST + (first - 20_000);
    world.publish_range((first, last), &web, inside, proto, Some(HOST));
}

/// A wide range, and others whose places in the trie lie within its own.
const RANGES: [(u16, u16); 5] = [
    (20_000, 29_999),
    (30_000, 30_009),
    (30_012, 30_012 + 30),
    (32_000, 32_767),
    (30_100, 30_101),
];

#[test]
fn each_port_leads_to_its_own() {
    worlds(|world| {
        let web = world.web;
        for proto in [proto::TCP, proto::UDP] {
            for (first, last) in RANGES {
                publish(world, first, last, proto);
            }
        }
        for (first, last) in RANGES {
            for port in [first, first + 1, last - 1, last] {
                let inside = FIRST + (port - 20_000);
                assert_eq!(world.enters(&syn(HOST, port), &web).to, at(WEB, inside));
                let question = query(CLIENT, HOST, port);
                assert_eq!(world.enters(&question, &web).to, at(WEB, inside));
                let answer = web.frame(Frame::udp(at(WEB, inside), at(CLIENT, 40_000)));
                assert_eq!(world.leaves(&web, &answer).from, at(HOST, port));
            }
        }
        for beside in [
            19_999, 30_010, 30_011, 30_043, 30_099, 30_102, 31_999, 32_768, 5,
        ] {
            world.passes(&syn(HOST, beside).bytes());
            world.passes(&query(CLIENT, HOST, beside).bytes());
        }
        // A single port is found first, and on its own protocol.
        assert_eq!(world.enters(&syn(HOST, 8080), &web).to, at(WEB, 80));
        world.holds(0, 0);
    });
}

#[test]
fn a_connection_is_answered_by_its_port() {
    worlds(|world| {
        let web = world.web;
        publish(world, 20_000, 29_999, proto::TCP);
        for (to, port) in [(HOST, 20_000), (HOST_2, 29_999)] {
            let inside = FIRST + (port - 20_000);
            let reply = |flags| web.frame(Frame::tcp(flags, at(WEB, inside), at(CLIENT, 40_000)));
            world.enters(&syn(to, port), &web);
            for flags in [SYN | ACK, PSH | ACK, ACK] {
                assert_eq!(world.leaves(&web, &reply(flags)).from, at(to, port));
            }
            let error = Error::about(Kind::TooBig, CLIENT, &{
                let left = world.leaves(&web, &reply(ACK));
                assert_eq!(left.from, at(to, port));
                left
            });
            let bytes = arriving_error(error);
            let run = world.run_from_netdev(&bytes);
            assert_eq!(run.action, program_world::REDIRECT);
        }
        world.holds(2, 0);
    });
}

fn arriving_error(error: Error) -> Vec<u8> {
    let (client, host) = (program_world::CLIENT_MAC, program_world::HOST_MAC);
    error.between(client, host).bytes()
}

#[test]
fn a_range_on_one_address_is_not_on_another() {
    worlds(|world| {
        let web = world.web;
        world.publish_range_on(
            Some(HOST_2),
            (20_000, 20_099),
            &web,
            FIRST,
            proto::UDP,
            None,
        );
        let question = query(CLIENT, HOST_2, 20_050);
        assert_eq!(world.enters(&question, &web).to, at(WEB, FIRST + 50));
        let answer = web.frame(Frame::udp(at(WEB, FIRST + 50), at(CLIENT, 40_000)));
        assert_eq!(world.leaves(&web, &answer).from, at(HOST_2, 20_050));
        world.passes(&query(CLIENT, HOST, 20_050).bytes());
    });
}

#[test]
fn containers_use_ranges_too() {
    worlds(|world| {
        let (web, loner) = (world.web, world.loner);
        publish(world, 20_000, 29_999, proto::UDP);
        let question = loner.frame(Frame::udp(at(LONER, 4000), at(HOST, 25_000)));
        assert_eq!(world.leaves(&loner, &question).to, at(WEB, FIRST + 5000));
        let answer = web.frame(Frame::udp(at(WEB, FIRST + 5000), at(LONER, 4000)));
        assert_eq!(world.leaves(&web, &answer).from, at(HOST, 25_000));
        // Itself as well.
        let question = web.frame(Frame::udp(at(WEB, 4000), at(HOST, 25_001)));
        let seen = world.leaves(&web, &question);
        assert_eq!(
            (seen.from, seen.to),
            (at(GATEWAY, 4000), at(WEB, FIRST + 5001))
        );
    });
}

#[test]
fn masquerade_takes_no_port_of_a_range() {
    worlds(|world| {
        let db = world.db;
        publish(world, 20_000, 29_999, proto::UDP);
        for (port, kept) in [
            (19_999, true),
            (20_000, false),
            (29_999, false),
            (30_000, true),
        ] {
            let packet = db.frame(Frame::udp(at(DB, port), at(REMOTE, 53)));
            let seen = world.leaves(&db, &packet).from.port();
            assert_eq!(seen == port, kept, "{port} became {seen}");
            assert!(kept || !(20_000..=29_999).contains(&seen), "{seen}");
        }
    });
}

#[test]
fn an_unpublished_range_is_silent() {
    worlds(|world| {
        let mut web = world.web;
        publish(world, 20_000, 29_999, proto::UDP);
        world.enters(&query(CLIENT, HOST, 25_000), &web);
        let answer = web.frame(Frame::udp(at(WEB, FIRST + 5000), at(CLIENT, 40_000)));
        world.leaves(&web, &answer);
        world.unpublish_range((20_000, 29_999), &mut web, FIRST, proto::UDP, 300);
        world.passes(&query(CLIENT, HOST, 25_000).bytes());
        let bytes = answer.bytes();
        assert_eq!(world.is_refused(&web, &bytes), DropReason::Unpublished);
    });
}

#[test]
fn ranges_are_asked_for_where_there_are_any() {
    worlds(|world| {
        let flags = |world: &World| world.datapath.config().unwrap().flags;
        assert_eq!(flags(world), 0);
        publish(world, 20_000, 29_999, proto::UDP);
        publish(world, 30_000, 30_001, proto::UDP);
        assert_eq!(flags(world), config_flags::RANGES);
        world.forget_range((20_000, 29_999), FIRST, proto::UDP);
        assert_eq!(flags(world), config_flags::RANGES);
        world.forget_range((30_000, 30_001), FIRST + 10_000, proto::UDP);
        assert_eq!(flags(world), 0);
    });
}

#[test]
fn a_port_may_be_for_some_sources_alone() {
    worlds(|world| {
        let web = world.web;
        world.restrict(8080, proto::TCP, 7);
        world.restrict(5353, proto::UDP, 8);
        let bytes = syn(HOST, 8080).bytes();
        assert_eq!(world.is_kept_out(&bytes), DropReason::NotAllowed);
        // Another set's addresses are not this one's.
        world.allow(8, CLIENT, 32);
        assert_eq!(world.is_kept_out(&bytes), DropReason::NotAllowed);
        world.enters(&query(CLIENT, HOST, 5353), &web);
        let beside = Ipv4Addr::from_bits(CLIENT.to_bits() ^ 1);
        let bytes = query(beside, HOST, 5353).bytes();
        assert_eq!(world.is_kept_out(&bytes), DropReason::NotAllowed);

        world.allow(7, Ipv4Addr::new(192, 0, 2, 0), 24);
        world.enters(&syn(HOST, 8080), &web);
        let far = arriving(Frame::tcp(SYN, at(REMOTE, 40_000), at(HOST, 8080)));
        assert_eq!(world.is_kept_out(&far.bytes()), DropReason::NotAllowed);
        world.allow(7, Ipv4Addr::UNSPECIFIED, 0);
        world.enters(&far, &web);
    });
}

#[test]
fn containers_are_sources_like_others_but_for_itself() {
    worlds(|world| {
        let (web, loner) = (world.web, world.loner);
        world.restrict(5353, proto::UDP, 7);
        let question = loner.frame(Frame::udp(at(LONER, 4000), at(HOST, 5353)));
        let bytes = question.bytes();
        assert_eq!(world.is_refused(&loner, &bytes), DropReason::NotAllowed);
        let own = web.frame(Frame::udp(at(WEB, 4000), at(HOST, 5353)));
        assert_eq!(world.leaves(&web, &own).to, at(WEB, 53));
        world.allow(7, LONER, 32);
        assert_eq!(world.leaves(&loner, &question).to, at(WEB, 53));
    });
}
