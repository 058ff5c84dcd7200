//! Published ports: which host port a container port gets.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use netdp_common::maps::MAX_PORTS;

use super::{
    EndpointId, HostView, Mode, PortRange, PortRequest, PortSpec, Proto, Publication, Refusal,
    SandboxId, State, spec::EPHEMERAL,
};

/// The single ports that `specs` ask for.
///
/// # Errors
/// One asks for what isn't available yet.
pub(super) fn requests(specs: &[PortSpec]) -> Result<Vec<PortRequest>, Refusal> {
    for spec in specs {
        let what = if spec.direct {
            "'direct'"
        } else if spec.proto == Proto::Sctp {
            "sctp"
        } else if spec.host_ip.is_some_and(|address| address.is_ipv6()) {
            "IPv6"
        } else {
            continue;
        };
        return Err(Refusal::unavailable(format!(
            "port {spec} can't be published: {what} is not available yet; \
             give a tcp or udp port at an IPv4 address"
        )));
    }
    Ok(specs.iter().flat_map(PortSpec::requests).collect())
}

/// Whose the published ports of the host are.
struct Ports(BTreeMap<(u16, Proto), Vec<(IpAddr, EndpointId)>>);

impl Ports {
    fn of(state: &State) -> Self {
        let mut ports = Self(BTreeMap::new());
        for endpoint in state.endpoints.values() {
            for publication in &endpoint.published {
                ports.add(publication, endpoint.id);
            }
        }
        ports
    }

    fn add(&mut self, publication: &Publication, endpoint: EndpointId) {
        self.0
            .entry((publication.host_port, publication.proto))
            .or_default()
            .push((publication.host_ip, endpoint));
    }

    /// Who publishes a port that shares an address with this one.
    fn owner(&self, address: IpAddr, port: u16, proto: Proto) -> Option<(IpAddr, EndpointId)> {
        self.0
            .get(&(port, proto))?
            .iter()
            .find(|(other, _)| {
                *other == address || other.is_unspecified() || address.is_unspecified()
            })
            .copied()
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl State {
    /// Publishes ports of a sandbox.
    ///
    /// # Errors
    /// The sandbox doesn't exist or has no endpoint that the outside can reach,
    /// or a port or address can't be had. Nothing is changed then.
    pub fn publish(
        &mut self,
        sandbox: &str,
        specs: &[PortSpec],
        host: &HostView<'_>,
    ) -> Result<Vec<Publication>, Refusal> {
        let id = self.sandbox(sandbox)?.id;
        let requests = requests(specs)?;
        self.whole(|state| state.publish_requests(id, &requests, host))
    }

    /// Takes published ports back. What a spec leaves out fits every value.
    ///
    /// # Errors
    /// The sandbox doesn't exist, or publishes no port that a spec means.
    /// Nothing is changed then.
    pub fn unpublish(
        &mut self,
        sandbox: &str,
        specs: &[PortSpec],
    ) -> Result<Vec<Publication>, Refusal> {
        let sandbox = self.sandbox(sandbox)?;
        let (id, name) = (sandbox.id, sandbox.name.clone());
        self.whole(|state| {
            let mut gone = Vec::new();
            for spec in specs {
                let requests = spec.requests();
                let before = gone.len();
                for endpoint in state.endpoints.values_mut().filter(|e| e.sandbox == id) {
                    let taken = endpoint.published.extract_if(.., |publication| {
                        requests.iter().any(|request| request.fits(publication))
                    });
                    gone.extend(taken);
                }
                if gone.len() == before {
                    return Err(Refusal::not_found(format!(
                        "{name} doesn't publish {spec}: see `netdp port {name}`"
                    )));
                }
            }
            Ok(gone)
        })
    }

    pub(super) fn publish_requests(
        &mut self,
        sandbox: SandboxId,
        requests: &[PortRequest],
        host: &HostView<'_>,
    ) -> Result<Vec<Publication>, Refusal> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let endpoint = self.publishing_endpoint(sandbox)?;
        let default = self
            .endpoints
            .get(&endpoint)
            .and_then(|endpoint| self.networks.get(&endpoint.network)?.host_binding);
        let default = default.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut ports = Ports::of(self);
        if ports.count() + requests.len() > MAX_PORTS as usize {
            return Err(Refusal::in_use(format!(
                "{} more ports can't be published: {} of {MAX_PORTS} are; unpublish some",
                requests.len(),
                ports.count()
            )));
        }
        let mut published = Vec::new();
        for request in requests {
            let address = request.host_ip.unwrap_or(default);
            check_address(address, host)?;
            let publication = Publication {
                host_ip: address,
                host_port: self.choose_port(address, request, &ports, host)?,
                container_port: request.container_port,
                proto: request.proto,
            };
            ports.add(&publication, endpoint);
            published.push(publication);
        }
        if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
            endpoint.published.extend(&published);
        }
        Ok(published)
    }

