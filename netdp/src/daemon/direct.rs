//! What supervisors of direct ports are told: a file for each sandbox that has
//! one, which outlives the daemon.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{
    api::types::Direct,
    bpf::{Layout, direct_cgroup},
    direct::Ports,
    model::{Sandbox, SandboxId, State},
};

/// The files, and what they say.
#[derive(Debug)]
pub struct DirectPorts {
    folder: PathBuf,
    cgroup: PathBuf,
    maps: PathBuf,
    written: BTreeMap<SandboxId, Ports>,
}

impl DirectPorts {
    /// In a folder of the daemon's own; `cgroup` is the control group that it
    /// has.
    pub fn new(run_dir: &Path, cgroup: &Path, bpffs: &Path) -> Self {
        Self {
            folder: run_dir.join("direct"),
            cgroup: direct_cgroup(cgroup),
            maps: Layout::of(bpffs).maps(),
            written: BTreeMap::new(),
        }
    }

    /// What a supervisor of this sandbox is told, if it is to have one.
    pub fn of(&self, sandbox: &Sandbox) -> Option<Direct> {
        sandbox.direct.then(|| Direct {
            cgroup: self.cgroup.clone(),
            ports: self.path(sandbox.id),
            maps: self.maps.clone(),
        })
    }

    /// Writes what has changed.
    pub fn follow(&mut self, state: &State) {
        let sandboxes = state.sandboxes.values();
        let wanted: BTreeMap<SandboxId, Ports> = sandboxes
            .filter(|sandbox| sandbox.direct)
            .map(|sandbox| (sandbox.id, ports(state, sandbox.id)))
            .collect();
        for (id, ports) in &wanted {
            if self.written.get(id) != Some(ports)
                && let Err(error) = self.write(*id, ports)
            {
                tracing::error!(
                    "cannot say which ports of {} are direct: {error}",
                    id.short()
                );
            }
        }
        for id in self.written.keys() {
            if !wanted.contains_key(id) {
                // It may be gone with the folder.
                let _ = fs::remove_file(self.path(*id));
            }
        }
        self.written = wanted;
    }

    fn path(&self, id: SandboxId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// Whole or not at all: it is read at any time.
    fn write(&self, id: SandboxId, ports: &Ports) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut file = NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, ports)?;
        file.persist(self.path(id))?;
        Ok(())
    }
}

fn ports(state: &State, id: SandboxId) -> Ports {
    let mut ports = Ports::default();
    for endpoint in state.endpoints_of(id) {
        let addresses = endpoint.addresses.iter();
        ports
            .addresses
            .extend(addresses.clone().map(|it| it.net.addr()));
        ports.gateways.extend(addresses.map(|it| it.gateway));
        ports.published.extend(endpoint.published.iter().cloned());
    }
    ports
}
