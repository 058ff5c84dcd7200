//! The world's cgroups (v2): what the daemon's hooks see, and the means to
//! find every process of the world again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::WorldError;
use crate::mountinfo::mounts;

/// How long killed processes may take to go.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const MOUNTS: &str = "/proc/self/mountinfo";

/// Groups below one: processes of the host, those of other machines, and all
/// others. Switching between programs of one group costs less (measured;
/// docs/performance.md): those of other machines have one of their own.
pub(super) struct Cgroup {
    path: PathBuf,
    host_procs: Arc<File>,
    outside_procs: Arc<File>,
    elsewhere_procs: Arc<File>,
}

impl Cgroup {
    pub(super) fn create(name: &OsStr) -> Result<Self, WorldError> {
        let path = mount_point()?.join(name);
        let made = Remove(Some(path.clone()));
        super::make_folder(&path)?;
        let host_procs = group(&path.join("host"))?;
        let outside_procs = group(&path.join("outside"))?;
        let elsewhere_procs = group(&path.join("elsewhere"))?;
        made.keep();
        Ok(Self {
            path,
            host_procs,
            outside_procs,
            elsewhere_procs,
        })
    }

    pub(super) fn host(&self) -> PathBuf {
        self.path.join("host")
    }

    /// A group for an engine's containers, as engines name it: from the root of
    /// each hierarchy.
    pub(super) fn of_engines(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        format!("/{}/engine", name.to_string_lossy())
    }

    pub(super) fn admit_to_host(&self, command: &mut Command) {
        admit(&self.host_procs, command);
    }

    pub(super) fn admit_outside(&self, command: &mut Command) {
        admit(&self.outside_procs, command);
    }

    pub(super) fn admit_elsewhere(&self, command: &mut Command) {
        admit(&self.elsewhere_procs, command);
    }

    /// Kills every process of the world, and those that they start meanwhile.
    pub(super) fn kill_all(&self) {
        kill_below(&self.path);
    }
}

fn kill_below(path: &Path) {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let processes = processes_below(path);
        if processes.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            eprintln!("processes {processes:?} did not end when killed");
            return;
        }
        for process in processes {
            // One that ended since is no concern.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
        remove_version_1(self.path.file_name().unwrap_or_default());
    }
}

/// Ends what still runs of a world whose maker is gone, and removes its groups.
pub(super) fn sweep(name: &OsStr) -> Result<(), WorldError> {
    let path = mount_point()?.join(name);
    if path.exists() {
        kill_below(&path);
        remove(&path);
    }
    remove_version_1(name);
    Ok(())
}

fn remove_version_1(name: &OsStr) {
    let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
    for group in version_1(&mounts).map(|point| point.join(name)) {
        if group.exists() {
            remove(&group);
        }
    }
}

/// Where hierarchies of version 1 are. Engines make groups in them, too, and do
/// not live to remove them.
fn version_1(text: &str) -> impl Iterator<Item = PathBuf> {
    mounts(text)
        .filter(|mount| mount.filesystem == "cgroup")
        .map(|mount| PathBuf::from(mount.point))
}

/// Makes a group and opens the list that processes join it by.
fn group(path: &Path) -> Result<Arc<File>, WorldError> {
    super::make_folder(path)?;
    let procs = path.join("cgroup.procs");
    let open = File::options().write(true).open(&procs);
    open.map(Arc::new).map_err(|source| WorldError::Io {
        doing: "open",
        path: procs,
        source,
    })
}

/// Removes a half-made group unless told to keep it.
struct Remove(Option<PathBuf>);

impl Remove {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Remove {
    fn drop(&mut self) {
        if let Some(path) = self.0.take().filter(|path| path.exists()) {
            remove(&path);
        }
    }
}

/// The whole tree: programs below may have made groups of their own.
fn remove(path: &Path) {
    for child in folders_in(path) {
        remove(&child);
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    while let Err(error) = fs::remove_dir(path) {
        // A killed process leaves its group a moment after it is gone from
        // the list.
        if error.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline {
            eprintln!("the cgroup {} is left behind: {error}", path.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn folders_in(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn processes_below(path: &Path) -> Vec<i32> {
    let own = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut processes: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    // 0 stands for a process of another PID namespace, and kill would take it
    // for the caller's own process group.
    processes.retain(|&process| process > 0);
    for child in folders_in(path) {
        processes.extend(processes_below(&child));
    }
    processes
}

/// Moves the child into the group before it becomes its program, so that every
/// socket it opens belongs there.
fn admit(procs: &Arc<File>, command: &mut Command) {
    let procs = procs.clone();
    // SAFETY: a single write(2) of a constant; nothing allocates or locks
    // between fork and exec.
    unsafe {
        // 0 is the writing process itself.
        command.pre_exec(move || procs.as_ref().write_all(b"0"));
    }
}

fn mount_point() -> Result<PathBuf, WorldError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(|source| WorldError::Io {
        doing: "read",
        path: MOUNTS.into(),
        source,
    })?;
    cgroup2_mount(&mounts).ok_or(WorldError::NoCgroup2)
}

fn cgroup2_mount(text: &str) -> Option<PathBuf> {
    mounts(text)
        .find(|mount| mount.filesystem == "cgroup2")
        .map(|mount| PathBuf::from(mount.point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_beside_v1_mounts() {
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu rw,nosuid shared:11 - cgroup cgroup rw,cpu
";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified".into()));
        let others: Vec<PathBuf> = version_1(mounts).collect();
        assert_eq!(others, [PathBuf::from("/sys/fs/cgroup/cpu")]);
        assert_eq!(cgroup2_mount("30 25 0:26 / /sys ro - sysfs sysfs ro"), None);
    }
}
