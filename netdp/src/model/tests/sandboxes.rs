//! Sandboxes, and the networks that they are on.

use super::*;

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
