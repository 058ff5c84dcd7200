//! Requests on a state, and what other modules' tests need of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::*;

/// Ports of programs of the host, with their names.
#[derive(Default)]
pub(crate) struct Sockets(pub BTreeMap<(u16, Proto), &'static str>);

/// No program has a port.
pub(crate) static NO_SOCKETS: Sockets = Sockets(BTreeMap::new());

impl HostPorts for Sockets {
    fn probe(&self, _: IpAddr, port: u16, proto: Proto) -> Result<(), PortTaken> {
        match self.0.get(&(port, proto)) {
            None => Ok(()),
            Some(name) => Err(PortTaken {
                by: Some((*name).into()),
            }),
        }
    }
}

/// A host with the address 192.0.2.1/24 on eth0.
pub(crate) fn host(ports: &Sockets) -> HostView<'_> {
    HostView {
        routes: vec![
            "0.0.0.0/0".parse().unwrap(),
            "192.0.2.0/24".parse().unwrap(),
        ],
        addresses: vec!["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
        interfaces: BTreeSet::from(["lo".into(), "eth0".into()]),
        ports,
        no_ipv6: None,
        now: 1_700_000_000,
    }
}

/// A state with the first network.
pub(crate) fn state() -> State {
    let mut state = State::new(1_700_000_000);
    state
        .ensure_first_network(&host(&Sockets::default()))
        .unwrap();
    state
}

pub(crate) fn web(name: &str, publish: &[&str]) -> SandboxRequest {
    SandboxRequest {
        name: Some(name.parse().unwrap()),
        netns: format!("/run/netns/{name}").into(),
        publish: publish.iter().map(|spec| spec.parse().unwrap()).collect(),
        ..SandboxRequest::default()
    }
}

pub(crate) fn network(name: &str) -> NetworkRequest {
    NetworkRequest::new(name.parse().unwrap())
}

/// Runs a request that must be refused without changing anything.
fn refused<T: std::fmt::Debug>(
    state: &mut State,
    request: impl FnOnce(&mut State) -> Result<T, Refusal>,
) -> (Kind, String) {
    let before = state.clone();
    let refusal = request(state).unwrap_err();
    assert_eq!(*state, before, "a refused request changed the state");
    (refusal.kind, refusal.to_string())
}

fn published(state: &State, name: &str) -> Vec<String> {
    let id = state.sandbox(name).unwrap().id;
    let endpoints = state.endpoints_of(id);
    let published = endpoints.iter().flat_map(|e| &e.published);
    published.map(ToString::to_string).collect()
}

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
    let table: [Case; 15] = [
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
fn a_sandbox_has_all_it_asked_for() {
    let sockets = Sockets::default();
    let mut state = state();
    let request = web("web1", &["8080:80", "127.0.0.1:8443:443"]);
    let sandbox = state.create_sandbox(&request, &host(&sockets)).unwrap();
    let endpoints = state.endpoints_of(sandbox.id);
    let [endpoint] = endpoints[..] else {
        panic!("{endpoints:?}");
    };
    assert_eq!(endpoint.v4().unwrap().to_string(), "172.17.0.2");
    assert_eq!(endpoint.gateway4().unwrap().to_string(), "172.17.0.1");
    assert_eq!(endpoint.ifname, "eth0");
    assert_eq!(endpoint.metric, Some(0));
    assert!(endpoint.host_ifname.starts_with("vn"));
    assert_eq!(endpoint.host_ifname.len(), 12);
    assert_eq!(
        published(&state, "web1"),
        ["0.0.0.0:8080->80/tcp", "127.0.0.1:8443->443/tcp"]
    );
    assert_eq!(sandbox.hostname, "web1");
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn ports_in_use_name_their_owner() {
    let nginx = Sockets(BTreeMap::from([(
        (9000, Proto::Tcp),
        "process nginx (pid 12)",
    )]));
    let host = host(&nginx);
    let mut state = state();
    state
        .create_sandbox(&web("web1", &["8080:80", "192.0.2.1:8081:81"]), &host)
        .unwrap();
    for (spec, start) in [
        (
            "8080:80",
            "address already in use: 0.0.0.0:8080/tcp is published by web1",
        ),
        (
            "127.0.0.1:8080:80",
            "address already in use: 0.0.0.0:8080/tcp is published by web1",
        ),
        (
            "8081:80",
            "address already in use: 192.0.2.1:8081/tcp is published by web1",
        ),
        (
            "9000:80",
            "address already in use: 0.0.0.0:9000/tcp is used by process nginx (pid 12)",
        ),
        (
            "9000-9000:80",
            "address already in use: 0.0.0.0:9000/tcp is used by process nginx",
        ),
    ] {
        let request = web("web2", &[spec]);
        let (kind, text) = refused(&mut state, |s| s.create_sandbox(&request, &host));
        assert_eq!(kind, Kind::InUse);
        assert!(text.starts_with(start), "{text}");
    }
    for free in ["8080:80/udp", "127.0.0.1:8081:80", "9000:80/udp"] {
        state.create_sandbox(&web("web2", &[free]), &host).unwrap();
        state.remove_sandbox("web2").unwrap();
    }
    let twice = web("web3", &["8090:80", "8090:81"]);
    let (kind, _) = refused(&mut state, |s| s.create_sandbox(&twice, &host));
    assert_eq!(kind, Kind::InUse);
}

#[test]
fn ports_are_chosen() {
    let nginx = Sockets(BTreeMap::from([
        ((49154, Proto::Tcp), "nginx"),
        ((8000, Proto::Tcp), "nginx"),
    ]));
    let host = host(&nginx);
    let mut state = state();
    state
        .create_sandbox(&web("web1", &["80", "81", "8000-8002:82"]), &host)
        .unwrap();
    assert_eq!(
        published(&state, "web1"),
        [
            "0.0.0.0:49153->80/tcp",
            "0.0.0.0:49155->81/tcp",
            "0.0.0.0:8001->82/tcp"
        ]
    );
    state
        .publish("web1", &["8000-8002:83".parse().unwrap()], &host)
        .unwrap();
    let none_left = ["8000-8002:84".parse().unwrap()];
    let (kind, text) = refused(&mut state, |s| s.publish("web1", &none_left, &host));
    assert_eq!(kind, Kind::InUse);
    assert!(text.contains("8000-8002/tcp"), "{text}");
    state.remove_sandbox("web1").unwrap();
    let mut all = web("web2", &["8080:80"]);
    all.publish_all = true;
    all.expose = vec!["80-81".parse().unwrap(), "53/udp".parse().unwrap()];
    state.create_sandbox(&all, &host).unwrap();
    assert_eq!(
        published(&state, "web2"),
        [
            "0.0.0.0:8080->80/tcp",
            "0.0.0.0:49156->81/tcp",
            "0.0.0.0:49157->53/udp"
        ]
    );
}

#[test]
fn ports_come_and_go_while_it_runs() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    state
        .create_sandbox(&web("web1", &["8080:80"]), &host)
        .unwrap();
    let more = ["8000-8002:90-92".parse().unwrap()];
    let whole = state.publish("web1", &more, &host).unwrap();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].to_string(), "0.0.0.0:8000-8002->90-92/tcp");
    let part = ["8001:91".parse().unwrap()];
    let (kind, text) = refused(&mut state, |s| s.unpublish("web1", &part));
    assert_eq!(kind, Kind::Invalid);
    assert_eq!(
        text,
        "8001:91/tcp is a part of 0.0.0.0:8000-8002->90-92/tcp, which web1 publishes as a \
         whole: unpublish that"
    );
    let wrong = ["8080:80".parse().unwrap(), "8005:95".parse().unwrap()];
    let (kind, _) = refused(&mut state, |s| s.unpublish("web1", &wrong));
    assert_eq!(kind, Kind::NotFound);
    assert_eq!(state.unpublish("web1", &more).unwrap().len(), 1);
    assert_eq!(
        state
            .unpublish("web1", &["80".parse().unwrap()])
            .unwrap()
            .len(),
        1
    );
    assert!(published(&state, "web1").is_empty());
}

