//! The toolchain of the BPF target and the object it makes.

pub mod compiler;
pub mod environment;
pub mod linker;
pub mod object;

use crate::workspace::Workspace;
use compiler::Compiler;
use linker::Linker;

/// A compiler and a linker that fit each other.
#[derive(Debug, Clone)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: Linker,
}

/// What keeps the object from being compiled, with every candidate that was
/// looked at and why it was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("no compiler for the BPF target:{}", reasons(.0))]
    Compiler(Vec<String>),
    #[error("no bpf-linker that fits {compiler}:{}", reasons(.rejected))]
    Linker {
        compiler: String,
        rejected: Vec<String>,
    },
}

fn reasons(rejected: &[String]) -> String {
    rejected
        .iter()
        .map(|reason| format!("\n  {reason}"))
        .collect()
}

/// Looks for a toolchain among what is installed.
///
/// # Errors
///
/// [`Missing`] says which half was not found, the compiler first.
pub fn find(workspace: &Workspace) -> Result<Toolchain, Missing> {
    let compiler = first_fit(compiler::candidates()).map_err(Missing::Compiler)?;
    match first_fit(linker::candidates(workspace)) {
        Ok(linker) => Ok(Toolchain { compiler, linker }),
        Err(rejected) => Err(Missing::Linker {
            compiler: compiler.to_string(),
            rejected,
        }),
    }
}

/// Something that may do: what it is called, and what was found out about it.
#[derive(Debug)]
pub struct Candidate<T, E> {
    pub name: String,
    pub verdict: Result<T, E>,
}

fn first_fit<T, E: std::fmt::Display>(
    candidates: impl Iterator<Item = Candidate<T, E>>,
) -> Result<T, Vec<String>> {
    let mut rejected = Vec::new();
    for candidate in candidates {
        match candidate.verdict {
            Ok(found) => return Ok(found),
            Err(reason) => rejected.push(format!("{}: {reason}", candidate.name)),
        }
    }
    Err(rejected)
}
