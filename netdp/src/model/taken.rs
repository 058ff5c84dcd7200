//! Ports of the host: whose they are, and which are free.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    EndpointId, HostView, PortRange, PortRequest, Proto, Publication, Refusal, State, host_side,
    spec::EPHEMERAL, subnets::Family,
};

/// Whose the published ports of the host are, by protocol and first port.
pub(super) struct Ports {
    taken: BTreeMap<(Proto, u16), Vec<Taken>>,
    /// As many ports as the longest range has.
    longest: u16,
    /// Those at containers' own addresses, which nobody else can have.
    pub(super) of_containers: BTreeSet<Publication>,
}

/// Ports of one address that are published.
struct Taken {
    address: IpAddr,
    ports: PortRange,
    endpoint: EndpointId,
}

impl Ports {
    pub(super) fn of(state: &State) -> Self {
        let mut ports = Self {
            taken: BTreeMap::new(),
            longest: 1,
            of_containers: BTreeSet::new(),
        };
        for endpoint in state.endpoints.values() {
            for publication in &endpoint.published {
                if endpoint.is_at_itself(publication) {
                    ports.of_containers.insert(publication.clone());
                } else {
                    ports.add(publication, endpoint.id);
                }
            }
        }
        ports
    }

    pub(super) fn add(&mut self, publication: &Publication, endpoint: EndpointId) {
        self.longest = self.longest.max(publication.count.get());
        self.taken
            .entry((publication.proto, publication.host_port))
            .or_default()
            .push(Taken {
                address: publication.host_ip,
                ports: publication.host_ports(),
                endpoint,
            });
    }

    /// Who publishes ports that share an address with these.
    fn owner(&self, address: IpAddr, ports: PortRange, proto: Proto) -> Option<&Taken> {
        let first = ports.first().saturating_sub(self.longest - 1);
        self.taken
            .range((proto, first)..=(proto, ports.last()))
            .flat_map(|(_, taken)| taken)
            .find(|taken| {
                let other = taken.address;
                taken.ports.meets(ports)
                    && (other == address
                        || Family::of(other) == Family::of(address)
                            && (other.is_unspecified() || address.is_unspecified()))
            })
    }

    /// Whether some of its ports are published at the container's own address.
    pub(super) fn is_of_container(&self, publication: &Publication) -> bool {
        self.of_containers.iter().any(|other| {
            (other.host_ip, other.proto) == (publication.host_ip, publication.proto)
                && other.host_ports().meets(publication.host_ports())
        })
    }

    /// How many entries those of a family take: of single ports, or of ranges.
    pub(super) fn count(&self, family: Family, ranges: bool) -> usize {
        let taken = self.taken.values().flatten();
        let of_host = taken.map(|taken| (taken.address, taken.ports.count() > 1));
        let of_containers = self.of_containers.iter();
        let of_containers = of_containers.map(|port| (port.host_ip, port.is_range()));
        of_host
            .chain(of_containers)
            .filter(|(address, range)| family.has(*address) && *range == ranges)
            .count()
    }
}

impl State {
    /// A port that is free at each of these addresses.
    pub(super) fn choose_port(
        &mut self,
        addresses: &[IpAddr],
        request: &PortRequest,
        ports: &Ports,
        host: &HostView<'_>,
    ) -> Result<u16, Refusal> {
        let proto = request.proto;
        let free = |&port: &u16| {
            addresses.iter().all(|&address| {
                PortRange::single(port)
                    .is_some_and(|port| ports.owner(address, port, proto).is_none())
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
        if range.count() > request.container_ports.count() {
            return range
                .ports()
                .find(free)
                .ok_or_else(|| no_port(addresses, range, proto));
        }
        for &address in addresses {
            self.check_ports(address, range, proto, ports, host)?;
        }
        Ok(range.first())
    }

    fn check_ports(
        &self,
        address: IpAddr,
        range: PortRange,
        proto: Proto,
        ports: &Ports,
        host: &HostView<'_>,
    ) -> Result<(), Refusal> {
        if let Some(taken) = ports.owner(address, range, proto) {
            let owner = match self.endpoints.get(&taken.endpoint) {
                Some(endpoint) => self.owner_name(endpoint),
                None => taken.endpoint.short(),
            };
            let other = host_side(taken.address, taken.ports);
            let asked = host_side(address, range);
            let text = if taken.ports == range {
                format!(
                    "address already in use: {other}/{proto} is published by {owner}; \
                     give another host port"
                )
            } else {
                format!(
                    "address already in use: {asked}/{proto} overlaps {other}/{proto}, which is \
                     published by {owner}; give other host ports"
                )
            };
            return Err(Refusal::port_taken(asked, text).because_of(taken.endpoint, owner));
        }
        range.ports().try_for_each(|port| {
            host.ports.probe(address, port, proto).map_err(|taken| {
                let at = SocketAddr::new(address, port).to_string();
                let by = taken.by.as_deref().unwrap_or("a program of the host");
                let text = format!(
                    "address already in use: {at}/{proto} is used by {by}; \
                     give another host port or stop it"
                );
                Refusal::port_taken(at, text)
            })
        })
    }
}

fn no_port(addresses: &[IpAddr], range: PortRange, proto: Proto) -> Refusal {
    let first = PortRange::single(range.first()).unwrap_or(range);
    let first = addresses.first().map(|address| host_side(*address, first));
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let text = format!(
        "address already in use: none of the ports {range}/{proto} of {} is free; \
         give another host port",
        addresses.join(" and ")
    );
    match first {
        // Docker names the first.
        Some(first) if range != EPHEMERAL => Refusal::port_taken(first, text),
        _ => Refusal::in_use(text),
    }
}