#[test]
fn ports_that_overlap_are_refused() {
    let nginx = Sockets(BTreeMap::from([((25_001, Proto::Tcp), "nginx")]));
    let host = host(&nginx);
    let mut state = state();
    let specs = [
        "20000-24999:20000-24999",
        "25500:80",
        "192.0.2.1:26000-26009:90-99",
    ];
    state.create_sandbox(&web("web1", &specs), &host).unwrap();
    for (spec, words) in [
        (
            "24999:1",
            "0.0.0.0:24999/tcp overlaps 0.0.0.0:20000-24999/tcp, which is published by web1",
        ),
        (
            "127.0.0.1:20000:1",
            "127.0.0.1:20000/tcp overlaps 0.0.0.0:20000-24999/tcp",
        ),
        (
            "19000-20000:9000-10000",
            "0.0.0.0:19000-20000/tcp overlaps 0.0.0.0:20000-24999/tcp",
        ),
        (
            "25400-25600:1-201",
            "0.0.0.0:25400-25600/tcp overlaps 0.0.0.0:25500/tcp",
        ),
        ("26009-26010:1-2", "overlaps 192.0.2.1:26000-26009/tcp"),
        (
            "20000-24999:1-5000",
            "0.0.0.0:20000-24999/tcp is published by web1",
        ),
        ("25000-25002:1-3", "0.0.0.0:25001/tcp is used by nginx"),
        ("27000-27009:1-10", ""),
        ("127.0.0.1:26000-26009:1-10", ""),
        ("20000-24999:1-5000/udp", ""),
    ] {
        let specs = [spec.parse().unwrap()];
        if words.is_empty() {
            state.publish("web1", &specs, &host).unwrap();
            continue;
        }
        let (kind, text) = refused(&mut state, |s| s.publish("web1", &specs, &host));
        assert_eq!(kind, Kind::InUse);
        assert!(text.starts_with("address already in use: "), "{text}");
        assert!(text.contains(words), "{text}");
    }
    // Chosen ones are none of them.
    let one = ["24998-25003:7".parse().unwrap()];
    let chosen = state.publish("web1", &one, &host).unwrap();
    assert_eq!(chosen[0].host_port, 25_000);
}

