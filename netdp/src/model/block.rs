//! Sources of which nothing gets in.

use std::net::IpAddr;

use ipnet::IpNet;
use netdp_common::{
    addr::{V4Addr, V6Addr},
    block::{Reserved, reserved},
    maps::MAX_BLOCKED,
};
use serde::{Deserialize, Serialize};

use super::{HostView, Refusal, State};

/// What is kept of a blocked source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blocked {
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
}

impl State {
    /// Blocks sources, all or none. Those that are blocked already stay so.
    ///
    /// # Errors
    /// The first source that can't be blocked, and why; or there are too many.
    pub fn block(&mut self, sources: &[IpNet], host: &HostView<'_>) -> Result<(), Refusal> {
        if sources.is_empty() {
            return Err(Refusal::invalid("name a source to block"));
        }
        for source in sources {
            if let Err(why) = self.check_source(source, host) {
                return Err(Refusal::invalid(format!(
                    "cannot block {source}: {why}{}",
                    none_of(sources)
                )));
            }
        }
        let mut blocked = self.blocked.clone();
        for source in sources {
            let since = host.now;
            blocked.entry(*source).or_insert(Blocked { since });
        }
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let of_family = |source: &&IpNet| source.addr().is_ipv4() == is_v4;
            let count = blocked.keys().filter(of_family).count();
            if count > MAX_BLOCKED as usize {
                return Err(Refusal::conflict(format!(
                    "cannot block {count} sources of {family}: {MAX_BLOCKED} is the most; block \
                     shorter prefixes, or unblock others{}",
                    none_of(sources)
                )));
            }
        }
        self.blocked = blocked;
        Ok(())
    }

    fn check_source(&self, source: &IpNet, host: &HostView<'_>) -> Result<(), String> {
        if source.prefix_len() == 0 {
            return Err("that is everybody, and would cut this host off".to_owned());
        }
        if *source != source.trunc() {
            return Err(format!(
                "it has bits beyond its prefix length; say {} for the network, or {}/{} for the \
                 address alone",
                source.trunc(),
                source.addr(),
                source.max_prefix_len()
            ));
        }
        let bits = source.prefix_len();
        let reserved = match source.addr() {
            IpAddr::V4(addr) => reserved(V4Addr::from(addr), bits),
            IpAddr::V6(addr) => reserved(V6Addr::from(addr), bits),
        };
        if let Some(reserved) = reserved {
            return Err(needed(reserved, source).to_owned());
        }
        let is_in = |address: &&IpAddr| source.contains(*address);
        if let Some(own) = host.addresses.iter().find(is_in) {
            return Err(if source.prefix_len() == source.max_prefix_len() {
                "it is an address of this host".to_owned()
            } else {
                format!("{own} of it is an address of this host")
            });
        }
        if let Some(gateway) = host.gateways.iter().find(is_in) {
            return Err(format!("{gateway} is this host's gateway"));
        }
        let mut pools = self
            .networks
            .values()
            .flat_map(|network| network.pools.iter().map(move |pool| (network, pool)));
        let met = pools.find(|(_, pool)| overlap(&pool.subnet, source));
        if let Some((network, pool)) = met {
            return Err(format!(
                "it meets {} of network {}, and nobody outside has such an address; to keep \
                 containers apart, see --icc and --internal",
                pool.subnet, network.name
            ));
        }
        Ok(())
    }

    /// Lets sources in again, all or none.
    ///
    /// # Errors
    /// The first one that isn't blocked by itself.
    pub fn unblock(&mut self, sources: &[IpNet]) -> Result<(), Refusal> {
        if sources.is_empty() {
            return Err(Refusal::invalid("name a source to unblock"));
        }
        if let Some(unknown) = sources
            .iter()
            .find(|source| !self.blocked.contains_key(source))
        {
            return Err(Refusal::not_found(format!(
                "{unknown} is not blocked{}: see `netdp block`{}",
                self.instead_of(unknown),
                if sources.len() > 1 {
                    "; none of the others was unblocked"
                } else {
                    ""
                }
            )));
        }
        for source in sources {
            self.blocked.remove(source);
        }
        Ok(())
    }

    /// What of a source is blocked that isn't by itself.
    fn instead_of(&self, unknown: &IpNet) -> String {
        if self.blocked.contains_key(&unknown.trunc()) {
            return format!(", but {} is", unknown.trunc());
        }
        let mut wider = self.blocked.keys().filter(|net| net.contains(unknown));
        if let Some(wider) = wider.next() {
            return format!(" by itself, but {wider} is, and it with that");
        }
        let within = self.blocked.keys().filter(|net| unknown.contains(*net));
        match within.count() {
            0 => String::new(),
            1 => " as a whole, but one source in it is".to_owned(),
            count => format!(" as a whole, but {count} sources in it are"),
        }
    }
}

fn none_of(sources: &[IpNet]) -> &'static str {
    if sources.len() > 1 {
        "; none of the others was blocked"
    } else {
        ""
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Why a host goes on hearing it.
fn needed(reserved: Reserved, source: &IpNet) -> &'static str {
    match reserved {
        Reserved::Unspecified if source.addr().is_ipv4() => "hosts ask for an address from 0.0.0.0",
        Reserved::Unspecified => "hosts ask from :: whether somebody has their address",
        Reserved::Loopback => "loopback addresses are this host's own",
        Reserved::LinkLocal => "routers and neighbours are link-local, fe80::/10",
        Reserved::Multicast => "multicast addresses are no sources",
        Reserved::Mapped => "it stands for IPv4: name the addresses of IPv4",
    }
}
