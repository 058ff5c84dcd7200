//! Reading and writing the configuration maps.

use std::{collections::BTreeSet, net::IpAddr};

use netdp_common::{
    limit::Limit,
    maps::{
        Config, Endpoint, MAX_ALLOWED, MAX_ENDPOINTS, MAX_LINKS, MAX_LOCAL, MAX_PORTS, MAX_RANGES,
        MAX_UPLINKS, config_flags, name,
    },
};

use super::{
    BpfError, Datapath, Entry, FlowSeen, FlowTables, Key, TableAddress, Tables,
    map_entry::{delete, delete_prefix, dump, dump_trie, insert, put_prefix},
    maps::rare,
    shared::{marked, unmarked},
};

impl Datapath {
    /// What the programs are told: times, ports, shares.
    pub fn config(&self) -> Result<Config, BpfError> {
        self.maps.config()
    }

    /// Everything that the configuration maps hold.
    pub fn tables(&self) -> Result<Tables, BpfError> {
        let mut tables = self.tables_as_they_are()?;
        for entry in tables.values_mut() {
            *entry = unmarked(*entry);
        }
        Ok(tables)
    }

    fn tables_as_they_are(&self) -> Result<Tables, BpfError> {
        let maps = &self.maps;
        let mut tables = Tables::new();
        let mut add = |key, entry| {
            tables.insert(key, entry);
        };
        dump(&maps.endpoints, name::ENDPOINTS, |key, value| {
            add(Key::Endpoint(key), Entry::Endpoint(value));
        })?;
        dump(&maps.uplinks, name::UPLINKS, |key, value| {
            add(Key::Uplink(key), Entry::Uplink(value));
        })?;
        dump(&maps.times, name::TIMES, |key, value| {
            add(Key::Times(key), Entry::Times(value));
        })?;
        dump(&maps.v4.addrs, name::ADDRS4, |key, value| {
            add(Key::Owner4(key), Entry::Owner4(value));
        })?;
        dump(&maps.v4.ports, name::PORTS4, |key, value| {
            add(Key::Port4(key), Entry::Port4(value));
        })?;
        dump(&maps.v4.back, name::BACK4, |key, value| {
            add(Key::Back4(key), Entry::Back4(value));
        })?;
        dump(&maps.v4.local, name::LOCAL4, |key, value| {
            add(Key::Local4(key), Entry::Local4(value));
        })?;
        dump(&maps.v6.addrs, name::ADDRS6, |key, value| {
            add(Key::Owner6(key), Entry::Owner6(value));
        })?;
        dump(&maps.v6.ports, name::PORTS6, |key, value| {
            add(Key::Port6(key), Entry::Port6(value));
        })?;
        dump(&maps.v6.back, name::BACK6, |key, value| {
            add(Key::Back6(key), Entry::Back6(value));
        })?;
        dump(&maps.v6.local, name::LOCAL6, |key, value| {
            add(Key::Local6(key), Entry::Local6(value));
        })?;
        dump(&maps.v4.links, name::LINKS4, |key, value| {
            add(Key::Link4(key), Entry::Link(value));
        })?;
        dump(&maps.v6.links, name::LINKS6, |key, value| {
            add(Key::Link6(key), Entry::Link(value));
        })?;
        dump_trie(&maps.v4.ranges, name::RANGES4, |key, value| {
            add(Key::Range4(key), Entry::Range4(value));
        })?;
        dump_trie(&maps.v4.back_ranges, name::BACK_RANGES4, |key, value| {
            add(Key::BackRange4(key), Entry::BackRange4(value));
        })?;
        dump_trie(&maps.v4.allowed, name::ALLOW4, |key, value| {
            add(Key::Allow4(key), Entry::Allow(value));
        })?;
        dump_trie(&maps.v6.ranges, name::RANGES6, |key, value| {
            add(Key::Range6(key), Entry::Range6(value));
        })?;
        dump_trie(&maps.v6.back_ranges, name::BACK_RANGES6, |key, value| {
            add(Key::BackRange6(key), Entry::BackRange6(value));
        })?;
        dump_trie(&maps.v6.allowed, name::ALLOW6, |key, value| {
            add(Key::Allow6(key), Entry::Allow(value));
        })?;
        if let Some(limit) = self.limit()? {
            add(Key::Limit, Entry::Limit(limit));
        }
        if let Some(blocked) = &self.blocked {
            blocked.dump(|key| add(key, Entry::Blocked))?;
        }
        Ok(tables)
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// [`BpfError::Full`]; a kind of value that isn't its key's is a mistake of
    /// the caller and panics.
    pub fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), BpfError> {
        if let Entry::Blocked = entry {
            return self.blocked()?.put(key);
        }
        if let Key::Uplink(ifindex) = key
            && self.uplinks.insert(*ifindex)
        {
            self.count_uplinks()?;
        }
        if entry.is_direct() {
            self.guard_listeners()?;
        }
        self.maps.own.add(key)?;
        self.maps.comes(key)?;
        let entry = marked(entry);
        self.write(key, &entry)?;
        self.maps.shared.add(key, &entry);
        self.tell_of_ports(key, entry.is_direct())
    }

