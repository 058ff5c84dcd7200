//! Who knows whom by which name.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;

use super::{Endpoint, Mode, Name, NetworkId, Sandbox, SandboxId, State};

/// Fewest digits of an id that stand for a sandbox: as many as tables show, and
/// Docker takes.
const ID_DIGITS: usize = 12;

/// The names of one network, in lower case (RFC 4343).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zone {
    /// The network's own name.
    domain: String,
    subnets: Vec<IpNet>,
    names: BTreeMap<String, Vec<IpAddr>>,
    /// Ids of sandboxes, all digits.
    ids: BTreeMap<String, Vec<IpAddr>>,
    /// The names that addresses stand for.
    addresses: BTreeMap<IpAddr, String>,
}

/// What a sandbox sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Path of the sandbox's namespace.
    pub netns: PathBuf,
    /// In the order of its interfaces.
    networks: Vec<Arc<Zone>>,
    /// Of its links alone.
    links: BTreeMap<String, Vec<IpAddr>>,
    /// Whether names that nobody here has are asked for outside: not where
    /// every network is internal.
    pub forwards: bool,
}

/// The names of all sandboxes, as they are at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    zones: BTreeMap<NetworkId, Arc<Zone>>,
    views: BTreeMap<SandboxId, Arc<View>>,
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found<T> {
    Known(T),
    /// Nobody has it, and nobody outside can.
    Nobody,
    /// Nobody here has it.
    Unknown,
}

impl Names {
    pub fn of(state: &State) -> Self {
        Self::after(&Self::default(), state)
    }

    /// Those of `state`, with the zones of `before` that are the same: each
    /// view has them, and what is one is known at once to be equal.
    pub fn after(before: &Self, state: &State) -> Self {
        let zones: BTreeMap<NetworkId, Arc<Zone>> = state
            .networks
            .keys()
            .map(|id| {
                let zone = Zone::of(state, *id);
                let known = before.zones.get(id).filter(|known| ***known == zone);
                (*id, known.cloned().unwrap_or_else(|| Arc::new(zone)))
            })
            .collect();
        let mut endpoints: BTreeMap<SandboxId, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in state.endpoints.values() {
            endpoints
                .entry(endpoint.sandbox)
                .or_default()
                .push(endpoint);
        }
        for endpoints in endpoints.values_mut() {
            endpoints.sort_by_key(|endpoint| endpoint.index);
        }
        let views = state
            .sandboxes
            .values()
            .filter(|sandbox| sandbox.mode == Mode::Networks)
            .filter_map(|sandbox| {
                let endpoints = endpoints.get(&sandbox.id).map_or(&[][..], Vec::as_slice);
                // An engine has a resolver of its own in its containers.
                let engines = endpoints.iter().any(|it| it.handover.is_some());
                let view = || Arc::new(View::of(state, sandbox, endpoints, &zones));
                (!engines).then(|| (sandbox.id, view()))
            })
            .collect();
        Self { zones, views }
    }

    /// Those who have a view, with it.
    pub fn views(&self) -> &BTreeMap<SandboxId, Arc<View>> {
        &self.views
    }

    /// What a sandbox sees; none where it has no network of its own.
    pub fn view(&self, sandbox: SandboxId) -> Option<&Arc<View>> {
        self.views.get(&sandbox)
    }
}

impl Zone {
    fn of(state: &State, network: NetworkId) -> Self {
        let Some(found) = state.networks.get(&network) else {
            return Self::default();
        };
        let mut zone = Self {
            domain: found.name.as_str().to_ascii_lowercase(),
            subnets: found.pools.iter().map(|pool| pool.subnet).collect(),
            ..Self::default()
        };
        for endpoint in state.endpoints_in(network) {
            if let Some(sandbox) = state.sandboxes.get(&endpoint.sandbox) {
                zone.add(sandbox, endpoint);
            }
        }
        zone
    }

