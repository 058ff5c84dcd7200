//! Where the sources lie and where what is built goes.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The checkout and its target folder, both absolute.
#[derive(Debug, Clone)]
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
}

impl Workspace {
    /// The checkout that this library was compiled from.
    pub fn here() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("xtask lies one folder below the workspace")
            .to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        Self { root, target }
    }

    /// What the BPF compiler writes. Apart from the host's files, because the
    /// two builds may run inside one another and each locks its folder.
    pub fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// Programs installed for this checkout alone.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The netdp command, built with `--release` or without.
    pub fn netdp(&self, release: bool) -> PathBuf {
        let profile = if release { "release" } else { "debug" };
        self.target.join(profile).join("netdp")
    }
}
