//! Why a program wasn't started.

use std::io;
use std::path::PathBuf;

use super::ProcessError;
use crate::direct::DirectError;

/// A sandbox that wasn't made, or a program that wasn't started in it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("there is no program to run; name one after '--'")]
    NoProgram,
    #[error("can't start {}: {source}", .program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("can't write the log file {}: {source}", .path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("can't talk to the sandbox's first process: {0}")]
    Talk(io::Error),
    #[error("the sandbox's first process ended before the program was started; was it killed?")]
    Ended,
    /// Said by the sandbox's first process, which knows the step and why.
    #[error("{reason}")]
    Setup { reason: String },
    #[error("can't run '{program}': {reason}")]
    Exec {
        program: String,
        reason: String,
        status: u8,
    },
    #[error("can't pass signals on to the program: {0}")]
    Signals(io::Error),
    #[error("can't wait for the program: {0}")]
    Wait(io::Error),
    #[error(transparent)]
    Direct(#[from] DirectError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl SandboxError {
    /// The exit status that tells a shell what happened: 127 when the program
    /// wasn't found, 126 when it can't be executed, 1 otherwise.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exec { status, .. } => *status,
            _ => 1,
        }
    }
}