    fn add(&mut self, sandbox: &Sandbox, endpoint: &Endpoint) {
        let addresses: Vec<IpAddr> = addresses(endpoint).collect();
        let aliases = endpoint.aliases.iter().map(Name::as_str);
        for name in [sandbox.name.as_str(), &sandbox.hostname]
            .into_iter()
            .chain(aliases)
        {
            put(&mut self.names, name, &addresses);
        }
        put(&mut self.ids, &sandbox.id.to_string(), &addresses);
        for address in addresses {
            self.addresses.insert(address, sandbox.name.to_string());
        }
    }

    /// By name, by the name below the network's, or by the beginning of an id.
    fn find(&self, name: &str) -> Option<&[IpAddr]> {
        let inner = name
            .strip_suffix(&self.domain)
            .and_then(|name| name.strip_suffix('.'));
        let known = |name: &str| self.names.get(name).or_else(|| self.by_id(name));
        known(name)
            .or_else(|| inner.and_then(known))
            .map(Vec::as_slice)
    }

    fn by_id(&self, digits: &str) -> Option<&Vec<IpAddr>> {
        if digits.len() < ID_DIGITS {
            return None;
        }
        let mut fitting = self
            .ids
            .range(digits.to_owned()..)
            .take_while(|(id, _)| id.starts_with(digits));
        match (fitting.next(), fitting.next()) {
            (Some((_, addresses)), None) => Some(addresses),
            _ => None,
        }
    }
}

impl View {
    /// `endpoints` are the sandbox's, in the order of its interfaces.
    fn of(
        state: &State,
        sandbox: &Sandbox,
        endpoints: &[&Endpoint],
        zones: &BTreeMap<NetworkId, Arc<Zone>>,
    ) -> Self {
        let mut links = BTreeMap::new();
        for endpoint in endpoints {
            for link in &endpoint.links {
                if let Some((_, near)) = state.linked_endpoint(endpoint, link) {
                    let addresses: Vec<IpAddr> = addresses(near).collect();
                    put(&mut links, link.alias.as_str(), &addresses);
                }
            }
        }
        Self {
            netns: sandbox.netns.clone(),
            networks: endpoints
                .iter()
                .filter_map(|endpoint| zones.get(&endpoint.network).cloned())
                .collect(),
            links,
            forwards: endpoints.iter().any(|endpoint| endpoint.metric.is_some()),
        }
    }

    /// The addresses of a name, without a dot at its end: of both families.
    /// Links come first, then the networks in the order of the interfaces.
    pub fn addresses(&self, name: &str) -> Found<Vec<IpAddr>> {
        let name = name.to_ascii_lowercase();
        let found = match self.links.get(&name) {
            Some(addresses) => Some(addresses.as_slice()),
            None => self.networks.iter().find_map(|zone| zone.find(&name)),
        };
        match found {
            Some(addresses) => Found::Known(addresses.to_vec()),
            None => Found::Unknown,
        }
    }

    /// The name of an address, below that of its network. An address of one of
    /// the sandbox's networks is nobody's business outside.
    pub fn name(&self, address: IpAddr) -> Found<String> {
        for zone in &self.networks {
            if let Some(name) = zone.addresses.get(&address) {
                return Found::Known(format!("{name}.{}", zone.domain));
            }
        }
        let own = |zone: &Arc<Zone>| zone.subnets.iter().any(|net| net.contains(&address));
        // Loopback addresses have no names outside (RFC 6303, section 4.1).
        if self.networks.iter().any(own) || address.is_loopback() {
            return Found::Nobody;
        }
        Found::Unknown
    }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    endpoint.addresses.iter().map(|address| address.net.addr())
}

fn put(names: &mut BTreeMap<String, Vec<IpAddr>>, name: &str, addresses: &[IpAddr]) {
    let known = names.entry(name.to_ascii_lowercase()).or_default();
    for address in addresses {
        if !known.contains(address) {
            known.push(*address);
        }
    }
}
