//! One daemon for each network namespace: the programs of two would sit on the
//! same uplinks, and each would drop what the other carries.
//!
//! The lock is the name of an abstract unix socket. The kernel keeps those for
//! each network namespace, and takes them back with the process (unix(7)), so
//! nothing has to be cleaned up, and the folders of the two don't matter.

use std::{
    io,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
        sockopt::PeerCredentials,
    },
};
use thiserror::Error;

const NAME: &[u8] = b"netdp/daemon";

#[derive(Debug, Error)]
pub enum AloneError {
    #[error(
        "another netdp daemon{} carries the networks of this network namespace: stop that one, \
         or run this one in another namespace (`ip netns exec NAME netdp daemon ...`)",
        .pid.map(|pid| format!(", pid {pid},")).unwrap_or_default()
    )]
    Taken { pid: Option<i32> },
    #[error("cannot claim this network namespace by the abstract socket @netdp/daemon: {0}")]
    Io(#[from] io::Error),
}

/// Claims the calling thread's network namespace until what this returns is
/// dropped.
///
/// Nobody else can keep a daemon from starting: where a process that isn't
/// root's has taken the name, that is logged, and nothing is claimed.
pub fn claim() -> Result<Option<UnixListener>, AloneError> {
    let name = SocketAddr::from_abstract_name(NAME)?;
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
        let holder = match holder() {
            Ok(holder) => holder,
            // It has ended in this moment.
            Err(Errno::ECONNREFUSED) => continue,
            // Nobody takes what waits to be accepted.
            Err(Errno::EAGAIN) => return Err(AloneError::Taken { pid: None }),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        if holder.uid == 0 {
            // 0 stands for a process that isn't in this one's pid namespace.
            return Err(AloneError::Taken {
                pid: (holder.pid != 0).then_some(holder.pid),
            });
        }
        tracing::warn!(
            "process {} of user {}, which is no daemon, has taken the name @netdp/daemon: a \
             second daemon in this network namespace would not be noticed",
            holder.pid,
            holder.uid
        );
        return Ok(None);
    }
}

/// Whose process listens (SO_PEERCRED, unix(7)).
fn holder() -> Result<libc::ucred, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(asking.as_raw_fd(), &UnixAddr::new_abstract(NAME)?)?;
    Ok(getsockopt(&asking, PeerCredentials)?.into())
}
