//! Sockets that the service manager has made before the daemon, and passes on
//! (sd_listen_fds(3)): who connects meanwhile is answered when it runs.

use std::os::{
    fd::{AsFd, FromRawFd, OwnedFd},
    unix::net::UnixListener,
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, UnixAddr, getsockname, getsockopt, sockopt,
};

/// What the unit calls the socket of Docker's driver (`FileDescriptorName`).
pub const DOCKER: &str = "docker";

/// The socket of Docker's driver, if one was passed. Others are closed, since
/// nobody would ever answer at them.
///
/// To be called once, before anything else is opened.
///
/// # Errors
/// What was passed is not what a unit of netdp's would pass.
pub fn docker() -> Result<Option<UnixListener>> {
    let passed = sd_notify::listen_fds_with_names()
        .context("cannot read which sockets the service manager passed (LISTEN_FDS)")?;
    let mut docker = None;
    for (fd, name) in passed {
        // SAFETY: the service manager has opened it for this process, which
        // takes it once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        match name.as_str() {
            DOCKER => {
                check(&fd).with_context(|| format!("the socket {DOCKER} that was passed"))?;
                docker = Some(fd.into());
            }
            name => tracing::warn!(
                "the service manager passed a socket {name}, which nobody answers at: name the \
                 one for Docker by FileDescriptorName={DOCKER}"
            ),
        }
    }
    Ok(docker)
}

/// Refuses all but a unix socket at which one can be connected to.
fn check(fd: &OwnedFd) -> Result<()> {
    let listens = getsockopt(&fd.as_fd(), sockopt::AcceptConn).context("is none")?;
    let kind = getsockopt(&fd.as_fd(), sockopt::SockType).context("is none")?;
    let address: UnixAddr =
        getsockname(std::os::fd::AsRawFd::as_raw_fd(fd)).context("is no unix socket")?;
    if !listens || kind != SockType::Stream || address.family() != Some(AddressFamily::Unix) {
        bail!("is no unix socket that listens: give it by ListenStream=/PATH");
    }
    Ok(())
}
