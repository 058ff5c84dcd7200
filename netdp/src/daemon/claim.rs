//! Which namespace a sandbox may have as its own.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::{
    model::{Mode, Refusal, Sandbox, State},
    netns::Namespace,
};

/// Opens a namespace that somebody asks for.
///
/// # Errors
/// It isn't there, or named by a path that depends on who asks.
pub fn open(netns: &Path) -> Result<Namespace, Refusal> {
    if !netns.is_absolute() {
        return Err(Refusal::invalid(format!(
            "the namespace {} has to be an absolute path",
            netns.display()
        )));
    }
    Namespace::open(netns).map_err(Refusal::invalid)
}

/// Refuses the host's own namespace and those of other sandboxes. Namespaces
/// are compared, not paths: one may have many.
///
/// # Errors
/// The namespace is taken, or the daemon's own can't be opened.
pub fn check(state: &State, sandbox: &Sandbox, namespace: &Namespace) -> Result<(), Refusal> {
    if !has_its_own(sandbox) {
        return Ok(());
    }
    let path = namespace.path().display();
    let host = Namespace::current().map_err(Refusal::unavailable)?;
    if namespace.inode() == host.inode() {
        return Err(Refusal::invalid(format!(
            "the namespace {path} is the host's own: use --network host, or give another one"
        )));
    }
    let taken = state.sandboxes.values().find(|other| {
        other.id != sandbox.id && has_its_own(other) && is_at(&other.netns, namespace)
    });
    match taken {
        // Of an engine's containers, each has a namespace of its own.
        Some(other) if sandbox.container.is_some() => Err(Refusal::conflict(format!(
            "the namespace {path} is that of container {} already: end that one first, or give \
             this one another namespace",
            other.name
        ))),
        Some(other) => Err(Refusal::conflict(format!(
            "the namespace {path} is that of {name} already: use `netdp connect` to give it \
             another network, or --network container:{name} to share it",
            name = other.name
        ))),
        None => Ok(()),
    }
}

/// Whether a path leads to this namespace. One that can't be opened any more is
/// gone.
fn is_at(path: &Path, namespace: &Namespace) -> bool {
    // Of many, opening each would take long.
    let may_be = fs::metadata(path).is_ok_and(|found| found.ino() == namespace.inode());
    may_be && Namespace::open(path).is_ok_and(|open| open.inode() == namespace.inode())
}

fn has_its_own(sandbox: &Sandbox) -> bool {
    matches!(sandbox.mode, Mode::Networks | Mode::None)
}
