//! What the daemon needs of the host before it starts.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs},
};
use thiserror::Error;

use crate::{bpf::Layout, mountinfo::mounts, taken};

/// Where control groups and BPF pins usually are.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Capabilities without which no network can be made, by number
/// (linux/capability.h). A kernel before 5.8 asks CAP_SYS_ADMIN for what
/// CAP_BPF and CAP_PERFMON cover.
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

#[derive(Debug, Error)]
pub enum EnvironmentError {
    #[error("not privileged enough, {} is missing: run this as root", missing.join(", "))]
    Privileges { missing: Vec<&'static str> },
    #[error("{} is not a BPF file system, and mounting one there was refused: {source}", path.display())]
    Bpffs { path: PathBuf, source: io::Error },
    #[error(
        "the BPF file system {} is in use by another daemon: stop that one, \
         or give this one another --bpffs",
        .0.display()
    )]
    BpffsTaken(PathBuf),
    #[error("cannot lock the BPF file system {}: {source}", path.display())]
    LockBpffs { path: PathBuf, source: io::Error },
    #[error(
        "the programs of this state are pinned in another BPF file system, where they would go on \
         with tables that nobody keeps: name that by --bpffs {}, or take them away first, by \
         `netdp daemon --cleanup --bpffs {}` and the other options of before",
        .0.display(),
        .0.display()
    )]
    OtherBpffs(PathBuf),
    #[error("cannot note the BPF file system in {}: {source}", path.display())]
    NoteBpffs { path: PathBuf, source: io::Error },
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "cgroup2 is mounted nowhere, and mounting it at {} was refused: {source}; programs of \
         the host could not reach published ports",
        path.display()
    )]
    NoCgroup { path: PathBuf, source: io::Error },
    #[error("{} is not a control group of version 2: name one by --cgroup", path.display())]
    NotCgroup { path: PathBuf },
    #[error("cannot read {path}: {source}")]
    Read {
        path: &'static str,
        source: io::Error,
    },
}

/// Refuses to go on without the capabilities that everything later needs.
pub fn check_privileges() -> Result<(), EnvironmentError> {
    let missing = missing_capabilities()?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(EnvironmentError::Privileges { missing })
}

/// Names of the capabilities that this process lacks.
pub fn missing_capabilities() -> Result<Vec<&'static str>, EnvironmentError> {
    let path = "/proc/self/status";
    let status =
        fs::read_to_string(path).map_err(|source| EnvironmentError::Read { path, source })?;
    Ok(lacking(effective(&status)))
}

/// The effective capabilities as /proc/PID/status shows them.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn lacking(effective: u64) -> Vec<&'static str> {
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect()
}

/// Why the calling thread's namespace has no IPv6, and what to do, where it has
/// none.
pub fn no_ipv6() -> Option<&'static str> {
    match fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(value) if value.trim() == "0" => None,
        Ok(_) => Some(
            "it is off on this host: turn it on with `sysctl -w net.ipv6.conf.all.disable_ipv6=0`",
        ),
        Err(_) => {
            Some("this kernel has none: use one with CONFIG_IPV6, started without ipv6.disable=1")
        }
    }
}

