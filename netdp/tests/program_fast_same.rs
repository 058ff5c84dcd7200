//! The fast path under test_run does with packets what the full way does. Needs root.

mod program_world;

use std::{collections::BTreeMap, net::Ipv4Addr};

use netdp::bpf::TestRun;
use netdp_common::{
    addr::proto,
    drop::DropReason,
    maps::{Refusals, flow_kind, name},
};
use nix::time::{ClockId, clock_gettime};
use program_world::{
    CLIENT, Container, DB, HOST, HOST_2, REDIRECT, REMOTE, ROUTER, WEB, World, arriving,
    dice::Dice,
    family::Family,
    fast::{clear, is_clear, open_outward, open_published, run},
    frame::{ACK, Body, FIN, Frame, PSH, RST, SYN, at, with_extension},
    kernel_maps::Contents,
    worlds,
};

/// IPv4 options, and an extension header of IPv6 behind its first byte: nothing but
/// padding, and the full way's.
const OPTIONS: [u8; 4] = [1; 4];
const EXTENSION: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
const DESTINATION: u8 = 60;

/// What the fast path decides, by what it decides it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Published,
    AnswerByFlow,
    AnswerByTables,
    Masqueraded,
    Outward,
    Between,
}

/// A packet, and who sends it.
type Sent = (Frame, Option<Container>);
/// How many packets of TCP and of others the fast path decided.
type Decided = BTreeMap<(Kind, bool), usize>;

/// The packet as the full way takes it.
fn with_padding(bytes: &[u8]) -> Vec<u8> {
    if Family::is_v6_world() {
        return with_extension(bytes, DESTINATION, &EXTENSION);
    }
    let mut frame = Frame::of(bytes);
    frame.options = OPTIONS.to_vec();
    frame.bytes()
}

fn padding() -> u64 {
    match Family::of_world() {
        Family::V4 => OPTIONS.len() as u64,
        Family::V6 => EXTENSION.len() as u64 + 1,
    }
}

/// What packets change that is looked at again.
fn tables() -> [&'static str; 3] {
    match Family::of_world() {
        Family::V4 => [name::FLOWS4, name::PENDING4, name::EXPECTING],
        Family::V6 => [name::FLOWS6, name::PENDING6, name::EXPECTING],
    }
}

fn held(world: &World) -> [Contents; 3] {
    tables().map(|name| world.maps.contents(name))
}

/// What has become of entries that were there, and how many there are: what a new
/// one is of is partly random.
fn kept(now: &[Contents; 3], before: &[Contents; 3]) -> [(Contents, usize); 3] {
    [0, 1, 2].map(|at| {
        let mut kept = now[at].clone();
        kept.retain(|key, _| before.iter().any(|held| held.contains_key(key)));
        (kept, now[at].len())
    })
}

fn put_back(world: &World, held: &[Contents; 3]) {
    for (name, held) in tables().into_iter().zip(held) {
        world.maps.put_back(name, held);
    }
}

/// Packets, bytes and drops of each container, and drops by their reasons.
fn counted(world: &World) -> (Vec<[u64; 5]>, Vec<(DropReason, u64)>) {
    let of = |it: &Container| {
        let it = world.datapath.stats(it.slot).unwrap();
        [
            it.rx_packets,
            it.tx_packets,
            it.drops,
            it.rx_bytes,
            it.tx_bytes,
        ]
    };
    let stats = [&world.web, &world.db, &world.loner].map(of).to_vec();
    (stats, world.datapath.drops().unwrap())
}

/// What has become of a packet and of the tables.
#[derive(Debug)]
struct Outcome {
    run: TestRun,
    by_the_fast_path: bool,
    held: [Contents; 3],
    stats: Vec<[u64; 5]>,
    drops: Vec<(DropReason, u64)>,
}

/// Forgets what ICMP errors containers were sent in this second: there are only so many.
fn forget_refusals(world: &World) {
    for container in [&world.web, &world.db] {
        let (slot, none) = (container.slot.to_ne_bytes(), [0; size_of::<Refusals>()]);
        world.maps.write("refusals", &slot, &none);
    }
}

fn outcome(world: &mut World, from: Option<&Container>, bytes: &[u8]) -> Outcome {
    let before = counted(world);
    forget_refusals(world);
    clear(world);
    let run = run(world, from, bytes);
    let by_the_fast_path = is_clear(world);
    let mut after = counted(world);
    for (new, old) in after.0.iter_mut().zip(&before.0) {
        (0..new.len()).for_each(|at| new[at] -= old[at]);
    }
    for (new, old) in after.1.iter_mut().zip(&before.1) {
        new.1 -= old.1;
    }
    Outcome {
        run,
        by_the_fast_path,
        held: held(world),
        stats: after.0,
        drops: after.1,
    }
}

