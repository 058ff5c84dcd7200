//! What the programs count: drops, packets of endpoints, their share of the flow
//! tables, and the work of the sweep.

use std::{fmt, net::IpAddr, os::fd::AsFd, sync::Arc};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues},
};
use netdp_common::{
    drop::DropReason,
    left::Left,
    maps::{Share, Stats, Sweep, Usage, name},
    share,
};

use super::{BpfError, Datapath, clock};

impl Datapath {
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
        Ok(together(&counts))
    }

    /// Packets that the programs for another engine left to it, by reason.
    pub fn left(&self) -> Result<Vec<(Left, u64)>, BpfError> {
        left(&self.maps.left)
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

    /// Why an endpoint may open no flow just now; none where it may.
    /// `address` is one of the flow's, for its family.
    pub fn want_of_room(&self, slot: u32, address: IpAddr) -> Result<Option<DropReason>, BpfError> {
        let share = self.share(slot)?;
        if !share::has_room(share.flows, share.pending, &self.config()?) {
            return Ok(Some(DropReason::EndpointLimit));
        }
        let full = self.maps.full.get(&u32::from(address.is_ipv6()), 0);
        let full = full.map_err(BpfError::map(name::FULL))?;
        Ok((!share::may_have_room(full, clock::now())).then_some(DropReason::TableFull))
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
            .map_err(BpfError::map(name::STATS))?;
        self.clear_short(slot)
    }
}

/// Counters that can be read while the datapath is changed. A clone is the same
/// counters.
#[derive(Clone)]
pub struct Counters {
    maps: Arc<CounterMaps>,
}

struct CounterMaps {
    stats: PerCpuArray<MapData, Stats>,
    usage: Array<MapData, Usage>,
    left: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Counters {
    /// Before the maps are taken.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, BpfError> {
        let open = |name: &'static str| {
            let found = ebpf.map(name);
            let (Map::Array(data) | Map::PerCpuArray(data)) =
                found.ok_or_else(|| BpfError::Missing(format!("map {name}")))?
            else {
                return Err(BpfError::Missing(format!("an array {name}")));
            };
            let fd = data.fd().as_fd().try_clone_to_owned();
            let fd = fd.map_err(BpfError::io("duplicate the descriptor of", name))?;
            MapData::from_fd(fd).map_err(BpfError::map(name))
        };
        let per_cpu = |name| Ok::<_, BpfError>(Map::PerCpuArray(open(name)?));
        let stats = per_cpu(name::STATS)?.try_into();
        let usage = Map::Array(open(name::USAGE)?).try_into();
        let left = per_cpu(name::LEFT)?.try_into();
        Ok(Self {
            maps: Arc::new(CounterMaps {
                stats: stats.map_err(BpfError::map(name::STATS))?,
                usage: usage.map_err(BpfError::map(name::USAGE))?,
                left: left.map_err(BpfError::map(name::LEFT))?,
            }),
        })
    }

    /// As [`Datapath::stats`].
    pub fn stats(&self, slot: u32) -> Result<Stats, BpfError> {
        let counts = self.maps.stats.get(&slot, 0);
        Ok(together(&counts.map_err(BpfError::map(name::STATS))?))
    }

    /// As [`Datapath::share`].
    pub fn share(&self, slot: u32) -> Result<Share, BpfError> {
        let usage = self.maps.usage.get(&slot, 0);
        Ok(usage.map_err(BpfError::map(name::USAGE))?.now)
    }

    /// As [`Datapath::left`].
    pub fn left(&self) -> Result<Vec<(Left, u64)>, BpfError> {
        left(&self.maps.left)
    }
}

fn left(map: &PerCpuArray<MapData, u64>) -> Result<Vec<(Left, u64)>, BpfError> {
    let all = Left::ALL.iter();
    all.map(|reason| {
        let counts = map.get(&(*reason as u32), 0);
        let counts = counts.map_err(BpfError::map(name::LEFT))?;
        Ok((*reason, counts.iter().sum()))
    })
    .collect()
}

fn together(counts: &PerCpuValues<Stats>) -> Stats {
    counts.iter().fold(Stats::default(), |sum, cpu| Stats {
        rx_packets: sum.rx_packets + cpu.rx_packets,
        rx_bytes: sum.rx_bytes + cpu.rx_bytes,
        tx_packets: sum.tx_packets + cpu.tx_packets,
        tx_bytes: sum.tx_bytes + cpu.tx_bytes,
        drops: sum.drops + cpu.drops,
    })
}
