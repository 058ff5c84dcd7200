//! Blocked sources, and where drivers drop them.

use super::*;
use crate::{bpf::blocked_key, plan::Driver};

fn blocking(sources: &[&str]) -> State {
    let mut state = state();
    let sources: Vec<_> = sources.iter().map(|it| it.parse().unwrap()).collect();
    state.block(&sources, &host(&Sockets::default())).unwrap();
    state
}

fn planned(state: &State, facts: &Facts, observed: &Observed) -> Vec<Op> {
    tables(&Desired::of(state, facts), observed)
}

fn with(xdp: Xdp, driver: Driver) -> Facts {
    let mut facts = facts();
    facts.xdp = xdp;
    facts.uplinks[0].driver = driver;
    facts
}

fn hardware() -> Driver {
    Driver::new("ixgbe", false, false)
}

#[test]
fn sources_come_first_and_the_driver_last() {
    let facts = with(Xdp::Auto, hardware());
    let state = blocking(&["203.0.113.0/24", "2001:db8:bad::/48"]);
    let ops = planned(&state, &facts, &Observed::default());
    let puts: Vec<Op> = ["203.0.113.0/24", "2001:db8:bad::/48"]
        .map(|net| Op::Put(blocked_key(net.parse().unwrap()), Entry::Blocked))
        .into();
    assert_eq!(ops[..2], puts);
    let attach = Op::AttachXdp {
        ifname: "eth0".into(),
        ifindex: 2,
        is_asked: false,
    };
    assert_eq!(ops.last(), Some(&attach));

    let mut observed = Observed::default();
    for op in &ops {
        observed.applied(op, None);
    }
    assert_eq!(planned(&state, &facts, &observed), []);
    // The driver goes first, and sources of which there are others stay.
    let fewer = blocking(&["203.0.113.0/24"]);
    let key = blocked_key("2001:db8:bad::/48".parse().unwrap());
    assert_eq!(planned(&fewer, &facts, &observed), [Op::Remove(key)]);
    let ops = planned(&super::state(), &facts, &observed);
    assert_eq!(ops[0], Op::DetachXdp { ifindex: 2 });
    assert_eq!(ops.len(), 3);
    // With the uplink it goes too.
    let mut without = facts.clone();
    without.uplinks.clear();
    let ops = planned(&state, &without, &observed);
    assert!(ops.contains(&Op::DetachXdp { ifindex: 2 }), "{ops:?}");
}

#[test]
fn drivers_are_used_where_they_help_or_as_asked() {
    let state = blocking(&["203.0.113.0/24"]);
    let pair = Driver::new("pair", true, false);
    let cases = [
        (Xdp::Auto, hardware(), true),
        (Xdp::Auto, pair.clone(), false),
        (Xdp::Auto, Driver::new("virtio_net", false, false), false),
        (Xdp::Auto, Driver::new("ixgbe", false, true), false),
        (Xdp::Native, pair, true),
        (Xdp::Native, Driver::new("ixgbe", false, true), true),
        (Xdp::Off, hardware(), false),
    ];
    for (xdp, driver, wanted) in cases {
        let told = driver.reluctance();
        assert!(xdp != Xdp::Auto || told.is_some() != wanted, "{driver:?}");
        let desired = Desired::of(&state, &with(xdp, driver.clone()));
        assert_eq!(!desired.xdp.is_empty(), wanted, "{xdp:?} {driver:?}");
        assert_eq!(desired.xdp_is_asked, xdp == Xdp::Native);
    }
    // Never where nothing is blocked.
    let nothing = Desired::of(&super::state(), &with(Xdp::Native, hardware()));
    assert!(nothing.xdp.is_empty());
}
