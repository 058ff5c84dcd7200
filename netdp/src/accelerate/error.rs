//! Why Docker can't be spoken to.

use std::{io, path::PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum DockerError {
    #[error(
        "Docker doesn't listen at {}: start it, or name its socket by --socket",
        path.display()
    )]
    NoSocket { path: PathBuf },
    #[error(
        "the daemon may not speak to Docker at {}: run it as root, or as a member of the socket's \
         group",
        path.display()
    )]
    NotAllowed { path: PathBuf },
    #[error("cannot connect to Docker at {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error(
        "Docker at {} speaks version {version} of its API: {least} is needed, of Docker 20.10",
        path.display()
    )]
    TooOld {
        path: PathBuf,
        version: String,
        least: String,
    },
    #[error("Docker at {} does not {what}: {source}", path.display())]
    Api {
        path: PathBuf,
        what: &'static str,
        source: bollard::errors::Error,
    },
}
