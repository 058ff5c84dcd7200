//! Files and links that are written together, and taken back together.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{InstallError, What, Written};

/// How the files begin that are netdp's.
pub const MARK: &str = "# Written by netdp";

/// A path is that of the running system, whatever the root folder.
#[derive(Debug)]
pub enum Piece {
    File { path: PathBuf, text: String },
    Link { path: PathBuf, target: PathBuf },
}

/// What stands where a piece is to be.
#[derive(Clone, PartialEq, Debug)]
pub enum Before {
    Absent,
    Same,
    /// A file of netdp's with this text.
    Other(String),
}

impl Piece {
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Link { path, .. } => path,
        }
    }

    /// Name of a file.
    pub fn file_name(&self) -> Option<&str> {
        match self {
            Self::File { path, .. } => path.file_name()?.to_str(),
            Self::Link { .. } => None,
        }
    }

    fn look(&self, at: &Path) -> Result<Before, InstallError> {
        let foreign = |what| {
            Err(InstallError::Foreign {
                path: at.to_owned(),
                what,
            })
        };
        let found = match fs::symlink_metadata(at) {
            Ok(found) => found.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Before::Absent),
            Err(error) => return Err(failed("cannot look at", at)(error)),
        };
        match self {
            Self::File { .. } if !found.is_file() => foreign("which is no file"),
            Self::File { text, .. } => {
                let there = fs::read(at).map_err(failed("cannot read", at))?;
                match String::from_utf8(there) {
                    Ok(there) if there == *text => Ok(Before::Same),
                    Ok(there) if there.starts_with(MARK) => Ok(Before::Other(there)),
                    _ => foreign("with other words"),
                }
            }
            Self::Link { .. } if !found.is_symlink() => foreign("which is no link"),
            Self::Link { target, .. } => {
                let leads = fs::read_link(at).map_err(failed("cannot read", at))?;
                match leads == *target {
                    true => Ok(Before::Same),
                    false => foreign("a link to something else"),
                }
            }
        }
    }

    fn make(&self, at: &Path) -> Result<(), InstallError> {
        match self {
            Self::File { text, .. } => write_whole(at, text).map_err(failed("cannot write", at)),
            Self::Link { target, .. } => {
                symlink(target, at).map_err(failed("cannot make the link", at))
            }
        }
    }
}

/// Refuses whatever isn't netdp's, and changes nothing.
pub fn look(root: &Path, pieces: &[Piece]) -> Result<Vec<Before>, InstallError> {
    let real_root = fs::canonicalize(root).map_err(failed("cannot find", root))?;
    pieces
        .iter()
        .map(|piece| {
            let at = within(root, piece.path());
            // What is not there yet is made where its folder's folder is.
            let folder = at
                .ancestors()
                .skip(1)
                .find_map(|it| fs::canonicalize(it).ok());
            if folder.is_some_and(|folder| !folder.starts_with(&real_root)) {
                return Err(InstallError::Outside {
                    path: at,
                    root: root.to_owned(),
                });
            }
            piece.look(&at)
        })
        .collect()
}

/// Makes all, or leaves everything as it was.
pub fn write(
    root: &Path,
    pieces: &[Piece],
    before: &[Before],
) -> Result<Vec<Written>, InstallError> {
    let mut undo = Undo::default();
    let mut written = Vec::new();
    for (piece, before) in pieces.iter().zip(before) {
        let at = within(root, piece.path());
        let what = match before {
            Before::Same => What::Unchanged,
            Before::Absent => {
                undo.make_folder(&at)?;
                piece.make(&at)?;
                undo.0.push(Step::Remove(at));
                What::Written
            }
            Before::Other(text) => {
                piece.make(&at)?;
                undo.0.push(Step::Restore(at, text.clone()));
                What::Replaced
            }
        };
        written.push(Written {
            path: piece.path().to_owned(),
            what,
        });
    }
    undo.0.clear();
    Ok(written)
}

/// Removes all, and the folders of links that are empty then, as `systemctl
/// disable` does.
pub fn remove(
    root: &Path,
    pieces: &[Piece],
    before: &[Before],
) -> Result<Vec<Written>, InstallError> {
    let mut removed = Vec::new();
    for (piece, before) in pieces.iter().zip(before) {
        let at = within(root, piece.path());
        let what = match before {
            Before::Absent => What::Absent,
            Before::Same | Before::Other(_) => {
                fs::remove_file(&at).map_err(failed("cannot remove", &at))?;
                What::Removed
            }
        };
        if let (Piece::Link { .. }, What::Removed, Some(folder)) = (piece, what, at.parent()) {
            // Fails where something else is in it.
            let _ = fs::remove_dir(folder);
        }
        removed.push(Written {
            path: piece.path().to_owned(),
            what,
        });
    }
    Ok(removed)
}

/// A path of the running system, below another root.
pub fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// What leads back to how it was, when dropped.
#[derive(Default)]
struct Undo(Vec<Step>);

enum Step {
    Remove(PathBuf),
    RemoveFolder(PathBuf),
    Restore(PathBuf, String),
}

impl Undo {
    fn make_folder(&mut self, of: &Path) -> Result<(), InstallError> {
        let Some(folder) = of.parent().filter(|folder| !folder.exists()) else {
            return Ok(());
        };
        fs::create_dir(folder).map_err(failed("cannot make the folder", folder))?;
        self.0.push(Step::RemoveFolder(folder.to_owned()));
        Ok(())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for step in self.0.iter().rev() {
            // The first failure is the one that is told.
            let _ = match step {
                Step::Remove(path) => fs::remove_file(path),
                Step::RemoveFolder(path) => fs::remove_dir(path),
                Step::Restore(path, text) => write_whole(path, text),
            };
        }
    }
}

/// Nobody sees a half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { what, path, source }
}
