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
    thread,
    time::Duration,
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

use crate::taken;

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

/// Claims the calling thread's network namespace for as long as this process
/// lives.
///
/// Nobody else can keep a daemon from starting: where a process that isn't
/// root's has taken the name, or one that doesn't answer as a daemon does, that
/// is logged, and nothing is claimed.
pub fn claim() -> Result<(), AloneError> {
    taken::once_free(
        || claim_as(NAME),
        |error| matches!(error, AloneError::Taken { .. }),
    )
}

/// Times that a name without a listener is tried again: its holder may just
/// have ended, or not yet listen.
const TRIES: u32 = 10;

fn claim_as(name: &'static [u8]) -> Result<(), AloneError> {
    let address = SocketAddr::from_abstract_name(name)?;
    for _ in 0..TRIES {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return keep(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
        match holder(name) {
            Ok(holder) if holder.uid == 0 => {
                // 0 stands for a process that isn't in this one's pid namespace.
                return Err(AloneError::Taken {
                    pid: (holder.pid != 0).then_some(holder.pid),
                });
            }
            Ok(holder) => {
                tracing::warn!(
                    "process {} of user {}, which is no daemon, has taken the name \
                     @netdp/daemon: a second daemon in this network namespace would not be noticed",
                    holder.pid,
                    holder.uid
                );
                return Ok(());
            }
            Err(Errno::ECONNREFUSED) => thread::sleep(Duration::from_millis(10)),
            // A queue that is full: a daemon empties its own.
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    tracing::warn!(
        "something that doesn't answer as a daemon does has taken the name @netdp/daemon (`ss \
         --unix --processes` shows it): a second daemon in this network namespace would not be \
         noticed"
    );
    Ok(())
}

/// Holds the name, and lets whoever asks for the holder go again.
fn keep(listener: UnixListener) -> Result<(), AloneError> {
    thread::Builder::new()
        .name("alone".to_owned())
        .spawn(move || {
            loop {
                // An error is a descriptor too many, or a client that has gone.
                if listener.accept().is_err() {
                    thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
    Ok(())
}

/// Whose process listens (SO_PEERCRED, unix(7)).
fn holder(name: &[u8]) -> Result<libc::ucred, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    Ok(getsockopt(&asking, PeerCredentials)?.into())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    fn bound(name: &[u8]) -> std::os::fd::OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name).unwrap()).unwrap();
        socket
    }

    #[test]
    fn a_name_that_nobody_listens_at_keeps_no_daemon_out() {
        let name = b"netdp/test-bound";
        let _bound = bound(name);
        claim_as(name).unwrap();
    }

    #[test]
    fn a_full_queue_keeps_no_daemon_out() {
        let name = b"netdp/test-full";
        let full = bound(name);
        listen(&full, Backlog::new(0).unwrap()).unwrap();
        let _waits = holder(name).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        let again = connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name).unwrap());
        assert_eq!(again, Err(Errno::EAGAIN));
        claim_as(name).unwrap();
    }

    #[test]
    fn who_asks_for_the_holder_often_doesnt_fill_its_queue() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let name = b"netdp/test-asked";
        claim_as(name).unwrap();
        for _ in 0..5000 {
            match claim_as(name) {
                Err(AloneError::Taken { pid }) => {
                    assert_eq!(pid, Some(std::process::id().cast_signed()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
