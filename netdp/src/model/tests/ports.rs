//! Ports are chosen, published and taken back.

use super::*;

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

/// Found by an index, and the same as by looking at each.
#[test]
fn what_is_taken_back_is_what_the_words_mean() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    let option = "com.docker.network.bridge.gateway_mode_ipv4";
    let routed = NetworkRequest {
        options: [(option.to_owned(), "routed".to_owned())].into(),
        ..network("routed")
    };
    state.create_network(&routed, &host).unwrap();
    let all = [
        "8080:80",
        "127.0.0.1:8082:81",
        "8081:80",
        "8080:80/udp",
        "9000-9009:90-99",
        "9010:90",
        "192.0.2.1:9000-9001:80-81/udp",
    ];
    state.create_sandbox(&web("host", &all), &host).unwrap();
    let mut own = web("own", &["80", "8080:81", "53/udp", "90-99"]);
    own.networks = vec!["routed".into()];
    state.create_sandbox(&own, &host).unwrap();
    let asked = [
        "80",
        "80/udp",
        "80-81",
        "90-99",
        "90",
        "91",
        "1-65535",
        "8080:80",
        "8081:81",
        "0.0.0.0:8080:80",
        "127.0.0.1:8082:81",
        "127.0.0.1::81",
        "8000-8100:80",
        "9000-9009:90-99",
        "9001:91",
        "9000-9010:90-100",
        "192.0.2.1:9000-9001:80-81/udp",
        "53/udp",
    ];
    for name in ["host", "own"] {
        for asked in asked {
            let spec: PortSpec = asked.parse().unwrap();
            let id = state.sandbox(name).unwrap().id;
            let endpoints = state.endpoints_of(id);
            let meant: Vec<Publication> = endpoints
                .iter()
                .flat_map(|it| {
                    it.published
                        .iter()
                        .filter(|p| spec.fits(p, it.is_at_itself(p)))
                })
                .cloned()
                .collect();
            let mut next = state.clone();
            let taken = next.unpublish(name, &[spec]).unwrap_or_default();
            assert_eq!(taken, meant, "{asked} of {name}");
            let kept = published(&next, name);
            let left = published(&state, name);
            let left = left
                .into_iter()
                .filter(|it| !meant.iter().any(|gone| gone.to_string() == *it));
            assert_eq!(kept, left.collect::<Vec<_>>(), "{asked} of {name}");
        }
    }
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
    let request = web("web1", &["8080:80/sctp"]);
    let (kind, text) = refused(&mut state, |s| s.create_sandbox(&request, &host));
    assert_eq!(kind, Kind::Unavailable);
    assert!(
        text.contains("sctp") && text.contains("not available yet"),
        "{text}"
    );
    let (kind, text) = refused(&mut state, |s| {
        s.create_sandbox(&web("web1", &["198.51.100.1:8080:80"]), &host)
    });
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("198.51.100.1 is not an address of the host"));
}

#[test]
fn a_direct_port_is_published_once_and_where_somebody_looks() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    let request = SandboxRequest {
        process: Some(Process {
            pid: 1,
            start_time: 1,
        }),
        ..web("web1", &["8080:80,direct"])
    };
    state.create_sandbox(&request, &host).unwrap();
    let spec = |text: &str| [text.parse::<PortSpec>().unwrap()];
    let published = state
        .publish("web1", &spec("8081:81,direct"), &host)
        .unwrap();
    assert!(published.iter().all(|port| port.direct));
    for again in ["9090:80", "9090:80,direct", "9000-9002:79-81"] {
        let (kind, text) = refused(&mut state, |s| s.publish("web1", &spec(again), &host));
        assert_eq!(kind, Kind::Conflict, "{again}");
        assert!(text.contains("published once"), "{text}");
    }
    // Of a namespace that was attached without one nobody looks.
    let plain = web("web2", &["8090:80"]);
    state.create_sandbox(&plain, &host).unwrap();
    let (kind, text) = refused(&mut state, |s| {
        s.publish("web2", &spec("8091:81,direct"), &host)
    });
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("netdp run"), "{text}");
    let published = state
        .publish("web1", &spec("8080:80/udp,direct"), &host)
        .unwrap();
    assert!(published.iter().all(|port| port.direct));
    state.unpublish("web1", &spec("8080:80")).unwrap();
    state.publish("web1", &spec("9090:80"), &host).unwrap();
}

#[test]
fn a_network_may_ask_for_direct_ports_where_they_can_be() {
    let sockets = Sockets::default();
    let host = host(&sockets);
    let mut state = state();
    for (name, mode) in [("fast", None), ("routed", Some("routed"))] {
        let mut request = NetworkRequest::new(name.parse().unwrap());
        request.options.insert("publish".into(), "direct".into());
        if let Some(mode) = mode {
            let key = "com.docker.network.bridge.gateway_mode_ipv4";
            request.options.insert(key.into(), mode.into());
        }
        state.create_network(&request, &host).unwrap();
    }
    let process = Process {
        pid: 1,
        start_time: 1,
    };
    let process = Some(process);
    let mut direct = |network: &str, process: Option<Process>, specs: &[&str]| {
        let name = format!("{network}{}{}", specs.len(), process.is_some());
        let request = SandboxRequest {
            process,
            networks: vec![network.into()],
            ..web(&name, specs)
        };
        let sandbox = state.create_sandbox(&request, &host).unwrap();
        let published = &state.endpoints_of(sandbox.id)[0].published;
        published.iter().map(|it| it.direct).collect::<Vec<bool>>()
    };
    assert_eq!(
        direct("fast", process, &["8080:80", "53:53/udp"]),
        [true, true]
    );
    assert_eq!(direct("fast", None, &["8081:80"]), [false]);
    assert_eq!(direct("routed", process, &["8082:80"]), [false]);
    let twice = ["8083:80", "8084:80", "8085:81"];
    assert_eq!(direct("fast", process, &twice), [false, false, true]);
}
