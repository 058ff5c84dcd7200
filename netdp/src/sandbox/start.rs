//! Starting a program: the side of the command.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::net::UnixStream;

use super::exec::reexec;
use super::signals::Signals;
use super::wire::{Report, is_closed, receive_async, send_async};
use crate::direct;

use super::{Files, INIT_COMMAND, Mode, ProcessId, Release, SUPERVISE_COMMAND, SandboxError, Spec};

/// The program that runs the hidden commands.
#[derive(Clone, Debug)]
pub struct Launcher(PathBuf);

impl Launcher {
    /// This program, also after its file was replaced by a newer one.
    pub fn this_program() -> Self {
        Self("/proc/self/exe".into())
    }

    /// Another program, whose `main` calls [`init_main`](super::init_main) and
    /// [`supervise_main`](super::supervise_main).
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self(program.into())
    }
}

/// A process in namespaces of its own, waiting to become a program. Dropped
/// without [`release`](Self::release), it ends.
#[derive(Debug)]
pub struct Sandbox {
    socket: UnixStream,
    process: ProcessId,
    /// In the foreground, the process itself.
    child: Option<OwnedChild>,
    environment: BTreeMap<String, String>,
    direct: Option<Supervision>,
}

/// How a supervisor of direct ports is started.
#[derive(Debug)]
struct Supervision {
    launcher: PathBuf,
    task: direct::Task,
    log: Option<File>,
}

impl Sandbox {
    /// Makes the namespaces. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no program to run, the log can't be opened, or the
    /// namespaces can't be made or joined.
    pub async fn start(
        launcher: &Launcher,
        spec: &Spec,
        mode: &Mode,
    ) -> Result<Self, SandboxError> {
        if spec.argv.is_empty() {
            return Err(SandboxError::NoProgram);
        }
        let (ours, theirs) = StdUnixStream::pair().map_err(SandboxError::Talk)?;
        ours.set_nonblocking(true).map_err(SandboxError::Talk)?;
        let mut socket = UnixStream::from_std(ours).map_err(SandboxError::Talk)?;
        let child = spawn(&launcher.0, mode, theirs.into())?;
        send_async(&mut socket, spec)
            .await
            .or_else(ignore_closed)
            .map_err(SandboxError::Talk)?;
        let pid = match receive_async(&mut socket).await {
            Ok(Some(Report::Ready { pid })) => pid,
            Ok(Some(report)) => return Err(refusal(report)),
            Ok(None) => return Err(SandboxError::Ended),
            Err(error) => return Err(SandboxError::Talk(error)),
        };
        let process = ProcessId::of(pid)?;
        let child = match mode {
            Mode::Foreground => Some(child),
            // It made the supervisor and has ended.
            Mode::Detached { .. } => {
                drop(child);
                None
            }
        };
        Ok(Self {
            socket,
            process,
            child,
            environment: BTreeMap::new(),
            direct: None,
        })
    }

    /// Has a supervisor look at the ports that the program binds. What it can't do
    /// it says to `log`, or on standard error.
    #[must_use]
    pub fn with_direct(
        mut self,
        launcher: &Launcher,
        task: direct::Task,
        log: Option<File>,
    ) -> Self {
        self.direct = Some(Supervision {
            launcher: launcher.0.clone(),
            task,
            log,
        });
        self
    }

    /// Gives the program these variables besides those of the caller.
    #[must_use]
    pub fn with_environment(mut self, environment: BTreeMap<String, String>) -> Self {
        self.environment = environment;
        self
    }

    /// The process that is to become the program.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// The path of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.process.pid).into()
    }

    /// Puts the files in place and starts the program. Returns once it runs.
    ///
    /// # Errors
    /// When the files can't be put in place or the program can't be executed;
    /// [`SandboxError::exit_status`] is then the one to exit with.
    pub async fn release(mut self, files: &Files) -> Result<Program, SandboxError> {
        // Caught from here on: earlier, a signal that ends the command ends
        // the waiting process with it; later, it has to reach the program.
        let signals = match &self.child {
            Some(_) => Some(Signals::catch().map_err(SandboxError::Signals)?),
            None => None,
        };
        let release = Release {
            files: files.clone(),
            environment: std::mem::take(&mut self.environment),
            direct: self.direct.is_some(),
        };
        send_async(&mut self.socket, &release)
            .await
            .map_err(|error| match is_closed(&error) {
                true => SandboxError::Ended,
                false => SandboxError::Talk(error),
            })?;
        if let Some(supervision) = self.direct.take() {
            self.supervise(supervision).await?;
        }
        match receive_async(&mut self.socket).await {
            Ok(None) => {}
            Ok(Some(report)) => return Err(refusal(report)),
            Err(error) => return Err(SandboxError::Talk(error)),
        }
        Ok(match (self.child, signals) {
            (Some(child), Some(signals)) => Program::Foreground(Foreground {
                process: self.process,
                child,
                signals,
            }),
            _ => Program::Detached(self.process),
        })
    }
}

