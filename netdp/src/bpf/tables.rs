//! Reading and writing the maps.

use std::borrow::BorrowMut;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
};
use netdp_common::{
    addr::V4Addr,
    drop::DropReason,
    maps::{
        Back, Config, Endpoint, Flow, FlowKey, Local, MAX_ENDPOINTS, MAX_LOCAL, MAX_PORTS,
        MAX_UPLINKS, Owner, PortKey, Published, Stats, Uplink, name,
    },
};

use super::{BpfError, Datapath, Entry, FlowSeen, Key, Tables, datapath::take};

/// The maps that userspace reads or writes.
pub(super) struct Maps {
    config: Array<MapData, Config>,
    endpoints: HashMap<MapData, u32, Endpoint>,
    uplinks: HashMap<MapData, u32, Uplink>,
    addrs4: HashMap<MapData, V4Addr, Owner>,
    ports4: HashMap<MapData, PortKey<V4Addr>, Published<V4Addr>>,
    back4: HashMap<MapData, PortKey<V4Addr>, Back<V4Addr>>,
    local4: HashMap<MapData, V4Addr, Local>,
    flows4: HashMap<MapData, FlowKey<V4Addr>, Flow<V4Addr>>,
    pending4: HashMap<MapData, FlowKey<V4Addr>, Flow<V4Addr>>,
    drops: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, Stats>,
}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        macro_rules! open {
            ($name:expr) => {
                take(ebpf, $name)?
                    .try_into()
                    .map_err(BpfError::map($name))?
            };
        }
        Ok(Self {
            config: open!(name::CONFIG),
            endpoints: open!(name::ENDPOINTS),
            uplinks: open!(name::UPLINKS),
            addrs4: open!(name::ADDRS4),
            ports4: open!(name::PORTS4),
            back4: open!(name::BACK4),
            local4: open!(name::LOCAL4),
            flows4: open!(name::FLOWS4),
            pending4: open!(name::PENDING4),
            drops: open!(name::DROPS),
            stats: open!(name::STATS),
        })
    }

    pub fn set_config(&mut self, config: &Config) -> Result<(), BpfError> {
        self.config
            .set(0, config, 0)
            .map_err(BpfError::map(name::CONFIG))
    }
}

impl Datapath {
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
        dump(&maps.addrs4, name::ADDRS4, |key, value| {
            add(Key::Owner4(key), Entry::Owner4(value));
        })?;
        dump(&maps.ports4, name::PORTS4, |key, value| {
            add(Key::Port4(key), Entry::Port4(value));
        })?;
        dump(&maps.back4, name::BACK4, |key, value| {
            add(Key::Back4(key), Entry::Back4(value));
        })?;
        dump(&maps.local4, name::LOCAL4, |key, value| {
            add(Key::Local4(key), Entry::Local4(value));
        })?;
        Ok(tables)
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// [`BpfError::Full`]; a kind of value that isn't its key's is a mistake of
    /// the caller and panics.
    pub fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), BpfError> {
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
                insert(&mut maps.addrs4, key, value, name::ADDRS4, MAX_ENDPOINTS)
            }
            (Key::Port4(key), Entry::Port4(value)) => {
                insert(&mut maps.ports4, key, value, name::PORTS4, MAX_PORTS)
            }
            (Key::Back4(key), Entry::Back4(value)) => {
                insert(&mut maps.back4, key, value, name::BACK4, MAX_PORTS)
            }
            (Key::Local4(key), Entry::Local4(value)) => {
                insert(&mut maps.local4, key, value, name::LOCAL4, MAX_LOCAL)
            }
            (Key::Uplink(key), Entry::Uplink(value)) => {
                insert(&mut maps.uplinks, key, value, name::UPLINKS, MAX_UPLINKS)
            }
            (key, entry) => unreachable!("{entry:?} is no value for {key:?}"),
        }
    }

    /// Removes an entry, if it is there; with an address of the host also the
    /// flows that the outside knows by it.
    pub fn remove(&mut self, key: &Key) -> Result<(), BpfError> {
        let maps = &mut self.maps;
        match key {
            Key::Endpoint(key) => delete(&mut maps.endpoints, key, name::ENDPOINTS),
            Key::Owner4(key) => delete(&mut maps.addrs4, key, name::ADDRS4),
            Key::Port4(key) => delete(&mut maps.ports4, key, name::PORTS4),
            Key::Back4(key) => delete(&mut maps.back4, key, name::BACK4),
            Key::Local4(key) => {
                delete(&mut maps.local4, key, name::LOCAL4)?;
                self.forget_address(*key)
            }
            Key::Uplink(key) => delete(&mut maps.uplinks, key, name::UPLINKS),
        }
    }

    /// The flows that the tables hold.
    pub fn flows(&self) -> Result<Vec<FlowSeen>, BpfError> {
        let mut flows = Vec::new();
        dump(&self.maps.flows4, name::FLOWS4, |key, flow| {
            flows.push(FlowSeen {
                key,
                flow,
                pending: false,
            });
        })?;
        dump(&self.maps.pending4, name::PENDING4, |key, flow| {
            flows.push(FlowSeen {
                key,
                flow,
                pending: true,
            });
        })?;
        Ok(flows)
    }

    /// Forgets the flows of an endpoint that had its host end at `ifindex`: who
    /// gets its address next must not get its conversations.
    pub fn forget_flows(&mut self, ifindex: u32, endpoint: &Endpoint) -> Result<(), BpfError> {
        let addr = endpoint.addr4;
        self.forget(|seen| {
            seen.flow.to.ifindex == ifindex || addr != V4Addr(0) && seen.key.local == addr
        })
    }

    /// Forgets the flows that the outside knows by an address that the host no
    /// longer has: a container that goes on sending gets another.
    fn forget_address(&mut self, addr: V4Addr) -> Result<(), BpfError> {
        self.forget(|seen| seen.flow.external == addr)
    }

    fn forget(&mut self, belongs: impl Fn(&FlowSeen) -> bool) -> Result<(), BpfError> {
        let flows = self.flows()?;
        for FlowSeen { key, pending, .. } in flows.into_iter().filter(|seen| belongs(seen)) {
            if pending {
                delete(&mut self.maps.pending4, &key, name::PENDING4)?;
            } else {
                delete(&mut self.maps.flows4, &key, name::FLOWS4)?;
            }
        }
        Ok(())
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
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(source) => Err(BpfError::map(name)(source)),
    }
}
