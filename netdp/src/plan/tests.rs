use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdp_common::{
    addr::{Address as _, Be16, V4Addr, V6Addr, proto},
    maps::{Back, PortKey, endpoint_flags, local_flags},
};
use proptest::prelude::*;

use super::*;
use crate::{
    bpf::{Entry, Key, Tables},
    model::{
        EndpointRequest, NetworkRequest, SandboxRequest, State,
        tests::{Sockets, host, state, web},
    },
};

fn facts() -> Facts {
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let address6: IpAddr = "2001:db8::1".parse().unwrap();
    Facts {
        uplinks: vec![Uplink {
            ifname: "eth0".into(),
            ifindex: 2,
            mac: [2, 0, 0, 0, 0, 2],
            addresses: vec![address, address6],
            reach4: Reach::default(),
            reach6: Reach::default(),
        }],
        headerless: Vec::new(),
        addresses: vec![
            HostAddress {
                address: "127.0.0.1".parse().unwrap(),
                ifindex: 1,
            },
            HostAddress {
                address,
                ifindex: 2,
            },
            HostAddress {
                address: address6,
                ifindex: 2,
            },
            HostAddress {
                address: "fe80::2".parse().unwrap(),
                ifindex: 2,
            },
        ],
        no_ipv6: false,
    }
}

/// A host on which operations take effect at once.
struct Host {
    observed: Observed,
    last_ifindex: u32,
    done: Vec<Op>,
}

impl Host {
    fn new() -> Self {
        let mut host = Self {
            observed: Observed::default(),
            last_ifindex: 0,
            done: Vec::new(),
        };
        for ifname in ["lo", "eth0"] {
            host.add(ifname, None);
        }
        host
    }

    fn add(&mut self, ifname: &str, alias: Option<String>) {
        self.last_ifindex += 1;
        let link = ObservedLink {
            ifindex: self.last_ifindex,
            alias,
            up: true,
            ..ObservedLink::default()
        };
        self.observed.links.insert(ifname.into(), link);
    }

    fn apply(&mut self, op: Op) {
        self.last_ifindex += 1;
        self.observed.applied(&op, Some(self.last_ifindex));
        self.done.push(op);
    }

    /// Both rounds, with `check` after each operation.
    fn converge(&mut self, desired: &Desired, check: impl Fn(&Observed, &Op)) {
        let plan = links(desired, &self.observed);
        assert_eq!(plan.conflicts, []);
        for op in plan.ops {
            self.apply(op.clone());
            check(&self.observed, &op);
        }
        for op in tables(desired, &self.observed) {
            self.apply(op.clone());
            check(&self.observed, &op);
        }
    }

    fn assert_converged(&self, desired: &Desired) {
        assert_eq!(links(desired, &self.observed), Plan::default());
        assert_eq!(tables(desired, &self.observed), []);
        let observed = &self.observed;
        assert_eq!(observed.holds, desired.holds);
        assert_eq!(observed.routes, desired.routes);
        assert_eq!(observed.neighbours, desired.neighbours);
        let ours = observed
            .links
            .iter()
            .filter(|(_, link)| link.alias.is_some());
        let names: Vec<_> = ours.map(|(ifname, _)| ifname).collect();
        let mut wanted: Vec<_> = desired.bridges.keys().chain(desired.veths.keys()).collect();
        wanted.sort();
        assert_eq!(names, wanted);
        for (ifname, veth) in &desired.veths {
            let link = &observed.links[ifname];
            assert!(link.up);
            assert!(link.forwarding);
            assert!(link.forwarding6 || !veth.ipv6);
            assert_eq!(observed.attached.get(&link.ifindex), Some(&Role::Endpoint));
        }
        let programs = desired.veths.len() + desired.uplinks.len();
        assert_eq!(observed.attached.len(), programs);
        let counts =
            |wanted: fn(&Key) -> bool| observed.tables.keys().filter(|k| wanted(k)).count();
        assert_eq!(
            counts(|k| matches!(k, Key::Port4(_) | Key::Port6(_))),
            desired.holds.len()
        );
        assert_eq!(
            counts(|k| matches!(k, Key::Endpoint(_))),
            desired.veths.len()
        );
        assert_eq!(
            counts(|k| matches!(k, Key::Owner4(_) | Key::Owner6(_))),
            desired
                .veths
                .values()
                .map(|veth| veth.addresses.len())
                .sum::<usize>()
        );
    }
}

