//! Whatever is asked for, in whatever order, and whatever someone else does to
//! the host in between.

use proptest::prelude::*;

use super::*;
use crate::{
    bpf::Tables,
    model::{EndpointRequest, NetworkRequest},
};

#[derive(Clone, Debug)]
enum Step {
    Run {
        network: usize,
        ports: Vec<u16>,
    },
    Remove(usize),
    Connect(usize, usize),
    Disconnect(usize, usize),
    MakeNetwork {
        internal: bool,
        ipv6: bool,
        ipv4: bool,
    },
    RemoveNetwork(usize),
    Publish(usize, bool, u16),
    Unpublish(usize, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..8_usize;
    let port = 8000..8008_u16;
    let step = prop_oneof![
        4 => (n.clone(), prop::collection::vec(port.clone(), 0..3))
            .prop_map(|(network, ports)| Step::Run { network, ports }),
        2 => n.clone().prop_map(Step::Remove),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Connect(a, b)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Disconnect(a, b)),
        2 => any::<(bool, bool, bool)>().prop_map(|(internal, ipv6, alone)| {
            let ipv4 = !(ipv6 && alone);
            Step::MakeNetwork { internal, ipv6, ipv4 }
        }),
        1 => n.clone().prop_map(Step::RemoveNetwork),
        2 => (n.clone(), any::<bool>(), port.clone())
            .prop_map(|(a, v6, b)| Step::Publish(a, v6, b)),
        1 => (n, port).prop_map(|(a, b)| Step::Unpublish(a, b)),
    ];
    prop::collection::vec(step, 0..24)
}

/// What a state becomes by requests; those that are refused change nothing.
fn take(state: &mut State, steps: &[Step]) {
    let sockets = Sockets::default();
    let host = host(&sockets);
    for step in steps {
        let networks: Vec<String> = state
            .networks
            .values()
            .filter(|network| network.bridge.is_some())
            .map(|network| network.name.to_string())
            .collect();
        let sandboxes: Vec<String> = state.sandboxes.keys().map(ToString::to_string).collect();
        let network = |n: usize| networks[n % networks.len()].as_str();
        let sandbox = |n: usize| sandboxes.get(n).map_or("none such", String::as_str);
        let fresh = state.counters.slot + state.counters.network;
        let _: Result<(), _> = match step {
            Step::Run { network: n, ports } => {
                let specs: Vec<_> = ports.iter().map(|port| format!("{port}:80")).collect();
                let specs: Vec<_> = specs.iter().map(String::as_str).collect();
                let mut request = web(&format!("web{fresh}"), &specs);
                request.networks = vec![network(*n).into()];
                state.create_sandbox(&request, &host).map(drop)
            }
            Step::Remove(n) => state.remove_sandbox(sandbox(*n)).map(drop),
            Step::Connect(n, s) => state
                .connect(network(*n), sandbox(*s), &EndpointRequest::default())
                .map(drop),
            Step::Disconnect(n, s) => state.disconnect(network(*n), sandbox(*s)),
            Step::MakeNetwork {
                internal,
                ipv6,
                ipv4,
            } => {
                let name = format!("net{fresh}").parse().unwrap();
                let request = NetworkRequest {
                    internal: *internal,
                    ipv6: *ipv6,
                    ipv4: Some(*ipv4),
                    ..NetworkRequest::new(name)
                };
                state.create_network(&request, &host).map(drop)
            }
            Step::RemoveNetwork(n) => state.remove_network(network(*n)).map(drop),
            Step::Publish(s, v6, port) => {
                let address = if *v6 { "[::1]" } else { "127.0.0.1" };
                let spec = format!("{address}:{port}:80").parse().unwrap();
                state.publish(sandbox(*s), &[spec], &host).map(drop)
            }
            Step::Unpublish(s, port) => {
                let spec = format!("{port}:80").parse().unwrap();
                state.unpublish(sandbox(*s), &[spec]).map(drop)
            }
        };
        assert_eq!(state.check(), Ok(()), "after {step:?}");
    }
}

/// What someone else may do to a host.
#[derive(Clone, Debug)]
enum Harm {
    DeleteLink(usize),
    Down(usize),
    Mtu(usize),
    ForwardingOff,
    DropRoute,
    DropNeighbour,
    Detach(usize),
    LoseHolds,
    LoseTables(usize),
    StrayTables,
    StaleLink,
}

fn harms() -> impl Strategy<Value = Vec<Harm>> {
    let n = || 0..16_usize;
    let harm = prop_oneof![
        n().prop_map(Harm::DeleteLink),
        n().prop_map(Harm::Down),
        n().prop_map(Harm::Mtu),
        Just(Harm::ForwardingOff),
        Just(Harm::DropRoute),
        Just(Harm::DropNeighbour),
        n().prop_map(Harm::Detach),
        Just(Harm::LoseHolds),
        n().prop_map(Harm::LoseTables),
        Just(Harm::StrayTables),
        Just(Harm::StaleLink),
    ];
    prop::collection::vec(harm, 0..6)
}

