//! The unix socket that the daemon answers at.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::{self, UnixStream},
    },
    path::{Path, PathBuf},
};

use axum::Router;
use nix::sys::stat::{Mode, umask};
use thiserror::Error;
use tokio::net::UnixListener;

use crate::taken;

/// Name of the socket inside the run folder.
pub const SOCKET: &str = "netdp.sock";

/// Where Docker keeps what runs; nobody else looks into it.
const DOCKER: &str = "/run/docker";

/// Owner and group may speak to the daemon.
const MODE: u32 = 0o660;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error(
        "another daemon answers at {}: stop it, or give this one a {flag} of its own", path.display()
    )]
    InUse { path: PathBuf, flag: &'static str },
    #[error("{} is not a socket: move it away, or choose another {flag}", path.display())]
    NotASocket { path: PathBuf, flag: &'static str },
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A socket that is listened at. Its name goes when it is dropped, unless
/// somebody else made it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    name: Option<Name>,
}

/// Removes the socket's name when dropped.
#[derive(Debug)]
pub struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Nothing can be done about a socket that is gone already.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens at `run_dir`/netdp.sock. A socket that a dead daemon left is
    /// replaced; one that is answered at is refused with
    /// [`ListenError::InUse`].
    ///
    /// Must be called inside a tokio runtime.
    pub fn bind(run_dir: &Path) -> Result<Self, ListenError> {
        Self::bind_at(run_dir.join(SOCKET), "--run-dir")
    }

    /// The same at another path, which `flag` gives.
    pub fn bind_at(path: PathBuf, flag: &'static str) -> Result<Self, ListenError> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Docker's folder as dockerd makes it, which may not be the first to need it.
        let mut made = fs::DirBuilder::new();
        if folder.starts_with(DOCKER) {
            made.mode(0o700);
        }
        made.recursive(true)
            .create(folder)
            .map_err(|source| ListenError::Io {
                what: "cannot make the folder",
                path: folder.to_owned(),
                source,
            })?;
        let is_taken = |error: &_| matches!(error, ListenError::InUse { .. });
        taken::once_free(|| clear(&path, flag), is_taken)?;

        // Between bind and chmod nobody else may connect.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(&path);
        umask(before);
        let listener = bound.map_err(|source| ListenError::Io {
            what: "cannot listen at",
            path: path.clone(),
            source,
        })?;
        let name = Some(Name(path.clone()));
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(|source| {
            ListenError::Io {
                what: "cannot set the mode of",
                path: path.clone(),
                source,
            }
        })?;
        Ok(Self {
            listener,
            path,
            name,
        })
    }

    /// One that the service manager made, and keeps.
    ///
    /// Must be called inside a tokio runtime.
    pub fn passed(listener: net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self {
            path: address
                .as_pathname()
                .map(Path::to_owned)
                .unwrap_or_default(),
            listener: UnixListener::from_std(listener)?,
            name: None,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is listened at, and its name: none where somebody else keeps both.
    pub fn into_parts(self) -> (UnixListener, Option<Name>) {
        (self.listener, self.name)
    }

    /// Answers requests until `end`, and then those that are being answered.
    /// The name goes with the end: then nobody answers at it any more.
    pub async fn serve(
        self,
        router: Router,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Self {
            listener,
            path: _,
            name: _name,
        } = self;
        axum::serve(listener, router)
            .with_graceful_shutdown(end)
            .await
    }
}

/// Removes what a dead daemon left at `path`.
fn clear(path: &Path, flag: &'static str) -> Result<(), ListenError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ListenError::Io {
                what: "cannot look at",
                path: path.to_owned(),
                source,
            });
        }
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_owned(),
            flag,
        });
    }
    // A connection is answer enough: a busy daemon is alive too.
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse {
            path: path.to_owned(),
            flag,
        });
    }
    fs::remove_file(path).map_err(|source| ListenError::Io {
        what: "cannot remove the socket of a dead daemon at",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at_last;

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = Socket::bind(dir.path()).unwrap();
        let mode = fs::metadata(first.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);

        let second = Socket::bind(dir.path()).unwrap_err();
        assert!(matches!(second, ListenError::InUse { .. }), "{second}");

        // Dies without removing its name.
        let Socket { listener, name, .. } = first;
        drop(listener);
        std::mem::forget(name);
        let third = at_last::succeeds(|| Socket::bind(dir.path()));
        let path = third.path().to_owned();
        drop(third);
        assert!(!path.exists(), "the name goes with the socket");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SOCKET), "precious").unwrap();
        let refused = Socket::bind(dir.path()).unwrap_err();
        assert!(
            matches!(refused, ListenError::NotASocket { .. }),
            "{refused}"
        );
        assert_eq!(
            fs::read_to_string(dir.path().join(SOCKET)).unwrap(),
            "precious"
        );
    }
}
