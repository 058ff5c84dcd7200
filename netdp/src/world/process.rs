//! Child processes that are always waited for: bounded in time, interruptible,
//! and with their output in files, so that a grandchild that keeps it open
//! holds nobody up.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::{Pid, getpid, getppid};

use super::interrupt;

const POLL: Duration = Duration::from_millis(4);

/// Why a child gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(
        "{program} is not installed; install the package that has it ({})",
        package(program)
    )]
    Missing { program: String },
    #[error("cannot run {command}: {source}")]
    Start { command: String, source: io::Error },
    #[error("{command} did not end within {} s and was killed", after.as_secs_f32())]
    TimedOut { command: String, after: Duration },
    #[error("interrupted")]
    Interrupted,
}

fn package(program: &str) -> &'static str {
    match program {
        "ip" => "iproute2 on Debian and Ubuntu, iproute on Fedora",
        "iptables" | "iptables-restore" | "iptables-nft-restore" | "iptables-legacy-restore" => {
            "iptables"
        }
        "nft" => "nftables",
        "unshare" => "util-linux",
        _ => "your distribution's search tells which",
    }
}

pub(crate) fn spawn(mut command: Command) -> Result<Child, ProcessError> {
    command.spawn().map_err(|source| {
        let program = command.get_program();
        if source.kind() == io::ErrorKind::NotFound && !program.to_string_lossy().contains('/') {
            let program = program.to_string_lossy().into_owned();
            return ProcessError::Missing { program };
        }
        ProcessError::Start {
            command: line(&command),
            source,
        }
    })
}

/// Has the kernel kill the command when the thread that starts it ends, however
/// that comes: also by SIGKILL.
pub(crate) fn end_with_this_thread(command: &mut Command) {
    let parent = getpid();
    // SAFETY: two system calls; nothing allocates or locks between fork and exec.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // It may have ended before.
            match getppid() == parent {
                true => Ok(()),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}

/// Runs `command` to its end and returns what it wrote.
pub(crate) fn output(command: Command, timeout: Duration) -> Result<Output, ProcessError> {
    Running::start(command)?.end(timeout)
}

/// A child under way, killed with this value.
pub(crate) struct Running {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Result<Self, ProcessError> {
        let text = line(&command);
        let files = || {
            let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
            command
                .stdout(stdout.try_clone()?)
                .stderr(stderr.try_clone()?);
            io::Result::Ok((stdout, stderr))
        };
        let (stdout, stderr) = { files }().map_err(|source| ProcessError::Start {
            command: text.clone(),
            source,
        })?;
        Ok(Self {
            command: text,
            child: spawn(command)?,
            stdout,
            stderr,
        })
    }

    /// Returns once it has written something to standard output, or ended.
    pub(crate) fn wait_for_word(&mut self, timeout: Duration) -> Result<(), ProcessError> {
        self.poll(timeout, |this| {
            let has_spoken = this.stdout.metadata()?.len() > 0;
            let is_over = has_spoken || this.child.try_wait()?.is_some();
            Ok(is_over.then_some(()))
        })
    }

    /// Where its standard input is a pipe, it ends there.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end; what it wrote.
    pub(crate) fn end(mut self, timeout: Duration) -> Result<Output, ProcessError> {
        let status = self.poll(timeout, |this| this.child.try_wait())?;
        let contents = |file| contents(file).map_err(|source| self.failed(source));
        Ok(Output {
            status,
            stdout: contents(&self.stdout)?,
            stderr: contents(&self.stderr)?,
        })
    }

    fn poll<T>(
        &mut self,
        timeout: Duration,
        mut look: impl FnMut(&mut Self) -> io::Result<Option<T>>,
    ) -> Result<T, ProcessError> {
        let deadline = Instant::now() + timeout;
        loop {
            if interrupt::received().is_some() {
                return Err(ProcessError::Interrupted);
            }
            match look(self) {
                Ok(Some(seen)) => return Ok(seen),
                Ok(None) if Instant::now() > deadline => {
                    return Err(ProcessError::TimedOut {
                        command: self.command.clone(),
                        after: timeout,
                    });
                }
                Ok(None) => std::thread::sleep(POLL),
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    fn failed(&self, source: io::Error) -> ProcessError {
        ProcessError::Start {
            command: self.command.clone(),
            source,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn contents(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sends SIGTERM; whether the child ended within `timeout`. It is killed and
/// waited for otherwise.
pub(crate) fn terminate(child: &mut Child, timeout: Duration) -> bool {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = send_signal(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if let Ok(Some(_)) = child.try_wait() {
            return true;
        }
        std::thread::sleep(POLL);
    }
    kill(child);
    false
}

/// Sends SIGKILL and waits. A child that has ended already is only waited for.
pub(crate) fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_come_back() {
        let output = output(
            shell("echo out; echo err >&2; exit 3"),
            Duration::from_secs(5),
        );
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_holds_nobody_up() {
        let began = Instant::now();
        let output = output(shell("sleep 2 & echo started"), Duration::from_secs(5)).unwrap();
        assert_eq!(output.stdout, b"started\n");
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut command = shell("exec sleep 60");
            end_with_this_thread(&mut command);
            Running::start(command).unwrap()
        };
        let running = std::thread::spawn(start).join().unwrap();
        let output = running.end(Duration::from_secs(10)).unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn one_that_waits_goes_on_when_its_input_ends() {
        let mut command = shell("echo ready; cat >&2; echo done");
        command.stdin(Stdio::piped());
        let mut running = Running::start(command).unwrap();
        running.wait_for_word(Duration::from_secs(5)).unwrap();
        let early = running.poll(Duration::from_millis(20), |it| it.child.try_wait());
        assert!(
            matches!(early, Err(ProcessError::TimedOut { .. })),
            "it didn't wait"
        );
        running.end_input();
        let output = running.end(Duration::from_secs(5)).unwrap();
        assert_eq!(output.stdout, b"ready\ndone\n");
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let error = output(shell("sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let missing = ProcessError::Missing {
            program: "ip".into(),
        }
        .to_string();
        assert!(missing.contains("iproute2"), "{missing}");
        let error = output(Command::new("no-such-tool"), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, ProcessError::Missing { .. }), "{error}");
    }
}
