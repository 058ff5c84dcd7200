//! Published ports that masqueraded flows had before.
//!
//! A flow that goes on keeps its port when that is published: packets of its
//! peer are its own, and all others the container's behind the port. For that
//! the programs have to look for the flow, which costs a lookup for each packet
//! that enters; so an entry says whether there may be one
//! ([`Published::shared`]). It says so from the start, before the flow tables
//! are read: a new flow finds the port published, and takes another.
//!
//! [`Published::shared`]: netdp_common::maps::Published

use std::collections::{BTreeMap, BTreeSet};

use netdp_common::{
    addr::Be16,
    maps::{PortKey, PublishedRange, config_flags, flow_kind},
    range::{RangeKey, contains},
};

use super::{BpfError, Datapath, Entry, FlowSeen, Key, TableAddress, Tables};

/// The entries that say that flows may have their ports.
#[derive(Default)]
pub struct Shared {
    entries: BTreeMap<Key, Entry>,
    /// Of them, those of direct ports.
    direct: BTreeSet<Key>,
}

impl Shared {
    /// Takes over what the tables hold.
    pub fn fill(&mut self, tables: &Tables) {
        *self = Self::default();
        for (key, entry) in tables {
            self.add(key, entry);
        }
    }

    /// After an entry was written.
    pub fn add(&mut self, key: &Key, entry: &Entry) {
        self.remove(key);
        if unmarked(*entry) != *entry {
            self.entries.insert(*key, *entry);
            if entry.is_direct() {
                self.direct.insert(*key);
            }
        }
    }

    /// After it was removed.
    pub fn remove(&mut self, key: &Key) {
        self.entries.remove(key);
        self.direct.remove(key);
    }

    /// [`config_flags`] with the one that is about these entries.
    pub fn told_by(&self, flags: u32) -> u32 {
        let others = flags & !config_flags::DIRECT_SHARED;
        if self.direct.is_empty() {
            others
        } else {
            others | config_flags::DIRECT_SHARED
        }
    }
}

/// An entry as it is written: that of a port says that flows may have it.
pub fn marked(entry: &Entry) -> Entry {
    with_mark(*entry, 1)
}

/// An entry as the planner knows it.
pub fn unmarked(entry: Entry) -> Entry {
    with_mark(entry, 0)
}

fn with_mark(mut entry: Entry, mark: u32) -> Entry {
    match &mut entry {
        Entry::Port4(published) => published.shared = mark,
        Entry::Port6(published) => published.shared = mark,
        Entry::Range4(range) => range.published.shared = mark,
        Entry::Range6(range) => range.published.shared = mark,
        _ => {}
    }
    entry
}

/// Ports of the host that flows are looked for with.
struct Sought<A> {
    entry: (Key, Entry),
    /// Unspecified for all.
    addr: A,
    proto: u8,
    first: Be16,
    /// How many follow the first.
    span: u16,
    is_shared: bool,
}

impl<A: TableAddress> Sought<A> {
    fn port(entry: (Key, Entry), key: &PortKey<A>) -> Self {
        Self {
            entry,
            addr: key.addr,
            proto: key.proto,
            first: key.port,
            span: 0,
            is_shared: false,
        }
    }

    fn range(entry: (Key, Entry), key: &RangeKey<A>, range: &PublishedRange<A>) -> Self {
        Self {
            entry,
            addr: key.place.addr,
            proto: key.place.proto as u8,
            first: range.published.host_port,
            span: range.span,
            is_shared: false,
        }
    }

    /// Whether the outside knows this flow by one of the ports.
    fn is_had_by(&self, seen: &FlowSeen<A>) -> bool {
        seen.key.local == A::ANY
            && matches!(seen.flow.kind, flow_kind::MASQUERADE | flow_kind::HOST)
            && seen.key.proto == self.proto
            && contains(self.first, self.span, seen.key.local_port)
            && (self.addr == A::ANY || self.addr == seen.flow.external)
    }
}

impl Datapath {
    /// How many published ports, a range being one, flows may have.
    pub fn shared_ports(&self) -> usize {
        self.maps.shared.entries.len()
    }

    /// Looks which published ports flows have, of those that may be shared. To
    /// be called when ports have been put; reads the flow tables once.
    ///
    /// Until then, and after an error, packets for them look for a flow, and
    /// nothing else is different.
    pub fn settle_ports(&mut self) -> Result<(), BpfError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, entry) in &self.maps.shared.entries {
            let both = (*key, *entry);
            match (key, entry) {
                (Key::Port4(port), _) => v4.push(Sought::port(both, port)),
                (Key::Port6(port), _) => v6.push(Sought::port(both, port)),
                (Key::Range4(key), Entry::Range4(range)) => {
                    v4.push(Sought::range(both, key, range));
                }
                (Key::Range6(key), Entry::Range6(range)) => {
                    v6.push(Sought::range(both, key, range));
                }
                _ => {}
            }
        }
        self.settle(v4)?;
        self.settle(v6)?;
        self.tell_of_shared()
    }

    /// Tells the programs whether flows may have direct ports.
    pub(super) fn tell_of_shared(&mut self) -> Result<(), BpfError> {
        let mut config = self.maps.config()?;
        let flags = self.maps.shared.told_by(config.flags);
        if flags == config.flags {
            return Ok(());
        }
        config.flags = flags;
        self.maps.set_config(&config)
    }

    fn settle<A: TableAddress>(&mut self, mut ports: Vec<Sought<A>>) -> Result<(), BpfError> {
        if ports.is_empty() {
            return Ok(());
        }
        self.flow_tables::<A>().each(|seen| {
            for port in &mut ports {
                port.is_shared |= port.is_had_by(&seen);
            }
        })?;
        for port in ports.iter().filter(|port| !port.is_shared) {
            let (key, entry) = port.entry;
            self.write(&key, &unmarked(entry))?;
            self.maps.shared.remove(&key);
        }
        Ok(())
    }
}
