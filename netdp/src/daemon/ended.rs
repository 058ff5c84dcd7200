//! Ending the sockets of the host that programs were handed for a direct port.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use nix::libc;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, RawPid, pidfd_getfd, pidfd_open};

use crate::{
    bpf::{BpfError, Closed, Unsealed},
    direct::PORT_OWNER,
    model::Proto,
    netlink::{Found, Sockets, end_tcp},
    plan::Hold,
};

use super::{hold::out_of_the_way, port_owner::processes};

/// Why they may go on.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    #[error(transparent)]
    Sockets(#[from] io::Error),
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// Ends them, and the connections that they have accepted. Sockets of UDP keep a
/// port that they were bound to until their programs close them: from now on
/// they neither hear nor send, and are in nobody's way.
///
/// # Errors
/// What the kernel refused.
pub fn end(port: &Hold, maps: &Path) -> Result<(), EndError> {
    let ports = port.ports.first()..=port.ports.last();
    if port.proto != Proto::Udp {
        return Ok(end_tcp(port.address, ports)?);
    }
    let sockets = Sockets::open()?;
    let mut listed = sockets.list(libc::IPPROTO_UDP, None)?;
    listed.retain(|it| it.owner == PORT_OWNER);
    let cookies = |of: &[&Found]| of.iter().map(|it| it.cookie()).collect::<Vec<_>>();
    let all: Vec<&Found> = listed.iter().collect();
    let ended: Vec<&Found> = all
        .iter()
        .copied()
        .filter(|it| it.is_at(port.address, &ports))
        .collect();
    let mut closed = Closed::open(maps)?;
    closed.keep(&cookies(&all));
    closed.close(&cookies(&ended))?;
    for socket in &ended {
        sockets.end(socket)?;
    }
    let mut unsealed = Unsealed::open(maps)?;
    // The daemon's own are among them, which are about to be closed.
    for socket in copies(&ended) {
        unsealed.unseal(&socket)?;
        out_of_the_way(&socket)?;
        unsealed.seal(&socket)?;
    }
    Ok(())
}

/// A copy of each of these sockets that a process has.
fn copies(sockets: &[&Found]) -> Vec<OwnedFd> {
    let mut names: Vec<String> = sockets
        .iter()
        .map(|it| format!("socket:[{}]", it.inode))
        .collect();
    let mut copies = Vec::new();
    for process in processes() {
        if names.is_empty() {
            break;
        }
        let entries = fs::read_dir(format!("/proc/{}/fd", process.pid));
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(to) = fs::read_link(entry.path()) else {
                continue;
            };
            let Some(at) = names
                .iter()
                .position(|name| to.as_os_str() == name.as_str())
            else {
                continue;
            };
            let number = entry.file_name().to_str().and_then(|it| it.parse().ok());
            if let Some(copy) = number.and_then(|number| copy(process.pid, number)) {
                copies.push(copy);
                names.swap_remove(at);
            }
        }
    }
    copies
}

fn copy(pid: u32, number: i32) -> Option<OwnedFd> {
    let process = Pid::from_raw(RawPid::try_from(pid).ok()?)?;
    let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
    pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()
}
