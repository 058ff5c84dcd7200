//! The second round: programs, paths and tables, now that the interfaces have
//! their numbers.

use std::collections::BTreeMap;

use super::{
    Desired, Observed, Op, Role,
    diff::{Change, diff},
    entries::{entries, live},
    retract::{is_back, is_port, keeps_out, retract, retract_sets},
};
use crate::{
    bpf::{Entry, Key},
    netlink::Family,
};

/// Attaches programs, opens the paths to the containers, holds ports, and
/// fills the tables, ports last.
pub fn tables(desired: &Desired, observed: &Observed) -> Vec<Op> {
    let live = live(desired, observed);
    let mut ops = retract(desired, observed, &live);
    let puts = missing(desired, observed, &live);
    let of = |wanted: fn(&Key) -> bool| {
        puts.iter()
            .filter(move |(key, _)| wanted(key))
            .map(|(key, entry)| Op::Put(*key, *entry))
    };
    ops.extend(of(keeps_out));
    // A program without its entry would drop what it should leave alone.
    ops.extend(of(|key| {
        matches!(key, Key::Uplink(_) | Key::Endpoint(_) | Key::Times(_))
    }));
    ops.extend(of(|key| matches!(key, Key::Local4(_) | Key::Local6(_))));
    programs(desired, observed, &live, &mut ops);
    paths(desired, observed, &live, &mut ops);
    ops.extend(of(|key| matches!(key, Key::Owner4(_) | Key::Owner6(_))));
    ops.extend(of(|key| matches!(key, Key::Link4(_) | Key::Link6(_))));
    ops.extend(
        desired
            .holds
            .difference(&observed.holds)
            .map(|hold| Op::HoldPort(*hold)),
    );
    // The way back before the way in.
    ops.extend(of(is_back));
    ops.extend(of(|key| matches!(key, Key::Allow4(_) | Key::Allow6(_))));
    ops.extend(of(is_port));
    ops.extend(retract_sets(desired, observed));
    ops.extend(at_drivers(desired, observed));
    ops
}

/// Attaching may take a driver a moment without packets, so it comes last.
fn at_drivers(desired: &Desired, observed: &Observed) -> impl Iterator<Item = Op> {
    let missing = desired.xdp.iter();
    let missing = missing.filter(|(ifindex, _)| !observed.xdp.contains(ifindex));
    missing.map(|(&ifindex, ifname)| Op::AttachXdp {
        ifname: ifname.clone(),
        ifindex,
        is_asked: desired.xdp_is_asked,
    })
}

fn missing(
    desired: &Desired,
    observed: &Observed,
    live: &BTreeMap<&str, u32>,
) -> Vec<(Key, Entry)> {
    let have = observed.tables.iter().map(|(key, entry)| (*key, *entry));
    diff(have, entries(desired, live))
        .filter_map(|change| match change {
            Change::Insert { key, want } | Change::Update { key, want, .. } => Some((key, want)),
            Change::Remove { .. } => None,
        })
        .collect()
}

fn programs(desired: &Desired, observed: &Observed, live: &BTreeMap<&str, u32>, ops: &mut Vec<Op>) {
    let endpoints = desired
        .pairs
        .keys()
        .filter_map(|ifname| Some((ifname, *live.get(ifname.as_str())?, Role::Endpoint)));
    let uplinks = desired
        .uplinks
        .iter()
        .map(|uplink| (&uplink.ifname, uplink.ifindex, Role::Uplink));
    for (ifname, ifindex, role) in endpoints.chain(uplinks) {
        if observed.attached.get(&ifindex) != Some(&role) {
            ops.push(Op::Attach {
                ifname: ifname.clone(),
                ifindex,
                role,
            });
        }
    }
}

fn paths(desired: &Desired, observed: &Observed, live: &BTreeMap<&str, u32>, ops: &mut Vec<Op>) {
    let live = |ifname: &String| live.contains_key(ifname.as_str());
    for (ifname, pair) in desired.pairs.iter().filter(|(ifname, _)| live(ifname)) {
        let Some(link) = observed.links.get(ifname) else {
            continue;
        };
        let (v4, v6) = (!link.forwarding, pair.ipv6 && !link.forwarding6);
        for family in [v4.then_some(Family::V4), v6.then_some(Family::V6)] {
            ops.extend(family.map(|family| Op::EnableForwarding {
                ifname: ifname.clone(),
                family,
            }));
        }
        if !link.up {
            ops.push(Op::SetLinkUp {
                ifname: ifname.clone(),
            });
        }
    }
    // The kernel takes routes and neighbours only on a link that is up, and
    // drops them when it goes down.
    ops.extend(
        desired
            .neighbours
            .difference(&observed.neighbours)
            .filter(|neighbour| live(&neighbour.ifname))
            .map(|neighbour| Op::AddNeighbour(neighbour.clone())),
    );
    ops.extend(
        desired
            .routes
            .difference(&observed.routes)
            .filter(|route| live(&route.ifname))
            .map(|route| Op::AddRoute(route.clone())),
    );
}