fn harm(host: &mut Host, desired: &Desired, harm: &Harm) {
    let ours: Vec<String> = desired
        .bridges
        .keys()
        .chain(desired.pairs.keys())
        .cloned()
        .collect();
    let name = |n: usize| ours[n % ours.len()].clone();
    let observed = &mut host.observed;
    match *harm {
        Harm::DeleteLink(n) => observed.applied(&Op::DeleteLink { ifname: name(n) }, None),
        Harm::Down(n) => {
            let ifname = name(n);
            if let Some(link) = observed.links.get_mut(&ifname) {
                link.up = false;
                link.addresses.clear();
            }
            observed.routes.retain(|route| route.ifname != ifname);
        }
        Harm::Mtu(n) => {
            if let Some(link) = observed.links.get_mut(&name(n)) {
                link.mtu = 9000;
            }
        }
        Harm::ForwardingOff => {
            let links = observed.links.values_mut();
            links.for_each(|link| {
                link.forwarding = false;
                link.forwarding6 = false;
            });
        }
        Harm::DropRoute => drop(observed.routes.pop_first()),
        Harm::DropNeighbour => drop(observed.neighbours.pop_last()),
        Harm::Detach(n) => {
            let ifindex = observed.attached.keys().nth(n).copied();
            ifindex.map(|ifindex| observed.attached.remove(&ifindex));
        }
        Harm::LoseHolds => observed.holds.clear(),
        Harm::LoseTables(n) => {
            let keys: Vec<Key> = observed.tables.keys().copied().skip(n).collect();
            observed.tables.retain(|key, _| !keys.contains(key));
        }
        Harm::StrayTables => {
            let strays: Tables = observed
                .tables
                .iter()
                .filter_map(|(key, entry)| match key {
                    Key::Endpoint(ifindex) => Some((Key::Endpoint(ifindex + 1000), *entry)),
                    Key::Port4(port) => {
                        let other = PortKey::new(port.addr, Be16::new(1), proto::UDP);
                        Some((Key::Port4(other), *entry))
                    }
                    Key::Port6(port) => {
                        let other = PortKey::new(port.addr, Be16::new(1), proto::UDP);
                        Some((Key::Port6(other), *entry))
                    }
                    _ => None,
                })
                .collect();
            observed.tables.extend(strays);
            observed.attached.insert(4242, Role::Uplink);
        }
        Harm::StaleLink => host.add("vnstale", Some(format!("{}gone", desired.alias))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_plan_leads_to_what_is_desired(first in steps(), then in steps(), back in any::<bool>()) {
        let mut state = state();
        take(&mut state, &first);
        let before = Desired::of(&state, &facts());
        let mut host = Host::new();
        host.converge(&before, never_half_made);
        host.assert_converged(&before);
        take(&mut state, &then);
        let after = Desired::of(&state, &facts());
        host.converge(&after, never_half_made);
        host.assert_converged(&after);
        if back {
            // How a request that failed is undone.
            host.converge(&before, never_half_made);
            host.assert_converged(&before);
        }
    }

    #[test]
    fn what_was_harmed_is_repaired(steps in steps(), harms in harms()) {
        let mut state = state();
        take(&mut state, &steps);
        let desired = Desired::of(&state, &facts());
        let mut host = Host::new();
        host.converge(&desired, never_half_made);
        host.add("vnforeign", None);
        for each in &harms {
            harm(&mut host, &desired, each);
        }
        host.converge(&desired, |_, _| {});
        prop_assert!(host.observed.links.remove("vnforeign").is_some());
        host.assert_converged(&desired);
    }

    #[test]
    fn a_plan_that_was_cut_short_is_finished(
        first in steps(),
        then in steps(),
        cut in 0..40_usize,
    ) {
        let mut state = state();
        take(&mut state, &first);
        let mut host = Host::new();
        host.converge(&Desired::of(&state, &facts()), never_half_made);
        take(&mut state, &then);
        let desired = Desired::of(&state, &facts());
        let plan = links(&desired, &host.observed);
        let in_first = plan.ops.len();
        for op in plan.ops.into_iter().take(cut) {
            host.apply(op);
        }
        if cut > in_first {
            for op in tables(&desired, &host.observed).into_iter().take(cut - in_first) {
                host.apply(op);
            }
        }
        // The sockets of a daemon go with it.
        host.observed.holds.clear();
        host.converge(&desired, |_, _| {});
        host.assert_converged(&desired);
    }
}
