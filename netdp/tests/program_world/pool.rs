//! Loaded objects for one test after the other: the kernel takes a second and
//! more to verify the programs, and nothing else of a world takes long.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZero,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use netdp::bpf::{Accelerated, Datapath, Options};
use netdp_common::maps::Config;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{kernel_maps::KernelMaps, netkit};

static POOL: Mutex<Pool> = Mutex::new(Pool {
    idle: Vec::new(),
    taken: BTreeMap::new(),
});
/// Some test has given one back, or dropped it.
static FREE: Condvar = Condvar::new();

struct Pool {
    idle: Vec<Idle>,
    /// How many tests have, or load just now, by size of the flow tables.
    taken: BTreeMap<u32, usize>,
}

/// One that no test has just now: its maps are empty, and its timer is stopped.
struct Idle {
    datapath: Datapath,
    maps: KernelMaps,
    max_flows: u32,
}

/// Programs and maps, in no namespace, attached to nothing.
pub struct Loaded {
    pub datapath: Datapath,
    pub maps: KernelMaps,
    pub place: Place,
}

/// That of one that a test has.
pub struct Place {
    /// Entries of the flow tables, which can't be changed.
    max_flows: u32,
    /// Where what is attached to a control group is pinned meanwhile.
    bpffs: Option<Bpffs>,
}

impl Place {
    /// Waits while there are as many of this size as CPUs that could load
    /// another. Gives one of those that are idle, too, if there is any.
    fn take(max_flows: u32) -> (Self, Option<Idle>) {
        let most = thread::available_parallelism().map_or(1, NonZero::get);
        let mut pool = pool();
        while pool.taken(max_flows) >= most {
            pool = FREE.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        let place = Self::add(&mut pool, max_flows);
        let is_alike = |idle: &Idle| idle.max_flows == max_flows;
        let idle = pool.idle.iter().position(is_alike);
        (place, idle.map(|at| pool.idle.swap_remove(at)))
    }

    fn add(pool: &mut Pool, max_flows: u32) -> Self {
        *pool.taken.entry(max_flows).or_default() += 1;
        Self {
            max_flows,
            bpffs: None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(taken) = pool().taken.get_mut(&self.max_flows) {
            *taken -= 1;
        }
        FREE.notify_all();
    }
}

impl Pool {
    fn taken(&self, max_flows: u32) -> usize {
        self.taken.get(&max_flows).copied().unwrap_or_default()
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many with such tables wait for a test.
pub fn idle(max_flows: u32) -> usize {
    let pool = pool();
    let alike = pool.idle.iter().filter(|idle| idle.max_flows == max_flows);
    alike.count()
}

impl Loaded {
    /// One whose maps are those of a new one, with these times.
    pub fn take(config: Config, max_flows: u32) -> Self {
        let (place, idle) = Place::take(max_flows);
        let Some(Idle { datapath, maps, .. }) = idle else {
            return Self::load_at(place, config);
        };
        let mut loaded = Self {
            datapath,
            maps,
            place,
        };
        loaded.datapath.begin_anew(config).unwrap();
        loaded
    }

    /// One of those for containers of another engine.
    pub fn take_accelerated() -> Self {
        // Of a size that no others have.
        const MAX_FLOWS: u32 = 1021;
        let config = Accelerated::patient(Config::default());
        let (place, idle) = Place::take(MAX_FLOWS);
        if let Some(Idle { datapath, maps, .. }) = idle {
            let mut loaded = Self {
                datapath,
                maps,
                place,
            };
            loaded.datapath.begin_anew(config).unwrap();
            return loaded;
        }
        let bpffs = Bpffs::mount();
        let options = Options {
            bpffs: bpffs.0.path().to_owned(),
            cgroup: None,
            netns_cookie: 0,
            max_flows: MAX_FLOWS,
            config,
            mechanism: None,
            netkit: netkit::is_tried(),
        };
        let mut datapath = Accelerated::load(&options).unwrap().into_datapath();
        // The file system has files of its own at its root.
        let programs = options.bpffs.join("programs");
        fs::create_dir(&programs).unwrap();
        datapath.pin_programs(&programs).unwrap();
        Self {
            datapath,
            maps: KernelMaps::of(&programs),
            place,
        }
    }

    /// A new one, however many there are.
    pub fn load(config: Config, max_flows: u32) -> Self {
        let place = Place::add(&mut pool(), max_flows);
        Self::load_at(place, config)
    }

    /// A new one whose programs are on this control group, too.
    pub fn load_in(cgroup: &Path) -> Self {
        const MAX_FLOWS: u32 = 1024;
        let place = Place::add(&mut pool(), MAX_FLOWS);
        Self::load_with(place, Config::default(), Some(cgroup))
    }

    fn load_at(place: Place, config: Config) -> Self {
        Self::load_with(place, config, None)
    }

    fn load_with(mut place: Place, config: Config, cgroup: Option<&Path>) -> Self {
        let bpffs = Bpffs::mount();
        let options = Options {
            bpffs: bpffs.0.path().to_owned(),
            cgroup: cgroup.map(Path::to_owned),
            // Programs of a cgroup alone ask for it.
            netns_cookie: 0,
            max_flows: place.max_flows,
            config,
            mechanism: None,
            netkit: netkit::is_tried(),
        };
        let datapath = Datapath::open(&options).unwrap();
        let maps = KernelMaps::of(&options.bpffs.join("netdp/progs"));
        place.bpffs = cgroup.is_some().then_some(bpffs);
        Self {
            datapath,
            maps,
            place,
        }
    }

    /// Leaves it to another test. A test that fails drops it.
    pub fn give_back(self) {
        self.maps.empty();
        let idle = Idle {
            datapath: self.datapath,
            maps: self.maps,
            max_flows: self.place.max_flows,
        };
        // Before the place is free.
        pool().idle.push(idle);
    }
}

/// A BPF file system, for as long as an object is loaded by it: open
/// descriptors keep programs and maps.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        mount_bpf(folder.path());
        Self(folder)
    }
}

fn mount_bpf(path: &Path) {
    let none = None::<&str>;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), none).unwrap();
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}