impl Sandbox {
    async fn supervise(&mut self, supervision: Supervision) -> Result<(), SandboxError> {
        let listener = match receive_async(&mut self.socket).await {
            Ok(Some(Report::Filtered { listener })) => listener,
            Ok(Some(report)) => return Err(refusal(report)),
            Ok(None) => return Err(SandboxError::Ended),
            Err(error) => return Err(SandboxError::Talk(error)),
        };
        let Supervision {
            launcher,
            task,
            log,
        } = supervision;
        let filter = direct::filter_of(self.process.pid, listener)?;
        direct::start(&launcher, filter, &task, log)?;
        send_async(&mut self.socket, &())
            .await
            .map_err(SandboxError::Talk)
    }
}

/// A program that runs.
#[derive(Debug)]
pub enum Program {
    Foreground(Foreground),
    /// It belongs to its supervisor.
    Detached(ProcessId),
}

impl Program {
    pub fn process(&self) -> ProcessId {
        match self {
            Self::Foreground(foreground) => foreground.process,
            Self::Detached(process) => *process,
        }
    }
}

/// A program that runs as a child of this process. Dropping the value kills
/// it.
#[derive(Debug)]
pub struct Foreground {
    process: ProcessId,
    child: OwnedChild,
    signals: Signals,
}

impl Foreground {
    /// Passes signals on until the program ends, and returns the exit status a
    /// shell would give: the program's own, or 128 and the number of the signal
    /// that killed it.
    ///
    /// # Errors
    /// When the kernel refuses to watch the program.
    pub async fn wait(mut self) -> Result<u8, SandboxError> {
        let Some(watched) = self.process.watch().map_err(SandboxError::Wait)? else {
            return self.child.reap().map_err(SandboxError::Wait);
        };
        loop {
            tokio::select! {
                ended = watched.end() => {
                    ended.map_err(SandboxError::Wait)?;
                    return self.child.reap().map_err(SandboxError::Wait);
                }
                signal = self.signals.next() => {
                    let signal = signal.map_err(SandboxError::Signals)?;
                    self.process.kill(signal)?;
                }
            }
        }
    }
}

fn spawn(launcher: &Path, mode: &Mode, socket: OwnedFd) -> Result<OwnedChild, SandboxError> {
    let failed = |source| SandboxError::Spawn {
        program: launcher.into(),
        source,
    };
    let mut command = match mode {
        Mode::Foreground => reexec(launcher, INIT_COMMAND, &socket).map_err(failed)?,
        Mode::Detached { log } => {
            let mut command = reexec(launcher, SUPERVISE_COMMAND, &socket).map_err(failed)?;
            log_to(&mut command, log).map_err(|source| SandboxError::Log {
                path: log.clone(),
                source,
            })?;
            command
        }
    };
    Ok(OwnedChild(command.spawn().map_err(failed)?))
}

fn log_to(command: &mut Command, log: &Path) -> io::Result<()> {
    // Appending keeps output and errors in the order in which they are written.
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(())
}

fn refusal(report: Report) -> SandboxError {
    match report {
        Report::Setup { reason } => SandboxError::Setup { reason },
        Report::Exec {
            program,
            reason,
            status,
        } => SandboxError::Exec {
            program,
            reason,
            status,
        },
        Report::Ready { .. } | Report::Filtered { .. } => {
            SandboxError::Talk(io::Error::other("it said twice that it is ready"))
        }
    }
}

/// A process that fails early says why before it closes its end; a closed
/// socket is only told as such when there is nothing left to read.
fn ignore_closed(error: io::Error) -> io::Result<()> {
    if is_closed(&error) {
        Ok(())
    } else {
        Err(error)
    }
}

/// A child that doesn't outlive its owner, not even as a zombie.
#[derive(Debug)]
struct OwnedChild(Child);

impl OwnedChild {
    /// Waits for a child that is known to have ended.
    fn reap(&mut self) -> io::Result<u8> {
        self.0.wait().map(shell_status)
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // Both do nothing to a child that was reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell_status(status: ExitStatus) -> u8 {
    let number = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    number
        .and_then(|number| u8::try_from(number).ok())
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_a_shell() {
        assert_eq!(shell_status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(shell_status(ExitStatus::from_raw(libc::SIGKILL)), 137);
    }
}
