//! The limit on new conversations, and where drivers hold it.

use super::*;
use crate::{bpf::Xdp, plan::Driver};

fn limited(rate: u64) -> State {
    let mut state = state();
    state.set_limit(rate, None, 1).unwrap();
    state
}

fn planned(state: &State, facts: &Facts, observed: &Observed) -> Vec<Op> {
    tables(&Desired::of(state, facts), observed)
}

fn entry(rate: u32) -> Entry {
    Entry::Limit(netdp_common::limit::Limit::new(rate, 2 * rate))
}

#[test]
fn it_comes_first_and_the_driver_last() {
    let mut facts = facts();
    facts.uplinks[0].driver = Driver::new("ixgbe", false, false);
    let ops = planned(&limited(200), &facts, &Observed::default());
    assert_eq!(ops[0], Op::Put(Key::Limit, entry(200)));
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
    assert_eq!(planned(&limited(200), &facts, &observed), []);
    // Another one takes its place.
    let ops = planned(&limited(300), &facts, &observed);
    assert_eq!(ops, [Op::Put(Key::Limit, entry(300))]);
    let ops = planned(&state(), &facts, &observed);
    let gone = [Op::DetachXdp { ifindex: 2 }, Op::Remove(Key::Limit)];
    assert_eq!(ops, gone);
    // The driver stays while a source is blocked.
    let mut blocking = state();
    let source = ["203.0.113.0/24".parse().unwrap()];
    blocking.block(&source, &host(&Sockets::default())).unwrap();
    let ops = planned(&blocking, &facts, &observed);
    assert!(ops.contains(&Op::Remove(Key::Limit)));
    assert!(!ops.contains(&Op::DetachXdp { ifindex: 2 }));
    facts.xdp = Xdp::Off;
    let ops = planned(&limited(200), &facts, &observed);
    assert_eq!(ops, [Op::DetachXdp { ifindex: 2 }]);
}
