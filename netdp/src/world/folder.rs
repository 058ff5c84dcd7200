//! The world's folder, with a BPF file system in it, and everything that the
//! daemon or a test mounts or leaves below.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::{WorldError, make_folder};
use crate::mountinfo::mounts;

/// Locked by the process that made the folder for as long as it lives; holds its
/// process id.
const OWNER: &str = "owner";

/// What the names of all worlds' folders begin with.
pub(super) const PREFIX: &str = "netdp-";

pub(super) struct Folder {
    path: PathBuf,
    #[cfg_attr(not(test), expect(dead_code, reason = "its lock ends with this"))]
    owner: File,
    // Taken when dropped: closing it tells what could not be removed.
    dir: Option<TempDir>,
}

impl Folder {
    pub(super) fn create(prefix: &str) -> Result<Self, WorldError> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{prefix}-"))
            .tempdir()
            .map_err(WorldError::Folder)?;
        let folder = Self {
            path: dir.path().into(),
            owner: own(dir.path()).map_err(|source| WorldError::Io {
                doing: "own",
                path: dir.path().into(),
                source,
            })?,
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

    #[cfg(test)]
    pub(super) fn disown(&self) {
        self.owner.unlock().unwrap();
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
        unmount_below(&self.path);
        if let Some(Err(error)) = self.dir.take().map(TempDir::close) {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}

/// The lock is had before the file has its name: one without is no owner's yet.
fn own(dir: &Path) -> io::Result<File> {
    let unnamed = dir.join("owner.new");
    let mut owner = File::create_new(&unnamed)?;
    owner.lock()?;
    writeln!(owner, "{}", std::process::id())?;
    fs::rename(&unnamed, dir.join(OWNER))?;
    Ok(owner)
}

/// The lock of a folder whose owner is gone; none of one whose owner lives or is
/// not known, and of what is not this user's.
pub(super) fn abandoned(path: &Path) -> Option<File> {
    let folder = fs::symlink_metadata(path).ok()?;
    if !folder.is_dir() || folder.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    let owner = options.open(path.join(OWNER)).ok()?;
    owner.try_lock().ok()?;
    Some(owner)
}

/// Removes a folder with all that is mounted below.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    unmount_below(path);
    fs::remove_dir_all(path)
}

fn unmount_below(dir: &Path) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Later mounts may lie on earlier ones.
    for path in mounts_below(&text, dir).iter().rev() {
        if let Err(errno) = umount2(path, MntFlags::MNT_DETACH) {
            eprintln!("{} is left mounted: {errno}", path.display());
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
    use crate::at_last;

    #[test]
    fn a_folder_is_abandoned_when_its_owner_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(abandoned(dir.path()).is_none(), "nobody owned it");
        let owner = own(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(OWNER)).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        assert!(abandoned(dir.path()).is_none(), "its owner lives");
        drop(owner);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(abandoned(&link).is_none(), "a link is no folder");
        let lock = at_last::succeeds(|| abandoned(dir.path()).ok_or("it has an owner"));
        assert!(abandoned(dir.path()).is_none(), "another removes it");
        drop(lock);
    }

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
