//! Requests of engines' plugins.

use super::tests::{NO_SOCKETS, Sockets, host, network, state, web};
use super::*;

fn request(container: &str, network_name: &str, publish: &[&str]) -> AttachmentRequest {
    AttachmentRequest {
        engine: "cni".to_owned(),
        callers: Vec::new(),
        container: Container {
            id: container.to_owned(),
            holds_ports: false,
        },
        name: None,
        netns: format!("/run/netns/{container}").into(),
        process: None,
        network: network(network_name),
        list: None,
        endpoint: EndpointRequest {
            interface: Some("eth0".to_owned()),
            ..EndpointRequest::default()
        },
        publish: publish.iter().map(|spec| spec.parse().unwrap()).collect(),
    }
}

fn attachment(container: &str, network: &str, interface: &str) -> Attachment {
    Attachment {
        engine: "cni".to_owned(),
        container: container.to_owned(),
        network: network.to_owned(),
        interface: interface.to_owned(),
        list: None,
    }
}

fn attach(state: &mut State, request: &AttachmentRequest) -> Endpoint {
    let (_, endpoint) = state.attach_container(request, &host(&NO_SOCKETS)).unwrap();
    state.endpoints[&endpoint].clone()
}

#[track_caller]
fn refused(state: &mut State, request: &AttachmentRequest, sockets: &Sockets) -> String {
    let before = state.clone();
    let refusal = state.attach_container(request, &host(sockets)).unwrap_err();
    assert_eq!(*state, before, "a refused request changed the state");
    refusal.to_string()
}

fn published(state: &State, id: &EndpointId) -> Vec<String> {
    let published = state.endpoints[id].published.iter();
    published.map(ToString::to_string).collect()
}

#[test]
fn a_network_is_there_from_its_first_container_to_its_last() {
    let mut state = state();
    let empty = state.clone();
    let one = attach(&mut state, &request("c1", "blue", &["8080:80"]));
    let two = attach(&mut state, &request("c2", "blue", &[]));
    assert_eq!(one.network, two.network);
    assert_eq!(one.ifname, "eth0");
    assert_eq!(published(&state, &one.id), ["0.0.0.0:8080->80/tcp"]);
    let all: Vec<_> = state.attachments().map(|(it, ..)| it).collect();
    assert_eq!(all.len(), 2);
    assert!(all.contains(&attachment("c1", "blue", "eth0")));

    assert!(
        state
            .detach_container(&attachment("c1", "blue", "eth0"))
            .is_some()
    );
    assert!(state.network("blue").is_ok());
    assert!(
        state
            .detach_container(&attachment("c2", "blue", "eth0"))
            .is_some()
    );
    assert!(state.network("blue").is_err());
    assert_eq!(state.sandboxes, empty.sandboxes);
    assert_eq!(state.endpoints, empty.endpoints);
    // What isn't there is no error.
    assert_eq!(
        state.detach_container(&attachment("c2", "blue", "eth0")),
        None
    );
}

#[test]
fn a_network_that_a_user_made_stays() {
    let mut state = state();
    state
        .create_network(&network("blue"), &host(&NO_SOCKETS))
        .unwrap();
    attach(&mut state, &request("c1", "blue", &[]));
    state.detach_container(&attachment("c1", "blue", "eth0"));
    assert!(state.network("blue").is_ok());
}

#[test]
fn a_namespace_that_goes_takes_its_network_along() {
    let mut state = state();
    attach(&mut state, &request("c1", "blue", &[]));
    state.remove_sandbox("c1").unwrap();
    assert!(state.network("blue").is_err());
}

#[test]
fn only_what_is_asked_for_is_taken_off() {
    let mut state = state();
    attach(&mut state, &request("c1", "blue", &[]));
    for other in [
        attachment("c2", "blue", "eth0"),
        attachment("c1", "red", "eth0"),
        attachment("c1", "blue", "eth1"),
        Attachment {
            engine: "netavark".to_owned(),
            ..attachment("c1", "blue", "eth0")
        },
    ] {
        assert_eq!(state.detach_container(&other), None, "{other:?}");
    }
    // Nor what a user started under that name.
    state
        .create_sandbox(&web("c9", &[]), &host(&NO_SOCKETS))
        .unwrap();
    assert_eq!(
        state.detach_container(&attachment("c9", "netdp0", "eth0")),
        None
    );
}

