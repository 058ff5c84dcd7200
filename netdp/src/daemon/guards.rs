//! What keeps direct sockets from being of other use are programs on the control
//! group that they were made in, for as long as they live.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::libc;

use super::change::is_there;
use crate::{
    bpf::{direct_cgroup, guarded_group},
    model::State,
    netlink::Sockets,
};

/// The programs would leave sockets behind, and what supervisors make in the old
/// group from now on.
#[derive(Debug, thiserror::Error)]
#[error(
    "direct ports are guarded in another control group than {}: start the daemon with the \
     --cgroup that it had, or end the programs that have direct ports first{}",
    .cgroup.display(), listed(.sandboxes)
)]
pub struct GuardedElsewhere {
    cgroup: PathBuf,
    sandboxes: Vec<String>,
}

fn listed(sandboxes: &[String]) -> String {
    match sandboxes {
        [] => String::new(),
        sandboxes => format!(": {}", sandboxes.join(", ")),
    }
}

/// Refuses another control group while there are direct sockets in the one that
/// the last daemon had, or may be.
pub fn check(state: &State, cgroup: &Path, bpffs: &Path) -> Result<(), GuardedElsewhere> {
    let Some(guarded) = guarded_group(bpffs) else {
        return Ok(());
    };
    let wanted = fs::metadata(direct_cgroup(cgroup));
    if wanted.is_ok_and(|folder| folder.ino() == guarded) {
        return Ok(());
    }
    let direct = state.sandboxes.values().filter(|it| it.direct);
    let live = direct.filter(|sandbox| is_there(sandbox));
    let sandboxes: Vec<String> = live.map(|sandbox| sandbox.name.to_string()).collect();
    if sandboxes.is_empty() && !has_sockets(guarded) {
        return Ok(());
    }
    Err(GuardedElsewhere {
        cgroup: cgroup.to_owned(),
        sandboxes,
    })
}

/// Without `sock_diag` there are no direct ports. Where it doesn't tell, there may
/// be some.
fn has_sockets(group: u64) -> bool {
    let Ok(sockets) = Sockets::open() else {
        return false;
    };
    let mut protocols = [libc::IPPROTO_TCP, libc::IPPROTO_UDP].into_iter();
    protocols.any(|protocol| match sockets.list(protocol, None) {
        Ok(listed) => listed.iter().any(|socket| socket.group == Some(group)),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    })
}