#[test]
fn ports_are_published_to_those_who_are_named() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    let nets = |texts: &[&str]| -> Vec<ipnet::IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let mut request = web("web1", &["8080:80"]);
    request.allow = nets(&["10.1.2.3/8", "10.0.0.0/16", "192.0.2.7/32", "10.1.2.3/8"]);
    state.create_sandbox(&request, &host).unwrap();
    let id = state.sandbox("web1").unwrap().id;
    let given = nets(&["10.0.0.0/8", "192.0.2.7/32"]);
    assert_eq!(state.endpoints_of(id)[0].published[0].allow, given);
    // What is published later is for the same, unless others are named.
    let later = state
        .publish("web1", &["8081:81".parse().unwrap()], &host)
        .unwrap();
    assert_eq!(later[0].allow, given);
    let others = nets(&["2001:db8::/32"]);
    let spec = ["8082:82".parse().unwrap()];
    let named = state.publish_to("web1", &spec, &others, &host).unwrap();
    assert_eq!(named[0].allow, others);
}

#[test]
fn what_is_not_available_yet_is_named() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    for (spec, word) in [("8080:80,direct", "'direct'"), ("8080:80/sctp", "sctp")] {
        let request = web("web1", &[spec]);
        let (kind, text) = refused(&mut state, |s| s.create_sandbox(&request, &host));
        assert_eq!(kind, Kind::Unavailable);
        assert!(
            text.contains(word) && text.contains("not available yet"),
            "{text}"
        );
    }
    let (kind, text) = refused(&mut state, |s| {
        s.create_sandbox(&web("web1", &["198.51.100.1:8080:80"]), &host)
    });
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("198.51.100.1 is not an address of the host"));
}

