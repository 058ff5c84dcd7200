//! The fast path under test_run: which packets take it, and that it does with them
//! what the full way does. Needs root.

mod program_world;

use netdp::bpf::FlowSeen;
use netdp_common::{addr::proto, tcp::state};
use program_world::{
    CLIENT, Container, DB, DROP, HOST, HOST_2, REDIRECT, REMOTE, ROUTER, WEB, World, arriving,
    dice::Dice,
    family::Family,
    frame::{ACK, FIN, Frame, PSH, RST, SYN, at},
    world, worlds,
};

/// How often a way out is asked for at most where tests run while seconds change.
const TRIES: usize = 4;

fn run(world: &mut World, from: Option<&Container>, bytes: &[u8]) -> (i32, Vec<u8>) {
    let run = match from {
        Some(container) => world.run_from_container(container, bytes),
        None => world.run_from_netdev(bytes),
    };
    (run.action, run.packet)
}

/// Whether a packet is sent on without what the full way notes of each: by the
/// second try, the way out is known.
fn is_fast(world: &mut World, from: Option<&Container>, frame: &Frame) -> bool {
    (0..TRIES).any(|_| {
        clear(world);
        run(world, from, &frame.bytes()).0 == REDIRECT && is_clear(world)
    })
}

/// Forgets what the full way has noted of a packet.
fn clear(world: &World) {
    for (key, value) in world.maps.contents("work") {
        world.maps.write("work", &key, &vec![0; value.len()]);
    }
}

fn is_clear(world: &World) -> bool {
    let work = world.maps.contents("work");
    work.values().flatten().all(|byte| *byte == 0)
}

/// A connection of the client to WEB's port 80, up to the first data back.
fn open_published(world: &mut World) -> (Frame, Frame) {
    let web = world.web;
    let tcp = |flags| arriving(Frame::tcp(flags, at(CLIENT, 40_000), at(HOST, 8080)));
    let asked = world.enters(&tcp(SYN), &web);
    world.leaves(&web, &asked.answer(SYN | ACK));
    world.enters(&tcp(ACK), &web);
    let back = asked.answer(ACK | PSH);
    world.leaves(&web, &back);
    (tcp(ACK | PSH), back)
}

/// A connection of DB to the outside.
fn open_outward(world: &mut World) -> (Frame, Frame) {
    let db = world.db;
    let syn = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)));
    let seen = world.leaves(&db, &syn);
    world.enters(&arriving(seen.answer(SYN | ACK)), &db);
    let data = db.frame(Frame::tcp(ACK | PSH, at(DB, 40_000), at(REMOTE, 443)));
    (data, arriving(seen.answer(ACK)))
}

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

/// A packet is sent on by the full way.
#[track_caller]
fn full(world: &mut World, from: Option<&Container>, frame: &Frame) {
    clear(world);
    assert_eq!(run(world, from, &frame.bytes()).0, REDIRECT);
    assert!(!is_clear(world));
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
        assert_eq!(run(world, None, &spoofed.bytes()).0, DROP);
        world.allow(7, CLIENT, 32);
        world.restrict(8080, proto::TCP, 7);
        assert!(!is_fast(world, None, &data));
        world.enters(&data, &web);
        let refused = arriving(Frame::tcp(ACK, at(REMOTE, 40_000), at(HOST, 8080)));
        assert_eq!(run(world, None, &refused.bytes()).0, DROP);
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
        assert_eq!(run(world, Some(&web), &back.bytes()).0, DROP);
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
        assert_eq!(run(world, Some(&web), &stolen.bytes()).0, DROP);
        let own = web.frame(Frame::tcp(ACK | PSH, at(WEB, 40_000), at(REMOTE, 443)));
        assert!(!is_fast(world, Some(&web), &own));
        assert_ne!(world.leaves(&web, &own).from.port(), 40_000);
    });
}

/// Of each flow, what it is of and its state and time.
fn states_of(world: &World) -> Vec<(String, u8, u32)> {
    let of = |it: &FlowSeen<_>| (format!("{:?}", it.key), it.flow.state, it.flow.timeout);
    let mut all: Vec<_> = world.flows().iter().map(of).collect();
    all.sort();
    all
}

/// Packets with options go the full way: what comes out is the same but for these.
#[test]
fn both_ways_do_the_same() {
    const NOTHING: [u8; 4] = [1; 4];
    world(|world| {
        assert!(!Family::is_v6_world());
        let (web, db) = (world.web, world.db);
        open_published(world);
        open_outward(world);
        let mut dice = Dice(0x5eed);
        let mut sent_on = 0;
        for _ in 0..3000 {
            let hosts = [HOST, HOST_2, CLIENT, REMOTE, ROUTER, WEB, DB];
            let ports = [40_000, 8080, 5353, 80, 53, 443];
            let ends = [(); 2].map(|()| at(dice.of(&hosts), dice.of(&ports)));
            let flags = dice.of(&[ACK, ACK | PSH, ACK | PSH, FIN | ACK, SYN, SYN | ACK, RST, 0]);
            let frame = match dice.percent(50) {
                true => Frame::tcp(flags, ends[0], ends[1]),
                false => Frame::udp(ends[0], ends[1]),
            };
            let frame = frame.with_ttl(dice.of(&[0, 1, 2, 64, 255]));
            let (frame, from) = match dice.below(3) {
                0 => (arriving(frame), None),
                1 => (web.frame(frame), Some(web)),
                _ => (db.frame(frame), Some(db)),
            };
            let mut options = frame.clone();
            options.options = NOTHING.to_vec();
            // The next hop's address is known to the second.
            run(world, from.as_ref(), &options.bytes());
            let full = run(world, from.as_ref(), &options.bytes());
            let states = states_of(world);
            let fast = run(world, from.as_ref(), &frame.bytes());
            assert_eq!(fast.0, full.0, "{frame:?} by {from:?}");
            assert_eq!(states_of(world), states, "{frame:?} by {from:?}");
            if fast.0 != REDIRECT {
                continue;
            }
            sent_on += 1;
            let mut expected = Frame::of(&full.1);
            assert_eq!(expected.options, NOTHING);
            expected.options.clear();
            assert_eq!(Frame::of(&fast.1), expected, "{frame:?} by {from:?}");
            assert_eq!(fast.1, expected.bytes(), "{frame:?} by {from:?}");
        }
        assert!(sent_on > 100, "{sent_on}");
    });
}
