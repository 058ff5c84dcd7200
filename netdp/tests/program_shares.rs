//! Shares of the flow tables under test_run: an endpoint that opens flows
//! without end is refused at its own, and the others don't notice. Needs root.

mod program_world;

use netdp_common::{drop::DropReason, maps::Config};
use program_world::{
    CLIENT, Container, DB, HOST, HOST_2, REDIRECT, REMOTE, WEB, World, arriving,
    family::ip,
    frame::{ACK, FIN, Frame, RST, SYN, at},
    impatient, world_with,
};

/// Shares so small that they are soon full.
fn small() -> Config {
    Config {
        flows_per_endpoint: 8,
        pending_per_endpoint: 4,
        ..Config::default()
    }
}

fn segment(container: &Container, flags: u8, sport: u16) -> Frame {
    container.frame(Frame::tcp(
        flags,
        at(container.addr, sport),
        at(REMOTE, 443),
    ))
}

fn answer(left: &Frame, flags: u8) -> Frame {
    arriving(left.answer(flags))
}

/// Opens a flow whose peer answers.
fn converse(world: &mut World, container: &Container, sport: u16) -> Frame {
    let left = world.leaves(container, &segment(container, SYN, sport));
    world.enters(&answer(&left, SYN | ACK), container);
    left
}

/// Flows and what is pending, of an endpoint's own, as it is counted.
fn share(world: &World, container: &Container) -> (u64, u64) {
    let share = world.datapath.share(container.slot).unwrap();
    (share.flows, share.pending)
}

fn refused(world: &mut World, container: &Container, sport: u16) {
    let bytes = segment(container, SYN, sport).bytes();
    assert_eq!(
        world.is_refused(container, &bytes),
        DropReason::EndpointLimit
    );
}

#[test]
fn a_flood_takes_no_more_than_its_share() {
    world_with(small(), 1024, |world| {
        let (db, web) = (world.db, world.web);
        let held: Vec<_> = (0..8)
            .map(|number| converse(world, &db, 40_000 + number))
            .collect();
        assert_eq!(share(world, &db), (8, 0));
        for sport in 50_000..50_100 {
            refused(world, &db, sport);
        }
        world.holds(8, 0);
        // Its own conversations go on, and so does everybody else.
        for left in &held {
            world.leaves(&db, &segment(&db, ACK, left.from.port()));
            world.enters(&answer(left, ACK), &db);
        }
        converse(world, &web, 41_000);
        assert_eq!(share(world, &web), (1, 0));
    });
}

#[test]
fn what_is_unanswered_has_a_share_too() {
    world_with(small(), 1024, |world| {
        let (db, web) = (world.db, world.web);
        let first = world.leaves(&db, &segment(&db, SYN, 40_000));
        for sport in 40_001..40_004 {
            world.leaves(&db, &segment(&db, SYN, sport));
        }
        assert_eq!(share(world, &db), (0, 4));
        refused(world, &db, 40_004);
        world.leaves(&db, &segment(&db, SYN, 40_000));
        world.holds(0, 4);
        converse(world, &web, 41_000);
        // An answer makes room.
        world.enters(&answer(&first, SYN | ACK), &db);
        assert_eq!(share(world, &db), (1, 3));
        world.leaves(&db, &segment(&db, SYN, 40_004));
        refused(world, &db, 40_005);
    });
}

/// Whatever is opened has its place in the main table.
#[test]
fn an_answer_is_never_refused_for_the_share() {
    world_with(small(), 1024, |world| {
        let db = world.db;
        for number in 0..5 {
            converse(world, &db, 40_000 + number);
        }
        let opened: Vec<_> = (0..3)
            .map(|number| world.leaves(&db, &segment(&db, SYN, 41_000 + number)))
            .collect();
        refused(world, &db, 42_000);
        for left in opened {
            world.enters(&answer(&left, SYN | ACK), &db);
        }
        assert_eq!(share(world, &db), (8, 0));
    });
}

/// By the kernel's timer, without a daemon.
#[test]
fn a_share_is_free_again_when_flows_have_expired() {
    let config = Config {
        flows_per_endpoint: 8,
        pending_per_endpoint: 4,
        ..impatient()
    };
    world_with(config, 1024, |world| {
        let db = world.db;
        for sport in 40_000..40_004 {
            world.leaves(&db, &segment(&db, SYN, sport));
        }
        refused(world, &db, 40_004);
        world.let_pass(2);
        world.sweep_until(|world| share(world, &db) == (0, 0));
        world.holds(0, 0);
        let left = converse(world, &db, 40_004);
        world.enters(&answer(&left, RST), &db);
        assert_eq!(share(world, &db), (1, 0));
        world.let_pass(2);
        world.sweep_until(|world| share(world, &db) == (0, 0));
    });
}