#[test]
fn modes() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    let with = |name: &str, networks: &[&str]| SandboxRequest {
        networks: networks.iter().map(|n| (*n).into()).collect(),
        ..web(name, &[])
    };
    state.create_sandbox(&with("web1", &[]), &host).unwrap();
    let shared = state
        .create_sandbox(&with("side1", &["container:web1"]), &host)
        .unwrap();
    let web1 = state.sandbox("web1").unwrap().id;
    assert_eq!(shared.mode, Mode::Container(web1));
    let chained = state
        .create_sandbox(&with("side2", &["container:side1"]), &host)
        .unwrap();
    assert_eq!(chained.mode, Mode::Container(web1));
    assert_eq!(
        state
            .create_sandbox(&with("h1", &["host"]), &host)
            .unwrap()
            .mode,
        Mode::Host
    );
    assert_eq!(
        state
            .create_sandbox(&with("n1", &["none"]), &host)
            .unwrap()
            .mode,
        Mode::None
    );
    assert_eq!(state.endpoints.len(), 1);
    for networks in [
        &["host", "netdp0"][..],
        &["netdp0", "none"],
        &["netdp0", "netdp0"],
    ] {
        let request = with("bad", networks);
        let (kind, _) = refused(&mut state, |s| s.create_sandbox(&request, &host));
        assert_eq!(kind, Kind::Invalid);
    }
    let mut publishes = with("bad", &["host"]);
    publishes.publish = vec!["80".parse().unwrap()];
    let (kind, text) = refused(&mut state, |s| s.create_sandbox(&publishes, &host));
    assert_eq!(kind, Kind::Invalid);
    assert!(
        text.starts_with("-p makes no sense with network host"),
        "{text}"
    );
    for name in ["h1", "n1", "side1"] {
        let request = EndpointRequest::default();
        let (kind, _) = refused(&mut state, |s| s.connect("netdp0", name, &request));
        assert_eq!(kind, Kind::Conflict);
    }
    state.disconnect("none", "n1").unwrap();
    state
        .connect("netdp0", "n1", &EndpointRequest::default())
        .unwrap();
    state.remove_sandbox("web1").unwrap();
    assert_eq!(state.sandbox("side1").unwrap().mode, Mode::None);
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn several_networks() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    state.create_network(&network("net1"), &host).unwrap();
    let mut inside = network("inside");
    inside.internal = true;
    state.create_network(&inside, &host).unwrap();
    let mut request = web("web1", &["8080:80"]);
    request.networks = vec!["inside".into(), "netdp0".into()];
    let id = state.create_sandbox(&request, &host).unwrap().id;
    state
        .connect("net1", "web1", &EndpointRequest::default())
        .unwrap();
    let seen: Vec<_> = state
        .endpoints_of(id)
        .iter()
        .map(|e| (e.ifname.clone(), e.metric, e.published.len()))
        .collect();
    assert_eq!(
        seen,
        [
            ("eth0".into(), None, 0),
            ("eth1".into(), Some(0), 1),
            ("eth2".into(), Some(1), 0)
        ]
    );
    let (kind, _) = refused(&mut state, |s| {
        s.connect("net1", "web1", &EndpointRequest::default())
    });
    assert_eq!(kind, Kind::Conflict);
    state.disconnect("netdp0", "web1").unwrap();
    assert_eq!(published(&state, "web1"), ["0.0.0.0:8080->80/tcp"]);
    assert_eq!(
        state.outward(id, subnets::Family::V4).unwrap().ifname,
        "eth2"
    );
    state
        .connect("netdp0", "web1", &EndpointRequest::default())
        .unwrap();
    let names: Vec<_> = state
        .endpoints_of(id)
        .iter()
        .map(|e| e.ifname.clone())
        .collect();
    assert_eq!(names, ["eth0", "eth1", "eth2"]);
    state.disconnect("net1", "web1").unwrap();
    state.disconnect("netdp0", "web1").unwrap();
    let (kind, text) = refused(&mut state, |s| {
        s.publish("web1", &["80".parse().unwrap()], &host)
    });
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("no network that leads outside"), "{text}");
}