/// A published port of either family.
#[derive(Debug)]
struct Port {
    at: (IpAddr, u16, u8),
    ifindex: u32,
    /// Key of the container's address.
    owner: Key,
    /// The way back, where this is the one for answers.
    back: Option<(Key, Entry)>,
}

impl Port {
    fn of((key, entry): (&Key, &Entry)) -> Option<Self> {
        match (key, entry) {
            (Key::Port4(port), Entry::Port4(published)) => {
                let key = PortKey::new(published.addr, published.port, port.proto);
                let back = Back::new(published.back_addr, port.port, published.port);
                Some(Self {
                    at: (
                        Ipv4Addr::from(port.addr).into(),
                        port.port.get(),
                        port.proto,
                    ),
                    ifindex: published.to.ifindex,
                    owner: Key::Owner4(published.addr),
                    back: (published.back_addr != V4Addr::ANY)
                        .then_some((Key::Back4(key), Entry::Back4(back))),
                })
            }
            (Key::Port6(port), Entry::Port6(published)) => {
                let key = PortKey::new(published.addr, published.port, port.proto);
                let back = Back::new(published.back_addr, port.port, published.port);
                Some(Self {
                    at: (
                        Ipv6Addr::from(port.addr).into(),
                        port.port.get(),
                        port.proto,
                    ),
                    ifindex: published.to.ifindex,
                    owner: Key::Owner6(published.addr),
                    back: (published.back_addr != V6Addr::ANY)
                        .then_some((Key::Back6(key), Entry::Back6(back))),
                })
            }
            _ => None,
        }
    }
}

/// What must hold at every moment, whatever else is half done.
fn never_half_made(observed: &Observed, op: &Op) {
    let by_index = |ifindex: u32| observed.links.values().find(|link| link.ifindex == ifindex);
    for port in observed.tables.iter().filter_map(Port::of) {
        let ifindex = port.ifindex;
        let link = by_index(ifindex);
        assert!(
            link.is_some_and(|link| link.up),
            "{op}: {port:?} leads nowhere"
        );
        assert!(
            observed.attached.contains_key(&ifindex),
            "{op}: {port:?} has no program"
        );
        for key in [Key::Endpoint(ifindex), port.owner] {
            assert!(
                observed.tables.contains_key(&key),
                "{op}: {port:?} without {key:?}"
            );
        }
        let held = |h: &Hold| (h.address, h.ports.first(), h.proto.number()) == port.at;
        assert!(observed.holds.iter().any(held), "{op}: {port:?} isn't held");
        if let Some((key, back)) = port.back {
            let found = observed.tables.get(&key);
            assert_eq!(found, Some(&back), "{op}: way back of {port:?}");
        }
    }
    for (ifname, link) in &observed.links {
        if ifname.starts_with(HOST_END) && link.up {
            let checked = observed.attached.contains_key(&link.ifindex);
            assert!(checked, "{op}: {ifname} is up without programs");
        }
    }
    for (ifindex, role) in &observed.attached {
        let key = match role {
            Role::Uplink => Key::Uplink(*ifindex),
            Role::Endpoint => Key::Endpoint(*ifindex),
        };
        // An endpoint's programs outlive its entry, and drop all till then.
        if *role == Role::Uplink || by_index(*ifindex).is_some_and(|link| link.up) {
            let going = *role == Role::Endpoint && !matches!(op, Op::Attach { .. });
            assert!(
                going || observed.tables.contains_key(&key),
                "{op}: no {key:?}"
            );
        }
    }
}

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
        .chain(desired.veths.keys())
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

fn running(publish: &[&str]) -> (State, Desired, Host) {
    let mut state = state();
    let sockets = Sockets::default();
    let request = web("web1", publish);
    state.create_sandbox(&request, &host(&sockets)).unwrap();
    let desired = Desired::of(&state, &facts());
    let mut host = Host::new();
    host.converge(&desired, never_half_made);
    (state, desired, host)
}

fn port4(address: [u8; 4], port: u16) -> Key {
    Key::Port4(PortKey::new(
        V4Addr::new(address),
        Be16::new(port),
        proto::TCP,
    ))
}