/// A flow whose port was changed has two entries.
#[test]
fn every_entry_counts() {
    world_with(small(), 1024, |world| {
        let (db, web) = (world.db, world.web);
        converse(world, &db, 40_000);
        let left = world.leaves(&web, &segment(&web, SYN, 40_000));
        assert_ne!(left.from.port(), 40_000);
        assert_eq!(share(world, &web), (0, 2));
        world.enters(&answer(&left, SYN | ACK), &web);
        assert_eq!(share(world, &web), (2, 0));
    });
}

/// A published port needs no answer from outside for an entry: a container
/// could make them up.
#[test]
fn a_published_port_fills_its_share_and_works_on_without() {
    world_with(small(), 1024, |world| {
        let web = world.web;
        let from_port_80 =
            |client: u16| web.frame(Frame::tcp(ACK, at(WEB, 80), at(REMOTE, client)));
        for client in 1000..1100 {
            let left = world.leaves(&web, &from_port_80(client));
            assert_eq!(left.from, at(HOST, 8080));
        }
        world.holds(8, 0);
        assert_eq!(world.drops(), [], "all have left");
        assert_eq!(world.datapath.share(web.slot).unwrap().published, 8);
        // A client comes in and gets its answers, through the tables alone.
        let syn = arriving(Frame::tcp(SYN, at(CLIENT, 5000), at(HOST, 8080)));
        let seen = world.enters(&syn, &web);
        let left = world.leaves(&web, &web.frame(seen.answer(SYN | ACK)));
        assert_eq!(left.from, at(HOST, 8080));
        // The container's own conversations have a share of their own.
        assert_eq!(share(world, &web), (0, 0));
        converse(world, &web, 40_000);
    });
}

/// Also where the client used an address that needs an entry.
#[test]
fn clients_at_another_address_are_served_beyond_the_share() {
    world_with(small(), 1024, |world| {
        let web = world.web;
        for client in 5000..5020 {
            let syn = arriving(Frame::tcp(SYN, at(CLIENT, client), at(HOST_2, 8080)));
            let seen = world.enters(&syn, &web);
            for flags in [SYN | ACK, ACK] {
                let left = world.leaves(&web, &web.frame(seen.answer(flags)));
                assert_eq!(left.from, at(HOST_2, 8080));
            }
        }
        world.holds(8, 12);
        assert_eq!(share(world, &web), (0, 0));
    });
}

#[test]
fn closed_connections_of_a_published_port_leave_its_share() {
    world_with(small(), 1024, |world| {
        let web = world.web;
        for client in 5000..5020 {
            let open = arriving(Frame::tcp(SYN, at(CLIENT, client), at(HOST, 8080)));
            let seen = world.enters(&open, &web);
            for flags in [SYN | ACK, ACK] {
                world.leaves(&web, &web.frame(seen.answer(flags)));
            }
            assert_eq!(world.datapath.share(web.slot).unwrap().published, 1);
            let close = arriving(Frame::tcp(FIN | ACK, at(CLIENT, client), at(HOST, 8080)));
            world.enters(&close, &web);
            world.leaves(&web, &web.frame(seen.answer(FIN | ACK)));
            assert_eq!(world.datapath.share(web.slot).unwrap().published, 0);
        }
        assert!(world.drops().is_empty());
    });
}

/// Who floods a neighbour's published port uses up his own share.
#[test]
fn a_hairpin_counts_for_who_opens_it() {
    world_with(small(), 1024, |world| {
        let (db, web) = (world.db, world.web);
        let open = |sport: u16| db.frame(Frame::tcp(SYN, at(DB, sport), at(HOST, 8080)));
        for sport in 40_000..40_004 {
            world.leaves(&db, &open(sport));
        }
        assert_eq!(
            world.is_refused(&db, &open(40_004).bytes()),
            DropReason::EndpointLimit
        );
        assert_eq!(share(world, &db), (0, 4));
        assert_eq!(share(world, &web), (0, 0));
        let run = world.run_from_container(&web, &segment(&web, SYN, 40_000).bytes());
        assert_eq!(run.action, REDIRECT);
    });
}

#[test]
fn a_full_table_has_room_again_when_flows_have_expired() {
    let config = Config {
        udp: 1,
        sweep_interval: 1,
        ..Config::default()
    };
    world_with(config, 4, |world| {
        let db = world.db;
        let mut sport = 40_000;
        while world.drops().is_empty() {
            let query = db.frame(Frame::udp(at(DB, sport), at(REMOTE, 53)));
            let left = world.leaves(&db, &query);
            world.run_from_netdev(&answer(&left, 0).bytes());
            sport += 1;
            assert!(sport < 41_000, "the table never gets full");
        }
        assert_eq!(world.drops(), [(DropReason::TableFull, 1)]);
        world.let_pass(2);
        world.sweep_until(|world| world.flows().is_empty());
        world.wait_until(|world| {
            let room = world.datapath.want_of_room(db.slot, ip(DB));
            room.unwrap().is_none()
        });
        converse(world, &db, 42_000);
        world.holds(1, 0);
    });
}
