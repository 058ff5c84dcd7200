//! The program on the loopback interface of sandboxes.

use std::mem;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError},
};

use super::{
    BpfError, Datapath, Mechanism,
    attach::{HANDLE, PRIORITY, is_exists},
};
use crate::netns::Namespace;

const PROGRAM: &str = "to_resolver";
const HOOK: TcAttachType = TcAttachType::Egress;

/// Attaches the program that leads questions to the resolver.
#[derive(Debug)]
pub struct Loopback {
    program: SchedClassifier,
    mechanism: Mechanism,
}

/// The program on one loopback interface. A tcx link ends with this value, and
/// so with the daemon: then questions find no one and fail at once. A filter
/// stays until [`Loopback::detach`] or the end of the namespace.
#[derive(Debug)]
pub struct LoopbackLink {
    _link: Option<SchedClassifierLink>,
}

impl Datapath {
    /// A handle of its own on the program for loopback interfaces.
    ///
    /// # Errors
    /// When it isn't pinned where it was put.
    pub fn loopback(&self) -> Result<Loopback, BpfError> {
        let path = self.layout.program(PROGRAM);
        let program = SchedClassifier::from_pin(path).map_err(|source| BpfError::Program {
            name: PROGRAM.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Loopback {
            program,
            mechanism: self.mechanism(),
        })
    }
}

impl Loopback {
    /// Attaches the program in a namespace, or puts it in the place of an
    /// earlier one.
    ///
    /// # Errors
    /// What the kernel refused, or the namespace can't be entered.
    pub fn attach(&mut self, namespace: &Namespace) -> Result<LoopbackLink, BpfError> {
        let mechanism = self.mechanism;
        let program = &mut self.program;
        namespace
            .run(|| match mechanism {
                Mechanism::Tcx => attach_link(program),
                Mechanism::Clsact => attach_filter(program),
            })
            .map_err(|error| ProgramError::IOError(std::io::Error::other(error)))
            .flatten()
            .map(|link| LoopbackLink { _link: link })
            .map_err(|source| BpfError::Attach {
                name: PROGRAM,
                target: format!("lo in {}", namespace.path().display()),
                source: Box::new(source),
            })
    }

    /// Takes a filter away; links end by themselves.
    pub fn detach(&self, namespace: &Namespace) {
        if self.mechanism == Mechanism::Clsact {
            // A namespace that can't be entered is gone, with its filter.
            let _ = namespace.run(|| tc::qdisc_detach_program("lo", HOOK, PROGRAM));
        }
    }
}

fn attach_link(program: &mut SchedClassifier) -> Result<Option<SchedClassifierLink>, ProgramError> {
    let id =
        program.attach_with_options("lo", HOOK, TcAttachOptions::TcxOrder(LinkOrder::first()))?;
    program.take_link(id).map(Some)
}

fn attach_filter(
    program: &mut SchedClassifier,
) -> Result<Option<SchedClassifierLink>, ProgramError> {
    match tc::qdisc_add_clsact("lo") {
        Err(error) if !is_exists(&error) => return Err(error.into()),
        _ => {}
    }
    let link = SchedClassifierLink::attached("lo", HOOK, PRIORITY, HANDLE, None)?;
    let id = match program.attach_to_link(link) {
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::ENOENT) =>
        {
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                ..NlOptions::default()
            });
            program.attach_with_options("lo", HOOK, options)?
        }
        attached => attached?,
    };
    // Dropped, it would take away a filter of the namespace that the thread is
    // in by then.
    mem::forget(program.take_link(id)?);
    Ok(None)
}