/// A container port that is no longer published is silent for a while, and
/// flows of the endpoint have to ask anew from then on.
#[test]
fn an_unpublished_port_is_silent_for_a_while() {
    let (mut state, _, mut host) = running(&["8080:80", "5353:53/udp"]);
    host.observed.clock = Clock {
        now: 1000,
        quiet: 300,
    };
    let back = |host: &Host| {
        let of = |key: &Key| matches!(key, Key::Back4(key) if key.proto == proto::UDP);
        let mut backs = host.observed.tables.iter().filter(|(key, _)| of(key));
        backs.next().map(|(_, entry)| match entry {
            Entry::Back4(back) => back.until,
            entry => panic!("{entry:?}"),
        })
    };
    let endpoint = |host: &Host| {
        let mut endpoints = host.observed.tables.values();
        endpoints.find_map(|entry| match entry {
            Entry::Endpoint(endpoint) => Some(*endpoint),
            _ => None,
        })
    };
    let published = endpoint(&host).unwrap();
    assert_ne!(published.generation, 0);
    assert_eq!(back(&host), Some(0));

    for spec in ["5353:53/udp", "8080:80"] {
        state.unpublish("web1", &[spec.parse().unwrap()]).unwrap();
    }
    let after = Desired::of(&state, &facts());
    host.done.clear();
    host.converge(&after, never_half_made);
    assert_eq!(back(&host), Some(1300));
    let unpublished = endpoint(&host).unwrap();
    assert_ne!(unpublished.generation, published.generation);
    assert_ne!(unpublished.flags & endpoint_flags::PUBLISHED, 0);
    // What is asked under the new generation finds the ports gone.
    let is_port = |op: &Op| matches!(op, Op::Remove(Key::Port4(_)));
    let is_endpoint = |op: &Op| matches!(op, Op::Put(Key::Endpoint(_), _));
    let last_port = host.done.iter().rposition(is_port).unwrap();
    assert!(host.done.iter().position(is_endpoint).unwrap() > last_port);

    for (now, left) in [(1299, Some(1300)), (1300, None)] {
        host.observed.clock.now = now;
        host.converge(&after, never_half_made);
        assert_eq!(back(&host), left, "at {now}");
    }
    let (sockets, spec) = (Sockets::default(), "5353:53/udp".parse().unwrap());
    let view = crate::model::tests::host(&sockets);
    state.publish("web1", &[spec], &view).unwrap();
    let again = Desired::of(&state, &facts());
    host.converge(&again, never_half_made);
    assert_eq!(back(&host), Some(0));
    assert_ne!(endpoint(&host).unwrap().generation, published.generation);
}

#[test]
fn entries_of_a_published_port() {
    let (_, desired, host) = running(&[
        "127.0.0.1:9080:80",
        "8080:80",
        "192.0.2.1:8081:80",
        "8443:443",
    ]);
    let tables = &host.observed.tables;
    let ifname = desired.veths.keys().next().unwrap();
    let ifindex = host.observed.links[ifname].ifindex;
    let container = V4Addr::new([172, 17, 0, 2]);
    let back_addr = |key: Key| match tables[&key] {
        Entry::Port4(published) => {
            assert_eq!((published.addr, published.to.ifindex), (container, ifindex));
            published.back_addr
        }
        other => panic!("{other:?}"),
    };
    let outside = V4Addr::new([192, 0, 2, 1]);
    // Never by loopback; then the first is the way back, and the only one.
    assert_eq!(back_addr(port4([127, 0, 0, 1], 9080)), V4Addr(0));
    assert_eq!(back_addr(port4([0; 4], 8080)), outside);
    assert_eq!(back_addr(port4([192, 0, 2, 1], 8081)), V4Addr(0));
    assert_eq!(back_addr(port4([0; 4], 8443)), outside);
    let back =
        |port| match tables[&Key::Back4(PortKey::new(container, Be16::new(port), proto::TCP))] {
            Entry::Back4(back) => (back.addr, back.port.get()),
            other => panic!("{other:?}"),
        };
    assert_eq!(back(80), (outside, 8080));
    assert_eq!(back(443), (outside, 8443));
    let Entry::Endpoint(endpoint) = tables[&Key::Endpoint(ifindex)] else {
        panic!("no endpoint");
    };
    use endpoint_flags::{ICC, MASQUERADE, PUBLISHED};
    assert_eq!(endpoint.flags, MASQUERADE | ICC | PUBLISHED);
    assert_eq!(endpoint.gateway4, V4Addr::new([172, 17, 0, 1]));
    let local = |address: [u8; 4]| match tables.get(&Key::Local4(V4Addr::new(address))) {
        Some(Entry::Local4(local)) => Some((local.ifindex, local.flags)),
        _ => None,
    };
    assert_eq!(local([192, 0, 2, 1]), Some((2, 0)));
    let bridge = host.observed.links["netdp0"].ifindex;
    assert_eq!(local([172, 17, 0, 1]), Some((bridge, local_flags::GATEWAY)));
    assert_eq!(local([127, 0, 0, 1]), None);
}

