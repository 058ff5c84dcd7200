//! What the programs count: drops, packets of endpoints, their share of the flow
//! tables, and the work of the sweep.

use std::net::IpAddr;

use aya::maps::PerCpuValues;
use netdp_common::{
    drop::DropReason,
    maps::{Share, Stats, Sweep, name},
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
            .map_err(BpfError::map(name::STATS))
    }
}
