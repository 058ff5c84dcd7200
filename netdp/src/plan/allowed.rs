//! Sets of sources that may use published ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netdp_common::{own::INSIDE, range::AllowKey};

use super::generation::Fnv;
use crate::{
    bpf::{Entry, Key, Tables},
    model::Endpoint,
};

/// A number for each set that a port is published to.
pub(super) struct Sets<'a>(BTreeMap<&'a [IpNet], u32>);

/// One that a set may have: neither 0, for all sources, nor that of the
/// addresses that nobody outside has.
fn number(number: u32) -> u32 {
    if number == INSIDE { 1 } else { number.max(1) }
}

impl<'a> Sets<'a> {
    /// A number is made of its set, so that it stays the same after a restart;
    /// of two that had the same, the second gets the next.
    pub fn of(endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let sets: BTreeSet<&[IpNet]> = endpoints
            .flat_map(|endpoint| &endpoint.published)
            .map(|publication| publication.allow.as_slice())
            .filter(|set| !set.is_empty())
            .collect();
        let mut taken = BTreeSet::new();
        let numbered = sets.into_iter().map(|set| {
            let mut hash = Fnv::default();
            hash.write_nets(set);
            let mut number = number(hash.finish() as u32);
            while !taken.insert(number) {
                number = self::number(number + 1);
            }
            (set, number)
        });
        Self(numbered.collect())
    }

    /// 0 for all sources.
    pub fn number(&self, set: &[IpNet]) -> u32 {
        self.0.get(set).copied().unwrap_or(0)
    }

    pub fn add_to(&self, tables: &mut Tables) {
        for (nets, &set) in &self.0 {
            for net in *nets {
                let bits = u32::from(net.prefix_len());
                let key = match net.network() {
                    IpAddr::V4(addr) => Key::Allow4(AllowKey::new(set, addr.into(), bits)),
                    IpAddr::V6(addr) => Key::Allow6(AllowKey::new(set, addr.into(), bits)),
                };
                tables.insert(key, Entry::Allow(1));
            }
        }
    }
}