#[test]
fn entries_of_a_port_of_ipv6() {
    let (_, desired) = dual_stack(&["[::1]:9080:80", "8080:80"]);
    let mut host = Host::new();
    host.converge(&desired, never_half_made);
    let tables = &host.observed.tables;
    let addr = |text: &str| V6Addr::from(text.parse::<Ipv6Addr>().unwrap());
    let key = |address: &str, port| PortKey::new(addr(address), Be16::new(port), proto::TCP);
    let (container, outside) = (addr("fd00:6::2"), addr("2001:db8::1"));
    for (address, port, back_addr) in [("::1", 9080, V6Addr::ANY), ("::", 8080, outside)] {
        let Entry::Port6(published) = tables[&Key::Port6(key(address, port))] else {
            panic!("no port {port}");
        };
        assert_eq!(
            (published.addr, published.back_addr),
            (container, back_addr)
        );
    }
    assert!(tables.contains_key(&port4([0; 4], 8080)));
    assert_eq!(
        tables[&Key::Back6(key("fd00:6::2", 80))],
        Entry::Back6(Back::new(outside, Be16::new(8080), Be16::new(80)))
    );
    let veth = desired.veths.keys().next().unwrap();
    let ifindex = host.observed.links[veth].ifindex;
    let Entry::Endpoint(endpoint) = tables[&Key::Endpoint(ifindex)] else {
        panic!("no endpoint");
    };
    assert_eq!(
        (endpoint.addr6, endpoint.gateway6),
        (container, addr("fd00:6::1"))
    );
    let Entry::Uplink(uplink) = tables[&Key::Uplink(2)] else {
        panic!("no uplink");
    };
    assert_eq!(uplink.addr6, outside);
    let local = |address: &str| match tables.get(&Key::Local6(addr(address))) {
        Some(Entry::Local6(local)) => Some((local.ifindex, local.flags)),
        _ => None,
    };
    let bridge = host.observed.links["six"].ifindex;
    assert_eq!(local("2001:db8::1"), Some((2, 0)));
    assert_eq!(local("fd00:6::1"), Some((bridge, local_flags::GATEWAY)));
    assert_eq!(local("fe80::2"), None);
}

#[test]
fn what_is_of_ipv6_waits_until_the_host_has_it() {
    let (state, both) = dual_stack(&["8080:80"]);
    let without = Facts {
        no_ipv6: true,
        ..facts()
    };
    let desired = Desired::of(&state, &without);
    let mut host = Host::new();
    host.converge(&desired, never_half_made);
    let of_ipv6 = |address: IpAddr| address.is_ipv6();
    let bridge = &host.observed.links["six"];
    assert!(!bridge.addresses.iter().any(|net| of_ipv6(net.addr())));
    assert!(!host.observed.routes.iter().any(|route| of_ipv6(route.to)));
    assert!(!host.observed.holds.iter().any(|hold| of_ipv6(hold.address)));
    assert!(host.observed.tables.contains_key(&port4([0; 4], 8080)));
    // The sandbox's own namespace may have it all the same.
    let veth = desired.veths.values().next().unwrap();
    assert_eq!((veth.addresses.len(), veth.ipv6), (2, false));

    host.converge(&both, never_half_made);
    host.assert_converged(&both);
    host.converge(&desired, never_half_made);
    assert!(!host.observed.holds.iter().any(|hold| of_ipv6(hold.address)));
}

/// A state with web1 in network six, which has both families, and what it asks
/// for.
fn dual_stack(publish: &[&str]) -> (State, Desired) {
    let mut state = state();
    let sockets = Sockets::default();
    let network = NetworkRequest {
        subnets: vec!["fd00:6::/64".parse().unwrap()],
        ..NetworkRequest::new("six".parse().unwrap())
    };
    state.create_network(&network, &host(&sockets)).unwrap();
    let request = SandboxRequest {
        networks: vec!["six".into()],
        ..web("web1", publish)
    };
    state.create_sandbox(&request, &host(&sockets)).unwrap();
    let desired = Desired::of(&state, &facts());
    (state, desired)
}

