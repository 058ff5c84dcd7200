//! Entries of single maps, and what the kernel's refusals mean.

use std::borrow::BorrowMut;

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie},
};
use netdp_common::range::TrieKey;

use super::BpfError;

/// Calls `each` for every entry. One that comes or goes meanwhile may be seen
/// or not.
pub fn dump<K: Pod, V: Pod>(
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
pub fn dump_trie<K: Pod, V: Pod>(
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

pub fn put_prefix<K: Pod, V: Pod>(
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

pub fn delete_prefix<K: Pod, V: Pod>(
    map: &mut LpmTrie<MapData, K, V>,
    key: &TrieKey<K>,
    name: &'static str,
) -> Result<(), BpfError> {
    let key = lpm_trie::Key::new(key.prefix, key.place);
    gone(map.remove(&key), name)
}

pub fn insert<T: BorrowMut<MapData>, K: Pod, V: Pod>(
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

pub fn delete<T: BorrowMut<MapData>, K: Pod, V: Pod>(
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