/// Whether a BPF file system is mounted at `path`.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system at `path` unless one is there.
fn ensure_bpffs(path: &Path) -> Result<(), EnvironmentError> {
    // A folder inside one serves as well.
    if is_bpffs(path) {
        return Ok(());
    }
    ensure_folder(path)?;
    if is_bpffs(path) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| EnvironmentError::Bpffs {
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Keeps other daemons from using the BPF file system at `path`, until what
/// this returns is dropped: they would replace each other's programs.
pub fn claim_bpffs(path: &Path) -> Result<File, EnvironmentError> {
    ensure_bpffs(path)?;
    let failed = |source| EnvironmentError::LockBpffs {
        path: path.to_owned(),
        source,
    };
    let folder = File::open(path).map_err(failed)?;
    let is_taken = |error: &_| matches!(error, TryLockError::WouldBlock);
    match taken::once_free(|| folder.try_lock(), is_taken) {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(EnvironmentError::BpffsTaken(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Notes in `state_dir` that the programs of its state are pinned in `bpffs`.
///
/// # Errors
/// [`EnvironmentError::OtherBpffs`] where another one still has them.
pub fn note_bpffs(state_dir: &Path, bpffs: &Path) -> Result<(), EnvironmentError> {
    let note = state_dir.join("bpffs");
    let bpffs = fs::canonicalize(bpffs).unwrap_or_else(|_| bpffs.to_owned());
    match fs::read(&note) {
        Ok(path) => {
            let noted = PathBuf::from(OsString::from_vec(path));
            if noted == bpffs {
                return Ok(());
            }
            if Layout::of(&noted).exists() {
                return Err(EnvironmentError::OtherBpffs(noted));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(EnvironmentError::NoteBpffs { path: note, source }),
    }
    fs::write(&note, bpffs.as_os_str().as_bytes())
        .map_err(|source| EnvironmentError::NoteBpffs { path: note, source })
}

pub fn ensure_folder(path: &Path) -> Result<(), EnvironmentError> {
    fs::create_dir_all(path).map_err(|source| EnvironmentError::Folder {
        path: path.to_owned(),
        source,
    })
}

/// Refuses a folder that was asked for and is no control group.
pub fn check_cgroup(asked: Option<&Path>) -> Result<(), EnvironmentError> {
    match asked {
        Some(path) if !is_cgroup(path) => Err(EnvironmentError::NotCgroup {
            path: path.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The control group to which the programs for local sockets are attached:
/// the one that was asked for, or the root of the hierarchy, which is mounted
/// in `run_dir` if it is nowhere.
pub fn cgroup(asked: Option<&Path>, run_dir: &Path) -> Result<PathBuf, EnvironmentError> {
    check_cgroup(asked)?;
    if let Some(path) = asked {
        return Ok(path.to_owned());
    }
    if let Some(root) = cgroup_root()? {
        return Ok(root);
    }
    let path = run_dir.join("cgroup");
    ensure_folder(&path)?;
    mount(
        Some("cgroup2"),
        &path,
        Some("cgroup2"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(|errno| EnvironmentError::NoCgroup {
        path: path.clone(),
        source: errno.into(),
    })?;
    Ok(path)
}

fn is_cgroup(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Whether the kernel knows this type of file system.
pub fn knows_filesystem(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|list| {
        list.lines()
            .any(|line| line.split('\t').nth(1) == Some(name))
    })
}

/// Where cgroup2 is mounted, if it is.
pub fn cgroup_root() -> Result<Option<PathBuf>, EnvironmentError> {
    let path = "/proc/self/mountinfo";
    let mounts =
        fs::read_to_string(path).map_err(|source| EnvironmentError::Read { path, source })?;
    Ok(cgroup_mount(&mounts))
}

/// The first mount of the whole cgroup2 hierarchy.
fn cgroup_mount(text: &str) -> Option<PathBuf> {
    mounts(text)
        .find(|mount| mount.filesystem == "cgroup2" && mount.root == "/")
        .map(|mount| PathBuf::from(mount.point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_found() {
        let mounts = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
30 25 0:27 /inner /mnt/part rw - cgroup2 none rw
31 25 0:27 / /mnt/my\\040groups rw,nosuid shared:9 - cgroup2 none rw
";
        assert_eq!(cgroup_mount(mounts), Some(PathBuf::from("/mnt/my groups")));
        assert_eq!(cgroup_mount("25 20 0:22 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn what_is_lacking_is_named() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffefff\n";
        assert_eq!(lacking(effective(status)), ["CAP_NET_ADMIN"]);
        assert_eq!(lacking(effective("")).len(), CAPABILITIES.len());
        assert!(lacking(u64::MAX).is_empty());
    }

    #[test]
    fn programs_of_a_state_stay_in_one_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        let (state, one, other) = (dir.path(), dir.path().join("one"), dir.path().join("other"));
        fs::create_dir_all(&one).unwrap();
        fs::create_dir_all(&other).unwrap();
        note_bpffs(state, &one).unwrap();
        note_bpffs(state, &one).unwrap();
        note_bpffs(state, &other).unwrap();
        fs::create_dir(other.join("netdp")).unwrap();
        let refused = note_bpffs(state, &one).unwrap_err().to_string();
        assert!(refused.contains(other.to_str().unwrap()), "{refused}");
        note_bpffs(state, &other).unwrap();
    }

    #[test]
    fn a_folder_elsewhere_is_no_control_group() {
        let dir = tempfile::tempdir().unwrap();
        let refused = cgroup(Some(dir.path()), dir.path()).unwrap_err();
        assert!(refused.to_string().contains("--cgroup"), "{refused}");
        assert!(!is_bpffs(dir.path()));
    }
}
