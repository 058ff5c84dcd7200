use super::*;
use crate::model::{
    Kind, Proto,
    tests::{Sockets, host, network, state, web},
};

const KEY: &str = "/run/docker/netns/b853af6282dc";
const ENGINE: &str = "docker";

/// With two networks of an engine, 10.50.0.0/24 and 10.51.0.0/24.
fn example() -> (State, [NetworkId; 2]) {
    let mut state = state();
    let ids = [50, 51].map(|number| {
        let mut request = network(&format!("net{number}"));
        request.subnets = vec![format!("10.{number}.0.0/24").parse().unwrap()];
        let id = NetworkId::random();
        let sockets = Sockets::default();
        state
            .create_engine_network(ENGINE, id, &request, &host(&sockets))
            .unwrap();
        id
    });
    (state, ids)
}

fn at(address: &str) -> EndpointRequest {
    EndpointRequest {
        ip: Some(address.parse().unwrap()),
        ..EndpointRequest::default()
    }
}

fn offer(state: &mut State, network: NetworkId, address: &str) -> Result<EndpointId, Refusal> {
    let id = EndpointId::random();
    state.offer_endpoint(ENGINE, network, id, &at(address), 1)?;
    Ok(id)
}

fn join(state: &mut State, id: EndpointId, key: &str) -> Result<Endpoint, Refusal> {
    state.join_sandbox(id, Path::new(key), &[])
}

fn ports(ports: &[(u16, u16)]) -> Vec<PortRequest> {
    let range = |port| super::super::PortRange::single(port);
    ports
        .iter()
        .map(|&(host, container)| PortRequest {
            host_ip: None,
            host_ports: range(host),
            container_ports: range(container).unwrap(),
            proto: Proto::Tcp,
            direct: false,
        })
        .collect()
}

fn lead(state: &mut State, id: EndpointId, wanted: &[(u16, u16)]) -> Result<Vec<String>, Refusal> {
    let published = state.lead_outside(id, &ports(wanted), &host(&Sockets::default()))?;
    Ok(published.iter().map(ToString::to_string).collect())
}

/// One that has joined a sandbox.
fn joined(state: &mut State, network: NetworkId, address: &str, key: &str) -> EndpointId {
    let id = offer(state, network, address).unwrap();
    join(state, id, key).unwrap();
    id
}

