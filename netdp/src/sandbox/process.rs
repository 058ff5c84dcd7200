//! The identity of a process, for longer than its number.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that can't be identified, watched or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("there is no process {0}")]
    Absent(i32),
    #[error("can't identify process {pid}: {source}")]
    Identify { pid: i32, source: io::Error },
    #[error("can't watch process {process}: {source}")]
    Watch {
        process: ProcessId,
        source: io::Error,
    },
    #[error("can't send signal {signal} to process {process}: {source}")]
    Signal {
        process: ProcessId,
        signal: i32,
        source: io::Error,
    },
    #[error("there is no signal {0}")]
    NoSuchSignal(i32),
}

/// A process, told from later ones of the same number by when it started. It
/// can be stored, and holds until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// In clock ticks since boot, as `/proc/PID/stat` has it.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none or `/proc` can't be read.
    pub fn of(pid: i32) -> Result<Self, ProcessError> {
        match stat(pid) {
            Ok(Some(stat)) => Ok(Self {
                pid,
                start_time: stat.start_time,
            }),
            Ok(None) => Err(ProcessError::Absent(pid)),
            Err(source) => Err(ProcessError::Identify { pid, source }),
        }
    }

    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn this() -> Result<Self, ProcessError> {
        Self::of(std::process::id().cast_signed())
    }

    /// Whether the process still runs; one that waits to be reaped doesn't.
    pub fn alive(&self) -> bool {
        matches!(stat(self.pid), Ok(Some(stat)) if stat.start_time == self.start_time && !stat.ended)
    }

    /// Waits until the process has ended, whoever its parent is.
    ///
    /// # Errors
    /// When the kernel refuses to open the process.
    pub async fn wait_exit(&self) -> Result<(), ProcessError> {
        let failed = |source| ProcessError::Watch {
            process: *self,
            source,
        };
        match self.watch().map_err(failed)? {
            Some(watched) => watched.end().await.map_err(failed),
            None => Ok(()),
        }
    }

    /// Sends a signal; says whether the process was still there.
    ///
    /// # Errors
    /// When there is no such signal or the kernel refuses.
    pub fn kill(&self, signal: i32) -> Result<bool, ProcessError> {
        let named = Signal::from_named_raw(signal).ok_or(ProcessError::NoSuchSignal(signal))?;
        let failed = |source| ProcessError::Signal {
            process: *self,
            signal,
            source,
        };
        let Some(pidfd) = self.pidfd().map_err(failed)? else {
            return Ok(false);
        };
        match pidfd_send_signal(&pidfd, named) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Starts to watch for the end; none when that was already.
    pub(super) fn watch(&self) -> io::Result<Option<Watched>> {
        let Some(pidfd) = self.pidfd()? else {
            return Ok(None);
        };
        // SAFETY: the AsyncFd owns the descriptor and nothing takes it out
        // again, so it stays open and the same until both are dropped.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        Ok(Some(Watched(registered?)))
    }

    /// A descriptor that stays this process's; none when it is gone.
    fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Compared once the descriptor is open: before, the number could go to
        // another process in between.
        let same = stat(self.pid)?.is_some_and(|stat| stat.start_time == self.start_time);
        Ok(same.then_some(pidfd))
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

/// A process whose end is waited for.
pub(super) struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    pub(super) async fn end(&self) -> io::Result<()> {
        // A pidfd is readable once every thread has ended, for good.
        self.0.readable().await?.retain_ready();
        Ok(())
    }
}

struct Stat {
    start_time: u64,
    ended: bool,
}

fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    parse(&text)
        .map(Some)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat isn't what proc(5) says")))
}

/// Fields 3 (state) and 22 (start time) of proc_pid_stat(5). Field 2 is the
/// program's name in parentheses and may hold anything, these included.
fn parse(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    Some(Stat {
        start_time: fields.nth(18)?.parse().ok()?,
        ended: matches!(state, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces_do_not_confuse() {
        let text = b"42 (a) R 1 (\xff) Z 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 9 10";
        let stat = parse(text).unwrap();
        assert_eq!(stat.start_time, 987_654);
        assert!(stat.ended);
        assert!(parse(b"42 (sh) R 1").is_none());
    }

    #[tokio::test]
    async fn a_recycled_number_is_another_process() {
        let this = ProcessId::this().unwrap();
        assert!(this.alive());
        let earlier = ProcessId {
            start_time: this.start_time - 1,
            ..this
        };
        assert!(!earlier.alive());
        assert!(!earlier.kill(libc::SIGKILL).unwrap());
        earlier.wait_exit().await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(process.kill(libc::SIGTERM).unwrap());
        process.wait_exit().await.unwrap();
        assert!(!process.alive());
        child.wait().unwrap();
        assert!(!process.kill(libc::SIGTERM).unwrap());
        assert!(matches!(
            ProcessId::of(process.pid),
            Err(ProcessError::Absent(_))
        ));
    }

    #[test]
    fn odd_numbers_are_refused() {
        assert!(matches!(ProcessId::of(-1), Err(ProcessError::Absent(-1))));
        let this = ProcessId::this().unwrap();
        assert!(matches!(
            this.kill(999),
            Err(ProcessError::NoSuchSignal(999))
        ));
    }
}
