//! Networks and endpoints of a container engine.
//!
//! The engine gives their ids and asks for one step at a time: an endpoint is
//! offered, joins a sandbox, leads outside, and is withdrawn. netdp makes the
//! veth pair and leaves the container's end in the host's namespace; the engine
//! moves it into the sandbox, renames it, and gives it addresses and routes. So
//! netdp can't make that end again: an endpoint without it is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Endpoint, EndpointId, EndpointRequest, Exposed, HostPorts, HostView, LentPool, Mode, Name,
    Network, NetworkId, NetworkRequest, PidNamespace, PortRequest, PortTaken, Process, Proto,
    Publication, Refusal, Sandbox, SandboxId, State, connect::free_index, subnets::Family,
};

/// How far an engine is with the container's end of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handover {
    /// It lies in the host's namespace, for the engine to take.
    Offered,
    /// The engine has moved it into the sandbox.
    Taken,
}

/// Where the container's end of such an endpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nowhere: it went with its namespace, or somebody removed the pair.
    Gone,
    /// In the host's namespace.
    Here,
    /// In another one.
    Away,
}

impl State {
    /// Makes a network for an engine. Asked for once more it is the same one.
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network), or the id is that of
    /// another network.
    pub fn create_engine_network(
        &mut self,
        engine: &str,
        id: NetworkId,
        request: &NetworkRequest,
        host: &HostView<'_>,
    ) -> Result<Network, Refusal> {
        if let Some(known) = self.networks.get(&id) {
            return match is_same(known, request) {
                true => Ok(known.clone()),
                false => Err(Refusal::conflict(format!(
                    "network {} exists already, and is another one: remove it first",
                    known.name
                ))),
            };
        }
        self.whole(|state| {
            // What the engine was lent before is for its networks.
            let lent: BTreeMap<IpNet, LentPool> = request
                .subnets
                .iter()
                .filter_map(|subnet| state.lent.remove_entry(subnet))
                .collect();
            let network = state.new_network(id, Some(engine), request, host)?;
            state.lent.extend(lent);
            Ok(network)
        })
    }

    /// Removes a network of an engine. One that isn't there is no error.
    ///
    /// # Errors
    /// It has endpoints.
    pub fn remove_engine_network(&mut self, id: NetworkId) -> Result<(), Refusal> {
        if !self.networks.contains_key(&id) {
            return Ok(());
        }
        self.remove_network(&id.to_string()).map(drop)
    }

    /// Makes an endpoint whose container's end the engine is to take. Asked for
    /// once more it is the same one. Which addresses are free is the engine's to
    /// know: an endpoint that has one of them is gone, though its namespace may
    /// linger.
    ///
    /// # Errors
    /// There is no such network, or an address can't be had, or the id is that
    /// of another endpoint.
    pub fn offer_endpoint(
        &mut self,
        engine: &str,
        network: NetworkId,
        id: EndpointId,
        request: &EndpointRequest,
        now: u64,
    ) -> Result<Endpoint, Refusal> {
        if !self.networks.contains_key(&network) {
            return Err(Refusal::not_found(format!(
                "netdp has no network {}: remove it from {engine}, and make it again",
                network.short()
            )));
        }
        let asked: Vec<IpAddr> = [request.ip.map(IpAddr::V4), request.ip6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .collect();
        let has = |endpoint: &Endpoint, address: &IpAddr| {
            endpoint.address(Family::of(*address)) == Some(*address)
        };
        if let Some(known) = self.endpoints.get(&id) {
            let same = known.network == network
                && known.handover == Some(Handover::Offered)
                && asked.iter().all(|address| has(known, address))
                && request.mac.is_none_or(|mac| mac == known.mac)
                && !self.has_joined(known);
            return match same {
                true => Ok(known.clone()),
                false => Err(Refusal::conflict(format!(
                    "endpoint {} exists already: remove it first",
                    id.short()
                ))),
            };
        }
        self.whole(|state| {
            let superseded: Vec<EndpointId> = state
                .endpoints_in(network)
                .filter(|other| other.handover.is_some())
                .filter(|other| asked.iter().any(|address| has(other, address)))
                .map(|other| other.id)
                .collect();
            for other in superseded {
                state.withdraw_endpoint(other);
            }
            let sandbox = state.new_engine_sandbox(engine, id, now)?;
            let made = state.new_endpoint(id, network, sandbox, request)?.id;
            let endpoint = state.given(made)?;
            endpoint.handover = Some(Handover::Offered);
            endpoint.metric = None;
            Ok(endpoint.clone())
        })
    }

    /// A sandbox for an endpoint whose own is not known yet.
    fn new_engine_sandbox(
        &mut self,
        engine: &str,
        endpoint: EndpointId,
        now: u64,
    ) -> Result<SandboxId, Refusal> {
        let name = self
            .free_name(&endpoint.short())
            .or_else(|| self.free_name(&endpoint.to_string()))
            .ok_or_else(|| {
                Refusal::conflict(format!("a sandbox is called {} already", endpoint.short()))
            })?;
        let id = SandboxId::random();
        let sandbox = Sandbox {
            id,
            hostname: name.to_string(),
            name,
            netns: PathBuf::new(),
            process: None,
            mode: Mode::Networks,
            expose: Vec::new(),
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            owner: Some(engine.to_owned()),
            container: None,
            allow: Vec::new(),
            log: None,
            direct: false,
            command: Vec::new(),
            created: now,
        };
        self.sandboxes.insert(id, sandbox);
        Ok(id)
    }

    /// A text as a name, if it can be one and no sandbox has it.
    pub(super) fn free_name(&self, text: &str) -> Option<Name> {
        let name: Name = text.parse().ok()?;
        let mut sandboxes = self.sandboxes.values();
        (!sandboxes.any(|sandbox| sandbox.name == name)).then_some(name)
    }

    /// Puts an endpoint into the sandbox with this key, which is the path that
    /// its namespace has, or will have.
    ///
    /// # Errors
    /// There is no such endpoint, or it is in another sandbox, or the sandbox is
    /// in the network already.
    pub fn join_sandbox(
        &mut self,
        id: EndpointId,
        key: &Path,
        expose: &[Exposed],
    ) -> Result<Endpoint, Refusal> {
        let endpoint = self.given(id)?.clone();
        let own = self.sandboxes[&endpoint.sandbox].clone();
        if self.has_joined(&endpoint) {
            return match own.netns == key {
                true => Ok(endpoint),
                false => Err(Refusal::conflict(format!(
                    "endpoint {} is in sandbox {} already",
                    id.short(),
                    own.name
                ))),
            };
        }
        let joined = self
            .sandboxes
            .values()
            .find(|other| other.owner == own.owner && other.netns == key);
        let Some(joined) = joined.map(|joined| joined.id) else {
            let file = key.file_name().map(|name| name.to_string_lossy());
            let name = file.and_then(|name| self.free_name(&name));
            if let Some(sandbox) = self.sandboxes.get_mut(&own.id) {
                sandbox.netns = key.to_owned();
                sandbox.expose = expose.to_vec();
                if let Some(name) = name {
                    sandbox.hostname = name.to_string();
                    sandbox.name = name;
                }
            }
            return Ok(endpoint);
        };
        let siblings = self.endpoints_of(joined);
        if siblings.iter().any(|e| e.network == endpoint.network) {
            return Err(Refusal::conflict(format!(
                "sandbox {} is in network {} already",
                self.sandboxes[&joined].name, self.networks[&endpoint.network].name
            )));
        }
        let index = free_index(&siblings);
        self.sandboxes.remove(&own.id);
        let endpoint = self.given(id)?;
        endpoint.sandbox = joined;
        endpoint.index = index;
        endpoint.ifname = format!("eth{index}");
        Ok(endpoint.clone())
    }

    /// Makes an endpoint the one by which its sandbox reaches the outside, and
    /// at which these ports are published. What was published there before is
    /// not any more.
    ///
    /// # Errors
    /// There is no such endpoint, it has joined no sandbox, or a port can't be
    /// had. Nothing is changed then.
    pub fn lead_outside(
        &mut self,
        id: EndpointId,
        ports: &[PortRequest],
        host: &HostView<'_>,
    ) -> Result<Vec<Publication>, Refusal> {
        self.whole(|state| {
            let endpoint = state.given(id)?.clone();
            let network = &state.networks[&endpoint.network];
            if !state.has_joined(&endpoint) {
                return Err(Refusal::conflict(format!(
                    "endpoint {} has joined no sandbox yet",
                    id.short()
                )));
            }
            if network.internal {
                if ports.is_empty() {
                    return Ok(Vec::new());
                }
                return Err(Refusal::invalid(format!(
                    "network {} is internal: no port can be published there",
                    network.name
                )));
            }
            let siblings = state.endpoints_of(endpoint.sandbox);
            let others = siblings.iter().filter(|other| other.id != id);
            let highest = others.filter_map(|other| other.metric).max();
            let changed = state.given(id)?;
            changed.metric = Some(highest.map_or(0, |highest| highest + 1));
            // Programmed once more: netdp itself has these ports.
            let held = Held {
                ports: host.ports,
                published: mem::take(&mut changed.published),
            };
            let host = &host.with_ports(&held);
            let places: Vec<_> = [Family::V4, Family::V6]
                .into_iter()
                .filter(|family| *family == Family::V4 || host.no_ipv6.is_none())
                .filter(|family| {
                    let outward = state.outward(endpoint.sandbox, *family);
                    outward.is_some_and(|outward| outward.id == id)
                })
                .map(|family| (family, id))
                .collect();
            if places.is_empty() {
                return Ok(Vec::new());
            }
            let allow = state.allowed_sources(&endpoint);
            state.publish_at(endpoint.sandbox, &places, ports, &allow, host)
        })
    }

    /// Sources that may use the ports of an endpoint: its own list or, where it
    /// has none, that of another endpoint of its sandbox, or of one that has
    /// gone. The way out may move to a network that was named without one, which
    /// must not open the ports.
    fn allowed_sources(&self, endpoint: &Endpoint) -> Vec<IpNet> {
        let siblings = self.endpoints_of(endpoint.sandbox).into_iter();
        let left = self.sandboxes.get(&endpoint.sandbox);
        [endpoint]
            .into_iter()
            .chain(siblings)
            .map(|endpoint| &endpoint.allow)
            .chain(left.map(|sandbox| &sandbox.allow))
            .find(|allow| !allow.is_empty())
            .cloned()
            .unwrap_or_default()
    }

    /// An endpoint no longer leads its sandbox outside, and publishes nothing.
    /// One that isn't there is no error.
    pub fn stay_inside(&mut self, id: EndpointId) {
        if let Ok(endpoint) = self.given(id) {
            endpoint.metric = None;
            endpoint.published.clear();
        }
    }

    /// Removes an endpoint, and with its last one the sandbox. One that isn't
    /// there is no error.
    pub fn withdraw_endpoint(&mut self, id: EndpointId) {
        if self.given(id).is_err() {
            return;
        }
        let Some(gone) = self.endpoints.remove(&id) else {
            return;
        };
        if self.endpoints_of(gone.sandbox).is_empty() {
            // It is there: the endpoint was in it.
            let _ = self.remove_sandbox(&gone.sandbox.to_string());
        } else if !gone.allow.is_empty()
            && let Some(sandbox) = self.sandboxes.get_mut(&gone.sandbox)
        {
            sandbox.allow = gone.allow;
        }
    }

    /// Notes whose request an offer is, and where that process is seen from.
    pub fn offer_to(
        &mut self,
        id: EndpointId,
        process: Option<Process>,
        seen_from: Option<PidNamespace>,
    ) {
        if let Ok(endpoint) = self.given(id) {
            endpoint.offered_to = process;
            endpoint.offered_in = process.and(seen_from);
        }
    }

    /// Removes the endpoints that this process asked for and has not taken.
    pub fn withdraw_offers_to(&mut self, process: Process) {
        let is_left = |endpoint: &Endpoint| {
            endpoint.handover == Some(Handover::Offered) && endpoint.offered_to == Some(process)
        };
        for id in self.handed_over(is_left) {
            self.withdraw_endpoint(id);
        }
    }

    /// Removes an endpoint, unless an engine has taken it.
    pub fn withdraw_offer(&mut self, id: EndpointId) {
        if self
            .given(id)
            .is_ok_and(|it| it.handover == Some(Handover::Offered))
        {
            self.withdraw_endpoint(id);
        }
    }

    /// Notes which ends have been taken, and removes the endpoints whose end is
    /// gone, or came back to the host's namespace without their being withdrawn.
    /// Gives those that were removed.
    pub fn follow_ends(&mut self, end: impl Fn(&Endpoint) -> End) -> Vec<EndpointId> {
        let mut gone = Vec::new();
        for id in self.handed_over(|_| true) {
            let endpoint = &self.endpoints[&id];
            match (endpoint.handover, end(endpoint)) {
                (_, End::Gone) | (Some(Handover::Taken), End::Here) => {
                    self.withdraw_endpoint(id);
                    gone.push(id);
                }
                (Some(Handover::Offered), End::Away) => {
                    if let Ok(endpoint) = self.given(id) {
                        endpoint.handover = Some(Handover::Taken);
                    }
                }
                _ => {}
            }
        }
        gone
    }

    /// Whether there are endpoints of engines.
    pub fn has_handed_over(&self) -> bool {
        let mut endpoints = self.endpoints.values();
        endpoints.any(|endpoint| endpoint.handover.is_some())
    }

    /// Whether an engine puts the interfaces into a sandbox.
    pub fn is_handed_over(&self, sandbox: SandboxId) -> bool {
        let mut endpoints = self.endpoints.values();
        endpoints.any(|endpoint| endpoint.sandbox == sandbox && endpoint.handover.is_some())
    }

    /// The sandboxes into which engines put the interfaces.
    pub fn all_handed_over(&self) -> BTreeSet<SandboxId> {
        let endpoints = self.endpoints.values();
        let handed_over = endpoints.filter(|endpoint| endpoint.handover.is_some());
        handed_over.map(|endpoint| endpoint.sandbox).collect()
    }

    fn handed_over(&self, wanted: impl Fn(&Endpoint) -> bool) -> Vec<EndpointId> {
        self.endpoints
            .values()
            .filter(|endpoint| endpoint.handover.is_some() && wanted(endpoint))
            .map(|endpoint| endpoint.id)
            .collect()
    }

    fn has_joined(&self, endpoint: &Endpoint) -> bool {
        let sandbox = self.sandboxes.get(&endpoint.sandbox);
        sandbox.is_some_and(|sandbox| !sandbox.netns.as_os_str().is_empty())
    }

    fn given(&mut self, id: EndpointId) -> Result<&mut Endpoint, Refusal> {
        self.endpoints
            .get_mut(&id)
            .ok_or_else(|| Refusal::not_found(format!("netdp has no endpoint {}", id.short())))
    }
}

