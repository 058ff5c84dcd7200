//! The world's folder, with a BPF file system in it, and everything that the
//! daemon or a test mounts or leaves below.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::{WorldError, make_folder};
use crate::mountinfo::mounts;

pub(super) struct Folder {
    path: PathBuf,
    // Taken when dropped: closing it tells what could not be removed.
    dir: Option<TempDir>,
}

impl Folder {
    pub(super) fn create(prefix: &str) -> Result<Self, WorldError> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("netdp-{prefix}-"))
            .tempdir()
            .map_err(|source| WorldError::Io {
                doing: "make a folder in",
                path: std::env::temp_dir(),
                source,
            })?;
        let folder = Self {
            path: dir.path().into(),
            dir: Some(dir),
        };
        for name in ["run", "state", "bpf"] {
            make_folder(&folder.path.join(name))?;
        }
        folder.mount_bpffs()?;
        Ok(folder)
    }

    /// Each mount of the type is an instance of its own: pins in it are seen
    /// nowhere else and go with the last reference to it.
    fn mount_bpffs(&self) -> Result<(), WorldError> {
        let path = self.bpffs();
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|errno| WorldError::Io {
            doing: "mount a BPF file system at",
            path,
            source: errno.into(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bpffs(&self) -> PathBuf {
        self.path.join("bpf")
    }

    /// Unique on the machine.
    pub(super) fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // Later mounts may lie on earlier ones.
        for path in mounts_below(&text, &self.path).iter().rev() {
            if let Err(errno) = umount2(path, MntFlags::MNT_DETACH) {
                eprintln!("{} is left mounted: {errno}", path.display());
            }
        }
        if let Some(Err(error)) = self.dir.take().map(TempDir::close) {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}

fn mounts_below(text: &str, dir: &Path) -> Vec<PathBuf> {
    mounts(text)
        .map(|mount| PathBuf::from(mount.point))
        .filter(|point| point.starts_with(dir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_are_ours() {
        let mounts = "\
30 25 0:26 / /tmp rw - tmpfs tmpfs rw
31 30 0:27 / /tmp/netdp-a rw - bpf bpf rw
32 30 0:27 / /tmp/netdp-a/with\\040space/bpf rw - bpf bpf rw
33 30 0:28 / /tmp/netdp-ab/bpf rw - bpf bpf rw
";
        assert_eq!(
            mounts_below(mounts, Path::new("/tmp/netdp-a")),
            [
                Path::new("/tmp/netdp-a"),
                Path::new("/tmp/netdp-a/with space/bpf")
            ]
        );
    }
}
