//! Worlds that tests of programs hand on are as good as new. Needs root.

mod program_world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use netdp_common::maps::{Config, Sweep, name};
use program_world::{
    pool::{Loaded, idle},
    world_with,
};

/// One sweep, at once, and no other while a test lasts.
fn swept_once() -> Config {
    Config {
        sweep_interval: 3600,
        ..Config::default()
    }
}

/// How it stands after that, without the times that it took.
fn sweep(loaded: &Loaded) -> Sweep {
    loop {
        let sweep = loaded.datapath.sweep().unwrap();
        if sweep.sweeps > 0 {
            return Sweep {
                longest: 0,
                busy: 0,
                ..sweep
            };
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn every_map_that_is_handed_on_is_as_new() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    const FLOWS: u32 = 16;
    let config = swept_once();
    let used = Loaded::load(Config::default(), FLOWS);
    used.maps.soil();
    let soiled = used.maps.drain();
    for (map, contents) in &soiled {
        let elements = contents.len();
        assert!(elements > 0, "{map} was left out");
    }
    used.maps.soil();
    used.give_back();
    let again = Loaded::take(config, FLOWS);
    assert_eq!(idle(FLOWS), 0, "it is the same");
    let fresh = Loaded::load(config, FLOWS);
    assert_eq!(
        format!("{:?}", sweep(&again)),
        format!("{:?}", sweep(&fresh))
    );
    let (mut again, mut fresh) = (again.maps.drain(), fresh.maps.drain());
    assert_eq!(again.keys().count(), soiled.len());
    // Has been compared, but for its times.
    again.remove(name::SWEEPER);
    fresh.remove(name::SWEEPER);
    for (map, contents) in fresh {
        assert_eq!(again[&map], contents, "{map}");
    }
}

#[test]
fn a_test_that_fails_hands_nothing_on() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    const FLOWS: u32 = 32;
    let failed = || world_with(Config::default(), FLOWS, |_| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(failed)).is_err());
    assert_eq!(idle(FLOWS), 0);
    world_with(Config::default(), FLOWS, |_| {});
    assert_eq!(idle(FLOWS), 1);
    world_with(Config::default(), FLOWS, |_| {
        assert_eq!(idle(FLOWS), 0);
    });
    assert_eq!(idle(FLOWS), 1);
}
