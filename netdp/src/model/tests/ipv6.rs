//! Networks and addresses of IPv6.

use super::*;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn host6(ports: &dyn HostPorts) -> HostView<'_> {
    let mut view = host(&NO_SOCKETS);
    view.addresses
        .extend([ip("::1"), ip("2001:db8::1"), ip("fe80::1")]);
    view.routes.push("2001:db8::/64".parse().unwrap());
    HostView { ports, ..view }
}

pub(super) fn create(
    state: &mut State,
    change: impl FnOnce(&mut NetworkRequest),
) -> Result<Network, String> {
    let mut request = network("six");
    change(&mut request);
    state
        .create_network(&request, &host6(&NO_SOCKETS))
        .map_err(|refusal| refusal.to_string())
}

/// A state with network six, which has both families.
pub(super) fn dual_stack() -> State {
    let mut state = state();
    create(&mut state, |r| r.subnets = nets(&["fd00:6::/64"])).unwrap();
    state
}

pub(super) fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(super) fn sandbox(name: &str, network: &str, ports: &[&str]) -> SandboxRequest {
    SandboxRequest {
        networks: vec![network.into()],
        ..web(name, ports)
    }
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
