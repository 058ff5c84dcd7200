//! Many flows under test_run: the timer expires all of them, counts them right,
//! and never takes long at once. Needs root.

mod program_world;

use std::time::{Duration, Instant};

use netdp_common::maps::Config;
use program_world::{
    CLIENT, Container, Family, HOST, REDIRECT, REMOTE, World, arriving,
    frame::{ACK, FIN, Frame, SYN, at},
    world_with, worlds_with,
};

/// Established flows live for `seconds`, and everything else for one.
fn living(seconds: u32) -> Config {
    Config {
        tcp_established: seconds,
        tcp_transitory: seconds,
        sweep_interval: 1,
        flows_per_endpoint: u32::MAX,
        ..Config::default()
    }
}

/// A segment of a published port on an open connection, which makes an entry;
/// the client is given by its number.
struct Segments {
    bytes: Vec<u8>,
    address: usize,
    port: usize,
}

impl Segments {
    fn of(web: &Container) -> Self {
        let frame = web.frame(Frame::tcp(ACK, at(web.addr, 80), at(REMOTE, 1)));
        // The last half of the destination, whatever checksums say of it.
        let (address, port) = match Family::of_world() {
            Family::V4 => (30, 36),
            Family::V6 => (50, 56),
        };
        Self {
            bytes: frame.bytes(),
            address,
            port,
        }
    }

    /// 50,000 ports of each of so many clients as there have to be.
    fn to(&mut self, number: u32) -> &[u8] {
        let client = (number / 50_000 + 1) as u16;
        let port = (1024 + number % 50_000) as u16;
        self.bytes[self.address + 2..][..2].copy_from_slice(&client.to_be_bytes());
        self.bytes[self.port..][..2].copy_from_slice(&port.to_be_bytes());
        &self.bytes
    }
}

fn speak(world: &mut World, number: u32) {
    let web = world.web;
    let mut segments = Segments::of(&web);
    for number in 0..number {
        let run = world.run_from_container(&web, segments.to(number));
        assert_eq!(run.action, REDIRECT, "{number}: {:?}", world.drops());
    }
}

fn published(world: &World) -> u64 {
    world.datapath.share(world.web.slot).unwrap().published
}

/// Until it has gone through all of the tables once more. Gives how often the
/// timer has run for that, and how long in all.
fn wait_for_a_sweep(world: &mut World) -> (u32, Duration) {
    let sweep = |world: &World| world.datapath.sweep().unwrap();
    let mut wait = || {
        let before = sweep(world).sweeps;
        world.sweep_until(|world| sweep(world).sweeps > before);
        sweep(world)
    };
    // What has begun already is no whole one.
    let (before, after) = (wait(), wait());
    let sweeps = after.sweeps - before.sweeps;
    (
        ((after.runs - before.runs) / sweeps) as u32,
        Duration::from_nanos((after.busy - before.busy) / sweeps),
    )
}

#[test]
fn all_of_many_flows_expire() {
    const FLOWS: u32 = 10_000;
    worlds_with(living(2), 16_384, |world| {
        speak(world, FLOWS);
        world.wait_until(|world| world.flows().is_empty());
        wait_for_a_sweep(world);
        assert_eq!(published(world), 0);
        assert_eq!(world.datapath.sweep().unwrap().complete, 1);
    });
}

/// The sweep counts all that is there, once, however many runs it takes.
#[test]
fn counters_are_put_right() {
    const FLOWS: u32 = 5000;
    world_with(living(1000), 16_384, |world| {
        speak(world, FLOWS);
        let (runs, _) = wait_for_a_sweep(world);
        assert!(runs >= FLOWS / 1024, "only {runs} runs");
        assert_eq!(published(world), u64::from(FLOWS));
        // What the daemon removes, no program counts.
        let web = world.web;
        world
            .datapath
            .forget_flows(&[(web.ifindex, web.endpoint())])
            .unwrap();
        assert_eq!(published(world), u64::from(FLOWS));
        wait_for_a_sweep(world);
        assert_eq!(published(world), 0);
    });
}

/// However many there are, a run of the timer looks at 1,024 of them; and what
/// has to go is no more work than what stays.
#[test]
fn a_run_of_the_timer_is_short_whatever_the_tables_hold() {
    const FLOWS: u32 = 10_000;
    // Places of both tables, and one run that begins; those of one read may be
    // one more or less, for they are counted while the timer runs.
    const RUNS: u32 = FLOWS.div_ceil(1024) + 2;
    worlds_with(living(1000), 16_384, |world| {
        speak(world, FLOWS);
        let (runs, _) = wait_for_a_sweep(world);
        assert!((RUNS - 1..=RUNS + 1).contains(&runs), "{runs} runs");
        let before = world.datapath.sweep().unwrap().runs;
        world.let_pass(2000);
        world.sweep_until(|world| world.flows().is_empty());
        let runs = world.datapath.sweep().unwrap().runs - before;
        assert!(runs >= u64::from(FLOWS / 1024), "{runs} runs");
        assert_eq!(published(world), 0);
    });
}

