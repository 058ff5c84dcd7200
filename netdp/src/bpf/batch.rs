//! Hash maps too large to be walked entry by entry: read, filled and emptied
//! some thousand entries to a system call (Linux 5.6).

use std::{
    io,
    marker::PhantomData,
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use aya::{Pod, maps::Map};

use super::{BpfError, syscall::bpf};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// Entries read by one call. One bucket must fit, and buckets are as many as
/// entries: more than this share one only by chance of chances.
const ENTRIES: usize = 4096;

/// `union bpf_attr`, `batch` (`include/uapi/linux/bpf.h`, 5.6).
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A hash map, LRU or not, of which only whole batches are of interest. A clone
/// is the same map.
pub(super) struct Table<K, V> {
    fd: Arc<OwnedFd>,
    name: &'static str,
    entry: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            fd: Arc::clone(&self.fd),
            name: self.name,
            entry: PhantomData,
        }
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Takes over a map whose key and value are of these types.
    pub fn of(map: Map, name: &'static str) -> Result<Self, BpfError> {
        let (Map::HashMap(data) | Map::LruHashMap(data)) = map else {
            return Err(BpfError::Missing(format!("hash map {name}")));
        };
        let info = data.info().map_err(BpfError::map(name))?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(BpfError::Missing(format!("a map {name} of that shape")));
        }
        let fd = data.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            fd: Arc::new(fd.map_err(BpfError::io("duplicate the descriptor of", name))?),
            name,
            entry: PhantomData,
        })
    }
}

/// Whoever has a table has had its types compared with the map's.
impl<K, V> Table<K, V> {
    /// Calls `each` for every entry until it breaks. One that comes or goes
    /// meanwhile may be seen or not; one that stays is seen once.
    pub fn read(&self, each: impl FnMut(&K, &V) -> ControlFlow<()>) -> Result<(), BpfError> {
        self.read_by(ENTRIES, each)
    }

    fn read_by(
        &self,
        entries: usize,
        mut each: impl FnMut(&K, &V) -> ControlFlow<()>,
    ) -> Result<(), BpfError> {
        let mut keys: Vec<K> = Vec::with_capacity(entries);
        let mut values: Vec<V> = Vec::with_capacity(entries);
        // The bucket to go on with (`htab_map_lookup_batch`, 5.6).
        let mut place: Option<u32> = None;
        loop {
            let mut next = 0u32;
            let mut attr = Batch {
                in_batch: place.as_ref().map_or(0, |place| &raw const *place as u64),
                out_batch: &raw mut next as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: keys.capacity().min(values.capacity()) as u32,
                map_fd: self.number(),
                ..Batch::default()
            };
            // SAFETY: keys and values have room for `count` entries of the
            // map's sizes, which were compared when it was taken over.
            let read = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
            let done = match read {
                Ok(_) => false,
                Err(error) => match error.raw_os_error() {
                    // The last bucket has been read.
                    Some(libc::ENOENT) => true,
                    // A bucket with more entries than there is room for.
                    Some(libc::ENOSPC) => {
                        let room = 2 * keys.capacity().max(values.capacity());
                        keys.reserve(room);
                        values.reserve(room);
                        continue;
                    }
                    _ => return Err(self.failed("read", error)),
                },
            };
            let count = attr.count as usize;
            // SAFETY: the kernel has written so many, and any bytes are a
            // valid key or value.
            unsafe {
                keys.set_len(count);
                values.set_len(count);
            }
            let rest = keys
                .iter()
                .zip(&values)
                .try_for_each(|(key, value)| each(key, value));
            if done || rest.is_break() {
                return Ok(());
            }
            keys.clear();
            values.clear();
            place = Some(next);
        }
    }

