//! Reading and writing the maps.

use std::{borrow::BorrowMut, collections::BTreeSet};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie},
};
use netdp_common::{
    addr::{Address, V4Addr, V6Addr},
    drop::DropReason,
    maps::{
        Back, BackRange, Config, Endpoint, LinkKey, Local, MAX_ALLOWED, MAX_ENDPOINTS, MAX_LINKS,
        MAX_LOCAL, MAX_PORTS, MAX_RANGES, MAX_UPLINKS, Owner, PortKey, Published, PublishedRange,
        Share, Stats, Sweep, TimedSweep, Uplink, Usage, config_flags, name,
    },
    range::{AllowPlace, RangePlace, TrieKey},
};

use super::{
    BpfError, Datapath, Entry, FlowSeen, FlowTables, Key, Tables, datapath::take, own::Filter,
};

/// The maps that userspace reads or writes.
pub struct Maps {
    config: Array<MapData, Config>,
    endpoints: HashMap<MapData, u32, Endpoint>,
    uplinks: HashMap<MapData, u32, Uplink>,
    v4: FamilyMaps<V4Addr>,
    v6: FamilyMaps<V6Addr>,
    drops: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, Stats>,
    usage: Array<MapData, Usage>,
    sweeper: Array<MapData, TimedSweep>,
    own: Filter,
    /// The ranges that there are: without any the programs don't ask for them.
    ranged: BTreeSet<Key>,
}

/// Those of one address family.
pub struct FamilyMaps<A: Address> {
    addrs: HashMap<MapData, A, Owner>,
    ports: HashMap<MapData, PortKey<A>, Published<A>>,
    back: HashMap<MapData, PortKey<A>, Back<A>>,
    local: HashMap<MapData, A, Local>,
    links: HashMap<MapData, LinkKey<A>, u32>,
    ranges: LpmTrie<MapData, RangePlace<A>, PublishedRange<A>>,
    back_ranges: LpmTrie<MapData, RangePlace<A>, BackRange<A>>,
    allowed: LpmTrie<MapData, AllowPlace<A>, u32>,
    flows: FlowTables<A>,
}

/// The names of [`FamilyMaps`].
struct Names {
    addrs: &'static str,
    ports: &'static str,
    back: &'static str,
    local: &'static str,
    links: &'static str,
    ranges: &'static str,
    back_ranges: &'static str,
    allowed: &'static str,
    flows: &'static str,
    pending: &'static str,
}

const NAMES4: Names = Names {
    addrs: name::ADDRS4,
    ports: name::PORTS4,
    back: name::BACK4,
    local: name::LOCAL4,
    links: name::LINKS4,
    ranges: name::RANGES4,
    back_ranges: name::BACK_RANGES4,
    allowed: name::ALLOW4,
    flows: name::FLOWS4,
    pending: name::PENDING4,
};

const NAMES6: Names = Names {
    addrs: name::ADDRS6,
    ports: name::PORTS6,
    back: name::BACK6,
    local: name::LOCAL6,
    links: name::LINKS6,
    ranges: name::RANGES6,
    back_ranges: name::BACK_RANGES6,
    allowed: name::ALLOW6,
    flows: name::FLOWS6,
    pending: name::PENDING6,
};

mod private {
    use super::{Address, FamilyMaps, Maps, V4Addr, V6Addr};

    pub trait Sealed: Address {
        fn maps(maps: &Maps) -> &FamilyMaps<Self>;
    }

    impl Sealed for V4Addr {
        fn maps(maps: &Maps) -> &FamilyMaps<Self> {
            &maps.v4
        }
    }

    impl Sealed for V6Addr {
        fn maps(maps: &Maps) -> &FamilyMaps<Self> {
            &maps.v6
        }
    }
}

/// An address whose family has tables: of IPv4 or IPv6.
pub trait TableAddress: private::Sealed {}