/// The second that the programs see: as exact as the kernel's tick.
fn second() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .unwrap()
        .tv_sec()
}

/// Both ways' outcomes, the full one's first, from the same tables and within one
/// second: the way out is kept for so long.
fn outcomes(world: &mut World, (frame, from): &Sent) -> [Outcome; 2] {
    let before = held(world);
    let (bytes, from) = (frame.bytes(), from.as_ref());
    let padded = with_padding(&bytes);
    loop {
        let began = second();
        // The next hop's address is known to the second.
        run(world, from, &padded);
        put_back(world, &before);
        let full = outcome(world, from, &padded);
        put_back(world, &before);
        let fast = outcome(world, from, &bytes);
        if second() == began {
            return [full, fast];
        }
        put_back(world, &before);
    }
}

/// A packet has the same outcome by both ways. What decided it, where it was the
/// fast path.
fn is_the_same(world: &mut World, sent: &Sent) -> Option<(Kind, bool)> {
    let (kind, before) = (kind_of(world, sent), held(world));
    let [mut full, fast] = outcomes(world, sent);
    let of = format!("{sent:?}");
    assert!(!full.by_the_fast_path, "{of}");
    for [rx, tx, _, rx_bytes, tx_bytes] in &mut full.stats {
        *rx_bytes -= *rx * padding();
        *tx_bytes -= *tx * padding();
    }
    assert_eq!(fast.run.action, full.run.action, "{of}");
    assert_eq!(fast.run.mark, full.run.mark, "{of}");
    assert_eq!(kept(&fast.held, &before), kept(&full.held, &before), "{of}");
    assert_eq!(fast.stats, full.stats, "{of}");
    assert_eq!(fast.drops, full.drops, "{of}");
    if !fast.by_the_fast_path {
        return None;
    }
    assert_eq!(fast.run.action, REDIRECT, "{of}");
    assert_eq!(fast.held, full.held, "{of}");
    assert_eq!(with_padding(&fast.run.packet), full.run.packet, "{of}");
    // All of its checksums are right.
    Frame::of(&fast.run.packet);
    Some((kind, is_tcp(&sent.0)))
}

fn is_tcp(frame: &Frame) -> bool {
    matches!(frame.body, Body::Tcp(_))
}

/// What decides about a packet, if the fast path does.
fn kind_of(world: &World, (frame, from): &Sent) -> Kind {
    let is_published = |port| [8080, 5353].contains(&port);
    let has_flow = || {
        world.flows().iter().any(|seen| {
            let key = &seen.key;
            let of = if is_tcp(frame) {
                proto::TCP
            } else {
                proto::UDP
            };
            seen.flow.kind == flow_kind::PUBLISHED
                && (key.proto, key.remote) == (of, (*frame.to.ip()).into())
                && key.remote_port.get() == frame.to.port()
                && key.local_port.get() == frame.from.port()
        })
    };
    match from {
        None if is_published(frame.to.port()) => Kind::Published,
        None => Kind::Masqueraded,
        Some(_) if [WEB, DB].contains(frame.to.ip()) => Kind::Between,
        Some(web) if web.addr == WEB && has_flow() => Kind::AnswerByFlow,
        Some(web) if web.addr == WEB && [80, 53].contains(&frame.from.port()) => {
            Kind::AnswerByTables
        }
        Some(_) => Kind::Outward,
    }
}

