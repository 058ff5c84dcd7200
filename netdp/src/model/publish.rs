//! Published ports: which host port a container port gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netdp_common::maps::MAX_PORTS;

use super::{
    EndpointId, HostView, Mode, PortRange, PortRequest, PortSpec, Proto, Publication, Refusal,
    SandboxId, State, spec::EPHEMERAL, subnets::Family,
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
        } else {
            continue;
        };
        return Err(Refusal::unavailable(format!(
            "port {spec} can't be published: {what} is not available yet; \
             give a tcp or udp port"
        )));
    }
    Ok(specs.iter().flat_map(PortSpec::requests).collect())
}

/// Whose the published ports of the host are.
#[derive(Default)]
struct Ports {
    of_host: BTreeMap<(u16, Proto), Vec<(IpAddr, EndpointId)>>,
    /// Those at containers' own addresses, which nobody else can have.
    of_containers: BTreeSet<Publication>,
}

impl Ports {
    fn of(state: &State) -> Self {
        let mut ports = Self::default();
        for endpoint in state.endpoints.values() {
            for publication in &endpoint.published {
                if endpoint.is_at_itself(publication) {
                    ports.of_containers.insert(*publication);
                } else {
                    ports.add(publication, endpoint.id);
                }
            }
        }
        ports
    }

    fn add(&mut self, publication: &Publication, endpoint: EndpointId) {
        self.of_host
            .entry((publication.host_port, publication.proto))
            .or_default()
            .push((publication.host_ip, endpoint));
    }

    /// Who publishes a port that shares an address with this one.
    fn owner(&self, address: IpAddr, port: u16, proto: Proto) -> Option<(IpAddr, EndpointId)> {
        self.of_host
            .get(&(port, proto))?
            .iter()
            .find(|(other, _)| {
                *other == address
                    || Family::of(*other) == Family::of(address)
                        && (other.is_unspecified() || address.is_unspecified())
            })
            .copied()
    }

