//! Subnets from which an engine asks for addresses, one by one, before there is
//! a network or an endpoint to have them.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    HostView, Refusal, State,
    ipam::{NoAddress, Pool, first_host},
    subnets::{self, Family},
};

/// A subnet and the addresses of it that an engine has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LentPool {
    /// Its gateway is the subnet's first address until one is asked for.
    pub pool: Pool,
    pub given: BTreeSet<IpAddr>,
}

/// What is asked of [`State::lend_pool`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolRequest<'a> {
    /// None: a free one of the family.
    pub subnet: Option<IpNet>,
    /// The part from which addresses are chosen; none: all of it.
    pub range: Option<IpNet>,
    pub ipv6: bool,
    /// Subnets of IPv4 to choose from before the usual ones.
    pub pools: &'a [IpNet],
}

impl State {
    /// Lends a subnet to an engine.
    ///
    /// # Errors
    /// It overlaps another network or a route of the host, or none is free.
    pub fn lend_pool(
        &mut self,
        request: &PoolRequest<'_>,
        host: &HostView<'_>,
    ) -> Result<IpNet, Refusal> {
        let subnet = match request.subnet {
            Some(subnet) => {
                subnets::check(subnet)?;
                self.check_overlap(subnet, host)?;
                subnet
            }
            None if request.range.is_some() => {
                return Err(Refusal::invalid(
                    "a range is a part of a subnet: give --subnet too",
                ));
            }
            None => self.choose_lent(request, host)?,
        };
        if let (IpNet::V6(_), Some(reason)) = (subnet, host.no_ipv6) {
            return Err(Refusal::unavailable(format!(
                "{subnet} can't be had: {reason}; or leave IPv6 out"
            )));
        }
        if let Some(range) = request.range.filter(|range| !subnet.contains(range)) {
            return Err(Refusal::invalid(format!(
                "the range {range} is not in {subnet}: give a part of it"
            )));
        }
        let lent = LentPool {
            pool: Pool {
                subnet,
                gateway: first_host(subnet),
                range: request.range.map(|range| range.trunc()),
                last: None,
            },
            given: BTreeSet::new(),
        };
        self.lent.insert(subnet, lent);
        Ok(subnet)
    }

    fn choose_lent(
        &self,
        request: &PoolRequest<'_>,
        host: &HostView<'_>,
    ) -> Result<IpNet, Refusal> {
        if request.ipv6 {
            return self.free_subnet(Family::V6, host);
        }
        if request.pools.is_empty() {
            return self.free_subnet(Family::V4, host);
        }
        self.free_pool(request.pools, host)
    }

    /// The first of the configured pools that nobody uses.
    pub fn free_pool(&self, pools: &[IpNet], host: &HostView<'_>) -> Result<IpNet, Refusal> {
        let mut pools = pools.iter().copied();
        let free = pools.find(|pool| self.check_overlap(*pool, host).is_ok());
        free.ok_or_else(|| {
            Refusal::conflict(
                "every configured pool overlaps a network, what an engine gives addresses from, \
                 or a route of the host: give a --subnet, or configure more pools",
            )
        })
    }

    /// Takes a subnet back, with what was given of it. One that isn't lent is
    /// no error.
    pub fn return_pool(&mut self, subnet: IpNet) {
        self.lent.remove(&subnet);
    }

    /// Gives an engine an address of a subnet that it was lent, with the
    /// subnet's prefix length: the one asked for, or the next free one. The
    /// gateway is what it is asked to be, and otherwise the first.
    ///
    /// # Errors
    /// The subnet isn't lent, or the address can't be had.
    pub fn lend_address(
        &mut self,
        subnet: IpNet,
        asked: Option<IpAddr>,
        gateway: bool,
    ) -> Result<IpNet, Refusal> {
        let Some(LentPool { pool, given }) = self.lent.get_mut(&subnet) else {
            return Err(unknown(subnet));
        };
        let address = match (asked, gateway) {
            (None, false) => pool.choose(given)?,
            (None, true) if given.contains(&pool.gateway) => {
                return Err(NoAddress::Taken(pool.gateway).into());
            }
            (None, true) => pool.gateway,
            (Some(address), true) => {
                if address != pool.gateway {
                    pool.check(address, given)?;
                } else if given.contains(&address) {
                    return Err(NoAddress::Taken(address).into());
                }
                pool.gateway = address;
                address
            }
            (Some(address), false) => {
                pool.check(address, given)?;
                address
            }
        };
        given.insert(address);
        // The prefix length is that of a subnet of the same family.
        IpNet::new(address, subnet.prefix_len()).map_err(Refusal::invalid)
    }

    /// Takes an address back. One that wasn't given is no error.
    pub fn return_address(&mut self, subnet: IpNet, address: IpAddr) {
        if let Some(lent) = self.lent.get_mut(&subnet) {
            lent.given.remove(&address);
        }
    }
}

