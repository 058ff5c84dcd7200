//! The limit on new conversations of one source, and what sources have left of it.

use std::net::{IpAddr, SocketAddr};

use aya::{Pod, maps::MapError};
use netdp_common::{
    addr::{Be16, V4Addr, V6Addr, proto},
    limit::{self, Limit},
    maps::{FlowKey, name},
};

use super::{BpfError, Datapath, TableAddress, clock};

impl Datapath {
    /// None where there is none.
    pub fn limit(&self) -> Result<Option<Limit>, BpfError> {
        let limit = self.maps.limit.get(&0, 0);
        let limit = limit.map_err(BpfError::map(name::LIMIT))?;
        Ok(limit.is_set().then_some(limit))
    }

    pub(super) fn set_limit(&mut self, limit: &Limit) -> Result<(), BpfError> {
        let set = self.maps.limit.set(0, limit, 0);
        set.map_err(BpfError::map(name::LIMIT))
    }

    /// Whether a packet that begins a conversation with a published port would be
    /// refused at this moment.
    pub fn is_over_limit(
        &self,
        proto: u8,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<bool, BpfError> {
        let ports = (from.port(), to.port());
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.is_over::<V4Addr>((from.into(), to.into()), ports, proto)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.is_over::<V6Addr>((from.into(), to.into()), ports, proto)
            }
            _ => Ok(false),
        }
    }

    fn is_over<A: TableAddress + Pod>(
        &self,
        (remote, local): (A, A),
        (remote_port, local_port): (u16, u16),
        proto: u8,
    ) -> Result<bool, BpfError> {
        let Some(limit) = self.limit()? else {
            return Ok(false);
        };
        let maps = A::maps(&self.maps);
        let (remote_port, local_port) = (Be16::new(remote_port), Be16::new(local_port));
        let key = FlowKey::full(remote, remote_port, local, local_port, proto);
        if proto == proto::UDP
            && let Some(last) = found(maps.heard.get(&key, 0), name::HEARD4)?
            && limit::goes_on(last, clock::now(), self.config()?.udp)
        {
            return Ok(false);
        }
        let bucket = found(maps.buckets.get(&remote.source(), 0), name::BUCKETS4)?;
        Ok(bucket.is_some_and(|full| limit.take(full, clock::nanoseconds()) == 0))
    }
}

/// None where a table has no such entry.
fn found<T>(entry: Result<T, MapError>, table: &'static str) -> Result<Option<T>, BpfError> {
    match entry {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(BpfError::map(table)(source)),
    }
}