    pub(super) fn write(&mut self, key: &Key, entry: &Entry) -> Result<(), BpfError> {
        let maps = &mut self.maps;
        match (key, entry) {
            (Key::Endpoint(key), Entry::Endpoint(value)) => insert(
                &mut maps.endpoints,
                key,
                value,
                name::ENDPOINTS,
                MAX_ENDPOINTS,
            ),
            (Key::Owner4(key), Entry::Owner4(value)) => {
                insert(&mut maps.v4.addrs, key, value, name::ADDRS4, MAX_ENDPOINTS)
            }
            (Key::Port4(key), Entry::Port4(value)) => {
                insert(&mut maps.v4.ports, key, value, name::PORTS4, MAX_PORTS)
            }
            (Key::Back4(key), Entry::Back4(value)) => {
                insert(&mut maps.v4.back, key, value, name::BACK4, MAX_PORTS)
            }
            (Key::Local4(key), Entry::Local4(value)) => {
                insert(&mut maps.v4.local, key, value, name::LOCAL4, MAX_LOCAL)
            }
            (Key::Owner6(key), Entry::Owner6(value)) => {
                insert(&mut maps.v6.addrs, key, value, name::ADDRS6, MAX_ENDPOINTS)
            }
            (Key::Port6(key), Entry::Port6(value)) => {
                insert(&mut maps.v6.ports, key, value, name::PORTS6, MAX_PORTS)
            }
            (Key::Back6(key), Entry::Back6(value)) => {
                insert(&mut maps.v6.back, key, value, name::BACK6, MAX_PORTS)
            }
            (Key::Local6(key), Entry::Local6(value)) => {
                insert(&mut maps.v6.local, key, value, name::LOCAL6, MAX_LOCAL)
            }
            (Key::Link4(key), Entry::Link(value)) => {
                insert(&mut maps.v4.links, key, value, name::LINKS4, MAX_LINKS)
            }
            (Key::Link6(key), Entry::Link(value)) => {
                insert(&mut maps.v6.links, key, value, name::LINKS6, MAX_LINKS)
            }
            (Key::Uplink(key), Entry::Uplink(value)) => {
                insert(&mut maps.uplinks, key, value, name::UPLINKS, MAX_UPLINKS)
            }
            (Key::Times(key), Entry::Times(value)) => {
                insert(&mut maps.times, key, value, name::TIMES, MAX_ENDPOINTS)
            }
            (Key::Range4(key), Entry::Range4(value)) => {
                put_prefix(&mut maps.v4.ranges, key, value, name::RANGES4, MAX_RANGES)
            }
            (Key::BackRange4(key), Entry::BackRange4(value)) => put_prefix(
                &mut maps.v4.back_ranges,
                key,
                value,
                name::BACK_RANGES4,
                MAX_RANGES,
            ),
            (Key::Allow4(key), Entry::Allow(value)) => {
                put_prefix(&mut maps.v4.allowed, key, value, name::ALLOW4, MAX_ALLOWED)
            }
            (Key::Range6(key), Entry::Range6(value)) => {
                put_prefix(&mut maps.v6.ranges, key, value, name::RANGES6, MAX_RANGES)
            }
            (Key::BackRange6(key), Entry::BackRange6(value)) => put_prefix(
                &mut maps.v6.back_ranges,
                key,
                value,
                name::BACK_RANGES6,
                MAX_RANGES,
            ),
            (Key::Allow6(key), Entry::Allow(value)) => {
                put_prefix(&mut maps.v6.allowed, key, value, name::ALLOW6, MAX_ALLOWED)
            }
            (Key::Limit, Entry::Limit(limit)) => self.set_limit(limit),
            (key, entry) => unreachable!("{entry:?} is no value for {key:?}"),
        }
    }

