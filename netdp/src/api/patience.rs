//! How long a request waits for the daemon.

use std::{fs, future::Future, path::PathBuf, pin::pin, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

use super::client::ClientError;

/// What is asked is answered in milliseconds, but for a change that goes before.
pub const QUESTION: Duration = Duration::from_secs(30);

/// A change may take long: thousands of ports, a program that doesn't end.
pub const CHANGE: Duration = Duration::from_secs(300);

/// How often a daemon that is silent is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks in a row at which it has to be stopped: a debugger stops it for a
/// moment.
const LOOKS: u32 = 2;

/// Waits for what the daemon at the other end of a connection says.
#[derive(Debug)]
pub struct Patience {
    path: PathBuf,
    /// The daemon's process, where this one can see it.
    daemon: Option<i32>,
    limit: Duration,
}

impl Patience {
    pub fn new(path: PathBuf, stream: &UnixStream, limit: Duration) -> Self {
        let daemon = stream.peer_cred().ok().and_then(|peer| peer.pid());
        Self {
            path,
            daemon: daemon.filter(|pid| *pid > 0),
            limit,
        }
    }

    /// What `answer` gives.
    ///
    /// # Errors
    /// When it takes too long, or the daemon is stopped.
    pub async fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        let mut answer = pin!(answer);
        let latest = Instant::now() + self.limit;
        let mut stopped = 0;
        loop {
            let left = latest.saturating_duration_since(Instant::now());
            if let Ok(answer) = timeout(left.min(LOOK), &mut answer).await {
                return Ok(answer);
            }
            stopped = match self.daemon {
                Some(pid) if is_stopped(pid) => stopped + 1,
                _ => 0,
            };
            if let Some(pid) = self.daemon
                && stopped >= LOOKS
            {
                let path = self.path.clone();
                return Err(ClientError::Stopped { path, pid });
            }
            if Instant::now() >= latest {
                return Err(ClientError::Silent {
                    path: self.path.clone(),
                    seconds: self.limit.as_secs(),
                });
            }
        }
    }
}

/// Whether a process was stopped by a signal or a debugger (proc_pid_stat(5)).
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;

    fn patience(daemon: Option<i32>, limit: Duration) -> Patience {
        Patience {
            path: "/run/netdp/netdp.sock".into(),
            daemon,
            limit,
        }
    }

    #[tokio::test]
    async fn what_comes_in_time_is_given() {
        let soon = patience(None, QUESTION).wait(async { 7 }).await;
        assert_eq!(soon.unwrap(), 7);
    }

    #[tokio::test]
    async fn silence_has_an_end() {
        let patience = patience(None, Duration::from_millis(50));
        let error = patience.wait(std::future::pending::<()>()).await;
        assert!(matches!(error, Err(ClientError::Silent { .. })));
    }

    #[tokio::test]
    async fn a_stopped_daemon_is_named() {
        let mut other = Command::new("sleep")
            .arg("60")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        let error = patience(Some(pid), QUESTION)
            .wait(std::future::pending::<()>())
            .await
            .unwrap_err();
        other.kill().unwrap();
        other.wait().unwrap();
        let message = error.to_string();
        assert!(
            message.contains(&format!("`kill -CONT {pid}`")),
            "{message}"
        );
    }
}
