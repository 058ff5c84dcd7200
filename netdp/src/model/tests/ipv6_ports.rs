//! Ports that are published over IPv6, and those of routed networks.

use super::{
    ipv6::{create, dual_stack, host6, ip, nets, sandbox},
    *,
};

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
