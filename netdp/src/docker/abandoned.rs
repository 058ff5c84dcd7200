//! Sandboxes that a dockerd which was killed has left behind: it had made them
//! for containers that never started, and the next one knows nothing of them.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf};

use super::peer;
use crate::{
    model::{Endpoint, EndpointId, Handover, PidNamespace, State},
    netns::Namespace,
    sandbox::ProcessId,
};

/// Inode of the first process namespace (`PROC_PID_INIT_INO` of the kernel's
/// `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// How long a start is given, in seconds, whose dockerd can't be seen.
const LONGEST_START: u64 = 60;

/// Endpoints whose end an engine has taken, with the paths of their sandboxes, whose
/// processes this one sees.
pub fn in_sandboxes(state: &State) -> Vec<(EndpointId, PathBuf)> {
    let (sees_all, own) = (sees_all(), own_pid_namespace());
    // A container is in its dockerd's PID namespace or below, which is that from which
    // the dockerd was seen, or below.
    let sees = |endpoint: &Endpoint| sees_all || own.is_some() && endpoint.offered_in == own;
    state
        .endpoints
        .values()
        .filter(|endpoint| endpoint.handover == Some(Handover::Taken) && sees(endpoint))
        .filter_map(|endpoint| {
            let sandbox = state.sandboxes.get(&endpoint.sandbox)?;
            Some((endpoint.id, sandbox.netns.clone()))
        })
        .collect()
}

/// The endpoints of dockerds that have gone: those that were offered, and those
/// that were taken with the paths of their sandboxes. Of a dockerd in another PID
/// namespace nothing is known but how long a start takes at most.
pub fn of_the_gone(state: &State, now: u64) -> (Vec<EndpointId>, Vec<(EndpointId, PathBuf)>) {
    let is_over = |endpoint: &Endpoint| match endpoint.offered_to {
        Some(process) => !peer::is_alive(process),
        None => {
            let sandbox = state.sandboxes.get(&endpoint.sandbox);
            sandbox.is_none_or(|it| it.created.saturating_add(LONGEST_START) < now)
        }
    };
    let offered = state
        .endpoints
        .values()
        .filter(|endpoint| endpoint.handover == Some(Handover::Offered) && is_over(endpoint));
    let mut taken = in_sandboxes(state);
    taken.retain(|(id, _)| is_over(&state.endpoints[id]));
    (offered.map(|endpoint| endpoint.id).collect(), taken)
}

/// The PID namespace that this process is in.
pub fn own_pid_namespace() -> Option<PidNamespace> {
    let inode = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    let start_time = ProcessId::of(1).ok()?.start_time;
    Some(PidNamespace { inode, start_time })
}

/// Whether this process sees every other one of the machine.
fn sees_all() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|it| it.ino() == FIRST_PID_NAMESPACE)
}

/// Those of these in whose sandbox no process is that can be seen. A container
/// that outlived its dockerd has one.
pub fn abandoned(endpoints: Vec<(EndpointId, PathBuf)>) -> Vec<EndpointId> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let used = used();
    if used.is_empty() {
        return Vec::new();
    }
    endpoints
        .into_iter()
        .filter(|(_, path)| Namespace::open(path).is_ok_and(|it| !used.contains(&it.inode())))
        .map(|(id, _)| id)
        .collect()
}

/// Inodes of the network namespaces of all threads: that of a process whose
/// first thread has ended shows none, and a thread may be elsewhere.
fn used() -> BTreeSet<u64> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    processes
        .flatten()
        .filter_map(|process| fs::read_dir(process.path().join("task")).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|thread| fs::metadata(thread.path().join("ns/net")).ok())
        .map(|namespace| namespace.ino())
        .collect()
}
