//! Which entries the tables get.

use netdp_common::maps::{endpoint_flags, local_flags};

use super::*;
use crate::model::{NetworkRequest, SandboxRequest};

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
    let ifname = desired.pairs.keys().next().unwrap();
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
    let pair = desired.pairs.keys().next().unwrap();
    let ifindex = host.observed.links[pair].ifindex;
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
    let pair = desired.pairs.values().next().unwrap();
    assert_eq!((pair.addresses.len(), pair.ipv6), (2, false));

    host.converge(&both, never_half_made);
    host.assert_converged(&both);
    host.converge(&desired, never_half_made);
    assert!(!host.observed.holds.iter().any(|hold| of_ipv6(hold.address)));
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
