//! The fast path under test_run: which packets take it. Needs root.

mod program_world;

use netdp_common::{addr::proto, tcp::state};
use program_world::{
    CLIENT, DB, DROP, HOST, HOST_2, REMOTE, WEB, arriving,
    fast::{full, is_fast, open_outward, open_published, run},
    frame::{ACK, FIN, Frame, PSH, SYN, at},
    worlds,
};

#[test]
fn open_connections_take_the_fast_path() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let (data, back) = open_published(world);
        assert!(is_fast(world, None, &data));
        assert!(is_fast(world, Some(&web), &back));
        let (data, back) = open_outward(world);
        assert!(is_fast(world, Some(&db), &data));
        assert!(is_fast(world, None, &back));
        let inside = db.frame(Frame::tcp(ACK, at(DB, 40_001), at(WEB, 80)));
        assert!(is_fast(world, Some(&db), &inside));
        let answer = web.frame(Frame::tcp(ACK, at(WEB, 80), at(DB, 40_001)));
        assert!(is_fast(world, Some(&web), &answer));
    });
}

#[test]
fn datagrams_take_the_fast_path() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let asks = arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353)));
        assert!(is_fast(world, None, &asks));
        let answer = web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000)));
        assert!(is_fast(world, Some(&web), &answer));
        let asks = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
        assert!(!is_fast(world, Some(&db), &asks));
        let seen = world.leaves(&db, &asks);
        let answer = arriving(seen.answer(0));
        world.enters(&answer, &db);
        assert!(is_fast(world, Some(&db), &asks));
        assert!(is_fast(world, None, &answer));
    });
}

#[test]
fn connections_open_and_close_on_the_fast_path() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let from_client = |flags| arriving(Frame::tcp(flags, at(CLIENT, 40_000), at(HOST, 8080)));
        let from_web = |flags| web.frame(Frame::tcp(flags, at(WEB, 80), at(CLIENT, 40_000)));
        assert!(is_fast(world, None, &from_client(SYN)));
        assert!(is_fast(world, Some(&web), &from_web(SYN | ACK)));
        assert!(is_fast(world, None, &from_client(ACK)));
        world.holds(0, 0);
        run(world, Some(&web), &from_web(ACK | PSH).bytes());
        world.holds(1, 0);
        assert!(is_fast(world, None, &from_client(FIN | ACK)));
        assert_eq!(world.flows()[0].flow.state, state::FIN_ORIGINAL);
        assert!(is_fast(world, Some(&web), &from_web(ACK)));
        let syn = db.frame(Frame::tcp(SYN, at(DB, 40_001), at(WEB, 80)));
        assert!(is_fast(world, Some(&db), &syn));
    });
}

#[test]
fn what_makes_or_ends_an_entry_takes_the_full_way() {
    worlds(|world| {
        let (web, db) = (world.web, world.db);
        let outward = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)));
        full(world, Some(&db), &outward);
        open_published(world);
        let fin = arriving(Frame::tcp(FIN | ACK, at(CLIENT, 40_000), at(HOST, 8080)));
        assert!(is_fast(world, None, &fin));
        let last = web.frame(Frame::tcp(FIN | ACK, at(WEB, 80), at(CLIENT, 40_000)));
        full(world, Some(&web), &last);
    });
}

#[test]
fn mappings_that_need_a_second_look_take_the_full_way() {
    worlds(|world| {
        let web = world.web;
        let data = arriving(Frame::tcp(ACK, at(CLIENT, 40_000), at(HOST, 8080)));
        assert!(is_fast(world, None, &data));
        // By another address than answers leave from.
        let other = arriving(Frame::tcp(ACK, at(CLIENT, 40_000), at(HOST_2, 8080)));
        assert!(!is_fast(world, None, &other));
        // From where nobody is.
        let spoofed = arriving(Frame::tcp(ACK, at(DB, 40_000), at(HOST, 8080)));
        assert_eq!(run(world, None, &spoofed.bytes()).action, DROP);
        world.allow(7, CLIENT, 32);
        world.restrict(8080, proto::TCP, 7);
        assert!(!is_fast(world, None, &data));
        world.enters(&data, &web);
        let refused = arriving(Frame::tcp(ACK, at(REMOTE, 40_000), at(HOST, 8080)));
        assert_eq!(run(world, None, &refused.bytes()).action, DROP);
        world.publish(None, 8081, &web, 81, proto::TCP, Some(HOST));
        let data = arriving(Frame::tcp(ACK, at(CLIENT, 40_000), at(HOST, 8081)));
        assert!(is_fast(world, None, &data));
        world.make_direct(8081, proto::TCP);
        assert!(!is_fast(world, None, &data));
    });
}

#[test]
fn a_flow_whose_port_was_taken_back_takes_the_full_way() {
    worlds(|world| {
        let (_, back) = open_published(world);
        let mut web = world.web;
        assert!(is_fast(world, Some(&web), &back));
        world.unpublish(8080, &mut web, 80, proto::TCP, 60);
        assert_eq!(run(world, Some(&web), &back.bytes()).action, DROP);
    });
}

#[test]
fn a_conversation_of_another_container_is_not_ones_own() {
    worlds(|world| {
        let (data, _) = open_outward(world);
        let db = world.db;
        assert!(is_fast(world, Some(&db), &data));
        let web = world.web;
        let stolen = web.frame(Frame::tcp(ACK | PSH, at(DB, 40_000), at(REMOTE, 443)));
        assert_eq!(run(world, Some(&web), &stolen.bytes()).action, DROP);
        let own = web.frame(Frame::tcp(ACK | PSH, at(WEB, 40_000), at(REMOTE, 443)));
        assert!(!is_fast(world, Some(&web), &own));
        assert_ne!(world.leaves(&web, &own).from.port(), 40_000);
    });
}
