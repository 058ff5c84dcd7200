//! The subnets of a network: those that were asked for, or free ones.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    HostView, Network, NetworkRequest, Refusal, State,
    ipam::{Pool, first_host},
    subnets::{self, Family},
};

impl State {
    /// One for each family that is asked for, IPv4 first.
    pub(super) fn pools(
        &self,
        request: &NetworkRequest,
        host: &HostView<'_>,
    ) -> Result<Vec<Pool>, Refusal> {
        let mut pools = Vec::new();
        if request.wants_ipv4() {
            pools.push(self.pool(Family::V4, request, host)?);
        } else {
            nothing_of(Family::V4, request)?;
        }
        if request.wants_ipv6() {
            if let Some(reason) = host.no_ipv6 {
                return Err(Refusal::unavailable(format!(
                    "network {} can't have IPv6: {reason}; or leave IPv6 out",
                    request.name
                )));
            }
            pools.push(self.pool(Family::V6, request, host)?);
        } else {
            nothing_of(Family::V6, request)?;
        }
        if pools.is_empty() {
            return Err(Refusal::invalid(format!(
                "network {} would have neither IPv4 nor IPv6: add --ipv6, or leave \
                 --ipv4=false out",
                request.name
            )));
        }
        Ok(pools)
    }

    fn pool(
        &self,
        family: Family,
        request: &NetworkRequest,
        host: &HostView<'_>,
    ) -> Result<Pool, Refusal> {
        let subnets = request.subnets.iter().copied();
        let subnet = match only(subnets.filter(|net| family.has(net.addr()))) {
            Ok(None) => self.free_subnet(family, host)?,
            Ok(Some(subnet)) => {
                subnets::check(subnet)?;
                self.check_overlap(subnet, host)?;
                subnet
            }
            Err((first, second)) => {
                return Err(Refusal::invalid(format!(
                    "a bridge network has one {family} subnet, not {first} and {second}: give one"
                )));
            }
        };
        let gateways = request.gateways.iter().copied();
        let gateway = match only(gateways.filter(|gateway| family.has(*gateway))) {
            Ok(gateway) => gateway.unwrap_or_else(|| first_host(subnet)),
            Err((first, second)) => {
                return Err(Refusal::invalid(format!(
                    "a subnet has one gateway, not {first} and {second}: give one"
                )));
            }
        };
        check_gateway(gateway, subnet)?;
        let ranges = request.ip_ranges.iter().copied();
        let range = match only(ranges.filter(|range| family.has(range.addr()))) {
            Ok(range) => range,
            Err((first, second)) => {
                return Err(Refusal::invalid(format!(
                    "a subnet has one range, not {first} and {second}: give one --ip-range"
                )));
            }
        };
        if let Some(range) = range.filter(|range| !subnet.contains(range)) {
            return Err(Refusal::invalid(format!(
                "the range {range} is not in {subnet}: give a part of it"
            )));
        }
        Ok(Pool {
            subnet,
            gateway,
            range: range.map(|range| range.trunc()),
            last: None,
        })
    }

    fn subnets(&self) -> impl Iterator<Item = (&Network, IpNet)> {
        self.networks
            .values()
            .flat_map(|network| network.pools.iter().map(move |pool| (network, pool.subnet)))
    }

    pub(super) fn free_subnet(
        &self,
        family: Family,
        host: &HostView<'_>,
    ) -> Result<IpNet, Refusal> {
        let own = self.subnets().map(|(_, subnet)| subnet);
        let lent = self.lent.keys().copied();
        let used: Vec<IpNet> = own.chain(lent).chain(host.used_subnets()).collect();
        let free = match family {
            Family::V4 => subnets::first_free(&used),
            Family::V6 => subnets::first_free_local(self.global_id(), &used),
        };
        free.ok_or_else(|| {
            Refusal::in_use(format!(
                "no {family} subnet is free: each overlaps a network or a route of the host; \
                 give one with --subnet"
            ))
        })
    }

    /// The random part of this instance's unique local addresses (RFC 4193,
    /// section 3.2): it was drawn with the instance.
    fn global_id(&self) -> u64 {
        u64::from_str_radix(&self.instance, 16).unwrap_or_else(|_| rand::random())
    }

    pub(super) fn check_overlap(&self, subnet: IpNet, host: &HostView<'_>) -> Result<(), Refusal> {
        for (network, other) in self.subnets() {
            if subnets::first_overlap(subnet, &[other]).is_some() {
                return Err(Refusal::conflict(format!(
                    "subnet {subnet} overlaps {other} of network {}: give another one",
                    network.name
                )));
            }
        }
        let lent: Vec<IpNet> = self.lent.keys().copied().collect();
        if let Some(other) = subnets::first_overlap(subnet, &lent) {
            return Err(Refusal::conflict(format!(
                "subnet {subnet} overlaps {other}, which an engine gives addresses from: give \
                 another one"
            )));
        }
        let used: Vec<IpNet> = host.used_subnets().collect();
        match subnets::first_overlap(subnet, &used) {
            Some(route) => Err(Refusal::conflict(format!(
                "subnet {subnet} overlaps the host's route to {route}: give another one"
            ))),
            None => Ok(()),
        }
    }
}

/// The only one there is, if there is one; else the first two.
fn only<T>(mut items: impl Iterator<Item = T>) -> Result<Option<T>, (T, T)> {
    match (items.next(), items.next()) {
        (Some(first), Some(second)) => Err((first, second)),
        (first, _) => Ok(first),
    }
}

/// The first address of an IPv6 subnet is every router's (RFC 4291, section
/// 2.6.1); the last one is like any other.
fn check_gateway(gateway: IpAddr, subnet: IpNet) -> Result<(), Refusal> {
    let last = gateway == subnet.broadcast() && gateway.is_ipv4();
    if subnet.contains(&gateway) && gateway != subnet.network() && !last {
        return Ok(());
    }
    let which = match subnet {
        IpNet::V4(_) => "neither its first nor its last",
        IpNet::V6(_) => "not its first",
    };
    Err(Refusal::invalid(format!(
        "{gateway} can't be the gateway of {subnet}: give an address of it that is {which}"
    )))
}

/// Nothing is given that only a subnet of this family would have.
fn nothing_of(family: Family, request: &NetworkRequest) -> Result<(), Refusal> {
    let ranges = request.subnets.iter().chain(&request.ip_ranges);
    let subnets = ranges.map(|net| (net.addr(), net.to_string()));
    let gateways = request.gateways.iter();
    let gateways = gateways.map(|gateway| (*gateway, gateway.to_string()));
    let Some((_, given)) = subnets.chain(gateways).find(|(of, _)| family.has(*of)) else {
        return Ok(());
    };
    let instead = match family {
        Family::V4 => "leave --ipv4=false out",
        Family::V6 => "add --ipv6, or a --subnet",
    };
    Err(Refusal::invalid(format!(
        "{given} needs an {family} subnet, and network {} has none: {instead}",
        request.name
    )))
}
