//! Writes what a service manager and engines have to know of netdp, and takes it
//! back exactly.

mod pieces;
mod runtime;
mod setting;
mod systemd;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use thiserror::Error;

use pieces::{Before, Piece};

#[derive(Debug, Error)]
pub enum InstallError {
    #[error(
        "there is no systemd here ({} is missing), and nothing was written: let whatever starts \
         services here run `{by_hand}` before dockerd",
        folder.display()
    )]
    NoSystemd { folder: PathBuf, by_hand: String },
    #[error(
        "systemd doesn't run here (/run/systemd/system is missing), and nothing was written: let \
         whatever starts services here run `{by_hand}` before dockerd; into the root of another \
         system --root writes"
    )]
    NotBooted { by_hand: String },
    #[error(
        "{} is there already, {what}, and netdp didn't write it: move it away and try again",
        path.display()
    )]
    Foreign { path: PathBuf, what: &'static str },
    #[error(
        "{} has netdp as its default-runtime, without which dockerd would not start, and nothing \
         was removed: take default-runtime out of it and try again",
        path.display()
    )]
    Default { path: PathBuf },
    #[error("{} lies outside of {}: a link leads there, which is left alone", path.display(), root.display())]
    Outside { path: PathBuf, root: PathBuf },
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} can't stand in a unit: move netdp to a path without control characters", path.display())]
    Path { path: PathBuf },
    #[error("`systemctl {words}` failed: {why}")]
    Systemctl { words: String, why: String },
}

/// Where and with what.
#[derive(Clone, Debug)]
pub struct Place {
    /// Another root folder than the running system's.
    pub root: Option<PathBuf>,
    /// The command itself.
    pub program: PathBuf,
    pub run_dir: PathBuf,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    pub files: Vec<Written>,
    /// Whether systemd runs the daemon now.
    pub running: bool,
    /// What is left to do by hand.
    pub next: Option<String>,
}

impl Report {
    fn then(&mut self, what: String) {
        let next = self.next.take().into_iter().chain([what]);
        self.next = Some(next.collect::<Vec<_>>().join("\n"));
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Written {
    /// As it is called once the root folder is the root.
    pub path: PathBuf,
    pub what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Written,
    /// One of netdp's stood there, of another version or with other words.
    Replaced,
    Unchanged,
    Removed,
    Absent,
}

impl What {
    pub fn text(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Removed => "removed",
            Self::Absent => "absent",
        }
    }
}

impl Place {
    fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new("/"))
    }

    /// Whether systemd runs what is written here.
    fn is_running_system(&self) -> bool {
        self.root.is_none() && sd_notify::booted().unwrap_or(false)
    }
}

/// Lets systemd start the daemon, with the socket at which Docker finds it and,
/// for `direct_ports`, makes netdp a runtime of Docker's. Nothing is written unless
/// everything can be. `answers`: a daemon runs already.
///
/// # Errors
/// There is no systemd, something of somebody else's is in the way, or systemd
/// can't start it.
pub fn docker(place: &Place, answers: bool, direct_ports: bool) -> Result<Report, InstallError> {
    let mut pieces = systemd::pieces(place)?;
    // Nothing would ever start what is written.
    if place.root.is_none() && !place.is_running_system() {
        return Err(InstallError::NotBooted {
            by_hand: systemd::command(place)?,
        });
    }
    if direct_ports {
        pieces.extend(runtime::docker(place));
    }
    let root = place.root();
    let before = pieces::look(root, &pieces)?;
    let mut report = Report {
        files: pieces::write(root, &pieces, &before)?,
        running: false,
        next: None,
    };
    start(place, answers, &mut report)?;
    if direct_ports {
        report.then(runtime::next_of_docker(place));
    }
    Ok(report)
}

/// Has systemd run what was written.
fn start(place: &Place, answers: bool, report: &mut Report) -> Result<(), InstallError> {
    if !place.is_running_system() {
        report.then("systemd starts it with this root's next boot".to_owned());
        return Ok(());
    }
    systemd::reload()?;
    if answers && !systemd::is_active() {
        report.then(format!(
            "a daemon runs that systemd didn't start: end it, then `systemctl start {}`",
            systemd::SERVICE
        ));
        return Ok(());
    }
    let is_new = |what: What| what == What::Replaced;
    systemd::start(report.files.iter().any(|it| is_new(it.what)))?;
    report.running = true;
    Ok(())
}

/// Takes back what [`docker`] wrote, of which `direct_ports` may be all that is to
/// go. The networks go on.
///
/// # Errors
/// Something of it isn't netdp's, dockerd needs it, or systemd can't end the daemon.
pub fn remove_docker(place: &Place, direct_ports: bool) -> Result<Report, InstallError> {
    let runtime = runtime::of_docker(place)?;
    if direct_ports {
        return take_back(place, &runtime);
    }
    let mut pieces = systemd::pieces(place)?;
    let root = place.root();
    let before = pieces::look(root, &pieces)?;
    let there = before.iter().any(|it| *it != Before::Absent);
    if there && place.is_running_system() {
        let units: Vec<&str> = pieces
            .iter()
            .zip(&before)
            .filter(|(_, before)| **before != Before::Absent)
            .filter_map(|(piece, _)| piece.file_name())
            .collect();
        systemd::reload()?;
        systemd::stop(&units)?;
    }
    pieces.extend(runtime);
    let mut report = take_back(place, &pieces)?;
    if there && place.is_running_system() {
        systemd::reload()?;
    }
    if there && place.root.is_none() {
        report.then(
            "networks and containers stay as they are; `netdp daemon --cleanup` takes programs \
             and maps out of the kernel"
                .to_owned(),
        );
    }
    Ok(report)
}

/// Makes netdp a runtime of Podman's, for containers with direct ports.
///
/// # Errors
/// Something of somebody else's is in the way.
pub fn podman(place: &Place) -> Result<Report, InstallError> {
    let pieces = runtime::podman(place);
    let before = pieces::look(place.root(), &pieces)?;
    Ok(Report {
        files: pieces::write(place.root(), &pieces, &before)?,
        running: false,
        next: Some(runtime::next_of_podman(place)),
    })
}

/// Takes back what [`podman`] wrote.
///
/// # Errors
/// What the kernel refused.
pub fn remove_podman(place: &Place) -> Result<Report, InstallError> {
    take_back(place, &runtime::of_podman(place))
}

fn take_back(place: &Place, pieces: &[Piece]) -> Result<Report, InstallError> {
    let before = pieces::look(place.root(), pieces)?;
    let files = pieces::remove(place.root(), pieces, &before)?;
    Ok(Report {
        next: runtime::next_without(&files),
        running: false,
        files,
    })
}

#[cfg(test)]
mod tests;
