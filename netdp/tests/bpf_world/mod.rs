//! Where programs are attached, and what they are pinned in.

use std::path::{Path, PathBuf};

use netdp::bpf::Options;
use netdp::netns::Namespace;
use netdp_common::maps::Config;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A folder with a bpffs of its own and a namespace with a veth pair.
pub struct Bench {
    pub folder: tempfile::TempDir,
    namespace: Option<Namespace>,
}

impl Bench {
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let bpffs = folder.path().join("bpf");
        std::fs::create_dir(&bpffs).unwrap();
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let namespace = Namespace::create(folder.path(), "host").unwrap();
        let status = namespace
            .command("ip")
            .args(["link", "add", "wire0", "type", "veth", "peer", "wire1"])
            .status()
            .unwrap();
        assert!(status.success());
        Some(Self {
            folder,
            namespace: Some(namespace),
        })
    }

    pub fn bpffs(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    pub fn options(&self) -> Options {
        Options {
            bpffs: self.bpffs(),
            cgroup: None,
            netns_cookie: self.namespace().cookie().unwrap(),
            max_flows: 1024,
            config: Config::default(),
            mechanism: None,
            netkit: false,
        }
    }

    pub fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().unwrap()
    }

    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.namespace().run(f).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.namespace.take());
        umount2(&self.bpffs(), MntFlags::MNT_DETACH).unwrap();
    }
}

pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

pub fn pins(bpffs: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(bpffs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // The kernel puts two iterators into every bpffs.
        .filter(|name| !name.ends_with(".debug"))
        .collect();
    names.sort();
    names
}