/// The host's ports for an endpoint that has some of them itself.
struct Held<'a> {
    ports: &'a dyn HostPorts,
    published: Vec<Publication>,
}

impl HostPorts for Held<'_> {
    fn probe(&self, address: IpAddr, port: u16, proto: Proto) -> Result<(), PortTaken> {
        let is_own = self.published.iter().any(|own| {
            let ports = own.host_ports();
            let everywhere = own.host_ip.is_unspecified();
            own.proto == proto
                && (ports.first()..=ports.last()).contains(&port)
                && own.host_ip.is_ipv4() == address.is_ipv4()
                && (everywhere || own.host_ip == address)
        });
        match is_own {
            true => Ok(()),
            false => self.ports.probe(address, port, proto),
        }
    }
}

/// Whether a network is what a request asks for.
fn is_same(known: &Network, request: &NetworkRequest) -> bool {
    let subnet = |subnet: &IpNet| known.pools.iter().any(|pool| pool.subnet == *subnet);
    let gateway = |gateway: &IpAddr| known.pools.iter().any(|pool| pool.gateway == *gateway);
    known.internal == request.internal
        && known.options == request.options
        && request.icc.is_none_or(|icc| icc == known.icc)
        && request.mtu.is_none_or(|mtu| mtu == known.mtu)
        && request.subnets.len() == known.pools.len()
        && request.subnets.iter().all(subnet)
        && request.gateways.iter().all(gateway)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
