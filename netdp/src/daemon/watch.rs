//! Programs that run in sandboxes: waiting for their end, and ending them.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use nix::libc::{SIGKILL, SIGTERM};
use tokio::{task::AbortHandle, time::timeout};

use crate::{
    model::{Process, Refusal, SandboxId},
    sandbox::ProcessId,
};

use super::{leftovers::Family, owner::OwnerError};

/// How long a program may take to end after it was asked to, and again after
/// it was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The programs that are waited for.
#[derive(Debug, Default)]
pub struct Watches(Mutex<BTreeMap<SandboxId, Watch>>);

#[derive(Debug)]
struct Watch {
    task: AbortHandle,
    family: Option<Family>,
}

impl Watches {
    /// Waits for the end of a sandbox's program, and does `then`: in a task of
    /// its own, since it ends this watch. One that is waited for already is not
    /// waited for twice.
    pub fn begin<F>(&self, id: SandboxId, process: ProcessId, then: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut watches = self.lock();
        if watches.contains_key(&id) {
            return;
        }
        let task = tokio::spawn(async move {
            match process.wait_exit().await {
                Ok(()) => drop(tokio::spawn(then)),
                Err(error) => tracing::warn!("{error}"),
            }
        });
        let watch = Watch {
            task: task.abort_handle(),
            family: Family::of(process),
        };
        watches.insert(id, watch);
    }

    /// Waits no longer, and ends what the program has left, if it has ended.
    pub fn end(&self, id: SandboxId) {
        let Some(watch) = self.lock().remove(&id) else {
            return;
        };
        watch.task.abort();
        if let Some(family) = watch.family {
            tokio::task::spawn_blocking(move || family.end());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Watch>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// The process of a sandbox.
pub fn identity(process: Process) -> ProcessId {
    ProcessId {
        // A number that is too large is nobody's, as -1 is.
        pid: i32::try_from(process.pid).unwrap_or(-1),
        start_time: process.start_time,
    }
}

/// Ends a program: asks it to, and kills it when it doesn't listen.
pub async fn terminate(process: ProcessId) -> Result<(), OwnerError> {
    for signal in [SIGTERM, SIGKILL] {
        process.kill(signal)?;
        if let Ok(ended) = timeout(PATIENCE, process.wait_exit()).await {
            return Ok(ended?);
        }
    }
    Err(Refusal::conflict(format!(
        "process {process} doesn't end, though it was killed: see what it waits for in \
         /proc/{process}/stack"
    ))
    .into())
}