/// A connection of a published port as it opens and closes.
fn open_and_close(world: &mut World, client: u16) {
    let web = world.web;
    let ask = |flags| arriving(Frame::tcp(flags, at(CLIENT, client), at(HOST, 8080)));
    let seen = world.enters(&ask(SYN), &web);
    for flags in [SYN | ACK, ACK] {
        world.leaves(&web, &web.frame(seen.answer(flags)));
    }
    world.enters(&ask(FIN | ACK), &web);
    world.leaves(&web, &web.frame(seen.answer(FIN | ACK)));
}

/// More than the queue has places for: those that stay expire nevertheless.
#[test]
fn flows_that_come_and_go_leave_the_rest_to_expire() {
    let config = Config {
        // Some time between two sweeps.
        sweep_interval: 2,
        ..living(2)
    };
    worlds_with(config, 256, |world| {
        wait_until_swept(world);
        let mut client = 1024;
        while world.datapath.sweep().unwrap().complete == 1 {
            open_and_close(world, client);
            client += 1;
            assert!(client < 60_000, "there was always a place");
        }
        speak(world, 10);
        world.wait_until(|world| world.flows().is_empty());
        world.wait_until(|world| world.datapath.sweep().unwrap().complete == 1);
        assert_eq!(published(world), 0);
    });
}

/// Until the first sweep is over.
fn wait_until_swept(world: &World) {
    world.wait_until(|world| {
        let sweep = world.datapath.sweep().unwrap();
        sweep.complete == 1 && sweep.step == 0
    });
}

/// A port that is used again and again has one place, not one for each time.
#[test]
fn a_flow_that_is_opened_again_is_counted_once() {
    world_with(living(1000), 16_384, |world| {
        for _ in 0..100 {
            open_and_close(world, 5000);
        }
        speak(world, 1);
        wait_for_a_sweep(world);
        assert_eq!(published(world), 1);
        world.holds(1, 0);
    });
}

/// The time that one of them took, where it is given how many there were.
fn each(took: Duration, number: u32) -> String {
    format!("{:.2?}, {:.2?} each", took, took / number)
}

#[test]
#[ignore = "takes long"]
fn a_million_flows() {
    const FLOWS: u32 = 1_000_000;
    const BEFORE: u32 = 10_000;
    world_with(living(60), 1 << 20, |world| {
        let web = world.web;
        let mut segments = Segments::of(&web);
        wait_until_swept(world);

        let began = Instant::now();
        speak(world, FLOWS);
        println!("make: {}", each(began.elapsed(), FLOWS));
        assert_eq!(published(world), u64::from(FLOWS));

        let began = Instant::now();
        for number in 0..BEFORE {
            // All over the table.
            let number = (u64::from(number) * 7919 * 13 % u64::from(FLOWS)) as u32;
            let run = world.run_from_container(&web, segments.to(number));
            assert_eq!(run.action, REDIRECT);
        }
        println!("a packet of one of them: {}", each(began.elapsed(), BEFORE));
        let began = Instant::now();
        for _ in 0..BEFORE {
            world.run_from_container(&web, segments.to(1));
        }
        println!(
            "a packet of always the same: {}",
            each(began.elapsed(), BEFORE)
        );

        let began = Instant::now();
        let mut seen = 0u32;
        let tables = world.datapath.flow_tables::<netdp_common::addr::V4Addr>();
        tables.each(|_| seen += 1).unwrap();
        println!("read: {}", each(began.elapsed(), FLOWS));
        assert_eq!(seen, FLOWS);

        let (runs, busy) = wait_for_a_sweep(world);
        assert_eq!(published(world), u64::from(FLOWS));
        println!("sweep: {runs} runs, {busy:.2?}, {:.2?} each", busy / runs);
        assert!(busy / runs < Duration::from_millis(2));
        let deadline = Instant::now() + Duration::from_secs(120);
        while published(world) > 0 {
            assert!(Instant::now() < deadline, "{} are left", published(world));
            std::thread::sleep(Duration::from_millis(50));
        }
        let longest = Duration::from_nanos(world.datapath.sweep().unwrap().longest);
        println!("the longest run of the timer: {longest:.2?}");
        world.holds(0, 0);
    });
}

/// What isn't answered is swept in one run.
#[test]
#[ignore = "takes long"]
fn a_full_table_of_what_is_unanswered() {
    const FLOWS: u32 = 60_000;
    let config = Config {
        pending_per_endpoint: u32::MAX,
        ..living(1000)
    };
    worlds_with(config, 1 << 20, |world| {
        let (_, busy) = wait_for_a_sweep(world);
        println!("sweep of nothing: {busy:.2?}");
        let db = world.db;
        let mut segments = Segments::of(&db);
        let tcp = segments.port - 2;
        segments.bytes[tcp + 13] = SYN;
        for number in 0..FLOWS {
            let run = world.run_from_container(&db, segments.to(number));
            assert_eq!(run.action, REDIRECT);
        }
        let (_, busy) = wait_for_a_sweep(world);
        println!(
            "sweep of {} unanswered flows: {busy:.2?}",
            world.pending().len()
        );
    });
}
