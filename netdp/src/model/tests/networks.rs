//! Networks come, are refused, and go.

use super::*;

#[test]
fn the_first_network() {
    let state = state();
    let first = state.network(FIRST_NETWORK).unwrap();
    assert_eq!(first.pools[0].subnet.to_string(), "172.17.0.0/16");
    assert_eq!(first.pools[0].gateway.to_string(), "172.17.0.1");
    assert_eq!(first.bridge.as_ref().unwrap().ifname, "netdp0");
    assert_eq!(first.number, 3);
    let mut again = state.clone();
    let sockets = Sockets::default();
    assert_eq!(again.ensure_first_network(&host(&sockets)), Ok(None));
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn networks_that_are_refused() {
    let sockets = Sockets::default();
    let mut state = state();
    let mut refuse = |change: fn(&mut NetworkRequest)| {
        let mut request = network("net1");
        change(&mut request);
        refused(&mut state, |s| s.create_network(&request, &host(&sockets)))
    };
    let (kind, text) = refuse(|r| r.driver = Driver::Host);
    assert_eq!(kind, Kind::Conflict);
    assert!(text.starts_with("only one instance of \"host\" network is allowed"));
    let (_, text) = refuse(|r| r.driver = Driver::Null);
    assert!(text.starts_with("only one instance of \"null\" network is allowed"));
    type Case = (Kind, &'static str, fn(&mut NetworkRequest));
    let table: [Case; 18] = [
        (Kind::Unavailable, "overlay", |r| r.driver = Driver::Overlay),
        (Kind::Unavailable, "macvlan", |r| r.driver = Driver::Macvlan),
        (Kind::Unavailable, "ipvlan", |r| r.driver = Driver::Ipvlan),
        (Kind::Conflict, "exists already", |r| {
            r.name = "netdp0".parse().unwrap()
        }),
        (Kind::Conflict, "exists already", |r| {
            r.name = "host".parse().unwrap()
        }),
        (Kind::Conflict, "of network netdp0", |r| {
            r.subnets = vec!["172.16.0.0/12".parse().unwrap()];
        }),
        (Kind::Conflict, "route to 192.0.2.0/24", |r| {
            r.subnets = vec!["192.0.2.128/25".parse().unwrap()];
        }),
        (Kind::Invalid, "give the subnet, 10.1.0.0/16", |r| {
            r.subnets = vec!["10.1.2.3/16".parse().unwrap()];
        }),
        (Kind::Invalid, "gateway", |r| {
            r.subnets = vec!["10.1.0.0/16".parse().unwrap()];
            r.gateways = vec!["10.2.0.1".parse().unwrap()];
        }),
        (Kind::Invalid, "gateway", |r| {
            r.subnets = vec!["10.1.0.0/16".parse().unwrap()];
            r.gateways = vec!["10.1.255.255".parse().unwrap()];
        }),
        (Kind::Invalid, "range", |r| {
            r.subnets = vec!["10.1.0.0/24".parse().unwrap()];
            r.ip_ranges = vec!["10.1.0.0/16".parse().unwrap()];
        }),
        (Kind::Invalid, "MTU", |r| r.mtu = Some(10)),
        (Kind::Invalid, "'colour'", |r| {
            r.options.insert("colour".into(), "red".into());
        }),
        (Kind::Invalid, "big-tcp=on", |r| {
            r.options.insert("big-tcp".into(), "on".into());
        }),
        (Kind::Invalid, "device=macvlan", |r| {
            r.options.insert("device".into(), "macvlan".into());
        }),
        (Kind::Unavailable, "take device=auto", |r| {
            r.options.insert("device".into(), "netkit".into());
        }),
        (Kind::Invalid, "nat=symmetric", |r| {
            r.options.insert("nat".into(), "symmetric".into());
        }),
        (Kind::Invalid, "vn0123456789", |r| {
            let name = "com.docker.network.bridge.name";
            r.options.insert(name.into(), "vn0123456789".into());
        }),
    ];
    for (kind, word, change) in table {
        let (found, text) = refuse(change);
        assert_eq!(found, kind, "{text}");
        assert!(text.contains(word), "{text:?} has no {word:?}");
    }
}

#[test]
fn networks_that_are_always_there() {
    let mut state = state();
    for name in ["host", "none", FIRST_NETWORK] {
        let (kind, _) = refused(&mut state, |s| s.remove_network(name));
        assert_eq!(kind, Kind::Conflict);
    }
}

#[test]
fn networks_come_and_go() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    let long = "a-name-that-no-interface-can-have";
    let made = state.create_network(&network(long), &host).unwrap();
    assert_eq!(made.pools[0].subnet.to_string(), "172.18.0.0/16");
    assert!(made.bridge.unwrap().ifname.starts_with("nb"));
    for (name, own) in [("vn0123abcdef", false), ("vn0123abcdeg", true)] {
        let made = state.create_network(&network(name), &host).unwrap();
        assert_eq!(made.bridge.unwrap().ifname == name, own, "{name}");
        state.remove_network(name).unwrap();
    }
    let mut request = web("web1", &[]);
    request.networks = vec![long.into()];
    state.create_sandbox(&request, &host).unwrap();
    let (kind, text) = refused(&mut state, |s| s.remove_network(long));
    assert_eq!(kind, Kind::InUse);
    assert!(text.contains("web1"), "{text}");
    state.remove_sandbox("web1").unwrap();
    state.remove_network(&made.id.short()).unwrap();
    assert_eq!(state.network(long).unwrap_err().kind, Kind::NotFound);
    let again = state.create_network(&network("net2"), &host).unwrap();
    assert_ne!(
        again.number, made.number,
        "a number was given again at once"
    );
}

#[test]
fn pairs_of_netkit_are_for_kernels_that_have_them() {
    let sockets = Sockets::default();
    let mut state = state();
    let mut made = |name: &str, device: Option<&str>, has_netkit| {
        let view = HostView {
            has_netkit,
            ..host(&sockets)
        };
        let mut request = network(name);
        let given = device.map(|device| ("device".to_owned(), device.to_owned()));
        request.options.extend(given);
        let made = state.create_network(&request, &view);
        made.map(|network| network.device)
    };
    assert_eq!(made("net1", None, true), Ok(Device::Veth));
    assert_eq!(made("net2", Some("veth"), true), Ok(Device::Veth));
    assert_eq!(made("net3", Some("auto"), false), Ok(Device::Auto));
    assert_eq!(made("net4", Some("netkit"), true), Ok(Device::Netkit));
    assert_eq!(
        made("net5", Some("netkit"), false).unwrap_err().kind,
        Kind::Unavailable
    );
}

#[test]
fn options_that_every_network_has() {
    let options = BTreeMap::from([("sockmap".to_owned(), "auto".to_owned())]);
    let sockets = Sockets::default();
    let view = HostView {
        network_options: &options,
        ..host(&sockets)
    };
    let mut state = State::new(0);
    let first = state.ensure_first_network(&view).unwrap().unwrap();
    assert_eq!(first.sockmap, Sockmap::Auto);
    // They are the daemon's, not what was asked for.
    assert!(first.options.is_empty());
    assert_eq!(first.defaults, options);

    let mut own = network("own");
    own.options.insert("sockmap".into(), "off".into());
    let own = state.create_network(&own, &view).unwrap();
    assert_eq!(own.sockmap, Sockmap::Off);
    assert!(own.defaults.is_empty());
}

#[test]
fn defaults_that_can_be_no_networks() {
    let refused = |key: &str, value: &str| {
        let options = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        check_defaults(&options).unwrap_err().to_string()
    };
    assert!(refused("sockmpa", "on").contains("no network option 'sockmpa'"));
    assert!(refused("sockmap", "perhaps").contains("sockmap=perhaps"));
    assert!(refused(options::BRIDGE_NAME, "br0").contains("can't be that of every network"));
    let fine = BTreeMap::from([("big-tcp".to_owned(), "auto".to_owned())]);
    check_defaults(&fine).unwrap();
}
