//! The desired state as a whole: look-ups and numbers.

use std::{collections::BTreeMap, fmt::Display};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Acceleration, Blocked, Driver, Endpoint, EndpointId, LentPool, Limit, Mode, Network, NetworkId,
    Refusal, Sandbox, SandboxId,
};

/// Numbers that were given last, so that a freed one isn't given again at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// [`Network::number`].
    pub network: u32,
    /// [`Endpoint::slot`].
    pub slot: u32,
    /// Port of the host that was chosen.
    pub port: u16,
}

/// Everything that shall be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Random, made once: marks the links that belong to this state.
    pub instance: String,
    pub networks: BTreeMap<NetworkId, Network>,
    pub sandboxes: BTreeMap<SandboxId, Sandbox>,
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Subnets from which engines ask for addresses.
    #[serde(default)]
    pub lent: BTreeMap<IpNet, LentPool>,
    /// Networks of other engines that are carried, by engine.
    #[serde(default)]
    pub accelerations: BTreeMap<String, Acceleration>,
    /// Sources of which nothing gets in.
    #[serde(default)]
    pub blocked: BTreeMap<IpNet, Blocked>,
    /// What a source outside may begin; none where that is up to it.
    #[serde(default)]
    pub limit: Option<Limit>,
    pub counters: Counters,
}

impl State {
    /// A state with the networks `host` and `none` and nothing else.
    ///
    /// `now`: seconds since the Unix epoch.
    pub fn new(now: u64) -> Self {
        let networks = [Network::host(now), Network::none(now)];
        Self {
            instance: format!("{:016x}", rand::random::<u64>()),
            networks: networks.into_iter().map(|n| (n.id, n)).collect(),
            sandboxes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            lent: BTreeMap::new(),
            accelerations: BTreeMap::new(),
            blocked: BTreeMap::new(),
            limit: None,
            counters: Counters {
                network: 2,
                ..Counters::default()
            },
        }
    }

    /// The network with this name, id, or unique beginning of an id.
    ///
    /// # Errors
    /// Not found, or several networks fit.
    pub fn network(&self, reference: &str) -> Result<&Network, Refusal> {
        let networks = self.networks.values();
        find("network", reference, networks, |n| (n.name.as_str(), n.id))
    }

    /// The sandbox with this name, id, or unique beginning of an id.
    ///
    /// # Errors
    /// Not found, or several sandboxes fit.
    pub fn sandbox(&self, reference: &str) -> Result<&Sandbox, Refusal> {
        let by_id = reference.parse().ok();
        if let Some(found) = by_id.and_then(|id: SandboxId| self.sandboxes.get(&id)) {
            return Ok(found);
        }
        let sandboxes = self.sandboxes.values();
        find("sandbox", reference, sandboxes, |s| (s.name.as_str(), s.id))
    }

    /// The endpoints of a sandbox, in the order of their interfaces.
    pub fn endpoints_of(&self, sandbox: SandboxId) -> Vec<&Endpoint> {
        let mut endpoints: Vec<_> = self
            .endpoints
            .values()
            .filter(|endpoint| endpoint.sandbox == sandbox)
            .collect();
        endpoints.sort_by_key(|endpoint| endpoint.index);
        endpoints
    }

    /// The endpoints of a network, in no particular order.
    pub fn endpoints_in(&self, network: NetworkId) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .values()
            .filter(move |endpoint| endpoint.network == network)
    }

    /// Lets `change` change all or nothing.
    pub(super) fn whole<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut next = self.clone();
        let done = change(&mut next)?;
        *self = next;
        Ok(done)
    }

    /// Name of the sandbox that an endpoint belongs to, for texts.
    pub fn owner_name(&self, endpoint: &Endpoint) -> String {
        match self.sandboxes.get(&endpoint.sandbox) {
            Some(sandbox) => sandbox.name.to_string(),
            None => endpoint.sandbox.short(),
        }
    }

    /// Checks that the records fit together, as they do unless someone wrote
    /// to the store.
    ///
    /// # Errors
    /// The first thing that doesn't fit.
    pub fn check(&self) -> Result<(), String> {
        for driver in [Driver::Host, Driver::Null] {
            let count = self
                .networks
                .values()
                .filter(|n| n.driver == driver)
                .count();
            if count != 1 {
                return Err(format!("there are {count} networks with driver {driver}"));
            }
        }
        unique(
            "network name",
            self.networks.values().map(|n| n.name.as_str()),
        )?;
        unique("network number", self.networks.values().map(|n| n.number))?;
        unique(
            "sandbox name",
            self.sandboxes.values().map(|s| s.name.as_str()),
        )?;
        unique("endpoint slot", self.endpoints.values().map(|e| e.slot))?;
        for (engine, told) in &self.accelerations {
            told.check(engine)?;
        }
        self.check_limit()?;
        for sandbox in self.sandboxes.values() {
            if let Mode::Container(other) = sandbox.mode
                && !self.sandboxes.contains_key(&other)
            {
                return Err(format!(
                    "sandbox {} shares a network that is gone",
                    sandbox.name
                ));
            }
        }
        for endpoint in self.endpoints.values() {
            let Some(network) = self.networks.get(&endpoint.network) else {
                return Err(format!("endpoint {} has no network", endpoint.id));
            };
            if !self.sandboxes.contains_key(&endpoint.sandbox) {
                return Err(format!("endpoint {} has no sandbox", endpoint.id));
            }
            for address in &endpoint.addresses {
                if !network
                    .pools
                    .iter()
                    .any(|p| p.subnet.contains(&address.net.addr()))
                {
                    return Err(format!("{} is not of {}", address.net, network.name));
                }
            }
        }
        unique(
            "address",
            self.endpoints
                .values()
                .flat_map(|e| e.addresses.iter().map(|address| address.net.addr())),
        )
    }
}

fn unique<T: Ord + Display>(what: &str, values: impl Iterator<Item = T>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        if let Some(twice) = seen.replace(value) {
            return Err(format!("{what} {twice} is there twice"));
        }
    }
    Ok(())
}

fn find<'a, T, Id: Display>(
    what: &str,
    reference: &str,
    items: impl Iterator<Item = &'a T> + Clone,
    key: impl Fn(&'a T) -> (&'a str, Id),
) -> Result<&'a T, Refusal> {
    let mut by_name = items.clone();
    if let Some(item) = by_name.find(|item| key(item).0 == reference) {
        return Ok(item);
    }
    let fitting: Vec<&T> = items
        .filter(|item| !reference.is_empty() && key(item).1.to_string().starts_with(reference))
        .collect();
    match fitting[..] {
        [item] => Ok(item),
        [] => Err(Refusal::not_found(format!(
            "there is no {what} '{reference}': see `netdp {}`",
            if what == "network" {
                "network ls"
            } else {
                "ps"
            }
        ))),
        _ => Err(Refusal::invalid(format!(
            "'{reference}' is the beginning of {} {what} ids: give more of it",
            fitting.len()
        ))),
    }
}

/// The lowest number from 1 to `max` above `last` that isn't taken, wrapping
/// round.
pub(super) fn next_number(last: u32, max: u32, taken: impl Fn(u32) -> bool) -> Option<u32> {
    (last.saturating_add(1)..=max)
        .chain(1..=last.min(max))
        .find(|&number| !taken(number))
}
