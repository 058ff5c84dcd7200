//! Files and links that are written together, and taken back together.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{
    InstallError, What, Written,
    setting::{Said, Setting},
};
use crate::whole;

/// How the files begin that are netdp's.
pub const MARK: &str = "# Written by netdp";

/// A path is that of the running system, whatever the root folder.
#[derive(Debug)]
pub enum Piece {
    File {
        path: PathBuf,
        text: String,
    },
    Link {
        path: PathBuf,
        target: PathBuf,
        /// Whether one to another netdp is netdp's as well, such as to where this
        /// one was before.
        follows: bool,
    },
    /// One entry of a file that others write, too.
    Entry {
        path: PathBuf,
        setting: Setting,
    },
}

/// What stands where a piece is to be.
#[derive(Clone, PartialEq, Debug)]
pub enum Before {
    Absent,
    Same,
    /// A file of netdp's with this text.
    Other(String),
    /// A file of others with this text, which says nothing of it.
    Beside(String),
    /// A link of netdp's to this.
    Led(PathBuf),
}

impl Piece {
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Link { path, .. } | Self::Entry { path, .. } => path,
        }
    }

    /// Name of a file that is netdp's.
    pub fn file_name(&self) -> Option<&str> {
        match self {
            Self::File { path, .. } => path.file_name()?.to_str(),
            Self::Link { .. } | Self::Entry { .. } => None,
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
            Self::Entry { .. } if !found.is_file() => foreign("which is no file"),
            Self::Entry { setting, .. } => {
                let there = fs::read_to_string(at).map_err(failed("cannot read", at))?;
                match setting.said(&there) {
                    Said::Nothing => Ok(Before::Beside(there)),
                    Said::This => Ok(Before::Same),
                    Said::Other => foreign("with another runtime netdp"),
                    Said::Unreadable => foreign("which is not as dockerd reads it"),
                }
            }
            Self::Link { .. } if !found.is_symlink() => foreign("which is no link"),
            Self::Link {
                path,
                target,
                follows,
            } => {
                let leads = fs::read_link(at).map_err(failed("cannot read", at))?;
                let from = path.parent().unwrap_or(path);
                if from.join(&leads) == *target {
                    Ok(Before::Same)
                } else if *follows && is_netdp(&leads, target) {
                    Ok(Before::Led(leads))
                } else {
                    foreign("a link to something else")
                }
            }
        }
    }

    fn make(&self, at: &Path, before: &Before) -> Result<(), InstallError> {
        match self {
            Self::File { text, .. } => write_file(at, text).map_err(failed("cannot write", at)),
            Self::Entry { setting, .. } => {
                let text = match before {
                    Before::Beside(text) => setting.add(text),
                    _ => setting.alone(),
                };
                write_file(at, &text).map_err(failed("cannot write", at))
            }
            Self::Link { target, .. } => {
                lead(at, target).map_err(failed("cannot make the link", at))
            }
        }
    }

    /// Takes it out again.
    fn unmake(&self, at: &Path) -> Result<(), InstallError> {
        if let Self::Entry { setting, .. } = self {
            let text = fs::read_to_string(at).map_err(failed("cannot read", at))?;
            if let Some(rest) = setting.remove(&text) {
                return write_file(at, &rest).map_err(failed("cannot write", at));
            }
        }
        fs::remove_file(at).map_err(failed("cannot remove", at))
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
        let (what, back) = match before {
            Before::Same => (What::Unchanged, None),
            Before::Absent => {
                undo.make_folders(&at)?;
                (What::Written, Some(Step::Remove(at.clone())))
            }
            Before::Other(text) => (What::Replaced, Some(Step::restore(&at, text))),
            Before::Beside(text) => (What::Written, Some(Step::restore(&at, text))),
            Before::Led(to) => (What::Replaced, Some(Step::Lead(at.clone(), to.clone()))),
        };
        if let Some(back) = back {
            piece.make(&at, before)?;
            undo.0.push(back);
        }
        written.push(Written {
            path: piece.path().to_owned(),
            what,
        });
    }
    undo.0.clear();
    Ok(written)
}

/// Removes all, and the folders of units' links that are empty then, as
/// `systemctl disable` does.
pub fn remove(
    root: &Path,
    pieces: &[Piece],
    before: &[Before],
) -> Result<Vec<Written>, InstallError> {
    let mut removed = Vec::new();
    for (piece, before) in pieces.iter().zip(before) {
        let at = within(root, piece.path());
        let what = match before {
            Before::Absent | Before::Beside(_) => What::Absent,
            Before::Same | Before::Other(_) | Before::Led(_) => {
                piece.unmake(&at)?;
                What::Removed
            }
        };
        let folder = at
            .parent()
            .filter(|it| it.extension() == Some("wants".as_ref()));
        if let (What::Removed, Some(folder)) = (what, folder) {
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
    Lead(PathBuf, PathBuf),
}

impl Step {
    fn restore(path: &Path, text: &str) -> Self {
        Self::Restore(path.to_owned(), text.to_owned())
    }
}

impl Undo {
    fn make_folders(&mut self, of: &Path) -> Result<(), InstallError> {
        let missing = of.ancestors().skip(1).take_while(|folder| !folder.exists());
        let missing: Vec<&Path> = missing.collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder).map_err(failed("cannot make the folder", folder))?;
            self.0.push(Step::RemoveFolder(folder.to_owned()));
        }
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
                Step::Restore(path, text) => write_file(path, text),
                Step::Lead(path, to) => lead(path, to),
            };
        }
    }
}

/// For all to read, unless it was another's to decide.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    whole::write_for_good(path, text.as_bytes(), 0o644)
}

/// Whether a link leads to a netdp, by the name that a program of it has.
fn is_netdp(leads: &Path, program: &Path) -> bool {
    let name = leads.file_name();
    name == program.file_name() || name == Some("netdp".as_ref())
}

/// A link, in the place of one that may be there.
fn lead(path: &Path, to: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let made = tempfile::Builder::new().make_in(folder, |at| symlink(to, at))?;
    Ok(made.into_temp_path().persist(path)?)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { what, path, source }
}
