//! TCP connections of a container, segment by segment, through the loaded
//! programs: the states and times of RFC 5382 (REQ-2, REQ-5) and RFC 7857
//! (section 2), and those of the pure model. Needs root.

mod program_world;

use netdp_common::{
    flow,
    maps::Config,
    tcp::{self, Direction, state},
};
use program_world::{
    Container, HOST, REMOTE, World, arriving,
    dice::Dice,
    frame::{ACK, FIN, Frame, PSH, RST, SYN, at},
    worlds,
};

/// Who sends a segment: the container, which opens, or the other side.
use Direction::{Original as Out, Reply as In};

const HOURS: u32 = 2 * 3600 + 4 * 60;
const MINUTES: u32 = 4 * 60;

type Segment = (Direction, u8);

/// A row: what is sent, the state that this leaves, and how long that is kept.
type Row = (&'static str, &'static [&'static [Segment]], u8, u32);

const OPEN: &[Segment] = &[(Out, SYN), (In, SYN | ACK), (Out, ACK)];
const CLOSE: &[Segment] = &[(Out, FIN | ACK), (In, FIN | ACK), (Out, ACK)];

const TABLE: [Row; 18] = [
    ("SYN", &[&[(Out, SYN)]], state::OPENING, MINUTES),
    (
        "SYN, SYN-ACK",
        &[&[(Out, SYN), (In, SYN | ACK)]],
        state::OPENING,
        MINUTES,
    ),
    ("established", &[OPEN], state::ESTABLISHED, HOURS),
    (
        "simultaneous open",
        &[&[
            (Out, SYN),
            (In, SYN),
            (Out, SYN | ACK),
            (In, SYN | ACK),
            (Out, ACK),
        ]],
        state::ESTABLISHED,
        HOURS,
    ),
    (
        "a repeated SYN-ACK of an established connection",
        &[OPEN, &[(In, SYN | ACK)]],
        state::ESTABLISHED,
        HOURS,
    ),
    (
        "a stray SYN into an established connection",
        &[OPEN, &[(In, SYN)]],
        state::ESTABLISHED,
        HOURS,
    ),
    (
        "the container closes",
        &[OPEN, &[(Out, FIN | ACK)]],
        state::FIN_ORIGINAL,
        MINUTES,
    ),
    (
        "the other side closes",
        &[OPEN, &[(In, FIN | ACK)]],
        state::FIN_REPLY,
        MINUTES,
    ),
    (
        "data into a half-closed connection",
        &[OPEN, &[(Out, FIN | ACK), (In, PSH | ACK)]],
        state::FIN_ORIGINAL,
        MINUTES,
    ),
    (
        "both close, the container first",
        &[OPEN, CLOSE],
        state::CLOSED,
        MINUTES,
    ),
    (
        "both close, the other side first",
        &[OPEN, &[(In, FIN | ACK), (Out, FIN | ACK), (In, ACK)]],
        state::CLOSED,
        MINUTES,
    ),
    (
        "a FIN that is repeated",
        &[OPEN, &[(In, FIN | ACK), (In, FIN | ACK)]],
        state::FIN_REPLY,
        MINUTES,
    ),
    // RFC 7857, section 2.2: the flow stays for its transitory time.
    (
        "a reset from outside",
        &[OPEN, &[(In, RST)]],
        state::RESET,
        MINUTES,
    ),
    (
        "a reset from inside",
        &[OPEN, &[(Out, RST | ACK)]],
        state::RESET,
        MINUTES,
    ),
    (
        "refused",
        &[&[(Out, SYN), (In, RST | ACK)]],
        state::RESET,
        MINUTES,
    ),
    (
        "data after a forged reset",
        &[OPEN, &[(In, RST), (In, PSH | ACK)]],
        state::ESTABLISHED,
        HOURS,
    ),
    // RFC 9293, section 3.6.1: TIME-WAIT ends with a new SYN.
    (
        "opened anew out of TIME-WAIT",
        &[OPEN, CLOSE, &[(Out, SYN)]],
        state::OPENING,
        MINUTES,
    ),
    (
        "established once more",
        &[&[(Out, SYN), (In, RST | ACK)], OPEN],
        state::ESTABLISHED,
        HOURS,
    ),
];

/// State and time that the tables have of each entry of the connection.
fn entries(world: &World, outside: u16) -> Vec<(u8, u32)> {
    let all = world.all_flows();
    let of_it = all
        .iter()
        .filter(|seen| [seen.key.local_port.get(), seen.flow.port.get()].contains(&outside));
    of_it
        .map(|seen| (seen.flow.state, seen.flow.timeout))
        .collect()
}

/// Sends the segments by a port of the container; gives the port outside.
/// After each segment the entries are what the model says.
fn run(world: &mut World, container: &Container, port: u16, segments: &[Segment]) -> u16 {
    let mut model = 0;
    let mut outside = port;
    for &(direction, flags) in segments {
        let inside = Frame::tcp(flags, at(container.addr, port), at(REMOTE, 443));
        match direction {
            Out => {
                let left = world.leaves(container, &container.frame(inside));
                outside = left.from.port();
            }
            In => {
                let frame = Frame::tcp(flags, at(REMOTE, 443), at(HOST, outside));
                let seen = world.enters(&arriving(frame), container);
                assert_eq!(seen.to, at(container.addr, port));
            }
        }
        model = tcp::next(model, flags, direction);
        let timeout = flow::timeout(&Config::default(), netdp_common::addr::proto::TCP, model);
        let found = entries(world, outside);
        assert_eq!(found.len(), if outside == port { 1 } else { 2 });
        for entry in found {
            assert_eq!(entry, (model, timeout), "{segments:?}");
        }
    }
    outside
}

#[test]
fn each_sequence_leaves_its_state_and_its_time() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        for (row, (name, segments, state, timeout)) in TABLE.into_iter().enumerate() {
            // The port is kept, and another container has it already.
            for (container, is_kept) in [(db, true), (web, false)] {
                let port = 40_000 + row as u16;
                let outside = run(world, &container, port, &segments.concat());
                assert_eq!(outside == port, is_kept, "{name}");
                for entry in entries(world, outside) {
                    assert_eq!(entry, (state, timeout), "{name}");
                }
            }
        }
    });
}

#[test]
fn any_sequence_leaves_what_the_model_says() {
    const FLAGS: [u8; 9] = [
        SYN,
        SYN | ACK,
        ACK,
        PSH | ACK,
        FIN,
        FIN | ACK,
        RST,
        RST | ACK,
        FIN | PSH | ACK,
    ];
    worlds(|world| {
        let db = world.db;
        let mut dice = Dice(0x7463_7000);
        for connection in 0..24 {
            let mut segments = vec![(Out, SYN)];
            for _ in 0..12 {
                segments.push((dice.of(&[Out, In]), dice.of(&FLAGS)));
            }
            run(world, &db, 41_000 + connection, &segments);
        }
    });
}
