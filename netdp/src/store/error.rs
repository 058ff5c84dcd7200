//! Why a store can't be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::records::Unreadable;

/// Why a store can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "the state folder {} is in use by another daemon: stop that one, \
         or give this one another --state-dir",
        .0.display()
    )]
    Locked(PathBuf),
    #[error(
        "the state has format {found}, which a newer netdp wrote: this one knows {known}; \
         start the newer one, or give another --state-dir"
    )]
    Newer { found: u64, known: u64 },
    #[error("the state can't be read: {0}; restart the daemon, it restores what it can")]
    Damaged(String),
    #[error(
        "the state can't be stored in {}: {source}; see that this disk has room and can be written",
        folder.display()
    )]
    Unwritten { folder: PathBuf, source: Unwritten },
}

/// Why a state could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Unwritten {
    #[error(transparent)]
    Database(Box<redb::Error>),
    #[error(transparent)]
    Encode(#[from] serde_json::Error),
    #[error("its file can't be opened anew after an error in writing: {0}")]
    Closed(#[source] Box<StoreError>),
}

impl Unwritten {
    pub(super) fn database(error: impl Into<redb::Error>) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl StoreError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(super) fn unwritten(folder: &Path) -> impl FnOnce(Unwritten) -> Self {
        let folder = folder.into();
        move |source| Self::Unwritten { folder, source }
    }
}

impl From<Unreadable> for StoreError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Damaged(why) => Self::Damaged(why),
            Unreadable::Newer { found, known } => Self::Newer { found, known },
        }
    }
}