impl<A: private::Sealed> TableAddress for A {}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        macro_rules! open {
            ($name:expr) => {
                take(ebpf, $name)?
                    .try_into()
                    .map_err(BpfError::map($name))?
            };
        }
        macro_rules! family {
            ($names:ident) => {
                FamilyMaps {
                    addrs: open!($names.addrs),
                    ports: open!($names.ports),
                    back: open!($names.back),
                    local: open!($names.local),
                    links: open!($names.links),
                    ranges: open!($names.ranges),
                    back_ranges: open!($names.back_ranges),
                    allowed: open!($names.allowed),
                    flows: FlowTables::take(ebpf, $names.flows, $names.pending)?,
                }
            };
        }
        Ok(Self {
            config: open!(name::CONFIG),
            endpoints: open!(name::ENDPOINTS),
            uplinks: open!(name::UPLINKS),
            v4: family!(NAMES4),
            v6: family!(NAMES6),
            drops: open!(name::DROPS),
            stats: open!(name::STATS),
            usage: open!(name::USAGE),
            sweeper: open!(name::SWEEPER),
            own: Filter::new(open!(name::OWN)),
            ranged: BTreeSet::new(),
        })
    }

    pub fn config(&self) -> Result<Config, BpfError> {
        self.config.get(&0, 0).map_err(BpfError::map(name::CONFIG))
    }

    pub fn set_config(&mut self, config: &Config) -> Result<(), BpfError> {
        self.config
            .set(0, config, 0)
            .map_err(BpfError::map(name::CONFIG))
    }

    /// Before a range is written.
    fn range_comes(&mut self, key: &Key) -> Result<(), BpfError> {
        if is_range(key) && self.ranged.insert(*key) && self.ranged.len() == 1 {
            return self.tell_of_ranges();
        }
        Ok(())
    }

    /// After a range was removed.
    fn range_goes(&mut self, key: &Key) -> Result<(), BpfError> {
        if self.ranged.remove(key) && self.ranged.is_empty() {
            return self.tell_of_ranges();
        }
        Ok(())
    }

    fn tell_of_ranges(&mut self) -> Result<(), BpfError> {
        let mut config = self.config()?;
        config.flags &= !config_flags::RANGES;
        if !self.ranged.is_empty() {
            config.flags |= config_flags::RANGES;
        }
        self.set_config(&config)
    }
}

fn is_range(key: &Key) -> bool {
    matches!(
        key,
        Key::Range4(_) | Key::Range6(_) | Key::BackRange4(_) | Key::BackRange6(_)
    )
}

impl Datapath {
    /// What the programs are told: times, ports, shares.
    pub fn config(&self) -> Result<Config, BpfError> {
        self.maps.config()
    }

    /// Everything that the configuration maps hold.
    pub fn tables(&self) -> Result<Tables, BpfError> {
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
        Ok(tables)
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// [`BpfError::Full`]; a kind of value that isn't its key's is a mistake of
    /// the caller and panics.
    pub fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), BpfError> {
        if let Key::Uplink(ifindex) = key
            && self.uplinks.insert(*ifindex)
        {
            self.count_uplinks()?;
        }
        let maps = &mut self.maps;
        maps.own.add(key)?;
        maps.range_comes(key)?;
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
            (key, entry) => unreachable!("{entry:?} is no value for {key:?}"),
        }
    }

    /// Removes an entry, if it is there; with an address of the host also the
    /// flows that the outside knows by it.
    pub fn remove(&mut self, key: &Key) -> Result<(), BpfError> {
        self.delete(key)?;
        if let Key::Uplink(ifindex) = key {
            self.uplinks.remove(ifindex);
            self.count_uplinks()?;
        }
        self.maps.range_goes(key)?;
        self.maps.own.remove(key)
    }

    fn count_uplinks(&mut self) -> Result<(), BpfError> {
        self.config.uplinks = self.uplinks.len() as u32;
        self.config.flags = self.maps.config()?.flags;
        self.maps.set_config(&self.config)
    }

    /// Brings what is derived from the tables in line with them.
    pub(super) fn derive(&mut self) -> Result<(), BpfError> {
        let tables = self.tables()?;
        self.uplinks = tables
            .keys()
            .filter_map(|key| match key {
                Key::Uplink(ifindex) => Some(*ifindex),
                _ => None,
            })
            .collect();
        self.count_uplinks()?;
        self.maps.ranged = tables.keys().filter(|key| is_range(key)).copied().collect();
        self.maps.tell_of_ranges()?;
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

    /// Forgets the flows of an endpoint that had its host end at `ifindex`: who
    /// gets its address next must not get its conversations.
    pub fn forget_flows(&mut self, ifindex: u32, endpoint: &Endpoint) -> Result<(), BpfError> {
        self.forget_endpoint(ifindex, endpoint.addr4)?;
        self.forget_endpoint(ifindex, endpoint.addr6)
    }

    fn forget_endpoint<A: TableAddress>(&mut self, ifindex: u32, addr: A) -> Result<(), BpfError> {
        self.flow_tables::<A>().forget(|seen| {
            seen.flow.to.ifindex == ifindex || addr != A::ANY && seen.key.local == addr
        })
    }

    /// Forgets the flows that the outside knows by an address that the host no
    /// longer has: a container that goes on sending gets another.
    fn forget_address<A: TableAddress>(&mut self, addr: A) -> Result<(), BpfError> {
        self.flow_tables::<A>()
            .forget(|seen| seen.flow.external == addr)
    }

    /// Packets dropped, by reason, all CPUs together.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, BpfError> {
        DropReason::ALL
            .iter()
            .map(|reason| {
                let counts = self
                    .maps
                    .drops
                    .get(&(*reason as u32), 0)
                    .map_err(BpfError::map(name::DROPS))?;
                Ok((*reason, counts.iter().sum()))
            })
            .collect()
    }

    /// An endpoint's counters, all CPUs together.
    pub fn stats(&self, slot: u32) -> Result<Stats, BpfError> {
        let counts = self
            .maps
            .stats
            .get(&slot, 0)
            .map_err(BpfError::map(name::STATS))?;
        Ok(counts.iter().fold(Stats::default(), |sum, cpu| Stats {
            rx_packets: sum.rx_packets + cpu.rx_packets,
            rx_bytes: sum.rx_bytes + cpu.rx_bytes,
            tx_packets: sum.tx_packets + cpu.tx_packets,
            tx_bytes: sum.tx_bytes + cpu.tx_bytes,
            drops: sum.drops + cpu.drops,
        }))
    }

    /// What an endpoint has of the flow tables.
    pub fn share(&self, slot: u32) -> Result<Share, BpfError> {
        let usage = self
            .maps
            .usage
            .get(&slot, 0)
            .map_err(BpfError::map(name::USAGE))?;
        Ok(usage.now)
    }

    /// How far the sweep of the flow tables is, and how long it takes.
    pub fn sweep(&self) -> Result<Sweep, BpfError> {
        let sweeper = self.maps.sweeper.get(&0, 0);
        Ok(sweeper.map_err(BpfError::map(name::SWEEPER))?.sweep)
    }

    /// Sets an endpoint's counters to 0.
    pub fn clear_stats(&mut self, slot: u32) -> Result<(), BpfError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(path, source)| BpfError::io("read", path)(source))?;
        let zero = PerCpuValues::try_from(vec![Stats::default(); cpus])
            .map_err(BpfError::io("count the CPUs for", name::STATS))?;
        self.maps
            .stats
            .set(slot, zero, 0)
            .map_err(BpfError::map(name::STATS))
    }
}

