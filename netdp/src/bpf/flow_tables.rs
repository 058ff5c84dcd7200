//! The flow tables of one address family: what programs write, as userspace
//! sees it. They may hold a million entries.

use std::{ops::ControlFlow, path::Path};

use aya::{
    Ebpf, Pod,
    maps::{Map, MapData},
};
use netdp_common::{
    addr::Address,
    maps::{Flow, FlowKey, name},
};

use super::{BpfError, batch::Table, datapath::take, layout::Layout};

/// An entry of the flow tables.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeen<A> {
    pub key: FlowKey<A>,
    pub flow: Flow<A>,
    /// In the table of what isn't answered yet.
    pub pending: bool,
}

/// The flow tables of one family. A clone is the same tables, and can be read
/// while the datapath is changed.
#[derive(Clone)]
pub struct FlowTables<A> {
    flows: Table<FlowKey<A>, Flow<A>>,
    pending: Table<FlowKey<A>, Flow<A>>,
}

impl<A: Address> FlowTables<A> {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        flows: &'static str,
        pending: &'static str,
    ) -> Result<Self, BpfError>
    where
        FlowKey<A>: Pod,
        Flow<A>: Pod,
    {
        Ok(Self {
            flows: Table::of(take(ebpf, flows)?, flows)?,
            pending: Table::of(take(ebpf, pending)?, pending)?,
        })
    }

    /// Opens the tables of IPv4 that are pinned under a bpffs, beside whoever
    /// pinned them: to measure, and for tests.
    #[doc(hidden)]
    pub fn pinned4(bpffs: &Path) -> Result<Self, BpfError>
    where
        FlowKey<A>: Pod,
        Flow<A>: Pod,
    {
        let layout = Layout::of(bpffs);
        let open = |name| {
            let map = MapData::from_pin(layout.map(name)).map_err(BpfError::map(name))?;
            Table::of(Map::HashMap(map), name)
        };
        Ok(Self {
            flows: open(name::FLOWS4)?,
            pending: open(name::PENDING4)?,
        })
    }

    /// Calls `each` for every entry. One that comes or goes meanwhile may be
    /// seen or not.
    pub fn each(&self, mut each: impl FnMut(FlowSeen<A>)) -> Result<(), BpfError> {
        self.each_until(|seen| {
            each(seen);
            ControlFlow::Continue(())
        })
    }

    /// The same until `each` breaks.
    pub fn each_until(
        &self,
        mut each: impl FnMut(FlowSeen<A>) -> ControlFlow<()>,
    ) -> Result<(), BpfError> {
        let mut rest = ControlFlow::Continue(());
        for (table, pending) in [(&self.flows, false), (&self.pending, true)] {
            if rest.is_break() {
                break;
            }
            table.read(|key, flow| {
                rest = each(FlowSeen {
                    key: *key,
                    flow: *flow,
                    pending,
                });
                rest
            })?;
        }
        Ok(())
    }

    /// Removes the entries that `belongs` picks.
    pub(super) fn forget(&self, belongs: impl Fn(&FlowSeen<A>) -> bool) -> Result<(), BpfError> {
        let (mut flows, mut pending) = (Vec::new(), Vec::new());
        self.each(|seen| {
            if belongs(&seen) {
                let keys = if seen.pending {
                    &mut pending
                } else {
                    &mut flows
                };
                keys.push(seen.key);
            }
        })?;
        self.flows.remove(&flows)?;
        self.pending.remove(&pending)
    }

    /// Writes entries as the programs would, to try how the tables behave when
    /// they hold many.
    ///
    /// # Errors
    /// What the kernel refused, such as more entries than the table holds.
    #[doc(hidden)]
    pub fn fill(&self, keys: &[FlowKey<A>], flows: &[Flow<A>]) -> Result<(), BpfError> {
        self.flows.write(keys, flows)
    }

    /// Writes entries back that were seen and changed, for tests.
    ///
    /// # Errors
    /// As [`Self::fill`].
    #[doc(hidden)]
    pub fn rewrite(&self, seen: &[FlowSeen<A>]) -> Result<(), BpfError> {
        for (table, pending) in [(&self.flows, false), (&self.pending, true)] {
            let (keys, flows): (Vec<_>, Vec<_>) = seen
                .iter()
                .filter(|seen| seen.pending == pending)
                .map(|seen| (seen.key, seen.flow))
                .unzip();
            table.write(&keys, &flows)?;
        }
        Ok(())
    }
}
