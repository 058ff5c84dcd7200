//! Where things are pinned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{BpfError, datapath::Role, xdp};

/// The folder `<bpffs>/netdp`, or the one that becomes it.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Of a loaded datapath.
    pub fn of(bpffs: &Path) -> Self {
        Self {
            root: bpffs.join("netdp"),
        }
    }

    /// Of one in the making. bpffs takes no names with a dot, and the daemon
    /// that owns the folder is the only one to make it.
    pub fn staging(bpffs: &Path) -> Self {
        Self {
            root: bpffs.join("netdp-staging"),
        }
    }

    pub fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Makes the folders.
    pub fn create(&self) -> Result<(), BpfError> {
        for folder in [self.maps(), self.programs(), self.links()] {
            fs::create_dir_all(&folder).map_err(BpfError::io("create", &folder))?;
        }
        Ok(())
    }

    /// Removes the folders and every pin in them, which detaches what only
    /// they hold.
    pub fn remove(&self) -> Result<(), BpfError> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BpfError::io("remove", &self.root)(error))
            }
            _ => Ok(()),
        }
    }

    /// Gives the whole folder its name.
    pub fn rename_to(&self, other: &Self) -> Result<(), BpfError> {
        fs::rename(&self.root, &other.root).map_err(BpfError::io("rename", &self.root))
    }

    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub fn programs(&self) -> PathBuf {
        self.root.join("progs")
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// The attachment of a program to an interface.
    pub fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links().join(format!("{ifindex}-{program}"))
    }

    /// The attachment of a program to the cgroup.
    pub fn cgroup_link(&self, program: &str) -> PathBuf {
        self.links().join(format!("cgroup-{program}"))
    }

    /// What becomes [`cgroup_link`](Self::cgroup_link).
    pub fn cgroup_link_staging(&self, program: &str) -> PathBuf {
        self.links().join(format!("cgroup-{program}-staging"))
    }

    /// Every attachment that is pinned.
    pub fn pinned_links(&self) -> Result<Vec<PathBuf>, BpfError> {
        let folder = self.links();
        fs::read_dir(&folder)
            .map_err(BpfError::io("read", &folder))?
            .map(|entry| Ok(entry.map_err(BpfError::io("read", &folder))?.path()))
            .collect()
    }

    /// The interfaces whose drivers have a program.
    pub fn at_drivers(&self) -> Result<Vec<u32>, BpfError> {
        let pins = self.pinned_links()?;
        let names = pins.iter().filter_map(|pin| pin.file_name()?.to_str());
        let drivers = names.filter_map(|name| {
            let (ifindex, program) = name.split_once('-')?;
            (program == xdp::PROGRAM).then(|| ifindex.parse().ok())?
        });
        Ok(drivers.collect())
    }

    /// The attachments to interfaces that are pinned.
    pub fn attached(&self) -> Result<Vec<(u32, Role)>, BpfError> {
        let folder = self.links();
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(BpfError::io("read", &folder))? {
            let name = entry
                .map_err(BpfError::io("read", &folder))?
                .file_name()
                .into_string()
                .unwrap_or_default();
            let Some((ifindex, program)) = name.split_once('-') else {
                continue;
            };
            // Each role has two programs; the ingress one stands for both.
            let role = Role::ALL
                .into_iter()
                .find(|role| role.programs()[0].0 == program);
            if let (Ok(ifindex), Some(role)) = (ifindex.parse(), role) {
                found.push((ifindex, role));
            }
        }
        Ok(found)
    }
}
