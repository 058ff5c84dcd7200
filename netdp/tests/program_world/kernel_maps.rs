//! All maps of loaded programs, as the kernel knows them: whatever they are
//! called and whatever lies in them, they are emptied, filled and read by their
//! types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    maps::{MapData, MapInfo, MapType},
    programs::ProgramInfo,
};
use netdp_common::maps::name;

/// Commands of `bpf(2)` (`include/uapi/linux/bpf.h`, 5.13).
mod command {
    pub const LOOKUP: libc::c_long = 1;
    pub const UPDATE: libc::c_long = 2;
    pub const DELETE: libc::c_long = 3;
    pub const NEXT_KEY: libc::c_long = 4;
    pub const POP: libc::c_long = 21;
    pub const UPDATE_BATCH: libc::c_long = 26;
}

/// A map that programs can't write: the loader has, once.
const BPF_F_RDONLY_PROG: u32 = 1 << 7;

/// `union bpf_attr` of the commands for one element.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Or where the next key goes.
    value: u64,
    flags: u64,
}

/// The same, `batch`.
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

/// What a map holds: of an array what isn't zero, of a queue each element
/// behind its place.
pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// The ways in which maps hold what they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Array,
    /// Elements come and go by their keys.
    Table,
    /// The same, by the number of bits of a key, which comes first in it.
    Trie,
    Queue,
}

pub struct KernelMaps(BTreeMap<String, KernelMap>);

impl KernelMaps {
    /// Those that the programs pinned in a folder use, but for those that no
    /// program can change, and those of sockets, which no packet puts there.
    pub fn of(programs: &Path) -> Self {
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(programs).unwrap() {
            let program = ProgramInfo::from_pin(entry.unwrap().path()).unwrap();
            ids.extend(program.map_ids().unwrap().unwrap());
        }
        let mut maps = BTreeMap::new();
        for id in ids {
            let info = MapInfo::from_id(id).unwrap();
            let of_sockets = matches!(
                info.map_type().unwrap(),
                MapType::SockHash | MapType::SkStorage
            );
            if !of_sockets && info.map_flags() & BPF_F_RDONLY_PROG == 0 {
                let map = KernelMap::of(&info);
                maps.insert(map.name.clone(), map);
            }
        }
        assert!(maps.contains_key(name::SWEEPER));
        Self(maps)
    }

    /// Makes each as it was when it was made.
    pub fn empty(&self) {
        // A timer that is overwritten is stopped; so nothing changes any more.
        self.0[name::SWEEPER].empty();
        for map in self.0.values() {
            map.empty();
        }
    }

    /// Puts something into each.
    pub fn soil(&self) {
        for map in self.0.values() {
            map.soil();
        }
    }

    /// What an array or a table of this name holds.
    pub fn contents(&self, name: &str) -> Contents {
        self.0[name].drain()
    }

    /// Writes one element; of each CPU, where it has one for each.
    pub fn write(&self, name: &str, key: &[u8], value: &[u8]) {
        self.0[name].update(key, value);
    }

    /// Makes an array or a table of this name hold what it held.
    pub fn put_back(&self, name: &str, held: &Contents) {
        let map = &self.0[name];
        map.empty();
        for (key, value) in held {
            map.update(key, value);
        }
    }

    /// What each holds. Queues are empty afterwards.
    pub fn drain(&self) -> BTreeMap<String, Contents> {
        let maps = self.0.iter();
        maps.map(|(name, map)| (name.clone(), map.drain()))
            .collect()
    }
}

struct KernelMap {
    name: String,
    data: MapData,
    kind: Kind,
    key: usize,
    /// Bytes of a value, of all CPUs together.
    value: usize,
    entries: u32,
}

impl KernelMap {
    fn of(info: &MapInfo) -> Self {
        let name = info.name_as_str().unwrap().to_owned();
        let (kind, per_cpu) = match info.map_type().unwrap() {
            MapType::Array => (Kind::Array, false),
            MapType::PerCpuArray => (Kind::Array, true),
            MapType::Hash | MapType::LruHash => (Kind::Table, false),
            MapType::LpmTrie => (Kind::Trie, false),
            MapType::Queue => (Kind::Queue, false),
            other => panic!("{name}: say how to empty a map of type {other:?}"),
        };
        let value = info.value_size() as usize;
        Self {
            name,
            data: MapData::from_id(info.id()).unwrap(),
            kind,
            key: info.key_size() as usize,
            value: if per_cpu {
                value.next_multiple_of(8) * aya::util::nr_cpus().unwrap()
            } else {
                value
            },
            entries: info.max_entries(),
        }
    }

