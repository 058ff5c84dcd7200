//! The tables of blocked sources, and what says that there are any.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, LpmTrie, MapData, MapError, lpm_trie},
};
use ipnet::IpNet;
use netdp_common::{
    addr::{V4Addr, V6Addr},
    block::{BlockKey, BlockPlace},
    maps::{MAX_BLOCKED, name},
};

use super::{
    BpfError, Datapath, Key,
    datapath::take,
    map_entry::{delete_prefix, dump_trie, put_prefix},
};

/// Those of both families.
pub(super) struct Blocked {
    v4: LpmTrie<MapData, BlockPlace<V4Addr>, u64>,
    v6: LpmTrie<MapData, BlockPlace<V6Addr>, u64>,
    blocking: Array<MapData, u32>,
    /// What the tables hold.
    keys: BTreeSet<Key>,
}

impl Blocked {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            v4: take(ebpf, name::BLOCKED4)?
                .try_into()
                .map_err(BpfError::map(name::BLOCKED4))?,
            v6: take(ebpf, name::BLOCKED6)?
                .try_into()
                .map_err(BpfError::map(name::BLOCKED6))?,
            blocking: take(ebpf, name::BLOCKING)?
                .try_into()
                .map_err(BpfError::map(name::BLOCKING))?,
            keys: BTreeSet::new(),
        })
    }

    pub fn dump(&self, mut each: impl FnMut(Key)) -> Result<(), BpfError> {
        dump_trie(&self.v4, name::BLOCKED4, |key, _| each(Key::Blocked4(key)))?;
        dump_trie(&self.v6, name::BLOCKED6, |key, _| each(Key::Blocked6(key)))
    }

    /// Takes over what the tables hold.
    pub fn fill<'a>(&mut self, keys: impl Iterator<Item = &'a Key>) -> Result<(), BpfError> {
        let is_blocked = |key: &&Key| matches!(key, Key::Blocked4(_) | Key::Blocked6(_));
        self.keys = keys.filter(is_blocked).copied().collect();
        self.tell()
    }

    /// Whether the programs have to look.
    fn tell(&mut self) -> Result<(), BpfError> {
        let any = u32::from(!self.keys.is_empty());
        self.blocking
            .set(0, any, 0)
            .map_err(BpfError::map(name::BLOCKING))
    }

    /// What is there already goes on counting.
    pub fn put(&mut self, key: &Key) -> Result<(), BpfError> {
        if self.keys.contains(key) {
            return Ok(());
        }
        match key {
            Key::Blocked4(key) => {
                put_prefix(&mut self.v4, key, &0, name::BLOCKED4, MAX_BLOCKED)?;
            }
            Key::Blocked6(key) => {
                put_prefix(&mut self.v6, key, &0, name::BLOCKED6, MAX_BLOCKED)?;
            }
            key => unreachable!("{key:?} is no blocked source"),
        }
        let first = self.keys.is_empty();
        self.keys.insert(*key);
        if first { self.tell() } else { Ok(()) }
    }

    pub fn remove(&mut self, key: &Key) -> Result<(), BpfError> {
        match key {
            Key::Blocked4(key) => delete_prefix(&mut self.v4, key, name::BLOCKED4)?,
            Key::Blocked6(key) => delete_prefix(&mut self.v6, key, name::BLOCKED6)?,
            key => unreachable!("{key:?} is no blocked source"),
        }
        if self.keys.remove(key) && self.keys.is_empty() {
            return self.tell();
        }
        Ok(())
    }

    /// How many packets of a source were dropped; 0 where it isn't blocked.
    fn packets(&self, source: IpNet) -> Result<u64, BpfError> {
        let (name, packets) = match blocked_key(source) {
            Key::Blocked4(key) => {
                let key = lpm_trie::Key::new(key.prefix, key.place);
                (name::BLOCKED4, self.v4.get(&key, 0))
            }
            Key::Blocked6(key) => {
                let key = lpm_trie::Key::new(key.prefix, key.place);
                (name::BLOCKED6, self.v6.get(&key, 0))
            }
            key => unreachable!("{key:?} is no blocked source"),
        };
        match packets {
            Ok(packets) => Ok(packets),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(source) => Err(BpfError::map(name)(source)),
        }
    }
}

/// The entry that blocks a source.
pub fn blocked_key(source: IpNet) -> Key {
    let bits = u32::from(source.prefix_len());
    match source.network() {
        IpAddr::V4(addr) => Key::Blocked4(BlockKey::of_prefix(addr.into(), bits)),
        IpAddr::V6(addr) => Key::Blocked6(BlockKey::of_prefix(addr.into(), bits)),
    }
}

impl Datapath {
    pub(super) fn blocked(&mut self) -> Result<&mut Blocked, BpfError> {
        let missing = || BpfError::Missing("tables of blocked sources here".to_owned());
        self.blocked.as_mut().ok_or_else(missing)
    }

    /// How many packets of a blocked source were dropped since it was blocked,
    /// but for those of a longer prefix that is blocked as well.
    pub fn blocked_packets(&self, source: IpNet) -> Result<u64, BpfError> {
        self.blocked
            .as_ref()
            .map_or(Ok(0), |blocked| blocked.packets(source))
    }
}
