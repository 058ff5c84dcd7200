//! One measurement at a time on a CPU, and what else keeps that busy.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::stat::{major, minor};
use serde::Serialize;

use super::report::percent;
use crate::load::busy_shares;
use crate::progress::Progress;
use crate::world::interrupt;
use crate::world::process::ProcessError;

const POLL: Duration = Duration::from_millis(100);
/// The kernel counts in ticks of 10 ms at most.
const LOOK: Duration = Duration::from_millis(300);
/// More than this is told.
const BUSY: f64 = 0.1;

/// Keeps others from measuring on CPUs until it is dropped.
pub(super) struct Claim {
    // The kernel's folders of the CPUs, which are there for everybody and stay as
    // they are. Where there is no such folder nobody waits.
    _locks: Vec<File>,
    /// Of the busiest CPU, where it is told.
    pub(super) busy: Option<Busy>,
}

/// What part of its time a CPU worked for others before anything was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Busy {
    #[serde(rename = "busy_cpu")]
    pub(super) cpu: usize,
    #[serde(rename = "busy_before")]
    pub(super) share: f64,
}

impl Claim {
    /// Waits for others that measure there.
    ///
    /// # Errors
    /// On an interrupt.
    pub(super) fn of(cpus: &[usize], progress: &Progress) -> Result<Self, ProcessError> {
        // In the same order as everybody, so that no two wait for each other.
        let mut cpus = cpus.to_vec();
        cpus.sort_unstable();
        let mut locks = Vec::new();
        for &cpu in &cpus {
            let lock = File::open(format!("/sys/devices/system/cpu/cpu{cpu}")).ok();
            if let Some(lock) = lock {
                wait(&lock, cpu, progress)?;
                locks.push(lock);
            }
        }
        let shares = busy_shares(&cpus, LOOK).unwrap_or_default();
        let busy = cpus.iter().zip(shares);
        let busy = busy.map(|(&cpu, share)| Busy { cpu, share });
        let busy = busy.max_by(|one, other| one.share.total_cmp(&other.share));
        if let Some(text) = busy.and_then(|busy| busy.text()) {
            progress.note(&text);
        }
        Ok(Self {
            _locks: locks,
            busy,
        })
    }
}

impl Busy {
    /// Where it is worth telling.
    pub(super) fn text(&self) -> Option<String> {
        let Self { cpu, share } = *self;
        (share > BUSY).then(|| {
            format!(
                "CPU {cpu} was {} busy with other work before anything was measured: rates are \
                 lower for it, and differences harder to tell",
                percent(share)
            )
        })
    }
}

fn wait(lock: &File, cpu: usize, progress: &Progress) -> Result<(), ProcessError> {
    let mut is_told = false;
    while let Err(TryLockError::WouldBlock) = lock.try_lock() {
        if interrupt::received().is_some() {
            return Err(ProcessError::Interrupted);
        }
        if !is_told {
            progress.note(&waiting(lock, cpu));
            is_told = true;
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn waiting(lock: &File, cpu: usize) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = lock.metadata().ok().and_then(|file| {
        let place = format!(
            "{:02x}:{:02x}:{}",
            major(file.dev()),
            minor(file.dev()),
            file.ino()
        );
        holder(&locks, &place)
    });
    let by = holder.map_or(String::new(), |pid| format!(", process {pid}"));
    format!("waiting for another measurement on CPU {cpu}{by}, to end")
}

/// Who has the lock of the file at `place`, device and inode, as /proc/locks has
/// it: proc_locks(5).
fn holder<'a>(locks: &'a str, place: &str) -> Option<&'a str> {
    let lines = locks.lines().map(|line| line.split_whitespace());
    let mut lines = lines.map(|words| words.skip(1).collect::<Vec<&str>>());
    lines.find_map(|words| match words[..] {
        ["FLOCK", _, _, pid, at, ..] if at == place => Some(pid),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;
    use crate::load::last_allowed_cpu;

    #[test]
    fn one_cpu_is_measured_on_by_one_at_a_time() {
        let cpu = last_allowed_cpu().unwrap();
        let first = Claim::of(&[cpu], &Progress::new()).unwrap();
        let [lock] = &first._locks[..] else {
            return eprintln!("skipped: no folder of CPU {cpu}");
        };
        let text = waiting(lock, cpu);
        let own = format!("process {},", std::process::id());
        assert!(text.contains(&own), "{text}");

        let (done, is_done) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let second = Claim::of(&[cpu], &Progress::new());
                done.send(second.is_ok()).unwrap();
            });
            let early = is_done.recv_timeout(4 * LOOK);
            assert_eq!(early, Err(RecvTimeoutError::Timeout));
            drop(first);
            assert_eq!(is_done.recv(), Ok(true));
        });
    }

    #[test]
    fn who_has_a_lock_is_read() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 00:16:3591 0 EOF
2: FLOCK  ADVISORY  WRITE 28950 00:16:3591 0 EOF
2: -> FLOCK  ADVISORY  WRITE 12 00:16:3591 0 EOF
3: FLOCK  ADVISORY  READ 28257 fe:00:10133506 0 EOF
";
        assert_eq!(holder(locks, "00:16:3591"), Some("28950"));
        assert_eq!(holder(locks, "fe:00:10133506"), Some("28257"));
        assert_eq!(holder(locks, "00:16:359"), None);
    }

    #[test]
    fn a_busy_cpu_is_told() {
        let busy = |share| Busy { cpu: 3, share };
        let text = busy(0.48).text().unwrap();
        assert!(text.contains("CPU 3") && text.contains("48 %"), "{text}");
        assert_eq!(busy(0.03).text(), None);
    }
}