    fn empty(&self) {
        match self.kind {
            Kind::Array => self.zero(),
            Kind::Table | Kind::Trie => {
                for key in self.keys() {
                    self.delete(&key);
                }
            }
            Kind::Queue => while self.pop().is_some() {},
        }
    }

    fn soil(&self) {
        let value = vec![0xa5; self.value];
        match self.kind {
            Kind::Array => {
                self.update(&0u32.to_ne_bytes(), &value);
                self.update(&(self.entries - 1).to_ne_bytes(), &value);
            }
            Kind::Table => {
                self.update(&vec![1; self.key], &value);
                self.update(&vec![2; self.key], &value);
            }
            Kind::Trie => {
                for bits in [0u32, 8 * (self.key as u32 - 4)] {
                    let mut key = bits.to_ne_bytes().to_vec();
                    key.resize(self.key, 3);
                    self.update(&key, &value);
                }
            }
            Kind::Queue => {
                self.update(&[], &value);
                self.update(&[], &value);
            }
        }
    }

    fn drain(&self) -> Contents {
        match self.kind {
            Kind::Array => (0..self.entries)
                .map(|index| index.to_ne_bytes().to_vec())
                .map(|key| (self.lookup(&key), key))
                .filter(|(value, _)| value.iter().any(|byte| *byte != 0))
                .map(|(value, key)| (key, value))
                .collect(),
            Kind::Table | Kind::Trie => {
                let keys = self.keys().into_iter();
                keys.map(|key| (key.clone(), self.lookup(&key))).collect()
            }
            Kind::Queue => (0u32..)
                .map_while(|place| Some((place.to_be_bytes().to_vec(), self.pop()?)))
                .collect(),
        }
    }

    /// Nothing changes the map meanwhile.
    fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut next = vec![0; self.key];
        loop {
            let last = keys.last().map_or(0, |key| key.as_ptr() as u64);
            if !self.call(command::NEXT_KEY, last, next.as_mut_ptr() as u64) {
                return keys;
            }
            keys.push(next.clone());
        }
    }

    fn lookup(&self, key: &[u8]) -> Vec<u8> {
        let mut value = vec![0; self.value];
        let (key, room) = (key.as_ptr() as u64, value.as_mut_ptr() as u64);
        assert!(self.call(command::LOOKUP, key, room), "{}", self.name);
        value
    }

    fn update(&self, key: &[u8], value: &[u8]) {
        assert_eq!(value.len(), self.value);
        let key = if key.is_empty() {
            0
        } else {
            key.as_ptr() as u64
        };
        let done = self.call(command::UPDATE, key, value.as_ptr() as u64);
        assert!(done, "{}", self.name);
    }

    fn delete(&self, key: &[u8]) {
        let done = self.call(command::DELETE, key.as_ptr() as u64, 0);
        assert!(done, "{}", self.name);
    }

    fn pop(&self) -> Option<Vec<u8>> {
        let mut value = vec![0; self.value];
        self.call(command::POP, 0, value.as_mut_ptr() as u64)
            .then_some(value)
    }

    /// All elements of an array.
    fn zero(&self) {
        let keys: Vec<u32> = (0..self.entries).collect();
        let values = vec![0u8; self.value * keys.len()];
        let mut attr = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: self.entries,
            map_fd: self.number(),
            ..Batch::default()
        };
        // SAFETY: keys and values are as many as are named, of the map's sizes.
        let done = unsafe { bpf(command::UPDATE_BATCH, &mut attr) };
        done.unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// False where there is no such element.
    fn call(&self, command: libc::c_long, key: u64, value: u64) -> bool {
        let mut attr = Element {
            map_fd: self.number(),
            key,
            value,
            ..Element::default()
        };
        // SAFETY: callers give a key, and a value or room for one, of the map's
        // sizes, or none where the command asks for none.
        match unsafe { bpf(command, &mut attr) } {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    fn number(&self) -> u32 {
        self.data.fd().as_fd().as_raw_fd().cast_unsigned()
    }
}

/// # Safety
/// `attr` is what the kernel expects for `command`, and what it points to is
/// valid.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    let attr: *mut T = attr;
    // SAFETY: the kernel reads and writes no more bytes than are named.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
