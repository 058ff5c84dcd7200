//! Requests on a state, and what other modules' tests need of them.

mod block;
mod ipv6;
mod ipv6_ports;
mod limit;
mod networks;
mod ports;
mod sandboxes;

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

/// What a daemon without defaults for networks has.
pub(crate) static NO_OPTIONS: BTreeMap<String, String> = BTreeMap::new();

/// A host with the address 192.0.2.1/24 on eth0.
pub(crate) fn host(ports: &Sockets) -> HostView<'_> {
    HostView {
        routes: vec![
            "0.0.0.0/0".parse().unwrap(),
            "192.0.2.0/24".parse().unwrap(),
        ],
        addresses: vec!["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
        gateways: vec!["192.0.2.254".parse().unwrap()],
        interfaces: BTreeSet::from(["lo".into(), "eth0".into()]),
        ports,
        no_ipv6: None,
        has_netkit: false,
        network_options: &NO_OPTIONS,
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
