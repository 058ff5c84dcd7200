//! Networks, addresses and ports of IPv6.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    tests::{NO_SOCKETS, host, network, state, web},
    *,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host6(ports: &dyn HostPorts) -> HostView<'_> {
    let mut view = host(&NO_SOCKETS);
    view.addresses
        .extend([ip("::1"), ip("2001:db8::1"), ip("fe80::1")]);
    view.routes.push("2001:db8::/64".parse().unwrap());
    HostView { ports, ..view }
}

fn create(state: &mut State, change: impl FnOnce(&mut NetworkRequest)) -> Result<Network, String> {
    let mut request = network("six");
    change(&mut request);
    state
        .create_network(&request, &host6(&NO_SOCKETS))
        .map_err(|refusal| refusal.to_string())
}

/// A state with network six, which has both families.
fn dual_stack() -> State {
    let mut state = state();
    create(&mut state, |r| r.subnets = nets(&["fd00:6::/64"])).unwrap();
    state
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn sandbox(name: &str, network: &str, ports: &[&str]) -> SandboxRequest {
    SandboxRequest {
        networks: vec![network.into()],
        ..web(name, ports)
    }
}

fn published(state: &State, name: &str) -> Vec<String> {
    let id = state.sandbox(name).unwrap().id;
    let endpoints = state.endpoints_of(id).into_iter();
    let ports = endpoints.flat_map(|endpoint| &endpoint.published);
    ports.map(ToString::to_string).collect()
}

#[test]
fn a_unique_local_subnet_is_chosen() {
    let mut state = state();
    let one = create(&mut state, |r| r.ipv6 = true).unwrap();
    let two = create(&mut state, |r| {
        r.ipv6 = true;
        r.name = "other".parse().unwrap();
    })
    .unwrap();
    assert!(one.pools[0].subnet.addr().is_ipv4());
    let (first, second) = (one.pools[1].subnet, two.pools[1].subnet);
    assert_eq!(first.prefix_len(), 64);
    assert!(first.to_string().starts_with("fd"), "{first}");
    assert_ne!(first, second);
    // The first 48 bits (RFC 4193, section 3.1).
    let global = |subnet: ipnet::IpNet| match subnet.addr() {
        IpAddr::V6(address) => address.segments()[..3].to_vec(),
        IpAddr::V4(_) => panic!("{subnet}"),
    };
    assert_eq!(global(first), global(second), "one global id an instance");
    assert_eq!(
        one.pools[1].gateway.to_string(),
        first.to_string().replace("/64", "1")
    );
}

#[test]
fn a_subnet_of_ipv6_asks_for_it() {
    let mut state = state();
    let six = create(&mut state, |r| {
        r.subnets = nets(&["2001:db8:1::/64", "10.1.0.0/24"]);
        r.gateways = vec![ip("2001:db8:1::fe"), ip("10.1.0.9")];
        r.ip_ranges = nets(&["2001:db8:1::100/120"]);
    })
    .unwrap();
    let [v4, v6] = &six.pools[..] else {
        panic!("{:?}", six.pools);
    };
    assert_eq!((v4.gateway, v4.range), (ip("10.1.0.9"), None));
    assert_eq!(v6.gateway, ip("2001:db8:1::fe"));
    let host = host6(&NO_SOCKETS);
    state
        .create_sandbox(&sandbox("web", "six", &[]), &host)
        .unwrap();
    let id = state.sandbox("web").unwrap().id;
    let endpoint = state.endpoints_of(id)[0];
    assert_eq!(endpoint.v6().unwrap(), ip("2001:db8:1::100"));
    assert_eq!(endpoint.gateway6().unwrap(), ip("2001:db8:1::fe"));
    assert_eq!(endpoint.v4().unwrap(), ip("10.1.0.1"));
}

#[test]
fn networks_that_are_refused() {
    type Case = (&'static str, fn(&mut NetworkRequest));
    let cases: [Case; 12] = [
        ("one IPv6 subnet", |r| {
            r.subnets = nets(&["fd00:1::/64", "fd00:2::/64"]);
        }),
        ("overlaps the host's route", |r| {
            r.subnets = nets(&["2001:db8::/48"]);
        }),
        ("meaning of its own", |r| r.subnets = nets(&["fe80::/64"])),
        ("one gateway", |r| {
            r.ipv6 = true;
            r.gateways = vec![ip("fd00:1::1"), ip("fd00:1::2")];
        }),
        ("can't be the gateway", |r| {
            r.subnets = nets(&["fd00:1::/64"]);
            r.gateways = vec![ip("fd00:1::")];
        }),
        ("is not in", |r| {
            r.subnets = nets(&["fd00:1::/64"]);
            r.ip_ranges = nets(&["fd00:2::/80"]);
        }),
        ("needs an IPv6 subnet", |r| r.gateways = vec![ip("fd00::1")]),
        ("neither IPv4 nor IPv6", |r| r.ipv4 = Some(false)),
        ("10.1.0.0/24 needs an IPv4 subnet", |r| {
            r.ipv4 = Some(false);
            r.subnets = nets(&["fd00:1::/64", "10.1.0.0/24"]);
        }),
        ("10.1.0.1 needs an IPv4 subnet", |r| {
            r.ipv4 = Some(false);
            r.ipv6 = true;
            r.gateways = vec![ip("10.1.0.1")];
        }),
        ("needs an IPv6 subnet", |r| {
            r.ip_ranges = nets(&["fd00::/80"]);
        }),
        ("MTU of 1280", |r| {
            r.ipv6 = true;
            r.mtu = Some(1279);
        }),
    ];
    for (why, change) in cases {
        let refused = create(&mut state(), change).unwrap_err();
        assert!(refused.contains(why), "{refused:?} has no {why:?}");
    }
}

#[test]
fn without_ipv6_on_the_host_it_is_refused_with_the_reason() {
    let mut state = dual_stack();
    let view = HostView {
        no_ipv6: Some("it is off"),
        ..host6(&NO_SOCKETS)
    };
    let mut request = network("more");
    request.ipv6 = true;
    let refused = state.create_network(&request, &view).unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
    assert!(refused.to_string().contains("it is off"), "{refused}");
    // What there is goes on with IPv4.
    state
        .create_sandbox(&sandbox("web", "six", &["8080:80"]), &view)
        .unwrap();
    assert_eq!(published(&state, "web"), ["0.0.0.0:8080->80/tcp"]);
    let spec = "[::]:8081:80".parse().unwrap();
    let refused = state.publish("web", &[spec], &view).unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
}

#[test]
fn addresses_are_given_in_both_families() {
    let mut state = dual_stack();
    let host = host6(&NO_SOCKETS);
    for (name, v6) in [("one", "fd00:6::2"), ("two", "fd00:6::3")] {
        state
            .create_sandbox(&sandbox(name, "six", &[]), &host)
            .unwrap();
        let id = state.sandbox(name).unwrap().id;
        let endpoint = state.endpoints_of(id)[0];
        assert_eq!(endpoint.v6().unwrap(), ip(v6));
        assert!(endpoint.v4().is_some());
    }
    let mut at = |name: &str, network: &str, address: &str| {
        let request = SandboxRequest {
            ip6: Some(address.parse().unwrap()),
            ..sandbox(name, network, &[])
        };
        let made = state.create_sandbox(&request, &host);
        made.map(|_| ()).map_err(|refusal| refusal.to_string())
    };
    at("fixed", "six", "fd00:6::ffff:ffff").unwrap();
    for (network, address, why) in [
        ("six", "fd00:6::2", "already in use"),
        ("six", "fd00:6::1", "the gateway"),
        ("six", "fd00:6::", "anycast"),
        ("six", "fd00:7::2", "not in"),
        ("netdp0", "fd00:6::9", "has no IPv6"),
    ] {
        let refused = at("again", network, address).unwrap_err();
        assert!(refused.contains(why), "{refused:?} has no {why:?}");
    }
}

#[test]
fn a_network_may_have_ipv6_alone() {
    let mut state = state();
    let six = create(&mut state, |r| {
        r.ipv4 = Some(false);
        r.subnets = nets(&["fd00:6::/64"]);
    })
    .unwrap();
    assert_eq!(six.pools.len(), 1);
    let host = host6(&NO_SOCKETS);
    state
        .create_sandbox(&sandbox("web", "six", &["8080:80"]), &host)
        .unwrap();
    let id = state.sandbox("web").unwrap().id;
    let endpoint = state.endpoints_of(id)[0];
    assert_eq!((endpoint.v4(), endpoint.gateway4()), (None, None));
    assert_eq!(endpoint.v6().unwrap(), ip("fd00:6::2"));
    assert_eq!(published(&state, "web"), ["[::]:8080->80/tcp"]);

    let request = SandboxRequest {
        ip: Some("10.1.0.9".parse().unwrap()),
        ..sandbox("more", "six", &[])
    };
    let refused = state.create_sandbox(&request, &host).unwrap_err();
    assert!(refused.to_string().contains("has no IPv4"), "{refused}");
    let spec = "0.0.0.0:8081:80".parse().unwrap();
    let refused = state.publish("web", &[spec], &host).unwrap_err();
    assert!(refused.to_string().contains("no IPv4 address"), "{refused}");
}

#[test]
fn ports_are_published_in_the_families_that_there_are() {
    let mut state = dual_stack();
    let host = host6(&NO_SOCKETS);
    for (name, network, spec, expected) in [
        (
            "both",
            "six",
            "8080:80",
            &["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"][..],
        ),
        ("four", "netdp0", "8081:80", &["0.0.0.0:8081->80/tcp"]),
        ("any", "six", "[::]:8082:80", &["[::]:8082->80/tcp"]),
        (
            "own",
            "six",
            "[2001:db8::1]:8083:80",
            &["[2001:db8::1]:8083->80/tcp"],
        ),
        // The families have ports of their own.
        ("again", "six", "0.0.0.0:8082:80", &["0.0.0.0:8082->80/tcp"]),
    ] {
        state
            .create_sandbox(&sandbox(name, network, &[spec]), &host)
            .unwrap();
        assert_eq!(published(&state, name), expected);
    }
    for (name, spec, why) in [
        ("both", "[::1]:8082:80", "[::]:8082/tcp is published by any"),
        (
            "both",
            "8083:80",
            "[2001:db8::1]:8083/tcp is published by own",
        ),
        ("four", "[::]:9000:80", "no IPv6 address"),
        ("both", "[fe80::1]:9000:80", "one link"),
        ("both", "[2001:db8::2]:9000:80", "not an address"),
    ] {
        let spec = spec.parse().unwrap();
        let refused = state.publish(name, &[spec], &host).unwrap_err();
        assert!(
            refused.to_string().contains(why),
            "{refused:?} has no {why:?}"
        );
    }
    state
        .unpublish("both", &["8080:80".parse().unwrap()])
        .unwrap();
    assert!(published(&state, "both").is_empty());
}

#[test]
fn a_default_binding_of_ipv4_stays_one() {
    let mut state = state();
    create(&mut state, |r| {
        r.ipv6 = true;
        let option = "com.docker.network.bridge.host_binding_ipv4";
        r.options.insert(option.into(), "127.0.0.1".into());
    })
    .unwrap();
    let host = host6(&NO_SOCKETS);
    state
        .create_sandbox(&sandbox("web", "six", &["8080:80"]), &host)
        .unwrap();
    assert_eq!(published(&state, "web"), ["127.0.0.1:8080->80/tcp"]);
}

#[test]
fn networks_may_leave_under_addresses_of_their_own() {
    let options = |given: &[(&str, &str)]| {
        let mut state = state();
        create(&mut state, |r| {
            for (family, address) in given {
                let option = format!("com.docker.network.host_{family}");
                r.options.insert(option, (*address).into());
            }
        })
    };
    let network = options(&[("ipv4", "192.0.2.9"), ("ipv6", "2001:db8::9")]).unwrap();
    assert_eq!(network.sources.len(), 2);
    for (family, address) in [
        ("ipv4", "2001:db8::9"),
        ("ipv6", "192.0.2.9"),
        ("ipv4", "0.0.0.0"),
        ("ipv4", "127.0.0.1"),
        ("ipv6", "ff02::1"),
        ("ipv6", "fe80::9"),
    ] {
        let refusal = options(&[(family, address)]).unwrap_err();
        assert!(refusal.contains(address), "{refusal}");
    }
}

/// Programs of the host that have ports of one address.
struct Taken(BTreeSet<(IpAddr, u16)>);

impl HostPorts for Taken {
    fn probe(&self, address: IpAddr, port: u16, _: Proto) -> Result<(), PortTaken> {
        match self.0.contains(&(address, port)) {
            true => Err(PortTaken { by: None }),
            false => Ok(()),
        }
    }
}

#[test]
fn a_chosen_port_is_free_in_both_families() {
    let mut state = dual_stack();
    let taken = Taken([(ip("::"), 49153), (ip("0.0.0.0"), 49154)].into());
    let host = host6(&taken);
    state
        .create_sandbox(&sandbox("web", "six", &["80", "49153-49160:81"]), &host)
        .unwrap();
    assert_eq!(
        published(&state, "web"),
        [
            "0.0.0.0:49155->80/tcp",
            "[::]:49155->80/tcp",
            "0.0.0.0:49156->81/tcp",
            "[::]:49156->81/tcp",
        ]
    );
    let spec = "49153:80".parse().unwrap();
    let refused = state.publish("web", &[spec], &host).unwrap_err();
    assert!(refused.to_string().contains("[::]:49153/tcp"), "{refused}");
}

#[test]
fn ports_move_to_what_leads_outside_in_their_family() {
    let mut state = dual_stack();
    let host = host6(&NO_SOCKETS);
    state
        .create_sandbox(&sandbox("web", "six", &["8080:80"]), &host)
        .unwrap();
    let connected = EndpointRequest::default();
    state.connect("netdp0", "web", &connected).unwrap();
    state.disconnect("six", "web").unwrap();
    assert_eq!(published(&state, "web"), ["0.0.0.0:8080->80/tcp"]);

    // Where IPv4 leads out by one endpoint, IPv6 may by another.
    state.connect("six", "web", &connected).unwrap();
    let spec = "[::]:8080:80".parse().unwrap();
    state.publish("web", &[spec], &host).unwrap();
    let id = state.sandbox("web").unwrap().id;
    let by_v6 = state
        .endpoints_of(id)
        .into_iter()
        .find(|endpoint| endpoint.v6().is_some())
        .unwrap();
    assert_eq!(by_v6.published.len(), 1);
}

/// A network whose containers the outside knows by their own IPv6 addresses.
fn routed(name: &str, subnet: &str) -> NetworkRequest {
    let option = "com.docker.network.bridge.gateway_mode_ipv6";
    NetworkRequest {
        subnets: nets(&[subnet]),
        options: [(option.to_owned(), "routed".to_owned())].into(),
        ..network(name)
    }
}

#[test]
fn ports_of_a_routed_network_are_the_containers_own() {
    let mut state = state();
    let host = host6(&NO_SOCKETS);
    for (name, subnet) in [("seen", "2001:db8:7::/64"), ("other", "2001:db8:8::/64")] {
        state.create_network(&routed(name, subnet), &host).unwrap();
    }
    let ports = ["8080:80", "[::]:5353:53/udp", "8081:80"];
    state
        .create_sandbox(&sandbox("web", "seen", &ports), &host)
        .unwrap();
    let all = [
        "0.0.0.0:8080->80/tcp",
        "[2001:db8:7::2]:80->80/tcp",
        "[2001:db8:7::2]:53->53/udp",
        "0.0.0.0:8081->80/tcp",
    ];
    assert_eq!(published(&state, "web"), all);
    // Ports of the host are nobody's, and those of others no concern of it.
    let mut dual = network("six");
    dual.subnets = nets(&["fd00:6::/64"]);
    state.create_network(&dual, &host).unwrap();
    state
        .create_sandbox(
            &sandbox("db", "six", &["[::]:80:80", "[::]:53:53/udp"]),
            &host,
        )
        .unwrap();
    for (spec, why) in [
        ("[2001:db8::1]:8082:80", "leave the host address out"),
        ("[::]:9090:80", "publishes 80/tcp already"),
    ] {
        let refused = state.publish("web", &[spec.parse().unwrap()], &host);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused:?} has no {why:?}");
    }
    state
        .unpublish("web", &["[::]:5353:53/udp".parse().unwrap()])
        .unwrap();
    state
        .unpublish("web", &["8080:80".parse().unwrap()])
        .unwrap();
    assert_eq!(published(&state, "web"), ["0.0.0.0:8081->80/tcp"]);
    state
        .publish("web", &["[::]::80".parse().unwrap()], &host)
        .unwrap();

    // The next network has its own address; one that isn't routed has none to
    // give in its place.
    state
        .connect("other", "web", &EndpointRequest::default())
        .unwrap();
    state.disconnect("seen", "web").unwrap();
    let moved = ["0.0.0.0:8081->80/tcp", "[2001:db8:8::2]:80->80/tcp"];
    assert_eq!(published(&state, "web"), moved);
    state
        .connect("six", "web", &EndpointRequest::default())
        .unwrap();
    state.disconnect("other", "web").unwrap();
    assert_eq!(published(&state, "web"), moved[..1]);
}

#[test]
fn routed_networks_that_are_refused() {
    type Case = (&'static str, fn(&mut NetworkRequest));
    let cases: [Case; 4] = [
        ("add --ipv6", |r| r.subnets.clear()),
        ("leads nowhere", |r| r.internal = true),
        ("nat or routed", |r| {
            for mode in r.options.values_mut() {
                "bridged".clone_into(mode);
            }
        }),
        ("is not available", |r| {
            for mode in r.options.values_mut() {
                "nat-unprotected".clone_into(mode);
            }
        }),
    ];
    for (why, change) in cases {
        let mut request = routed("seen", "2001:db8:7::/64");
        change(&mut request);
        let refused = state().create_network(&request, &host6(&NO_SOCKETS));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused:?} has no {why:?}");
    }
}