    /// Removes an entry, if it is there; with an address of the host also the
    /// flows that the outside knows by it.
    pub fn remove(&mut self, key: &Key) -> Result<(), BpfError> {
        if let Key::Blocked4(_) | Key::Blocked6(_) = key {
            return self.blocked()?.remove(key);
        }
        self.delete(key)?;
        self.maps.shared.remove(key);
        self.tell_of_ports(key, false)?;
        if let Key::Uplink(ifindex) = key {
            self.uplinks.remove(ifindex);
            self.count_uplinks()?;
        }
        self.maps.goes(key)?;
        self.maps.own.remove(key)
    }

    /// After a change: what programs know of direct ports holds no longer.
    fn tell_of_ports(&mut self, key: &Key, is_direct: bool) -> Result<(), BpfError> {
        if !key.is_place() {
            return Ok(());
        }
        let mut config = self.maps.config()?;
        if is_direct {
            config.flags |= config_flags::DIRECT;
        } else if config.flags & config_flags::DIRECT == 0 {
            return Ok(());
        }
        config.flags = self.maps.shared.told_by(config.flags);
        config.ports = config.ports.wrapping_add(1);
        self.config.ports = config.ports;
        self.maps.set_config(&config)
    }

    fn count_uplinks(&mut self) -> Result<(), BpfError> {
        self.config.uplinks = self.uplinks.len() as u32;
        let before = self.maps.config()?;
        // One that came with loading stays, whatever the map has.
        let flags = self.config.flags & config_flags::OTHERS;
        self.config.flags = flags | before.flags;
        self.config.members = before.members;
        self.config.ports = before.ports;
        self.maps.set_config(&self.config)
    }

    /// Brings what is derived from the tables in line with them.
    pub(super) fn derive(&mut self) -> Result<(), BpfError> {
        let tables = self.tables_as_they_are()?;
        self.maps.shared.fill(&tables);
        self.uplinks = tables
            .keys()
            .filter_map(|key| match key {
                Key::Uplink(ifindex) => Some(*ifindex),
                _ => None,
            })
            .collect();
        self.count_uplinks()?;
        self.maps.rare = tables
            .keys()
            .filter(|key| rare(key) != 0)
            .copied()
            .collect();
        self.maps.tell_of_rare()?;
        self.tell_of_shared()?;
        if let Some(blocked) = &mut self.blocked {
            blocked.fill(tables.keys())?;
        }
        self.maps.own.fill(&tables)
    }

