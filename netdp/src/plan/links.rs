//! The first round: what goes, and the links.

use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::PacketLimit;

use super::{
    ALIAS, Conflict, Desired, DesiredBridge, DesiredPair, Observed, ObservedLink, Op, Plan,
    entries::live, retract::retract,
};

/// Takes away what isn't wanted, then makes and repairs links. Afterwards
/// [`tables`](super::tables()) does the rest.
pub fn links(desired: &Desired, observed: &Observed) -> Plan {
    let mut whole = live(desired, observed);
    whole.retain(|ifname, _| !unfinished_pair(desired, observed, ifname));
    let mut plan = Plan {
        ops: retract(desired, observed, &whole),
        conflicts: Vec::new(),
    };
    for bridge in desired.bridges.values() {
        plan_bridge(bridge, (desired, observed), &mut plan);
    }
    for pair in desired.pairs.values() {
        plan_pair(pair, (desired, observed), &whole, &mut plan);
    }
    plan.ops
        .extend(packet_limits(&desired.big_uplinks, observed));
    plan
}

/// Whether a pair of ours was left between being made and being
/// configured: its host end is brought up only after its programs are there.
fn unfinished_pair(desired: &Desired, observed: &Observed, ifname: &str) -> bool {
    desired.pairs.contains_key(ifname)
        && observed
            .links
            .get(ifname)
            .is_some_and(|link| !link.up && !observed.attached.contains_key(&link.ifindex))
}

/// What there is under a name that we want.
enum Found<'a> {
    Nothing,
    Ours(&'a ObservedLink),
    /// Without an alias, but with the random MAC address that only we know: we
    /// were killed after making it.
    Unmarked,
    Foreign,
}

fn find<'a>(observed: &'a Observed, ifname: &str, alias: &str, mac: [u8; 6]) -> Found<'a> {
    match observed.links.get(ifname) {
        None => Found::Nothing,
        Some(link) => match &link.alias {
            Some(found) if found == alias => Found::Ours(link),
            // That of a network or endpoint before; it has been taken away.
            Some(found) if found.starts_with(ALIAS) => Found::Nothing,
            None if link.mac == mac => Found::Unmarked,
            _ => Found::Foreign,
        },
    }
}

fn plan_bridge(bridge: &DesiredBridge, states: (&Desired, &Observed), plan: &mut Plan) {
    let ifname = &bridge.ifname;
    match find(states.1, ifname, &bridge.alias, bridge.mac) {
        Found::Foreign => plan.conflicts.push(Conflict {
            ifname: ifname.clone(),
        }),
        Found::Nothing => plan.ops.push(Op::CreateBridge(bridge.clone())),
        Found::Unmarked => {
            plan.ops.push(Op::DeleteLink {
                ifname: ifname.clone(),
            });
            plan.ops.push(Op::CreateBridge(bridge.clone()));
        }
        Found::Ours(link) => {
            configure(ifname, link, bridge.mac, bridge.mtu, &mut plan.ops);
            for &address in &link.addresses {
                if !bridge.addresses.contains(&address) {
                    let ifname = ifname.clone();
                    plan.ops.push(Op::RemoveAddress { ifname, address });
                }
            }
            for &address in &bridge.addresses {
                if !link.addresses.contains(&address) {
                    let ifname = ifname.clone();
                    plan.ops.push(Op::AddAddress { ifname, address });
                }
            }
            if !link.up {
                plan.ops.push(Op::SetLinkUp {
                    ifname: ifname.clone(),
                });
            }
        }
    }
}

fn plan_pair(
    pair: &DesiredPair,
    states: (&Desired, &Observed),
    whole: &BTreeMap<&str, u32>,
    plan: &mut Plan,
) {
    let ifname = &pair.host_ifname;
    match find(states.1, ifname, &pair.alias, pair.host_mac) {
        Found::Foreign => plan.conflicts.push(Conflict {
            ifname: ifname.clone(),
        }),
        Found::Ours(link) if whole.contains_key(ifname.as_str()) => {
            configure(ifname, link, pair.host_mac, pair.mtu, &mut plan.ops);
        }
        Found::Unmarked => {
            plan.ops.push(Op::DeleteLink {
                ifname: ifname.clone(),
            });
            plan.ops.push(Op::CreateEndpoint(Box::new(pair.clone())));
        }
        // One of ours that isn't whole has been taken away above.
        Found::Nothing | Found::Ours(_) => {
            plan.ops.push(Op::CreateEndpoint(Box::new(pair.clone())));
        }
    }
}

/// Lets packets of BIG TCP pass the uplinks in `big`, and takes that back from
/// others: they get what the kernel gives every link, but where somebody has set
/// another limit since.
pub fn packet_limits(big: &BTreeSet<String>, observed: &Observed) -> Vec<Op> {
    let links = observed.links.iter();
    let change = |(ifname, link): (&String, &ObservedLink)| {
        let limit = match (big.contains(ifname), link.packet_limit) {
            (true, PacketLimit::Legacy) => PacketLimit::BigUplink,
            (true, _) => return None,
            (false, limit) => limit.without_ours()?,
        };
        let ifname = ifname.clone();
        Some(Op::SetPacketLimit { ifname, limit })
    };
    links.filter_map(change).collect()
}

fn configure(ifname: &str, link: &ObservedLink, mac: [u8; 6], mtu: u32, ops: &mut Vec<Op>) {
    let mac = (link.mac != mac).then_some(mac);
    let mtu = (link.mtu != mtu).then_some(mtu);
    if mac.is_some() || mtu.is_some() {
        ops.push(Op::SetLink {
            ifname: ifname.into(),
            mac,
            mtu,
        });
    }
}
