//! Direct ports: netdp in the place of runc, as engines are told of it.

use std::{fs, path::Path};

use super::{
    InstallError, Place, What, Written,
    pieces::{self, Before, MARK, Piece},
    setting::Setting,
};
use crate::api::{RUN_DIR, RUN_DIR_VARIABLE};

/// What engines call netdp as.
pub const RUNTIME: &str = "/usr/local/bin/netdp-runc";
const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// Podman reads it after `containers.conf`.
const DROP_IN: &str = "/etc/containers/containers.conf.d/netdp.conf";

fn link(place: &Place) -> Piece {
    Piece::Link {
        path: RUNTIME.into(),
        target: place.program.clone(),
        follows: true,
    }
}

fn setting() -> Setting {
    Setting {
        section: "runtimes",
        name: "netdp",
        path: RUNTIME.to_owned(),
    }
}

fn entry() -> Piece {
    Piece::Entry {
        path: DAEMON_JSON.into(),
        setting: setting(),
    }
}

fn drop_in() -> Piece {
    let text = format!(
        "{MARK} install podman, which also takes it back (--remove).
[engine]
# netdp holds the ports of its networks: while Podman listened there as well, such
# containers could not start.
enable_port_reservation = false

[engine.runtimes]
netdp = [\"{RUNTIME}\"]
"
    );
    Piece::File {
        path: DROP_IN.into(),
        text,
    }
}

/// What dockerd needs.
pub fn docker(place: &Place) -> [Piece; 2] {
    [link(place), entry()]
}

/// What Podman needs.
pub fn podman(place: &Place) -> [Piece; 2] {
    [link(place), drop_in()]
}

/// What is left to do for Docker.
pub fn next_of_docker(place: &Place) -> String {
    let run =
        "`systemctl reload docker` makes dockerd know the runtime: docker run --runtime netdp";
    match run_dir(place) {
        None => run.to_owned(),
        Some(variable) => format!("{run}; dockerd needs {variable} in its environment"),
    }
}

/// The same for Podman.
pub fn next_of_podman(place: &Place) -> String {
    let run = "podman --runtime netdp run";
    match run_dir(place) {
        None => run.to_owned(),
        Some(variable) => format!("{variable} {run}"),
    }
}

/// How the runtime finds a daemon elsewhere.
fn run_dir(place: &Place) -> Option<String> {
    let is_usual = place.run_dir == Path::new(RUN_DIR);
    (!is_usual).then(|| format!("{RUN_DIR_VARIABLE}={}", place.run_dir.display()))
}

/// What is to be done where it was taken out of Docker's settings.
pub fn next_without(files: &[Written]) -> Option<String> {
    let is_out = |file: &Written| file.path == Path::new(DAEMON_JSON) && file.what == What::Removed;
    files.iter().any(is_out).then(|| {
        "`systemctl restart docker` makes dockerd forget the runtime netdp; containers that were \
         made with it can't be started or entered any more: `docker rm -f` them"
            .to_owned()
    })
}

/// What of it goes with Docker's settings: all that is netdp's, but the link where
/// Podman has it, too.
///
/// # Errors
/// dockerd would not start without it.
pub fn of_docker(place: &Place) -> Result<Vec<Piece>, InstallError> {
    let settings = pieces::within(place.root(), Path::new(DAEMON_JSON));
    let is_default = fs::read_to_string(&settings).is_ok_and(|text| setting().is_default(&text));
    if is_default && is_there(place.root(), &entry()) {
        return Err(InstallError::Default { path: settings });
    }
    Ok(of(place, entry(), &drop_in()))
}

/// The same of Podman's.
pub fn of_podman(place: &Place) -> Vec<Piece> {
    of(place, drop_in(), &entry())
}

fn of(place: &Place, own: Piece, other: &Piece) -> Vec<Piece> {
    let is_there = |piece: &Piece| is_there(place.root(), piece);
    let link = Some(link(place)).filter(|link| is_there(link) && !is_there(other));
    let own = Some(own).filter(is_there);
    link.into_iter().chain(own).collect()
}

/// What is another's by that name isn't netdp's to take back.
fn is_there(root: &Path, piece: &Piece) -> bool {
    let found = pieces::look(root, std::slice::from_ref(piece));
    let ours = |before: &Before| !matches!(before, Before::Absent | Before::Beside(_));
    found.is_ok_and(|found| found.iter().all(ours))
}