    fn delete(&mut self, key: &Key) -> Result<(), BpfError> {
        let maps = &mut self.maps;
        match key {
            Key::Endpoint(key) => delete(&mut maps.endpoints, key, name::ENDPOINTS),
            Key::Owner4(key) => delete(&mut maps.v4.addrs, key, name::ADDRS4),
            Key::Port4(key) => delete(&mut maps.v4.ports, key, name::PORTS4),
            Key::Back4(key) => delete(&mut maps.v4.back, key, name::BACK4),
            Key::Local4(key) => {
                delete(&mut maps.v4.local, key, name::LOCAL4)?;
                self.forget_address(*key)
            }
            Key::Owner6(key) => delete(&mut maps.v6.addrs, key, name::ADDRS6),
            Key::Port6(key) => delete(&mut maps.v6.ports, key, name::PORTS6),
            Key::Back6(key) => delete(&mut maps.v6.back, key, name::BACK6),
            Key::Local6(key) => {
                delete(&mut maps.v6.local, key, name::LOCAL6)?;
                self.forget_address(*key)
            }
            Key::Link4(key) => delete(&mut maps.v4.links, key, name::LINKS4),
            Key::Link6(key) => delete(&mut maps.v6.links, key, name::LINKS6),
            Key::Uplink(key) => delete(&mut maps.uplinks, key, name::UPLINKS),
            Key::Times(key) => delete(&mut maps.times, key, name::TIMES),
            Key::Range4(key) => delete_prefix(&mut maps.v4.ranges, key, name::RANGES4),
            Key::BackRange4(key) => {
                delete_prefix(&mut maps.v4.back_ranges, key, name::BACK_RANGES4)
            }
            Key::Allow4(key) => delete_prefix(&mut maps.v4.allowed, key, name::ALLOW4),
            Key::Range6(key) => delete_prefix(&mut maps.v6.ranges, key, name::RANGES6),
            Key::BackRange6(key) => {
                delete_prefix(&mut maps.v6.back_ranges, key, name::BACK_RANGES6)
            }
            Key::Allow6(key) => delete_prefix(&mut maps.v6.allowed, key, name::ALLOW6),
            Key::Limit => self.set_limit(&Limit::default()),
            Key::Blocked4(_) | Key::Blocked6(_) => unreachable!("{key:?} has a table of its own"),
        }
    }

    /// The flow tables of one family.
    pub fn flow_tables<A: TableAddress>(&self) -> &FlowTables<A> {
        &A::maps(&self.maps).flows
    }

    /// The flows of one family that the tables hold.
    pub fn flows<A: TableAddress>(&self) -> Result<Vec<FlowSeen<A>>, BpfError> {
        let mut flows = Vec::new();
        self.flow_tables().each(|seen| flows.push(seen))?;
        Ok(flows)
    }

    /// Forgets the flows of endpoints that had their host ends at these
    /// interfaces: who gets such an address next must not get its conversations.
    pub fn forget_flows(&mut self, gone: &[(u32, Endpoint)]) -> Result<(), BpfError> {
        if gone.is_empty() {
            return Ok(());
        }
        let addresses = gone.iter().flat_map(|(_, endpoint)| {
            [
                IpAddr::V4(endpoint.addr4.into()),
                IpAddr::V6(endpoint.addr6.into()),
            ]
        });
        self.part(addresses)?;
        let indexes: BTreeSet<u32> = gone.iter().map(|(ifindex, _)| *ifindex).collect();
        let of4 = gone.iter().map(|(_, endpoint)| endpoint.addr4);
        self.forget_endpoints(&indexes, &of4.collect())?;
        let of6 = gone.iter().map(|(_, endpoint)| endpoint.addr6);
        self.forget_endpoints(&indexes, &of6.collect())
    }

    fn forget_endpoints<A: TableAddress>(
        &self,
        indexes: &BTreeSet<u32>,
        addrs: &BTreeSet<A>,
    ) -> Result<(), BpfError> {
        self.flow_tables::<A>().forget(|seen| {
            let local = seen.key.local;
            indexes.contains(&seen.flow.to.ifindex) || local != A::ANY && addrs.contains(&local)
        })
    }

    /// Forgets the flows that the outside knows by an address that the host no
    /// longer has: a container that goes on sending gets another.
    fn forget_address<A: TableAddress>(&mut self, addr: A) -> Result<(), BpfError> {
        self.flow_tables::<A>()
            .forget(|seen| seen.flow.external == addr)
    }
}