#[test]
fn a_container_may_be_on_several_networks() {
    let mut state = state();
    let ports = ["8080:80", "127.0.0.1:8082:80"];
    let one = attach(&mut state, &request("c1", "blue", &ports));
    let mut second = request("c1", "red", &ports);
    // The same name once more can't be.
    let why = refused(&mut state, &second, &NO_SOCKETS);
    assert!(why.contains("has an interface eth0 already"), "{why}");
    second.endpoint.interface = Some("eth1".to_owned());
    let two = attach(&mut state, &second);
    assert_eq!(two.sandbox, one.sandbox);
    assert_eq!((one.metric, two.metric), (Some(0), Some(1)));
    // The ports, which the engine names each time, are published once.
    let both = ["0.0.0.0:8080->80/tcp", "127.0.0.1:8082->80/tcp"];
    assert_eq!(published(&state, &one.id), both);
    assert!(published(&state, &two.id).is_empty());
    // And move on with what stays.
    state.detach_container(&attachment("c1", "blue", "eth0"));
    assert_eq!(published(&state, &two.id), both);
    // A further interface of ours gets a name that is free.
    let named = state
        .connect("netdp0", "c1", &EndpointRequest::default())
        .unwrap();
    assert_eq!(named.ifname, "eth0");
}

#[test]
fn ports_wait_for_a_network_that_leads_outside() {
    let mut state = state();
    let mut inside = request("c1", "inside", &["8080:80"]);
    inside.network.internal = true;
    let inside = attach(&mut state, &inside);
    assert!(published(&state, &inside.id).is_empty());
    let mut outside = request("c1", "blue", &["8080:80"]);
    outside.endpoint.interface = Some("eth1".to_owned());
    let outside = attach(&mut state, &outside);
    assert_eq!(published(&state, &outside.id), ["0.0.0.0:8080->80/tcp"]);
}

#[test]
fn a_conflict_leaves_nothing() {
    let mut state = state();
    attach(&mut state, &request("c1", "blue", &["8080:80"]));
    let mut sockets = Sockets::default();
    sockets.0.insert((8081, Proto::Tcp), "nginx");
    for (ports, why) in [
        (["8080:80"], "published by c1"),
        (["8081:80"], "used by nginx"),
    ] {
        // The network that it would have made isn't there either.
        let refusal = refused(&mut state, &request("c2", "green", &ports), &sockets);
        assert!(refusal.contains("address already in use"), "{refusal}");
        assert!(refusal.contains(why), "{refusal}");
    }
    let mut elsewhere = request("c1", "green", &[]);
    elsewhere.netns = "/run/netns/other".into();
    let refusal = refused(&mut state, &elsewhere, &NO_SOCKETS);
    assert!(refusal.contains("/run/netns/c1"), "{refusal}");
    let mut name = request("c3", "blue", &[]);
    name.endpoint.interface = Some("a/b".to_owned());
    let refusal = refused(&mut state, &name, &NO_SOCKETS);
    assert!(refusal.contains("name of an interface"), "{refusal}");
}

#[test]
fn a_network_that_is_there_has_to_fit() {
    let mut state = state();
    let mut there = network("blue");
    there.subnets = vec!["10.5.0.0/24".parse().unwrap()];
    state.create_network(&there, &host(&NO_SOCKETS)).unwrap();
    let asked = |change: fn(&mut NetworkRequest)| {
        let mut request = request("c1", "blue", &[]);
        change(&mut request.network);
        request
    };
    for (change, why) in [
        (
            (|it| it.subnets = vec!["10.6.0.0/24".parse().unwrap()]) as fn(&mut NetworkRequest),
            "with subnet 10.5.0.0/24, not 10.6.0.0/24",
        ),
        (
            |it| it.gateways = vec!["10.5.0.9".parse().unwrap()],
            "with gateway 10.5.0.1, not 10.5.0.9",
        ),
        (|it| it.internal = true, "with internal false, not true"),
        (|it| it.ipv6 = true, "with ipv6 false, not true"),
        (|it| it.icc = Some(false), "with icc true, not false"),
        (|it| it.mtu = Some(1400), "with mtu 1500, not 1400"),
        (
            |it| drop(it.options.insert("nat".into(), "x".into())),
            "with option nat none, not x",
        ),
    ] {
        let refusal = refused(&mut state, &asked(change), &NO_SOCKETS);
        assert!(refusal.contains(why), "{refusal}");
    }
    let fits = asked(|it| {
        it.subnets = vec!["10.5.0.0/24".parse().unwrap()];
        it.gateways = vec!["10.5.0.1".parse().unwrap()];
        it.mtu = Some(1500);
    });
    attach(&mut state, &fits);
}

#[test]
fn a_sandbox_is_called_as_its_container_where_that_is_free() {
    let mut state = state();
    let name = |state: &mut State, container: &str, name: Option<&str>| {
        let mut request = request(container, "blue", &[]);
        request.name = name.map(str::to_owned);
        let made = attach(state, &request).sandbox;
        state.sandboxes[&made].name.to_string()
    };
    assert_eq!(name(&mut state, "c1", Some("web")), "web");
    assert_eq!(name(&mut state, "c2", Some("web")), "c2");
    assert_eq!(name(&mut state, "c3", None), "c3");
    // One letter is no name, nor are more than 128.
    assert_eq!(name(&mut state, "c4", Some("x")), "c4");
    assert_eq!(name(&mut state, "y", Some("x")).len(), 12);
    assert_eq!(name(&mut state, &"z".repeat(200), None).len(), 12);
}