    fn count(&self, family: Family) -> usize {
        let of_host = self.of_host.values().flatten().map(|(address, _)| *address);
        let of_containers = self.of_containers.iter().map(|port| port.host_ip);
        let addresses = of_host.chain(of_containers);
        addresses.filter(|address| family.has(*address)).count()
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
                    let at_itself = endpoint.clone();
                    let taken = endpoint.published.extract_if(.., |publication| {
                        let own = at_itself.is_at_itself(publication);
                        requests
                            .iter()
                            .any(|request| request.fits(publication, own))
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
        let endpoints = self.publishing_endpoints(sandbox, host)?;
        let mut ports = Ports::of(self);
        let mut published = Vec::new();
        for request in requests {
            let places = self.places(sandbox, &endpoints, request, host)?;
            let of_host: Vec<IpAddr> = places
                .iter()
                .filter(|place| !place.routed)
                .map(|place| place.address)
                .collect();
            let host_port = if of_host.is_empty() {
                request.container_port
            } else {
                self.choose_port(&of_host, request, &ports, host)?
            };
            let before = published.len();
            for Place {
                address,
                endpoint,
                routed,
            } in places
            {
                let publication = Publication {
                    host_ip: address,
                    host_port: if routed {
                        request.container_port
                    } else {
                        host_port
                    },
                    container_port: request.container_port,
                    proto: request.proto,
                };
                if !routed {
                    ports.add(&publication, endpoint);
                } else if !ports.of_containers.insert(publication) {
                    // By another port of the host, in the other family.
                    continue;
                }
                published.push((endpoint, publication));
            }
            if published.len() == before {
                let (port, proto) = (request.container_port, request.proto);
                return Err(Refusal::conflict(format!(
                    "{} publishes {port}/{proto} already: a routed network takes no port of the \
                     host",
                    self.sandboxes[&sandbox].name
                )));
            }
        }
        for family in [Family::V4, Family::V6] {
            let count = ports.count(family);
            if count > MAX_PORTS as usize {
                return Err(Refusal::in_use(format!(
                    "{} more ports can't be published: {count} would be over {family}, and \
                     {MAX_PORTS} can; unpublish some",
                    requests.len(),
                )));
            }
        }
        for &(endpoint, publication) in &published {
            if let Some(endpoint) = self.endpoints.get_mut(&endpoint) {
                endpoint.publish(publication);
            }
        }
        Ok(published
            .into_iter()
            .map(|(_, publication)| publication)
            .collect())
    }

    /// At which addresses of the host a port is published, and by which
    /// endpoints. Without an address of its own it gets the network's default
    /// one, or all: of both families where the sandbox has both.
    fn places(
        &self,
        sandbox: SandboxId,
        endpoints: &[(Family, EndpointId)],
        request: &PortRequest,
        host: &HostView<'_>,
    ) -> Result<Vec<Place>, Refusal> {
        let place = |address: IpAddr| {
            let mut endpoints = endpoints.iter();
            endpoints
                .find(|(family, _)| family.has(address))
                .and_then(|&(family, endpoint)| self.place(address, family, endpoint))
        };
        let asked = request.host_ip.or_else(|| {
            let (family, endpoint) = endpoints.first()?;
            let endpoint = self.endpoints.get(endpoint)?;
            let binding = self.networks.get(&endpoint.network)?.host_binding;
            binding.filter(|_| !self.is_routed(endpoint, *family))
        });
        let Some(address) = asked else {
            let all = [
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ];
            return Ok(all.into_iter().filter_map(place).collect());
        };
        check_address(address, host)?;
        match place(address) {
            Some(place) if place.routed && !address.is_unspecified() => {
                Err(Refusal::invalid(format!(
                    "{} can't be published at {address}: its network is routed, so its ports are \
                     reached at {}; leave the host address out",
                    self.sandboxes[&sandbox].name, place.address
                )))
            }
            Some(place) => Ok(vec![place]),
            None => {
                let family = Family::of(address);
                let name = &self.sandboxes[&sandbox].name;
                let or = match family {
                    Family::V4 => "an IPv6 address of the host",
                    Family::V6 => {
                        "an IPv4 address of the host, or connect it to a network made with --ipv6"
                    }
                };
                Err(Refusal::invalid(format!(
                    "{name} can't be published at {address}: it has no {family} address that \
                     leads outside; give {or}"
                )))
            }
        }
    }

    /// At an address of the host; or, of a routed network, at the endpoint's
    /// own.
    fn place(&self, address: IpAddr, family: Family, id: EndpointId) -> Option<Place> {
        let endpoint = self.endpoints.get(&id)?;
        let routed = self.is_routed(endpoint, family);
        Some(Place {
            address: if routed {
                endpoint.address(family)?
            } else {
                address
            },
            endpoint: id,
            routed,
        })
    }

    /// The endpoints at which ports are published, one a family that both the
    /// sandbox and the host have.
    fn publishing_endpoints(
        &self,
        id: SandboxId,
        host: &HostView<'_>,
    ) -> Result<Vec<(Family, EndpointId)>, Refusal> {
        let families = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| *family == Family::V4 || host.no_ipv6.is_none());
        let endpoints: Vec<_> = families
            .filter_map(|family| Some((family, self.outward(id, family)?.id)))
            .collect();
        if !endpoints.is_empty() {
            return Ok(endpoints);
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

    /// A port that is free at each of these addresses.
    fn choose_port(
        &mut self,
        addresses: &[IpAddr],
        request: &PortRequest,
        ports: &Ports,
        host: &HostView<'_>,
    ) -> Result<u16, Refusal> {
        let proto = request.proto;
        let free = |&port: &u16| {
            addresses.iter().all(|&address| {
                ports.owner(address, port, proto).is_none()
                    && host.ports.probe(address, port, proto).is_ok()
            })
        };
        let Some(range) = request.host_ports else {
            let last = self.counters.port;
            let above = EPHEMERAL.ports().filter(|&port| port > last);
            let below = EPHEMERAL.ports().filter(|&port| port <= last);
            let port = above.chain(below).find(free);
            self.counters.port = port.unwrap_or(last);
            return port.ok_or_else(|| no_port(addresses, EPHEMERAL, proto));
        };
        if range.count() > 1 {
            return range
                .ports()
                .find(free)
                .ok_or_else(|| no_port(addresses, range, proto));
        }
        let port = range.first();
        for &address in addresses {
            self.check_port(address, port, proto, ports, host)?;
        }
        Ok(port)
    }

    fn check_port(
        &self,
        address: IpAddr,
        port: u16,
        proto: Proto,
        ports: &Ports,
        host: &HostView<'_>,
    ) -> Result<(), Refusal> {
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
        host.ports.probe(address, port, proto).map_err(|taken| {
            Refusal::in_use(format!(
                "address already in use: {}/{proto} is used by {}; \
                 give another host port or stop it",
                SocketAddr::new(address, port),
                taken.by.as_deref().unwrap_or("a program of the host")
            ))
        })
    }
}

/// Where a port is published.
struct Place {
    /// Of the host, or the endpoint's own.
    address: IpAddr,
    endpoint: EndpointId,
    routed: bool,
}

impl PortRequest {
    /// Whether a published port is one that is asked for. What the request
    /// leaves out fits every value. One at the container's own address
    /// (`at_itself`) was asked for in the same words as one of the host.
    pub fn fits(&self, publication: &Publication, at_itself: bool) -> bool {
        let Publication {
            host_ip,
            host_port,
            container_port,
            proto,
        } = *publication;
        if self.container_port != container_port || self.proto != proto {
            return false;
        }
        if at_itself {
            return self.host_ip.is_none_or(|address| {
                address == host_ip
                    || address.is_unspecified() && Family::of(address) == Family::of(host_ip)
            });
        }
        self.host_ip.is_none_or(|address| address == host_ip)
            && self
                .host_ports
                .is_none_or(|range| (range.first()..=range.last()).contains(&host_port))
    }
}

fn no_port(addresses: &[IpAddr], range: PortRange, proto: Proto) -> Refusal {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Refusal::in_use(format!(
        "address already in use: none of the ports {range}/{proto} of {} is free; \
         give another host port",
        addresses.join(" and ")
    ))
}

fn check_address(address: IpAddr, host: &HostView<'_>) -> Result<(), Refusal> {
    if let (IpAddr::V6(_), Some(reason)) = (address, host.no_ipv6) {
        return Err(Refusal::unavailable(format!(
            "nothing can be published at {address}: {reason}; or give an IPv4 address"
        )));
    }
    if let IpAddr::V6(v6) = address
        && v6.is_unicast_link_local()
    {
        return Err(Refusal::invalid(format!(
            "{address} means something on one link only: give a global address of the host, \
             or none for every address"
        )));
    }
    if address.is_unspecified() || address.is_loopback() || host.addresses.contains(&address) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "{address} is not an address of the host: give one of its own, or none for every address"
    )))
}