fn unknown(subnet: IpNet) -> Refusal {
    Refusal::not_found(format!(
        "no addresses are given from {subnet}: make the network again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Kind,
        tests::{Sockets, host, network, state},
    };

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn lend(state: &mut State, request: PoolRequest<'_>) -> Result<IpNet, Refusal> {
        state.lend_pool(&request, &host(&Sockets::default()))
    }

    fn asked(subnet: &str) -> PoolRequest<'static> {
        PoolRequest {
            subnet: Some(net(subnet)),
            ..PoolRequest::default()
        }
    }

    #[test]
    fn what_is_lent_is_nobody_elses() {
        let mut state = state();
        // 172.17 is the first network's.
        let first = lend(&mut state, PoolRequest::default()).unwrap();
        assert_eq!(first, net("172.18.0.0/16"));
        let other = state
            .create_network(&network("blue"), &host(&Sockets::default()))
            .unwrap();
        assert_eq!(other.pools[0].subnet, net("172.19.0.0/16"));
        for taken in [
            "172.18.1.0/24",
            "172.17.0.0/16",
            "172.19.0.0/16",
            "192.0.2.0/24",
        ] {
            let refused = lend(&mut state, asked(taken)).unwrap_err();
            assert_eq!(refused.kind, Kind::Conflict, "{taken}");
        }
        let mut strict = network("green");
        strict.subnets = vec![net("172.18.0.0/24")];
        let refused = state.create_network(&strict, &host(&Sockets::default()));
        assert_eq!(refused.unwrap_err().kind, Kind::Conflict);
        state.return_pool(first);
        assert_eq!(lend(&mut state, PoolRequest::default()).unwrap(), first);
    }

    #[test]
    fn configured_pools_and_ranges_count() {
        let mut state = state();
        let pools = [net("172.17.0.0/16"), net("10.9.0.0/16")];
        let request = PoolRequest {
            pools: &pools,
            ..PoolRequest::default()
        };
        assert_eq!(lend(&mut state, request).unwrap(), pools[1]);
        assert_eq!(lend(&mut state, request).unwrap_err().kind, Kind::Conflict);
        let ranged = PoolRequest {
            range: Some(net("10.8.0.128/25")),
            ..asked("10.8.0.0/24")
        };
        let subnet = lend(&mut state, ranged).unwrap();
        let address = state.lend_address(subnet, None, false).unwrap();
        assert_eq!(address, net("10.8.0.128/24"));
        let outside = PoolRequest {
            range: Some(net("10.7.1.0/25")),
            ..asked("10.7.0.0/24")
        };
        assert_eq!(lend(&mut state, outside).unwrap_err().kind, Kind::Invalid);
        let six = PoolRequest {
            ipv6: true,
            ..PoolRequest::default()
        };
        assert_eq!(lend(&mut state, six).unwrap().prefix_len(), 64);
    }

    #[test]
    fn addresses_come_and_go() {
        let mut state = state();
        let subnet = lend(&mut state, asked("10.8.0.0/29")).unwrap();
        let mut next = |asked: Option<&str>, gateway| {
            let asked = asked.map(|text| text.parse().unwrap());
            state
                .lend_address(subnet, asked, gateway)
                .map(|net| net.to_string())
                .map_err(|refusal| refusal.kind)
        };
        // The gateway's is kept until it is asked for.
        assert_eq!(next(None, false), Ok("10.8.0.2/29".into()));
        assert_eq!(next(None, true), Ok("10.8.0.1/29".into()));
        assert_eq!(next(None, true), Err(Kind::InUse));
        assert_eq!(next(Some("10.8.0.2"), false), Err(Kind::InUse));
        assert_eq!(next(Some("10.9.0.2"), false), Err(Kind::Invalid));
        assert_eq!(next(Some("10.8.0.4"), false), Ok("10.8.0.4/29".into()));
        for expected in ["10.8.0.3/29", "10.8.0.5/29", "10.8.0.6/29"] {
            assert_eq!(next(None, false), Ok(expected.into()));
        }
        assert_eq!(next(None, false), Err(Kind::InUse));
        state.return_address(subnet, "10.8.0.5".parse().unwrap());
        let again = state.lend_address(subnet, None, false).unwrap();
        assert_eq!(again, net("10.8.0.5/29"));
        state.return_pool(subnet);
        let gone = state.lend_address(subnet, None, false).unwrap_err();
        assert_eq!(gone.kind, Kind::NotFound);
    }

    #[test]
    fn a_gateway_is_what_it_is_asked_to_be() {
        let mut state = state();
        let subnet = lend(&mut state, asked("10.8.0.0/24")).unwrap();
        let gateway = "10.8.0.254".parse().unwrap();
        state.lend_address(subnet, Some(gateway), true).unwrap();
        let first = state.lend_address(subnet, None, false).unwrap();
        assert_eq!(first, net("10.8.0.1/24"));
    }
}
