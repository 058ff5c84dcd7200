//! Published ports: at which addresses a port of a container is published, and by
//! which endpoint.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

use ipnet::IpNet;
use netdp_common::maps::{MAX_PORTS, MAX_RANGES};

use super::{
    EndpointId, HostView, Mode, PortRange, PortRequest, PortSpec, Proto, Publication, Refusal,
    SandboxId, State, publication::normal, subnets::Family, taken::Ports, taking::Taking,
};

/// The single ports that `specs` ask for.
///
/// # Errors
/// One asks for what isn't available yet.
pub(super) fn requests(specs: &[PortSpec]) -> Result<Vec<PortRequest>, Refusal> {
    for spec in specs {
        if spec.proto == Proto::Sctp {
            return Err(Refusal::unavailable(format!(
                "port {spec} can't be published: sctp is not available yet; give a tcp or udp port"
            )));
        }
    }
    Ok(specs.iter().flat_map(PortSpec::requests).collect())
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
        self.publish_to(sandbox, specs, &[], host)
    }

    /// The same for some sources alone. Where none are given, those count that
    /// were given to the sandbox.
    ///
    /// # Errors
    /// As above.
    pub fn publish_to(
        &mut self,
        sandbox: &str,
        specs: &[PortSpec],
        allow: &[IpNet],
        host: &HostView<'_>,
    ) -> Result<Vec<Publication>, Refusal> {
        let id = self.sandbox(sandbox)?.id;
        let requests = requests(specs)?;
        self.whole(|state| state.publish_requests(id, &requests, allow, host))
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
            let endpoints = state.endpoints.values_mut();
            let mut endpoints: Vec<_> = endpoints
                .filter(|endpoint| endpoint.sandbox == id)
                .map(|endpoint| (Taking::of(endpoint), endpoint))
                .collect();
            let mut gone = Vec::new();
            for spec in specs {
                let before = gone.len();
                for (taking, _) in &mut endpoints {
                    taking.take(spec, &mut gone);
                }
                if gone.len() > before {
                    continue;
                }
                let mut all = endpoints.iter().flat_map(|(taking, _)| taking.left());
                return Err(match all.find(|it| spec.meets(it)) {
                    Some(whole) => Refusal::invalid(format!(
                        "{spec} is a part of {whole}, which {name} publishes as a whole: \
                         unpublish that"
                    )),
                    None => Refusal::not_found(format!(
                        "{name} doesn't publish {spec}: see `netdp port {name}`"
                    )),
                });
            }
            for (taking, endpoint) in endpoints {
                endpoint.published = taking.into_left();
            }
            Ok(gone)
        })
    }

    pub(super) fn publish_requests(
        &mut self,
        sandbox: SandboxId,
        requests: &[PortRequest],
        allow: &[IpNet],
        host: &HostView<'_>,
    ) -> Result<Vec<Publication>, Refusal> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let endpoints = self.publishing_endpoints(sandbox, host)?;
        self.publish_at(sandbox, &endpoints, requests, allow, host)
    }

    /// Publishes ports of a sandbox at these endpoints of it.
    pub(super) fn publish_at(
        &mut self,
        sandbox: SandboxId,
        endpoints: &[(Family, EndpointId)],
        requests: &[PortRequest],
        allow: &[IpNet],
        host: &HostView<'_>,
    ) -> Result<Vec<Publication>, Refusal> {
        let mut ports = Ports::of(self);
        let mut published = Vec::new();
        for request in requests {
            let places = self.places(sandbox, endpoints, request, host)?;
            self.check_direct(sandbox, request, &places)?;
            let direct = request.direct || self.goes_direct(sandbox, request, &places, requests);
            let of_host: Vec<IpAddr> = places
                .iter()
                .filter(|place| !place.routed)
                .map(|place| place.address)
                .collect();
            let own_port = request.container_ports.first();
            let host_port = if of_host.is_empty() {
                own_port
            } else {
                self.choose_port(&of_host, request, &ports, host)?
            };
            let count = u16::try_from(request.container_ports.count())
                .ok()
                .and_then(NonZeroU16::new)
                .unwrap_or(NonZeroU16::MIN);
            let before = published.len();
            for Place {
                address,
                endpoint,
                routed,
            } in places
            {
                let allow = match self.endpoints.get(&endpoint) {
                    Some(endpoint) if allow.is_empty() => endpoint.allow.clone(),
                    _ => normal(allow),
                };
                let publication = Publication {
                    host_ip: address,
                    host_port: if routed { own_port } else { host_port },
                    container_port: own_port,
                    proto: request.proto,
                    count,
                    allow,
                    direct,
                };
                self.check_alone(sandbox, &publication, &published)?;
                if !routed {
                    ports.add(&publication, endpoint);
                } else if ports.is_of_container(&publication) {
                    // By another port of the host, in the other family.
                    continue;
                } else {
                    ports.of_containers.insert(publication.clone());
                }
                published.push((endpoint, publication));
            }
            if published.len() == before {
                let (port, proto) = (request.container_ports, request.proto);
                return Err(Refusal::conflict(format!(
                    "{} publishes {port}/{proto} already: a routed network takes no port of the \
                     host",
                    self.sandboxes[&sandbox].name
                )));
            }
        }
        for family in [Family::V4, Family::V6] {
            for (what, ranges, limit) in [
                ("ports", false, MAX_PORTS),
                ("ranges of ports", true, MAX_RANGES),
            ] {
                let count = ports.count(family, ranges);
                if count > limit as usize {
                    return Err(Refusal::in_use(format!(
                        "{} more {what} can't be published: {count} would be over {family}, and \
                         {limit} can; unpublish some",
                        requests.len(),
                    )));
                }
            }
        }
        for (endpoint, publication) in &published {
            if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
                endpoint.publish(publication.clone());
            }
        }
        if let Some(sandbox) = self.sandboxes.get_mut(&sandbox) {
            sandbox.direct |= published.iter().any(|(_, it)| it.direct);
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

    /// Whether sockets of the host can be had at these places by who asks.
    fn check_direct(
        &self,
        sandbox: SandboxId,
        request: &PortRequest,
        places: &[Place],
    ) -> Result<(), Refusal> {
        if !request.direct {
            return Ok(());
        }
        let sandbox = &self.sandboxes[&sandbox];
        let (name, port) = (&sandbox.name, request.container_ports);
        if !sandbox.direct && sandbox.owner.is_none() {
            return Err(Refusal::invalid(format!(
                "port {port} of {name} can't be direct: nobody looks at the ports that its \
                 programs bind; start it by `netdp run`, or attach it, with a direct port, or leave \
                 'direct' out"
            )));
        }
        if sandbox.holds_ports() {
            return Err(Refusal::invalid(format!(
                "port {port} of {name} can't be direct: its engine listens at the host's ports \
                 itself; put it on a network with publish=direct, or leave 'direct' out"
            )));
        }
        if let Some(place) = places.iter().find(|place| place.routed) {
            return Err(Refusal::invalid(format!(
                "port {port} of {name} can't be direct: its network is routed, so it is reached \
                 at {}; leave 'direct' out",
                place.address
            )));
        }
        Ok(())
    }

    /// Whether a port is direct without having been asked for by itself: by its
    /// network, and where it can be.
    fn goes_direct(
        &self,
        sandbox: SandboxId,
        request: &PortRequest,
        places: &[Place],
        requests: &[PortRequest],
    ) -> bool {
        let asks = |place: &Place| {
            let endpoint = self.endpoints.get(&place.endpoint)?;
            let network = self.networks.get(&endpoint.network)?;
            Some(endpoint.direct.unwrap_or(network.publish_direct) && !place.routed)
        };
        let is_same = |proto: Proto, ports: PortRange| {
            proto == request.proto && ports.meets(request.container_ports)
        };
        let asked = requests
            .iter()
            .filter(|other| is_same(other.proto, other.container_ports));
        let mut endpoints = self.endpoints.values().filter(|it| it.sandbox == sandbox);
        let is_published = endpoints.any(|endpoint| {
            let mut published = endpoint.published.iter();
            published.any(|it| is_same(it.proto, it.container_ports()))
        });
        let sandbox = &self.sandboxes[&sandbox];
        (sandbox.direct || sandbox.owner.is_some())
            && !sandbox.holds_ports()
            && places.iter().all(|place| asks(place) == Some(true))
            && asked.count() == 1
            && !is_published
    }

    /// A socket of the host is at one place: what leads to the container by
    /// another would find nobody.
    fn check_alone(
        &self,
        sandbox: SandboxId,
        publication: &Publication,
        published: &[(EndpointId, Publication)],
    ) -> Result<(), Refusal> {
        let endpoints = self.endpoints.values();
        let of_sandbox = endpoints.filter(|endpoint| endpoint.sandbox == sandbox);
        let before = of_sandbox.flat_map(|endpoint| &endpoint.published);
        let mut others = before.chain(published.iter().map(|(_, publication)| publication));
        let other = others.find(|other| {
            let apart = Family::of(other.host_ip) != Family::of(publication.host_ip);
            (other.direct || publication.direct)
                && !(apart && other.direct == publication.direct)
                && other.proto == publication.proto
                && other.container_ports().meets(publication.container_ports())
        });
        match other {
            Some(other) => Err(Refusal::conflict(format!(
                "{publication} can't be published beside {other}: a direct port is published \
                 once; unpublish one of them"
            ))),
            None => Ok(()),
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
}

/// Where a port is published.
struct Place {
    /// Of the host, or the endpoint's own.
    address: IpAddr,
    endpoint: EndpointId,
    routed: bool,
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
