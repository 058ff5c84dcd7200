//! Which address an endpoint gets.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A subnet and what of it may be given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    /// Addresses are chosen from here only; asked for by name, any of the
    /// subnet can be had.
    pub range: Option<IpNet>,
    /// The address that was chosen last.
    pub last: Option<IpAddr>,
}

/// Why an address can't be given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoAddress {
    #[error("{0} has no free address left: remove an endpoint, or take a larger network")]
    Exhausted(IpNet),
    #[error("{address} is not in {subnet}: give an address of it")]
    Outside { address: IpAddr, subnet: IpNet },
    #[error("{address} is the {what} of {subnet}: give another address")]
    Reserved {
        address: IpAddr,
        subnet: IpNet,
        what: &'static str,
    },
    #[error("address {0} is already in use: give another one, or none for a free one")]
    Taken(IpAddr),
}

/// The address of a subnet that its gateway has unless asked for otherwise:
/// the first after the subnet's own (in IPv6 that one is the routers' anycast
/// address, RFC 4291 section 2.6.1).
pub fn first_host(subnet: IpNet) -> IpAddr {
    subnet
        .hosts()
        .find(|address| *address != subnet.network())
        .unwrap_or(subnet.network())
}

impl Pool {
    /// The lowest free address above the last one that was chosen, wrapping
    /// round; remembers it as the last one.
    ///
    /// # Errors
    /// All are in use.
    pub fn choose(&mut self, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, NoAddress> {
        let from = self.range.unwrap_or(self.subnet);
        let (first, end) = (number(from.network()), number(from.broadcast()));
        let start = match self.last.filter(|last| from.contains(last)) {
            Some(last) => number(last) + 1,
            None => first,
        };
        let free = |&candidate: &u128| {
            let address = self.address(candidate);
            self.reserved(address).is_none() && !taken.contains(&address)
        };
        // One of the first `taken + 3` candidates is free or none is, so this
        // is short also in an IPv6 subnet.
        let found = (start..=end)
            .find(free)
            .or_else(|| (first..start).find(free))
            .ok_or(NoAddress::Exhausted(from))?;
        let address = self.address(found);
        self.last = Some(address);
        Ok(address)
    }

    /// Checks that an address that was asked for by name can be had.
    ///
    /// # Errors
    /// It is outside the subnet, reserved, or taken.
    pub fn check(&self, address: IpAddr, taken: &BTreeSet<IpAddr>) -> Result<(), NoAddress> {
        let subnet = self.subnet;
        if !subnet.contains(&address) {
            return Err(NoAddress::Outside { address, subnet });
        }
        if let Some(what) = self.reserved(address) {
            return Err(NoAddress::Reserved {
                address,
                subnet,
                what,
            });
        }
        match taken.contains(&address) {
            true => Err(NoAddress::Taken(address)),
            false => Ok(()),
        }
    }

    /// What an address stands for if no endpoint may have it.
    pub fn reserved(&self, address: IpAddr) -> Option<&'static str> {
        if address == self.gateway {
            Some("gateway")
        } else if address == self.subnet.network() {
            Some(match self.subnet {
                IpNet::V4(_) => "network address",
                IpNet::V6(_) => "routers' anycast address",
            })
        } else if address == self.subnet.broadcast() && address.is_ipv4() {
            Some("broadcast address")
        } else {
            None
        }
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.subnet {
            // A number from within an IPv4 subnet has 32 bits.
            IpNet::V4(_) => IpAddr::V4((number as u32).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(subnet: &str) -> Pool {
        let subnet: IpNet = subnet.parse().unwrap();
        Pool {
            subnet,
            gateway: first_host(subnet),
            range: None,
            last: None,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ascending_and_not_again_at_once() {
        let mut pool = pool("172.17.0.0/16");
        let mut taken = BTreeSet::new();
        for expected in ["172.17.0.2", "172.17.0.3"] {
            let address = pool.choose(&taken).unwrap();
            assert_eq!(address, ip(expected));
            taken.insert(address);
        }
        taken.remove(&ip("172.17.0.2"));
        assert_eq!(pool.choose(&taken), Ok(ip("172.17.0.4")));
    }

    #[test]
    fn wraps_round_and_ends() {
        let mut pool = pool("10.0.0.0/29");
        let mut taken = BTreeSet::new();
        for last in 2..=6 {
            let address = pool.choose(&taken).unwrap();
            assert_eq!(address, ip(&format!("10.0.0.{last}")));
            taken.insert(address);
        }
        assert_eq!(pool.choose(&taken), Err(NoAddress::Exhausted(pool.subnet)));
        taken.remove(&ip("10.0.0.3"));
        assert_eq!(pool.choose(&taken), Ok(ip("10.0.0.3")));
    }

    #[test]
    fn a_large_ipv6_subnet_is_not_walked() {
        let mut pool = pool("fd00::/64");
        pool.last = Some(ip("fd00::ffff:ffff:ffff:fffe"));
        let taken = BTreeSet::from([ip("fd00::ffff:ffff:ffff:ffff"), ip("fd00::2")]);
        assert_eq!(pool.choose(&taken), Ok(ip("fd00::3")));
    }

    #[test]
    fn asked_for_by_name() {
        let pool = pool("10.0.0.0/24");
        let taken = BTreeSet::from([ip("10.0.0.9")]);
        assert_eq!(pool.check(ip("10.0.0.8"), &taken), Ok(()));
        assert_eq!(
            pool.check(ip("10.0.0.9"), &taken),
            Err(NoAddress::Taken(ip("10.0.0.9")))
        );
        assert!(matches!(
            pool.check(ip("10.0.1.8"), &taken),
            Err(NoAddress::Outside { .. })
        ));
        for reserved in ["10.0.0.0", "10.0.0.1", "10.0.0.255"] {
            assert!(matches!(
                pool.check(ip(reserved), &taken),
                Err(NoAddress::Reserved { .. })
            ));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Give,
        Return(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Give),
            2 => any::<usize>().prop_map(Step::Return),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn never_twice_never_reserved_always_while_there_are(
            steps in steps(),
            length in 26..=30_u8,
            range in prop::option::of(0..4_u8),
        ) {
            let mut pool = pool(&format!("10.9.8.0/{length}"));
            pool.range = range
                .filter(|_| length <= 28)
                .map(|part| format!("10.9.8.{}/30", part * 4).parse().unwrap());
            let within = pool.range.unwrap_or(pool.subnet);
            let mut usable = BTreeSet::new();
            for address in number(within.network())..=number(within.broadcast()) {
                let address = pool.address(address);
                if pool.reserved(address).is_none() {
                    usable.insert(address);
                }
            }
            let mut taken = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Give => {
                        let last = pool.last;
                        let free: BTreeSet<_> = usable.difference(&taken).copied().collect();
                        let above = free.iter().find(|a| last.is_none_or(|last| **a > last));
                        let expected = above.or(free.first()).copied();
                        let got = pool.choose(&taken);
                        prop_assert_eq!(got.clone().ok(), expected);
                        if let Ok(address) = got {
                            prop_assert!(taken.insert(address));
                        }
                    }
                    Step::Return(n) if !taken.is_empty() => {
                        let address = taken.iter().nth(n % taken.len()).copied().unwrap();
                        taken.remove(&address);
                    }
                    Step::Return(_) => {}
                }
            }
        }
    }
}
