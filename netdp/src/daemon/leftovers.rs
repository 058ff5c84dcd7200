//! Processes that a sandbox's program leaves when it ends: they end with it, as
//! those of a container do.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::sandbox::ProcessId;

use super::port_owner::processes;

/// How often processes are looked for that others have started meanwhile.
const ROUNDS: u32 = 100;
/// Between two rounds: a killed process takes a moment to end.
const PAUSE: Duration = Duration::from_millis(10);

/// The mount namespace that `netdp run` has made for a program. All that descend
/// from it have the same, unless they make another. Open, so that its number stays its own.
#[derive(Debug)]
pub struct Family {
    program: ProcessId,
    mounts: File,
}

impl Family {
    /// That of a program that runs. None where it has no mount namespace of its
    /// own, or has ended.
    pub fn of(program: ProcessId) -> Option<Self> {
        let mounts = File::open(format!("/proc/{}/ns/mnt", program.pid)).ok()?;
        let own = fs::metadata("/proc/self/ns/mnt").ok()?.ino();
        let is_apart = mounts.metadata().ok()?.ino() != own;
        (is_apart && program.alive()).then_some(Self { program, mounts })
    }

    /// Ends who is left, once the program has ended.
    pub fn end(self) {
        let Ok(mounts) = self.mounts.metadata() else {
            return;
        };
        if self.program.alive() {
            return;
        }
        for _ in 0..ROUNDS {
            let left = processes().filter(|it| end_where(it.pid, mounts.ino()));
            if left.count() == 0 {
                return;
            }
            thread::sleep(PAUSE);
        }
        tracing::warn!(
            "processes of what was process {} have not ended, though they were killed: \
             `ps -e -o pid,mntns,wchan,args` shows what they wait for",
            self.program
        );
    }
}

/// Kills a process that has this mount namespace.
fn end_where(pid: u32, mounts: u64) -> bool {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(pidfd) = number.and_then(|it| pidfd_open(it, PidfdFlags::empty()).ok()) else {
        return false;
    };
    // Looked at once the descriptor is open: the number may go to another.
    let own = fs::metadata(Path::new("/proc").join(pid.to_string()).join("ns/mnt"));
    own.is_ok_and(|own| own.ino() == mounts) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}
