//! The program on the loopback interface of sandboxes.

use aya::programs::{SchedClassifier, tc::TcAttachType};

use super::{
    BpfError, Datapath,
    attach::{put_filter, take_filter},
};
use crate::netns::Namespace;

const PROGRAM: &str = "to_resolver";
const HOOK: TcAttachType = TcAttachType::Egress;

/// Attaches the program that leads questions to the resolver.
///
/// As a filter, for which the kernel waits for no CPU. It stays until
/// [`Loopback::detach`] or the end of the namespace, and does nothing while no
/// daemon holds the resolver's port.
#[derive(Debug)]
pub struct Loopback {
    program: SchedClassifier,
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
        Ok(Loopback { program })
    }
}

impl Loopback {
    /// Attaches the program in the calling thread's namespace, which is
    /// `namespace`, or puts it in the place of an earlier one.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn attach_here(&mut self, namespace: &Namespace) -> Result<(), BpfError> {
        put_filter(&mut self.program, "lo", HOOK).map_err(|source| BpfError::Attach {
            name: PROGRAM,
            target: format!("lo in {}", namespace.path().display()),
            source: Box::new(source),
        })
    }

    /// Takes the program away. Blocks for as long as a thread takes to enter
    /// the namespaces.
    pub fn detach(namespaces: &[&Namespace]) {
        // A namespace that can't be entered is gone, with its filter.
        let detached = Namespace::run_in_each(namespaces, |_| take_filter("lo", HOOK));
        if let Err(error) = detached {
            tracing::warn!("cannot take {PROGRAM} away: {error}");
        }
    }
}