#[test]
fn fixed_addresses_and_names() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    let mut fixed = web("web1", &[]);
    fixed.ip = Some("172.17.9.9".parse().unwrap());
    fixed.mac = Some("02:00:00:00:00:09".parse().unwrap());
    let id = state.create_sandbox(&fixed, &host).unwrap().id;
    assert_eq!(state.endpoints_of(id)[0].v4(), fixed.ip);
    let (kind, text) = refused(&mut state, |s| s.create_sandbox(&fixed, &host));
    assert_eq!(kind, Kind::Conflict);
    assert!(text.contains("name web1 is in use"), "{text}");
    fixed.name = Some("web2".parse().unwrap());
    fixed.netns = "/run/netns/web2".into();
    let (kind, text) = refused(&mut state, |s| s.create_sandbox(&fixed, &host));
    assert_eq!(kind, Kind::InUse);
    assert!(text.contains("02:00:00:00:00:09"), "{text}");
    fixed.mac = None;
    let (kind, text) = refused(&mut state, |s| s.create_sandbox(&fixed, &host));
    assert_eq!(kind, Kind::InUse);
    assert!(text.contains("172.17.9.9"), "{text}");
}

#[test]
fn references() {
    let sockets = Sockets::default();
    let mut state = state();
    let id = state
        .create_sandbox(&web("web1", &[]), &host(&sockets))
        .unwrap()
        .id;
    let long = id.to_string();
    for reference in ["web1", &long, &long[..12], &long[..1]] {
        assert_eq!(state.sandbox(reference).unwrap().id, id);
    }
    for reference in ["", "web", "web12", "zz"] {
        assert_eq!(state.sandbox(reference).unwrap_err().kind, Kind::NotFound);
    }
    // With 17 of them two begin with the same digit.
    let mut first_digits = vec![id.to_string()[..1].to_owned()];
    for n in 0..16 {
        let request = web(&format!("more{n}"), &[]);
        let id = state.create_sandbox(&request, &host(&sockets)).unwrap().id;
        first_digits.push(id.to_string()[..1].to_owned());
    }
    first_digits.sort();
    let twice = first_digits.windows(2).find(|w| w[0] == w[1]).unwrap();
    assert_eq!(state.sandbox(&twice[0]).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn links_name_neighbours() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    state.create_sandbox(&web("db1", &[]), &host).unwrap();
    let mut linked = web("web1", &[]);
    linked.links = vec!["db1:db".parse().unwrap()];
    state.create_sandbox(&linked, &host).unwrap();
    let mut strict = network("strict");
    strict.icc = Some(false);
    state.create_network(&strict, &host).unwrap();
    let mut far = web("web2", &[]);
    far.networks = vec!["strict".into()];
    far.links = linked.links.clone();
    let (kind, _) = refused(&mut state, |s| s.create_sandbox(&far, &host));
    assert_eq!(kind, Kind::Invalid);
    state
        .connect("strict", "db1", &EndpointRequest::default())
        .unwrap();
    state.create_sandbox(&far, &host).unwrap();
}

#[test]
fn requests_read_from_json() {
    let request: SandboxRequest =
        serde_json::from_str(r#"{"netns": "/n", "publish": ["8080:80"], "links": ["db1:db"]}"#)
            .unwrap();
    assert_eq!(request.publish[0].to_string(), "8080:80/tcp");
    for bad in [
        r#"{"nets": "/n"}"#,
        r#"{"publish": ["8080:"]}"#,
        r#"{"name": "a b"}"#,
        r#"{"mac": "01:00:00:00:00:00"}"#,
    ] {
        assert!(
            serde_json::from_str::<SandboxRequest>(bad).is_err(),
            "{bad}"
        );
    }
    let state = state();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}
