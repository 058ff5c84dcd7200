//! Sandboxes that a dockerd which was killed has left behind: it had made them
//! for containers that never started, and the next one knows nothing of them.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf};

use crate::{
    model::{EndpointId, Handover, State},
    netns::Namespace,
};

/// Inode of the first process namespace (`PROC_PID_INIT_INO` of the kernel's
/// `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Endpoints whose end an engine has taken, with the paths of their sandboxes.
pub fn in_sandboxes(state: &State) -> Vec<(EndpointId, PathBuf)> {
    state
        .endpoints
        .values()
        .filter(|endpoint| endpoint.handover == Some(Handover::Taken))
        .filter_map(|endpoint| {
            let sandbox = state.sandboxes.get(&endpoint.sandbox)?;
            Some((endpoint.id, sandbox.netns.clone()))
        })
        .collect()
}

/// Those of these in whose sandbox no process is. A container that outlived its
/// dockerd has one.
pub fn abandoned(endpoints: Vec<(EndpointId, PathBuf)>) -> Vec<EndpointId> {
    let sees_all =
        fs::metadata("/proc/self/ns/pid").is_ok_and(|it| it.ino() == FIRST_PID_NAMESPACE);
    if endpoints.is_empty() || !sees_all {
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