#[test]
fn without_an_uplink_a_wildcard_has_no_way_back() {
    let (state, _, _) = running(&["8080:80"]);
    let desired = Desired::of(&state, &Facts::default());
    let mut host = Host::new();
    host.converge(&desired, never_half_made);
    host.assert_converged(&desired);
    assert!(
        host.observed
            .tables
            .keys()
            .all(|key| !matches!(key, Key::Back4(_)))
    );
    // One that comes later gives it one.
    let desired = Desired::of(&state, &facts());
    host.converge(&desired, never_half_made);
    host.assert_converged(&desired);
    assert!(
        host.observed
            .tables
            .keys()
            .any(|key| matches!(key, Key::Back4(_)))
    );
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
        position(&host, |op| matches!(op, Op::Remove(Key::Endpoint(_)))),
        position(&host, |op| matches!(op, Op::DeleteLink { .. })),
        position(&host, |op| matches!(op, Op::Detach { .. })),
    ];
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6], "{:?}", host.done);
}

#[test]
fn links_of_others_are_not_touched() {
    let (_, desired, _) = running(&["8080:80"]);
    let mut host = Host::new();
    let veth = desired.veths.keys().next().unwrap();
    host.add("netdp0", None);
    host.add(veth, Some("netdp:another:1".into()));
    let before = host.observed.links.clone();
    let plan = links(&desired, &host.observed);
    let names: Vec<_> = plan.conflicts.iter().map(|c| c.ifname.as_str()).collect();
    assert_eq!(names, ["netdp0", veth]);
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
fn half_made_links_are_made_again() {
    let (_, desired, mut host) = running(&["8080:80"]);
    let ifname = desired.veths.keys().next().unwrap().clone();
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

#[test]
fn an_uplink_that_changes() {
    let (mut state, _, mut host) = running(&["8080:80"]);
    let mut moved = facts();
    moved.uplinks[0].addresses = vec!["198.51.100.7".parse().unwrap()];
    moved.addresses[1].address = "198.51.100.7".parse().unwrap();
    let desired = Desired::of(&state, &moved);
    host.converge(&desired, never_half_made);
    host.assert_converged(&desired);
    let Entry::Uplink(uplink) = host.observed.tables[&Key::Uplink(2)] else {
        panic!("no uplink");
    };
    assert_eq!(uplink.addr4, V4Addr::new([198, 51, 100, 7]));
    let Entry::Port4(port) = host.observed.tables[&port4([0; 4], 8080)] else {
        panic!("no port");
    };
    assert_eq!(port.back_addr, uplink.addr4);

    host.done.clear();
    state
        .publish(
            "web1",
            &["192.0.2.1:8081:80".parse().unwrap()],
            &crate::model::tests::host(&Sockets::default()),
        )
        .unwrap();
    let desired = Desired::of(&state, &Facts::default());
    host.converge(&desired, never_half_made);
    host.assert_converged(&desired);
    let detached = host
        .done
        .iter()
        .position(|op| matches!(op, Op::Detach { ifindex: 2, .. }));
    let removed = host
        .done
        .iter()
        .position(|op| matches!(op, Op::Remove(Key::Uplink(2))));
    assert!(detached.unwrap() < removed.unwrap());
}

#[test]
fn what_a_link_opens_comes_and_goes_with_it() {
    let mut state = state();
    let sockets = Sockets::default();
    let ports = host(&sockets);
    let strict = NetworkRequest {
        icc: Some(false),
        ..NetworkRequest::new("strict".parse().unwrap())
    };
    state.create_network(&strict, &ports).unwrap();
    let mut host = Host::new();
    let follow = |host: &mut Host, state: &State| {
        let desired = Desired::of(state, &facts());
        host.converge(&desired, never_half_made);
        host.assert_converged(&desired);
        let tables = &host.observed.tables;
        let linked = tables.values().filter(|entry| {
            matches!(entry, Entry::Endpoint(endpoint)
                if endpoint.flags & endpoint_flags::LINKED != 0)
        });
        let links = tables.keys().filter(|key| matches!(key, Key::Link4(_)));
        (linked.count(), links.count())
    };
    for (name, link) in [("db", None), ("web", Some("db")), ("other", None)] {
        let mut request = web(name, &["80", "53/udp"]);
        request.networks = vec!["strict".into()];
        request.links = link.iter().map(|link| link.parse().unwrap()).collect();
        state.create_sandbox(&request, &ports).unwrap();
    }
    assert_eq!(follow(&mut host, &state), (2, 2));
    state.remove_sandbox("db").unwrap();
    assert_eq!(follow(&mut host, &state), (0, 0));
}
