//! Which dockerd asked for an endpoint, and what becomes of its endpoints when
//! it has ended in the middle of a start.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::UnixStream, time::sleep};

use super::abandoned;
use crate::{
    daemon::owner::{Owner, OwnerError},
    model::{Process, State},
    sandbox::ProcessId,
};

/// How long after its end a dockerd's endpoints are left alone: whoever speaks
/// to the driver through another process, which ends with each connection, has
/// that time for a start.
const GRACE: Duration = Duration::from_secs(15);

/// The process at the other side of a connection (SO_PEERCRED, unix(7)): none
/// where it isn't one of this process' own PID namespace, or has gone.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<Process>);

impl Peer {
    pub fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let process = pid.and_then(|pid| ProcessId::of(pid).ok());
        Self(process.and_then(|it| {
            Some(Process {
                pid: u32::try_from(it.pid).ok()?,
                start_time: it.start_time,
            })
        }))
    }
}

/// The processes whose ends are waited for.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Vec<Process>>);

impl Peers {
    /// False where somebody waits for this one already.
    fn begin(&self, process: Process) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !all.contains(&process);
        if is_new {
            all.push(process);
        }
        is_new
    }

    fn end(&self, process: Process) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|it| *it != process);
    }
}

/// Whether a process lives.
pub fn is_alive(process: Process) -> bool {
    i32::try_from(process.pid).is_ok_and(|pid| {
        let start_time = process.start_time;
        ProcessId { pid, start_time }.alive()
    })
}

/// Waits for the ends of all processes that have asked for endpoints.
pub fn follow_all(owner: &Arc<Owner>, peers: &Arc<Peers>, state: &State) {
    for endpoint in state.endpoints.values() {
        follow(owner, peers, endpoint.offered_to);
    }
}

/// Waits for the end of a process that has asked for endpoints. Those that it
/// has not taken, or in whose sandbox nothing runs, end a while after it.
pub fn follow(owner: &Arc<Owner>, peers: &Arc<Peers>, process: Option<Process>) {
    let Some(process) = process.filter(|process| peers.begin(*process)) else {
        return;
    };
    let (owner, peers) = (Arc::downgrade(owner), Arc::clone(peers));
    tokio::spawn(async move {
        let id = ProcessId {
            pid: i32::try_from(process.pid).unwrap_or(-1),
            start_time: process.start_time,
        };
        let waited = id.wait_exit().await;
        // What it asks for from now on, it can't have.
        peers.end(process);
        if let Err(error) = waited {
            tracing::warn!("dockerd's end is not noticed: {error}");
            return;
        }
        sleep(GRACE).await;
        if let Some(owner) = owner.upgrade()
            && let Err(error) = end(&owner, process).await
        {
            tracing::warn!("what process {id} has left is not taken away: {error}");
        }
    });
}

async fn end(owner: &Owner, process: Process) -> Result<(), OwnerError> {
    let taken = {
        let core = owner.lock().await;
        let endpoints = &core.state().endpoints;
        let mut taken = abandoned::in_sandboxes(core.state());
        taken.retain(|(id, _)| endpoints[id].offered_to == Some(process));
        taken
    };
    // Reads all of /proc.
    let left = tokio::task::spawn_blocking(|| abandoned::abandoned(taken)).await;
    let left = left.unwrap_or_default();
    owner
        .change(|state, _| {
            state.withdraw_offers_to(process);
            for id in left {
                state.withdraw_endpoint(id);
            }
            Ok(())
        })
        .await
}
