//! The addresses of containers and of the host, as the programs' filter has
//! them ([`netdp_common::own`]).

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    maps::name,
    own::{self, WORDS},
};

use super::{BpfError, Key, Tables};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    V4(V4Addr),
    V6(V6Addr),
}

impl Address {
    fn of(key: &Key) -> Option<Self> {
        match key {
            Key::Owner4(addr) | Key::Local4(addr) => Some(Self::V4(*addr)),
            Key::Owner6(addr) | Key::Local6(addr) => Some(Self::V6(*addr)),
            _ => None,
        }
    }

    fn place(self) -> (u32, u64) {
        match self {
            Self::V4(addr) => own::place(addr),
            Self::V6(addr) => own::place(addr),
        }
    }
}

/// The filter, kept in line with the tables: a bit is set before its address
/// is in a table, and cleared after it has gone.
pub struct Filter {
    map: Array<MapData, u64>,
    /// The table entries behind each bit.
    keys: BTreeMap<(u32, u64), BTreeSet<Key>>,
}

impl Filter {
    pub fn new(map: Array<MapData, u64>) -> Self {
        Self {
            map,
            keys: BTreeMap::new(),
        }
    }

    /// Takes over what the tables hold, whatever the filter held.
    pub fn fill(&mut self, tables: &Tables) -> Result<(), BpfError> {
        self.keys.clear();
        for key in tables.keys() {
            if let Some(address) = Address::of(key) {
                self.keys.entry(address.place()).or_default().insert(*key);
            }
        }
        (0..WORDS).try_for_each(|word| self.write(word))
    }

    /// Before an entry is written.
    pub fn add(&mut self, key: &Key) -> Result<(), BpfError> {
        let Some(address) = Address::of(key) else {
            return Ok(());
        };
        let place = address.place();
        let keys = self.keys.entry(place).or_default();
        let first = keys.is_empty();
        keys.insert(*key);
        if first { self.write(place.0) } else { Ok(()) }
    }

    /// After an entry was removed.
    pub fn remove(&mut self, key: &Key) -> Result<(), BpfError> {
        let Some(address) = Address::of(key) else {
            return Ok(());
        };
        let place = address.place();
        let Some(keys) = self.keys.get_mut(&place) else {
            return Ok(());
        };
        keys.remove(key);
        if !keys.is_empty() {
            return Ok(());
        }
        self.keys.remove(&place);
        self.write(place.0)
    }

    fn write(&mut self, word: u32) -> Result<(), BpfError> {
        let bits = self
            .keys
            .range((word, 0)..=(word, u64::MAX))
            .fold(0, |bits, ((_, bit), _)| bits | bit);
        self.map
            .set(word, bits, 0)
            .map_err(BpfError::map(name::OWN))
    }
}