    fn publishing_endpoint(&self, id: SandboxId) -> Result<EndpointId, Refusal> {
        if let Some(endpoint) = self.outward(id, None) {
            return Ok(endpoint.id);
        }
        let sandbox = &self.sandboxes[&id];
        let name = &sandbox.name;
        Err(Refusal::invalid(match sandbox.mode {
            Mode::Host => format!(
                "{name} is on the host's network: its ports are the host's, nothing to publish"
            ),
            Mode::Container(other) => match self.sandboxes.get(&other) {
                Some(other) => format!("{name} has the network of {0}: ask {0}", other.name),
                None => format!("{name} has the network of another sandbox: ask that one"),
            },
            Mode::Networks | Mode::None => format!(
                "{name} is in no network that leads outside: use `netdp connect {} {name}` first",
                super::FIRST_NETWORK
            ),
        }))
    }

    fn choose_port(
        &mut self,
        address: IpAddr,
        request: &PortRequest,
        ports: &Ports,
        host: &HostView<'_>,
    ) -> Result<u16, Refusal> {
        let proto = request.proto;
        let free = |&port: &u16| {
            ports.owner(address, port, proto).is_none()
                && host.ports.probe(address, port, proto).is_ok()
        };
        let Some(range) = request.host_ports else {
            let last = self.counters.port;
            let above = EPHEMERAL.ports().filter(|&port| port > last);
            let below = EPHEMERAL.ports().filter(|&port| port <= last);
            let port = above.chain(below).find(free);
            self.counters.port = port.unwrap_or(last);
            return port.ok_or_else(|| no_port(address, EPHEMERAL, proto));
        };
        if range.count() > 1 {
            return range
                .ports()
                .find(free)
                .ok_or_else(|| no_port(address, range, proto));
        }
        let port = range.first();
        if let Some((other, endpoint)) = ports.owner(address, port, proto) {
            let owner = match self.endpoints.get(&endpoint) {
                Some(endpoint) => self.owner_name(endpoint),
                None => endpoint.short(),
            };
            return Err(Refusal::in_use(format!(
                "address already in use: {}/{proto} is published by {owner}; \
                 give another host port",
                SocketAddr::new(other, port)
            )));
        }
        match host.ports.probe(address, port, proto) {
            Ok(()) => Ok(port),
            Err(taken) => Err(Refusal::in_use(format!(
                "address already in use: {}/{proto} is used by {}; \
                 give another host port or stop it",
                SocketAddr::new(address, port),
                taken.by.as_deref().unwrap_or("a program of the host")
            ))),
        }
    }
}

impl PortRequest {
    /// Whether a published port is one that is asked for. What the request
    /// leaves out fits every value.
    pub fn fits(&self, publication: &Publication) -> bool {
        let Publication {
            host_ip,
            host_port,
            container_port,
            proto,
        } = *publication;
        self.container_port == container_port
            && self.proto == proto
            && self.host_ip.is_none_or(|address| address == host_ip)
            && self
                .host_ports
                .is_none_or(|range| (range.first()..=range.last()).contains(&host_port))
    }
}

fn no_port(address: IpAddr, range: PortRange, proto: Proto) -> Refusal {
    Refusal::in_use(format!(
        "address already in use: none of the ports {range}/{proto} of {address} is free; \
         give another host port"
    ))
}

fn check_address(address: IpAddr, host: &HostView<'_>) -> Result<(), Refusal> {
    if address.is_unspecified() || address.is_loopback() || host.addresses.contains(&address) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "{address} is not an address of the host: give one of its own, or none for every address"
    )))
}
