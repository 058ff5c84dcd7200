//! Which packets the fast path decides, and connections that it is for.

use netdp::bpf::TestRun;

use super::{
    CLIENT, Container, DB, HOST, REDIRECT, REMOTE, World, arriving,
    frame::{ACK, Frame, PSH, SYN, at},
};

/// How often a way out is asked for at most where tests run while seconds change.
const TRIES: usize = 4;

/// A packet of a container, or one that comes in by the uplink.
pub fn run(world: &mut World, from: Option<&Container>, bytes: &[u8]) -> TestRun {
    match from {
        Some(container) => world.run_from_container(container, bytes),
        None => world.run_from_netdev(bytes),
    }
}

/// Whether a packet is sent on without what the full way notes of each: by the
/// second try, the way out is known.
pub fn is_fast(world: &mut World, from: Option<&Container>, frame: &Frame) -> bool {
    by_the_fast_path(world, from, &frame.bytes()).is_some()
}

/// The same; what has become of it.
pub fn by_the_fast_path(
    world: &mut World,
    from: Option<&Container>,
    bytes: &[u8],
) -> Option<TestRun> {
    (0..TRIES).find_map(|_| {
        clear(world);
        let run = run(world, from, bytes);
        (run.action == REDIRECT && is_clear(world)).then_some(run)
    })
}

/// A packet is sent on by the full way.
#[track_caller]
pub fn full(world: &mut World, from: Option<&Container>, frame: &Frame) {
    clear(world);
    assert_eq!(run(world, from, &frame.bytes()).action, REDIRECT);
    assert!(!is_clear(world));
}

/// Forgets what the full way has noted of a packet.
pub fn clear(world: &World) {
    for (key, value) in world.maps.contents("work") {
        world.maps.write("work", &key, &vec![0; value.len()]);
    }
}

/// Whether the full way has noted nothing since.
pub fn is_clear(world: &World) -> bool {
    let work = world.maps.contents("work");
    work.values().flatten().all(|byte| *byte == 0)
}

/// A connection of the client to WEB's port 80, up to the first data back.
pub fn open_published(world: &mut World) -> (Frame, Frame) {
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
pub fn open_outward(world: &mut World) -> (Frame, Frame) {
    let db = world.db;
    let syn = db.frame(Frame::tcp(SYN, at(DB, 40_000), at(REMOTE, 443)));
    let seen = world.leaves(&db, &syn);
    world.enters(&arriving(seen.answer(SYN | ACK)), &db);
    let data = db.frame(Frame::tcp(ACK | PSH, at(DB, 40_000), at(REMOTE, 443)));
    (data, arriving(seen.answer(ACK)))
}