/// Conversations of all kinds that the fast path is for, open.
fn open(world: &mut World) -> Vec<Sent> {
    let (web, db) = (world.web, world.db);
    put_back(world, &Default::default());
    open_published(world);
    open_outward(world);
    // Of WEB itself.
    let syn = web.frame(Frame::tcp(SYN, at(WEB, 40_000), at(CLIENT, 443)));
    let own = world.leaves(&web, &syn);
    world.enters(&arriving(own.answer(SYN | ACK)), &web);
    let asks = db.frame(Frame::udp(at(DB, 40_000), at(REMOTE, 53)));
    let asked = world.leaves(&db, &asks);
    world.enters(&arriving(asked.answer(0)), &db);
    let tcp = |from, to| Frame::tcp(ACK, from, to);
    vec![
        (arriving(tcp(at(CLIENT, 40_000), at(HOST, 8080))), None),
        (web.frame(tcp(at(WEB, 80), at(CLIENT, 40_000))), Some(web)),
        // Without an entry.
        (arriving(tcp(at(CLIENT, 40_001), at(HOST, 8080))), None),
        (web.frame(tcp(at(WEB, 80), at(CLIENT, 40_001))), Some(web)),
        (web.frame(tcp(at(WEB, 80), at(REMOTE, 40_001))), Some(web)),
        (web.frame(tcp(at(WEB, 80), at(ROUTER, 40_001))), Some(web)),
        (db.frame(tcp(at(DB, 40_000), at(REMOTE, 443))), Some(db)),
        (arriving(tcp(at(REMOTE, 443), at(HOST, 40_000))), None),
        (web.frame(tcp(at(WEB, 40_000), at(CLIENT, 443))), Some(web)),
        (arriving(tcp(at(CLIENT, 443), at(HOST, 40_000))), None),
        (
            arriving(Frame::udp(at(CLIENT, 40_000), at(HOST, 5353))),
            None,
        ),
        (
            web.frame(Frame::udp(at(WEB, 53), at(CLIENT, 40_000))),
            Some(web),
        ),
        (asks, Some(db)),
        (arriving(asked.answer(0)), None),
        (db.frame(tcp(at(DB, 40_001), at(WEB, 80))), Some(db)),
        (web.frame(tcp(at(WEB, 80), at(DB, 40_001))), Some(web)),
        (
            web.frame(Frame::udp(at(WEB, 40_001), at(DB, 54))),
            Some(web),
        ),
    ]
}

/// Any packet between these addresses.
fn any(world: &World, dice: &mut Dice, addrs: &[Ipv4Addr]) -> Sent {
    let ports = [40_000, 8080, 5353, 80, 53, 443];
    let mut end = || at(dice.of(addrs), dice.of(&ports));
    let (from, to) = (end(), end());
    let mut frame = match dice.percent(50) {
        true => Frame::tcp(ACK, from, to),
        false => Frame::udp(from, to),
    };
    let Some(container) = dice.of(&[None, Some(world.web), Some(world.db)]) else {
        return (arriving(frame), None);
    };
    // Few under addresses that aren't theirs.
    if dice.percent(90) {
        frame.from.set_ip(container.addr);
    }
    (container.frame(frame), Some(container))
}

/// Packets of open conversations, and as many others.
fn drawn(world: &mut World, dice: &mut Dice, addrs: &[Ipv4Addr]) -> Decided {
    const FLAGS: [u8; 10] = [
        ACK,
        ACK,
        ACK | PSH,
        ACK | PSH,
        ACK | PSH,
        FIN | ACK,
        SYN,
        SYN | ACK,
        RST,
        0,
    ];
    let mut decided = Decided::new();
    for _ in 0..100 {
        // What was drawn before may have ended them.
        let conversations = open(world);
        for _ in 0..20 {
            let (mut frame, from) = match dice.percent(50) {
                true => conversations[dice.below(conversations.len())].clone(),
                false => any(world, dice, addrs),
            };
            if let Body::Tcp(flags) = &mut frame.body {
                *flags = dice.of(&FLAGS);
            }
            frame.ttl = dice.of(&[0, 1, 2, 64, 64, 255]);
            if let Some(kind) = is_the_same(world, &(frame, from)) {
                *decided.entry(kind).or_default() += 1;
            }
        }
    }
    eprintln!("decided: {decided:?}");
    decided
}

/// Packets with options or extension headers go the full way: what comes out is the
/// same but for these.
#[test]
fn both_ways_do_the_same() {
    const LEAST: usize = 20;
    worlds(|world| {
        // Nothing goes by itself meanwhile.
        for (key, value) in world.maps.contents(name::SWEEPER) {
            world.maps.write(name::SWEEPER, &key, &vec![0; value.len()]);
        }
        let mut dice = Dice(0x5eed);
        let decided = drawn(world, &mut dice, &[HOST, CLIENT, REMOTE, ROUTER]);
        for kind in [
            (Kind::Published, true),
            (Kind::Published, false),
            (Kind::AnswerByFlow, true),
            (Kind::AnswerByTables, true),
            (Kind::AnswerByTables, false),
            (Kind::Masqueraded, true),
            (Kind::Masqueraded, false),
            (Kind::Outward, true),
            (Kind::Outward, false),
            (Kind::Between, true),
            (Kind::Between, false),
        ] {
            let times = decided.get(&kind).copied().unwrap_or(0);
            assert!(times >= LEAST, "{kind:?}: {decided:?}");
        }
        // Now also by addresses that need entries of their own.
        let all = [HOST, HOST_2, CLIENT, REMOTE, ROUTER, WEB, DB];
        drawn(world, &mut dice, &all);
    });
}
