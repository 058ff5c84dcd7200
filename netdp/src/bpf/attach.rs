//! Programs on interfaces: tcx links, or filters of a clsact qdisc.

use std::{io, mem, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier,
    links::{FdLink, LinkError, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle},
};

use super::{
    BpfError,
    datapath::{Mechanism, unpin},
    link,
};

/// Where a filter of ours stands among those of a clsact qdisc: first.
const PRIORITY: u16 = 1;
/// Tells our filter from others of the same priority.
const HANDLE: TcHandle = TcHandle::new(0, 0x6e64);

/// One program on one hook.
pub(super) struct Attachment<'a> {
    pub program: &'static str,
    pub ifname: &'a str,
    pub hook: TcAttachType,
    /// The link's pin; for a filter, which the kernel keeps with the interface,
    /// the program's pin that says that there is one.
    pub pin: &'a Path,
}

/// Attaches a program, or puts it in the place of the one attached there: a
/// link that is pinned stays one, whatever `mechanism` says.
pub(super) fn attach(
    program: &mut SchedClassifier,
    at: &Attachment<'_>,
    mechanism: Mechanism,
) -> Result<(), BpfError> {
    if at.pin.exists() && replace(program, at)? {
        return Ok(());
    }
    match mechanism {
        Mechanism::Tcx => attach_link(program, at),
        Mechanism::Clsact => attach_filter(program, at),
    }
}

fn attach_link(program: &mut SchedClassifier, at: &Attachment<'_>) -> Result<(), BpfError> {
    unpin(at.pin)?;
    let failed = |source| failed(at, source);
    let id = program
        .attach_with_options(
            at.ifname,
            at.hook,
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link: FdLink = link.try_into().map_err(|source| BpfError::Link {
        path: at.pin.to_owned(),
        source: Box::new(source),
    })?;
    link.pin(at.pin).map_err(|source| BpfError::Pin {
        path: at.pin.to_owned(),
        source: Box::new(source),
    })?;
    Ok(())
}

/// Replaces the program of a pinned link, which no packet notices; false where
/// the link has lost its interface, or a program is pinned there.
fn replace(program: &mut SchedClassifier, at: &Attachment<'_>) -> Result<bool, BpfError> {
    let broken = |source: LinkError| BpfError::Link {
        path: at.pin.to_owned(),
        source: Box::new(source),
    };
    let pinned = PinnedLink::from_pin(at.pin).map_err(broken)?;
    let link = match FdLink::from(pinned).try_into() {
        Err(LinkError::InvalidLink) => return Ok(false),
        link => link.map_err(broken)?,
    };
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps the link; this handle on it may go.
            drop(program.take_link(id).map_err(|source| failed(at, source))?);
            Ok(true)
        }
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
        {
            Ok(false)
        }
        Err(source) => Err(failed(at, source)),
    }
}

fn attach_filter(program: &mut SchedClassifier, at: &Attachment<'_>) -> Result<(), BpfError> {
    put_filter(program, at.ifname, at.hook).map_err(|source| failed(at, source))?;
    unpin(at.pin)?;
    program.pin(at.pin).map_err(|source| BpfError::Pin {
        path: at.pin.to_owned(),
        source: Box::new(source),
    })
}

/// Puts a filter of ours onto an interface of the calling thread's namespace,
/// or the program into the one that is there, which no packet notices. The
/// kernel keeps it with the interface.
pub(super) fn put_filter(
    program: &mut SchedClassifier,
    ifname: &str,
    hook: TcAttachType,
) -> Result<(), ProgramError> {
    match tc::qdisc_add_clsact(ifname) {
        Err(error) if !is_exists(&error) => return Err(error.into()),
        _ => {}
    }
    let link = SchedClassifierLink::attached(ifname, hook, PRIORITY, HANDLE, None)?;
    let id = match program.attach_to_link(link) {
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::ENOENT) =>
        {
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                ..NlOptions::default()
            });
            program.attach_with_options(ifname, hook, options)?
        }
        attached => attached?,
    };
    // Dropped, it would take the filter away, or one of the namespace that the
    // thread is in by then.
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// Takes a filter of ours off an interface of the calling thread's namespace,
/// if it is there.
pub(super) fn take_filter(ifname: &str, hook: TcAttachType) {
    // Dropped, it does so; and what is gone already is no matter.
    let _ = SchedClassifierLink::attached(ifname, hook, PRIORITY, HANDLE, None);
}

/// Detaches what is pinned at `pin`, if anything.
pub(super) fn detach(
    pin: &Path,
    ifindex: u32,
    program: &str,
    hook: TcAttachType,
) -> Result<(), BpfError> {
    if !pin.exists() {
        return Ok(());
    }
    // Where the pin is a program's, the filter is found by its name. A pin
    // doesn't tell what it is; where it is a link, there is no such filter.
    if let Some(ifname) = interface_name(ifindex) {
        let _ = tc::qdisc_detach_program(&ifname, hook, program);
    }
    link::detach_and_unpin(pin)
}

/// The name of an interface, if it is there.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    // nix gives an empty name where there is no such interface.
    name.into_string().ok().filter(|name| !name.is_empty())
}

fn failed(at: &Attachment<'_>, source: ProgramError) -> BpfError {
    BpfError::Attach {
        name: at.program,
        target: at.ifname.to_owned(),
        source: Box::new(source),
    }
}

/// Whether the qdisc is there already.
fn is_exists(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::IoError(error) => error.kind() == io::ErrorKind::AlreadyExists,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}
