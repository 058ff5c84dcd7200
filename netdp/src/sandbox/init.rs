//! The first process of a sandbox, until it becomes the program.

use std::fmt;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getpid, sethostname};

use super::exec::{become_program, inherited_socket};
use super::wire::{Report, receive, send};
use super::{Network, Release, Spec, files, filter};
use crate::netns::{Namespace, loopback_up};

/// Why a sandbox can't be set up, for the person who asked for it.
#[derive(Debug)]
pub(super) struct Refused(String);

impl Refused {
    pub(super) fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }

    fn step(what: &'static str) -> impl Fn(nix::Error) -> Self {
        move |error| {
            let hint = match error {
                nix::Error::EPERM => "; run netdp as root (it needs CAP_SYS_ADMIN)",
                _ => "",
            };
            Self::new(format_args!(
                "can't {what}: {}{hint}",
                std::io::Error::from(error)
            ))
        }
    }
}

/// Runs the hidden command [`INIT_COMMAND`](super::INIT_COMMAND). Returns only
/// when the program wasn't started; the caller passes the result to `exit`.
pub fn init_main() -> ExitCode {
    let mut socket = match inherited_socket() {
        Ok(socket) => socket,
        Err(status) => return status,
    };
    let failure = match prepare(&mut socket) {
        Ok(Some((spec, release))) => become_program(&spec.argv, &release.environment),
        // The command has ended or has thought better of it.
        Ok(None) => return ExitCode::FAILURE,
        Err(Refused(reason)) => Report::Setup { reason },
    };
    // Nobody is left to be told when this fails too.
    let _ = send(&mut socket, &failure);
    ExitCode::FAILURE
}

/// Everything up to the program. None when the other side closed the socket.
fn prepare(socket: &mut UnixStream) -> Result<Option<(Spec, Release)>, Refused> {
    let talk = |error| Refused::new(format_args!("can't talk to the command: {error}"));
    let Some(spec) = receive::<Spec>(socket).map_err(talk)? else {
        return Ok(None);
    };
    enter_namespaces(&spec)?;
    let ready = Report::Ready {
        pid: getpid().as_raw(),
    };
    send(socket, &ready).map_err(talk)?;
    let Some(release) = receive::<Release>(socket).map_err(talk)? else {
        return Ok(None);
    };
    files::replace(&release.files)?;
    if release.direct && !filtered(socket)? {
        return Ok(None);
    }
    Ok(Some((spec, release)))
}

/// Puts this process, and the program to come, under the filter. False when the
/// other side closed the socket.
fn filtered(socket: &mut UnixStream) -> Result<bool, Refused> {
    let listener = filter::install().map_err(|error| {
        Refused::new(format_args!(
            "can't have the ports looked at that the program binds: {error}; leave 'direct' out"
        ))
    })?;
    let report = Report::Filtered {
        listener: listener.as_raw_fd(),
    };
    let talk = |error| Refused::new(format_args!("can't talk to the command: {error}"));
    send(socket, &report).map_err(talk)?;
    Ok(receive::<()>(socket).map_err(talk)?.is_some())
}

fn enter_namespaces(spec: &Spec) -> Result<(), Refused> {
    // Opened before anything changes: the path is the caller's.
    let joined = match &spec.network {
        Network::Join(path) => Some(Namespace::open(path).map_err(Refused::new)?),
        Network::New | Network::Host => None,
    };
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    if spec.network == Network::New {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(Refused::step("make namespaces"))?;
    match joined {
        Some(namespace) => setns(&namespace, CloneFlags::CLONE_NEWNET)
            .map_err(Refused::step("join the other program's network"))?,
        None if spec.network == Network::New => loopback_up().map_err(|error| {
            Refused::new(format_args!(
                "can't bring up the loopback interface: {error}"
            ))
        })?,
        None => {}
    }
    // A slave, so that nothing mounted here is seen outside, while what the
    // host unmounts isn't held by the sandbox for as long as it lives.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(Refused::step("separate the mounts"))?;
    if let Some(hostname) = &spec.hostname {
        sethostname(hostname).map_err(Refused::step("set the host name"))?;
    }
    Ok(())
}
