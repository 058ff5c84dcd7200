//! Plans are applied to a host of which nothing is real, and what is there is
//! looked at after each operation.

mod block;
mod ended;
mod entries;
mod histories;
mod limit;
mod order;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdp_common::{
    addr::{Address as _, Be16, V4Addr, V6Addr, proto},
    maps::{Back, PortKey},
};

use super::*;
use crate::{
    bpf::{Entry, Key, Xdp},
    model::{
        State,
        tests::{Sockets, host, state, web},
    },
    netlink::PacketLimit,
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
            broadcasts: vec!["192.0.2.255".parse().unwrap()],
            reach4: Reach::default(),
            reach6: Reach::default(),
            packet_limit: PacketLimit::Legacy,
            takes_big: true,
            beside: false,
            driver: Driver::default(),
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
        has_netkit: false,
        xdp: Xdp::Auto,
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
        let mut wanted: Vec<_> = desired.bridges.keys().chain(desired.pairs.keys()).collect();
        wanted.sort();
        assert_eq!(names, wanted);
        for (ifname, pair) in &desired.pairs {
            let link = &observed.links[ifname];
            assert!(link.up);
            assert!(link.forwarding);
            assert!(link.forwarding6 || !pair.ipv6);
            assert_eq!(observed.attached.get(&link.ifindex), Some(&Role::Endpoint));
        }
        let programs = desired.pairs.len() + desired.uplinks.len();
        assert_eq!(observed.attached.len(), programs);
        let counts =
            |wanted: fn(&Key) -> bool| observed.tables.keys().filter(|k| wanted(k)).count();
        assert_eq!(
            counts(|k| matches!(k, Key::Port4(_) | Key::Port6(_))),
            desired.holds.len()
        );
        assert_eq!(
            counts(|k| matches!(k, Key::Endpoint(_))),
            desired.pairs.len()
        );
        assert_eq!(
            counts(|k| matches!(k, Key::Owner4(_) | Key::Owner6(_))),
            desired
                .pairs
                .values()
                .map(|pair| pair.addresses.len())
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