/// Calls `each` for every entry. One that comes or goes meanwhile may be seen
/// or not.
fn dump<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
    mut each: impl FnMut(K, V),
) -> Result<(), BpfError> {
    for entry in map.iter() {
        match entry {
            Ok((key, value)) => each(key, value),
            // Removed between finding its key and reading it.
            Err(MapError::KeyNotFound) => {}
            Err(source) => return Err(BpfError::map(name)(source)),
        }
    }
    Ok(())
}

/// The same of a trie.
fn dump_trie<K: Pod, V: Pod>(
    map: &LpmTrie<MapData, K, V>,
    name: &'static str,
    mut each: impl FnMut(TrieKey<K>, V),
) -> Result<(), BpfError> {
    for entry in map.iter() {
        match entry {
            Ok((key, value)) => {
                let key = TrieKey {
                    pad: 0,
                    prefix: key.prefix_len(),
                    place: key.data(),
                };
                each(key, value);
            }
            Err(MapError::KeyNotFound) => {}
            Err(source) => return Err(BpfError::map(name)(source)),
        }
    }
    Ok(())
}

fn put_prefix<K: Pod, V: Pod>(
    map: &mut LpmTrie<MapData, K, V>,
    key: &TrieKey<K>,
    value: &V,
    name: &'static str,
    limit: u32,
) -> Result<(), BpfError> {
    let key = lpm_trie::Key::new(key.prefix, key.place);
    map.insert(&key, value, 0).map_err(|source| match source {
        // `trie_update_elem` says so where hash tables say E2BIG.
        MapError::SyscallError(ref error)
            if error.io_error.raw_os_error() == Some(libc::ENOSPC) =>
        {
            BpfError::Full { name, limit }
        }
        source => BpfError::map(name)(source),
    })
}

fn delete_prefix<K: Pod, V: Pod>(
    map: &mut LpmTrie<MapData, K, V>,
    key: &TrieKey<K>,
    name: &'static str,
) -> Result<(), BpfError> {
    let key = lpm_trie::Key::new(key.prefix, key.place);
    gone(map.remove(&key), name)
}

fn insert<T: BorrowMut<MapData>, K: Pod, V: Pod>(
    map: &mut HashMap<T, K, V>,
    key: &K,
    value: &V,
    name: &'static str,
    limit: u32,
) -> Result<(), BpfError> {
    map.insert(key, value, 0).map_err(|source| match source {
        MapError::SyscallError(ref error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
            BpfError::Full { name, limit }
        }
        source => BpfError::map(name)(source),
    })
}

fn delete<T: BorrowMut<MapData>, K: Pod, V: Pod>(
    map: &mut HashMap<T, K, V>,
    key: &K,
    name: &'static str,
) -> Result<(), BpfError> {
    gone(map.remove(key), name)
}

/// What was gone already is no error.
fn gone(removed: Result<(), MapError>, name: &'static str) -> Result<(), BpfError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(source) => Err(BpfError::map(name)(source)),
    }
}