    /// Writes entries, over those that are there.
    ///
    /// # Errors
    /// What the kernel refused; the entries before that one are written.
    pub fn write(&self, keys: &[K], values: &[V]) -> Result<(), BpfError> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        let mut attr = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: self.number(),
            ..Batch::default()
        };
        // SAFETY: the kernel reads `count` keys and values.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }
            .map(drop)
            .map_err(|error| self.failed("fill", error))
    }

    /// Removes the entries that are there.
    pub fn remove(&self, mut keys: &[K]) -> Result<(), BpfError> {
        while !keys.is_empty() {
            let mut attr = Batch {
                keys: keys.as_ptr() as u64,
                count: keys.len() as u32,
                map_fd: self.number(),
                ..Batch::default()
            };
            // SAFETY: the kernel reads `count` keys.
            let removed = unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut attr) };
            match removed {
                Ok(_) => return Ok(()),
                // The entry after the last that was removed is gone already
                // (`generic_map_delete_batch`, 5.6).
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    keys = &keys[attr.count as usize + 1..];
                }
                Err(error) => return Err(self.failed("remove entries of", error)),
            }
        }
        Ok(())
    }

    fn number(&self) -> u32 {
        self.fd.as_raw_fd() as u32
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> BpfError {
        BpfError::io(operation, self.name)(error)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::fd::FromRawFd};

    use super::*;

    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_HASH: u32 = 1;

    /// `union bpf_attr`, the first part of `BPF_MAP_CREATE`.
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }

    /// A new map with as many buckets, and the entries `key` to `2 * key`;
    /// none without the privileges for it.
    fn table(entries: u32) -> Option<Table<u32, u64>> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let mut attr = Create {
            map_type: BPF_MAP_TYPE_HASH,
            key_size: 4,
            value_size: 8,
            max_entries: entries,
            map_flags: 0,
        };
        // SAFETY: the kernel reads the attributes alone.
        let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attr) }.unwrap();
        let table = Table {
            // SAFETY: the kernel has just opened it for this process.
            fd: Arc::new(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            name: "test",
            entry: PhantomData,
        };
        let keys: Vec<u32> = (0..entries).collect();
        let values: Vec<u64> = keys.iter().map(|key| 2 * u64::from(*key)).collect();
        table.write(&keys, &values).unwrap();
        Some(table)
    }

    fn entries(table: &Table<u32, u64>, batch: usize) -> BTreeMap<u32, u64> {
        let mut seen = BTreeMap::new();
        table
            .read_by(batch, |key, value| {
                assert_eq!(seen.insert(*key, *value), None, "seen once");
                ControlFlow::Continue(())
            })
            .unwrap();
        seen
    }

    #[test]
    fn every_entry_is_read_once_whatever_the_batch() {
        let Some(table) = table(1024) else { return };
        let all: BTreeMap<_, _> = (0..1024).map(|key| (key, 2 * u64::from(key))).collect();
        // Of so many entries some share a bucket, which one place can't hold.
        for batch in [1, 7, 1023, 1024, 5000] {
            assert_eq!(entries(&table, batch), all, "batches of {batch}");
        }
    }

    #[test]
    fn reading_ends_where_it_breaks() {
        let Some(table) = table(64) else { return };
        let mut seen = 0;
        let read = table.read_by(7, |_, _| {
            seen += 1;
            if seen < 10 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        read.unwrap();
        assert_eq!(seen, 10);
    }

    #[test]
    fn what_is_gone_already_doesnt_keep_the_rest() {
        let Some(table) = table(64) else { return };
        table.remove(&[1, 2, 3]).unwrap();
        table.remove(&[0, 1, 4, 2, 3, 3, 5]).unwrap();
        table.remove(&[]).unwrap();
        let left: Vec<u32> = entries(&table, 16).into_keys().collect();
        assert_eq!(left, (6..64).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_table_refuses_more() {
        let Some(table) = table(8) else { return };
        let error = table.write(&[100], &[0]).unwrap_err();
        assert!(error.to_string().starts_with("fill test"), "{error}");
        assert_eq!(entries(&table, 4).len(), 8);
    }
}