#[test]
fn a_network_asked_for_twice_is_one() {
    let (mut state, _) = example();
    let sockets = Sockets::default();
    let mut request = network("fast");
    request.subnets = vec!["10.60.0.0/24".parse().unwrap()];
    request.gateways = vec!["10.60.0.1".parse().unwrap()];
    let id = NetworkId::random();
    let mut make = |request: &NetworkRequest| {
        state.create_engine_network(ENGINE, id, request, &host(&sockets))
    };
    let made = make(&request).unwrap();
    assert_eq!(
        made.bridge.as_ref().unwrap().ifname,
        format!("nb{}", &id.short()[..10])
    );
    assert_eq!(make(&request).unwrap(), made);
    request.internal = true;
    assert_eq!(make(&request).unwrap_err().kind, Kind::Conflict);
    state.remove_engine_network(id).unwrap();
    state.remove_engine_network(id).unwrap();
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn a_subnet_that_was_lent_is_for_the_engines_networks() {
    let (mut state, _) = example();
    let sockets = Sockets::default();
    let subnet: IpNet = "10.60.0.0/24".parse().unwrap();
    let request = super::super::lent::PoolRequest {
        subnet: Some(subnet),
        ..Default::default()
    };
    state.lend_pool(&request, &host(&sockets)).unwrap();
    let mut request = network("fast");
    request.subnets = vec![subnet];
    assert!(state.create_network(&request, &host(&sockets)).is_err());
    let id = NetworkId::random();
    state
        .create_engine_network(ENGINE, id, &request, &host(&sockets))
        .unwrap();
    assert!(state.lent.contains_key(&subnet));
}

#[test]
fn an_endpoint_is_offered_once() {
    let (mut state, [first, second]) = example();
    let id = offer(&mut state, first, "10.50.0.2").unwrap();
    let again = |state: &mut State, network, address: &str| {
        state.offer_endpoint(ENGINE, network, id, &at(address), 1)
    };
    let known = state.endpoints[&id].clone();
    assert_eq!(again(&mut state, first, "10.50.0.2").unwrap(), known);
    for (network, address) in [(first, "10.50.0.3"), (second, "10.51.0.2")] {
        let refused = again(&mut state, network, address).unwrap_err();
        assert_eq!(refused.kind, Kind::Conflict);
    }
    join(&mut state, id, KEY).unwrap();
    let refused = again(&mut state, first, "10.50.0.2").unwrap_err();
    assert_eq!(refused.kind, Kind::Conflict);
    let unknown = offer(&mut state, NetworkId::random(), "10.50.0.9").unwrap_err();
    assert_eq!(unknown.kind, Kind::NotFound);
    for bad in ["10.50.0.1", "10.52.0.2"] {
        let before = state.clone();
        assert!(offer(&mut state, first, bad).is_err(), "{bad}");
        assert_eq!(state, before);
    }
}

#[test]
fn sandboxes_have_the_name_of_their_key_and_all_their_endpoints() {
    let (mut state, [first, second]) = example();
    let one = offer(&mut state, first, "10.50.0.2").unwrap();
    assert_eq!(state.sandbox(&one.short()).unwrap().netns, Path::new(""));
    let sandbox = join(&mut state, one, KEY).unwrap().sandbox;
    assert_eq!(state.sandboxes[&sandbox].name.as_str(), "b853af6282dc");
    let two = offer(&mut state, second, "10.51.0.2").unwrap();
    let joined = join(&mut state, two, KEY).unwrap();
    assert_eq!((joined.sandbox, joined.ifname.as_str()), (sandbox, "eth1"));
    assert_eq!(state.sandboxes.len(), 1);
    // Once more is the same; elsewhere is refused.
    assert_eq!(join(&mut state, two, KEY).unwrap(), joined);
    assert!(join(&mut state, two, "/run/docker/netns/other").is_err());
    let twice = offer(&mut state, second, "10.51.0.3").unwrap();
    assert_eq!(
        join(&mut state, twice, KEY).unwrap_err().kind,
        Kind::Conflict
    );
    state.withdraw_endpoint(twice);
    state.withdraw_endpoint(one);
    assert_eq!(state.sandboxes.len(), 1);
    state.withdraw_endpoint(two);
    assert!(state.sandboxes.is_empty() && state.endpoints.is_empty());
    state.withdraw_endpoint(two);
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn only_the_endpoint_that_leads_outside_publishes() {
    let (mut state, [first, second]) = example();
    let one = joined(&mut state, first, "10.50.0.2", KEY);
    let two = joined(&mut state, second, "10.51.0.2", KEY);
    let port = [(8080, 80)];
    assert_eq!(
        lead(&mut state, one, &port).unwrap(),
        ["0.0.0.0:8080->80/tcp"]
    );
    // Once more is the same.
    lead(&mut state, one, &port).unwrap();
    assert_eq!(state.endpoints[&one].published.len(), 1);
    state.stay_inside(one);
    assert!(state.endpoints[&one].published.is_empty());
    assert_eq!(state.endpoints[&one].metric, None);
    lead(&mut state, two, &port).unwrap();
    assert_eq!(state.endpoints[&two].published.len(), 1);
    let offered = offer(&mut state, first, "10.50.0.9").unwrap();
    assert_eq!(
        lead(&mut state, offered, &[]).unwrap_err().kind,
        Kind::Conflict
    );
}

#[test]
fn who_may_use_a_port_stays_when_the_way_out_moves() {
    let (mut state, [one, two]) = example();
    let id = EndpointId::random();
    let allow: Vec<IpNet> = vec!["192.0.2.0/24".parse().unwrap()];
    let request = EndpointRequest {
        allow: allow.clone(),
        ..at("10.50.0.2")
    };
    state.offer_endpoint(ENGINE, one, id, &request, 1).unwrap();
    join(&mut state, id, KEY).unwrap();
    let sockets = Sockets::default();
    let published = state.lead_outside(id, &ports(&[(8080, 80)]), &host(&sockets));
    assert_eq!(published.unwrap()[0].allow, allow);
    let other = joined(&mut state, two, "10.51.0.2", KEY);
    state.stay_inside(id);
    let published = state.lead_outside(other, &ports(&[(8080, 80)]), &host(&sockets));
    assert_eq!(published.unwrap()[0].allow, allow);
    // Nor when it is left, in whatever order.
    state.withdraw_endpoint(id);
    state.stay_inside(other);
    let published = state.lead_outside(other, &ports(&[(8080, 80)]), &host(&sockets));
    assert_eq!(published.unwrap()[0].allow, allow);
    // A list that is given counts before one that was.
    let allow: Vec<IpNet> = vec!["198.51.100.0/24".parse().unwrap()];
    let id = EndpointId::random();
    let request = EndpointRequest {
        allow: allow.clone(),
        ..at("10.50.0.3")
    };
    state.offer_endpoint(ENGINE, one, id, &request, 1).unwrap();
    join(&mut state, id, KEY).unwrap();
    state.stay_inside(other);
    let published = state.lead_outside(id, &ports(&[(8080, 80)]), &host(&sockets));
    assert_eq!(published.unwrap()[0].allow, allow);
}

#[test]
fn a_port_that_is_taken_says_at_which_address() {
    let (mut state, [first, _]) = example();
    let one = joined(&mut state, first, "10.50.0.2", KEY);
    let two = joined(&mut state, first, "10.50.0.3", "/run/docker/netns/other");
    lead(&mut state, one, &[(8080, 80)]).unwrap();
    let before = state.clone();
    let refused = lead(&mut state, two, &[(8081, 80), (8080, 80)]).unwrap_err();
    assert_eq!(refused.taken(), Some("0.0.0.0:8080"));
    assert_eq!(state, before);
    let sockets = Sockets(BTreeMap::from([((8082, Proto::Tcp), "nginx")]));
    let refused = state.lead_outside(two, &ports(&[(8082, 80)]), &host(&sockets));
    assert_eq!(refused.unwrap_err().taken(), Some("0.0.0.0:8082"));
}

#[test]
fn who_is_in_the_way_is_called_as_the_engine_does() {
    let (mut state, [first, _]) = example();
    let one = joined(&mut state, first, "10.50.0.2", KEY);
    let two = joined(&mut state, first, "10.50.0.3", "/run/docker/netns/other");
    lead(&mut state, one, &[(8080, 80)]).unwrap();
    let refused = lead(&mut state, two, &[(8080, 80)]).unwrap_err();
    assert_eq!(refused.owner(), Some(one));
    let text = refused.with_owner_called("web").to_string();
    assert!(text.contains("published by web;"), "{text}");
    let mac = state.endpoints[&one].mac;
    let request = EndpointRequest {
        mac: Some(mac),
        ..at("10.50.0.4")
    };
    let id = EndpointId::random();
    let refused = state.offer_endpoint(ENGINE, first, id, &request, 1);
    let refused = refused.unwrap_err();
    assert_eq!(refused.owner(), Some(one));
    // As long as none of a range is free, the first is named as Docker does.
    let mut range = ports(&[(8080, 80)]);
    range[0].host_ports = super::super::PortRange::new(8080, 8081);
    let sockets = Sockets(BTreeMap::from([((8081, Proto::Tcp), "nginx")]));
    let refused = state
        .lead_outside(two, &range, &host(&sockets))
        .unwrap_err();
    assert_eq!(refused.taken(), Some("0.0.0.0:8080"));
    assert!(refused.to_string().contains("8080-8081"), "{refused}");
}

#[test]
fn each_family_has_its_own_way_out() {
    let (mut state, [first, _]) = example();
    let sockets = Sockets::default();
    let mut request = network("six");
    request.subnets = vec!["10.60.0.0/24".parse().unwrap()];
    request.ipv6 = true;
    let six = NetworkId::random();
    state
        .create_engine_network(ENGINE, six, &request, &host(&sockets))
        .unwrap();
    let four = joined(&mut state, first, "10.50.0.2", KEY);
    let both = joined(&mut state, six, "10.60.0.2", KEY);
    lead(&mut state, four, &[(8080, 80)]).unwrap();
    assert_eq!(
        lead(&mut state, both, &[(8080, 80)]).unwrap(),
        ["[::]:8080->80/tcp"]
    );
}

#[test]
fn what_has_an_address_that_is_given_anew_is_gone() {
    let (mut state, [first, _]) = example();
    let old = joined(&mut state, first, "10.50.0.2", KEY);
    lead(&mut state, old, &[(8080, 80)]).unwrap();
    let new = joined(&mut state, first, "10.50.0.2", "/run/docker/netns/other");
    assert!(!state.endpoints.contains_key(&old));
    lead(&mut state, new, &[(8080, 80)]).unwrap();
    // But what netdp itself put there stays.
    let mut own = web("own", &[]);
    own.networks = vec![first.to_string()];
    own.ip = Some("10.50.0.7".parse().unwrap());
    let sockets = Sockets::default();
    state.create_sandbox(&own, &host(&sockets)).unwrap();
    assert_eq!(
        offer(&mut state, first, "10.50.0.7").unwrap_err().kind,
        Kind::InUse
    );
}

#[test]
fn an_endpoints_own_ports_are_in_nobodys_way() {
    let (mut state, [first, _]) = example();
    let id = joined(&mut state, first, "10.50.0.2", KEY);
    let published = lead(&mut state, id, &[(8080, 80)]).unwrap();
    // As a look at the host finds them, where netdp has them now.
    let held = BTreeMap::from([
        ((8080, Proto::Tcp), "netdp"),
        ((8080, Proto::Udp), "named"),
        ((8081, Proto::Tcp), "nginx"),
    ]);
    let held = Sockets(held);
    let again = state.lead_outside(id, &ports(&[(8080, 80)]), &host(&held));
    let again: Vec<_> = again.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(again, published);
    let refused = state.lead_outside(id, &ports(&[(8080, 80), (8081, 81)]), &host(&held));
    assert_eq!(refused.unwrap_err().taken(), Some("0.0.0.0:8081"));
    let mut udp = ports(&[(8080, 80)]);
    udp[0].proto = Proto::Udp;
    let refused = state.lead_outside(id, &udp, &host(&held)).unwrap_err();
    assert_eq!(refused.taken(), Some("0.0.0.0:8080"));
    assert_eq!(state.endpoints[&id].published.len(), 1);
}

#[test]
fn ends_are_followed() {
    let (mut state, [first, _]) = example();
    let ids = ["10.50.0.2", "10.50.0.3", "10.50.0.4"]
        .map(|address| joined(&mut state, first, address, &format!("/netns/{address}")));
    let [stays, goes, comes_back] = ids;
    assert_eq!(state.follow_ends(|_| End::Here), []);
    assert_eq!(state.follow_ends(|_| End::Away), []);
    let all = state.endpoints.values();
    assert!(all.clone().all(|e| e.handover == Some(Handover::Taken)));
    let mut gone = state.follow_ends(|endpoint| match endpoint.id {
        id if id == goes => End::Gone,
        id if id == comes_back => End::Here,
        _ => End::Away,
    });
    gone.sort();
    let mut expected = vec![goes, comes_back];
    expected.sort();
    assert_eq!(gone, expected);
    assert_eq!(state.sandboxes.len(), 1);
    let offered = offer(&mut state, first, "10.50.0.9").unwrap();
    for id in [stays, offered] {
        state.withdraw_offer(id);
    }
    assert!(state.endpoints.contains_key(&stays) && !state.endpoints.contains_key(&offered));
    assert_eq!(state.check(), Ok(()));
}

#[test]
fn users_leave_to_the_engine_what_is_the_engines() {
    let (mut state, [first, _]) = example();
    joined(&mut state, first, "10.50.0.2", KEY);
    let refused = state
        .disconnect(&first.short(), "b853af6282dc")
        .unwrap_err();
    assert!(refused.to_string().contains("docker"), "{refused}");
    // What users put it into besides is named apart, and not its way out.
    let own = EndpointRequest::default();
    let own = state.connect("netdp0", "b853af6282dc", &own).unwrap();
    assert_eq!((own.ifname.as_str(), own.metric), ("netdp1", None));
}
