//! What comes before what, and what is left alone or made again.

use super::*;

#[test]
fn the_way_back_passes_from_one_port_to_the_next() {
    let (mut state, _, mut host) = running(&["8080:80", "8081:80"]);
    for gone in ["8080:80", "8081:80"] {
        state.unpublish("web1", &[gone.parse().unwrap()]).unwrap();
        let desired = Desired::of(&state, &facts());
        host.converge(&desired, never_half_made);
        host.assert_converged(&desired);
    }
}

#[test]
fn ports_come_last_and_go_first() {
    let (mut state, _, mut host) = running(&["8080:80"]);
    let position = |host: &Host, wanted: fn(&Op) -> bool| {
        let position = host.done.iter().position(wanted);
        position.unwrap_or_else(|| panic!("not among {:?}", host.done))
    };
    let order = [
        position(&host, |op| matches!(op, Op::CreateBridge(_))),
        position(&host, |op| matches!(op, Op::CreateEndpoint(_))),
        position(&host, |op| {
            matches!(
                op,
                Op::Attach {
                    role: Role::Endpoint,
                    ..
                }
            )
        }),
        position(&host, |op| matches!(op, Op::AddRoute(_))),
        position(&host, |op| matches!(op, Op::Put(Key::Owner4(_), _))),
        position(&host, |op| matches!(op, Op::HoldPort(_))),
        position(&host, |op| matches!(op, Op::Put(Key::Back4(_), _))),
        position(&host, |op| matches!(op, Op::Put(Key::Port4(_), _))),
        host.done.len() - 1,
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order[7], order[8]);

    host.done.clear();
    state.remove_sandbox("web1").unwrap();
    host.converge(&Desired::of(&state, &facts()), never_half_made);
    let order = [
        position(&host, |op| matches!(op, Op::Remove(Key::Port4(_)))),
        position(&host, |op| matches!(op, Op::Remove(Key::Back4(_)))),
        position(&host, |op| matches!(op, Op::ReleasePort(_))),
        position(&host, |op| matches!(op, Op::Remove(Key::Owner4(_)))),
        position(&host, |op| matches!(op, Op::RemoveEndpoints(_))),
        position(&host, |op| matches!(op, Op::DeleteLinks { .. })),
        position(&host, |op| matches!(op, Op::Detach { .. })),
    ];
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6], "{:?}", host.done);
}

#[test]
fn links_of_others_are_not_touched() {
    let (_, desired, _) = running(&["8080:80"]);
    let mut host = Host::new();
    let pair = desired.pairs.keys().next().unwrap();
    host.add("netdp0", None);
    host.add(pair, Some("another's:1".into()));
    let before = host.observed.links.clone();
    let plan = links(&desired, &host.observed);
    let names: Vec<_> = plan.conflicts.iter().map(|c| c.ifname.as_str()).collect();
    assert_eq!(names, ["netdp0", pair]);
    for op in plan.ops.into_iter().chain(tables(&desired, &host.observed)) {
        host.apply(op);
    }
    assert_eq!(host.observed.links, before);
    let ports = host
        .observed
        .tables
        .keys()
        .filter(|k| matches!(k, Key::Port4(_)));
    assert_eq!(ports.count(), 0, "a port leads to a link of another");
}

#[test]
fn uplinks_take_larger_packets_as_long_as_somebody_needs_them() {
    let (mut state, _, mut host) = running(&[]);
    let limit = |host: &Host, ifname: &str| host.observed.links[ifname].packet_limit;
    for ifname in ["lo", "eth0"] {
        let link = host.observed.links.get_mut(ifname).unwrap();
        link.packet_limit = PacketLimit::Legacy;
    }
    for (wanted, expected) in [(true, PacketLimit::BigUplink), (false, PacketLimit::Legacy)] {
        for network in state.networks.values_mut() {
            network.big_tcp = wanted;
        }
        host.converge(&Desired::of(&state, &facts()), |_, _| {});
        assert_eq!(limit(&host, "eth0"), expected);
        assert_eq!(limit(&host, "lo"), PacketLimit::Legacy);
    }
}

#[test]
fn pairs_are_of_the_kind_that_was_asked_for_and_the_kernel_has() {
    use crate::{model::Device, netlink::PairKind};
    let (mut state, _, mut host) = running(&[]);
    let mut pairs = |device: Device, has_netkit: bool| {
        for network in state.networks.values_mut() {
            network.device = device;
        }
        let facts = Facts {
            has_netkit,
            ..facts()
        };
        Desired::of(&state, &facts)
    };
    for (device, without, with) in [
        (Device::Veth, PairKind::Veth, PairKind::Veth),
        (Device::Auto, PairKind::Veth, PairKind::Netkit),
        (Device::Netkit, PairKind::Veth, PairKind::Netkit),
    ] {
        for (has_netkit, expected) in [(false, without), (true, with)] {
            let desired = pairs(device, has_netkit);
            assert!(desired.pairs.values().all(|pair| pair.kind == expected));
        }
    }
    // A container that runs keeps the pair that it has.
    host.done.clear();
    host.converge(&pairs(Device::Netkit, true), |_, _| {});
    assert_eq!(host.done, []);
}

/// They would be ways past all rules, once their programs have gone.
#[test]
fn links_of_a_state_that_was_lost_go() {
    let (_, desired, _) = running(&["8080:80"]);
    let (_, old, mut host) = running(&["8080:80"]);
    host.converge(&old, |_, _| {});
    for link in host.observed.links.values_mut() {
        let alias = link.alias.take();
        link.alias = alias.map(|alias| alias.replace(&old.alias, "netdp:another:"));
    }
    assert_eq!(host.observed.of_other_states("mine"), 2);
    host.converge(&desired, |observed, _| {
        let bare = observed.links.iter().any(|(ifname, link)| {
            let forwards = link.up && link.forwarding && ifname.starts_with(HOST_END);
            forwards && !observed.attached.contains_key(&link.ifindex)
        });
        assert!(!bare, "a link that forwards without programs");
    });
    host.assert_converged(&desired);
}

#[test]
fn half_made_links_are_made_again() {
    let (_, desired, mut host) = running(&["8080:80"]);
    let ifname = desired.pairs.keys().next().unwrap().clone();
    // Killed before the alias was set: the MAC address tells that it is ours.
    host.observed.links.get_mut(&ifname).unwrap().alias = None;
    host.done.clear();
    host.converge(&desired, |_, _| {});
    host.assert_converged(&desired);
    assert!(
        host.done
            .iter()
            .any(|op| matches!(op, Op::CreateEndpoint(_)))
    );
    // Killed before the sandbox's end was configured.
    let link = host.observed.links.get_mut(&ifname).unwrap();
    link.up = false;
    let ifindex = link.ifindex;
    host.observed.attached.remove(&ifindex);
    host.done.clear();
    host.converge(&desired, |_, _| {});
    host.assert_converged(&desired);
    assert!(
        host.done
            .iter()
            .any(|op| matches!(op, Op::CreateEndpoint(_)))
    );
}
