//! Loaded objects for one test after the other: the kernel takes a second and
//! more to verify the programs, and nothing else of a world takes long.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use netdp::bpf::{Datapath, Options};
use netdp_common::maps::Config;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::kernel_maps::KernelMaps;

/// Those that no test has just now, their maps empty and their timers stopped.
static POOL: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// Programs and maps, in no namespace, attached to nothing.
pub struct Loaded {
    pub datapath: Datapath,
    pub maps: KernelMaps,
    /// Entries of the flow tables, which can't be changed.
    pub max_flows: u32,
}

impl Loaded {
    /// One whose maps are those of a new one, with these times.
    pub fn take(config: Config, max_flows: u32) -> Self {
        match take_from_pool(max_flows) {
            Some(mut loaded) => {
                loaded.datapath.begin_anew(config).unwrap();
                loaded
            }
            None => Self::load(config, max_flows),
        }
    }

    /// A new one.
    pub fn load(config: Config, max_flows: u32) -> Self {
        let bpffs = Bpffs::mount();
        let options = Options {
            bpffs: bpffs.0.path().to_owned(),
            cgroup: None,
            // Programs of a cgroup alone ask for it.
            netns_cookie: 0,
            max_flows,
            config,
            mechanism: None,
        };
        Self {
            datapath: Datapath::open(&options).unwrap(),
            maps: KernelMaps::of(&options.bpffs.join("netdp/progs")),
            max_flows,
        }
    }

    /// Leaves it to another test. A test that fails drops it.
    pub fn give_back(self) {
        self.maps.empty();
        pool(|pool| pool.push(self));
    }
}

fn pool<T>(f: impl FnOnce(&mut Vec<Loaded>) -> T) -> T {
    f(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

fn take_from_pool(max_flows: u32) -> Option<Loaded> {
    pool(|pool| {
        let place = pool.iter().position(|it| it.max_flows == max_flows)?;
        Some(pool.swap_remove(place))
    })
}

/// How many with such tables wait for a test.
pub fn waiting(max_flows: u32) -> usize {
    pool(|pool| pool.iter().filter(|it| it.max_flows == max_flows).count())
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
