//! Direct ports: a program of a sandbox that listens at a published port gets a
//! socket of the host's network in place of its own, without knowing.
//!
//! A seccomp filter hands each `bind` of the sandbox to a supervisor
//! ([`supervise`]), one process for each sandbox that has direct ports. What it
//! doesn't change goes on as if nobody had looked. It needs nothing but the file
//! that the daemon writes ([`Ports`]), so it outlives every daemon; and when it
//! dies, programs keep the sockets that they have.

mod claims;
mod filters;
mod handover;
mod life;
mod notification;
mod options;
mod owners;
mod place;
mod ports_file;
mod process;
mod rights;
mod supervisor;
mod ways;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use handover::{HandedOver, HandoverError, receive};
pub use life::{Dead, dead};
pub use notification::NotifyError;
pub use place::{PORT_OWNER, move_aside};
pub use process::{DirectError, descriptor, filter_of, start};
pub use supervisor::main as supervisor_main;

use crate::model::Publication;

/// The hidden command that must call [`supervisor_main`].
pub const DIRECT_COMMAND: &str = "__direct";

/// The control group that direct sockets are made in, below the one that the
/// daemon has.
pub const CGROUP: &str = "netdp.direct";

/// Which ports of a sandbox are direct: what the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Path of the sandbox's network namespace, where it is or will be.
    #[serde(default)]
    pub netns: PathBuf,
    pub published: Vec<Published>,
}

/// A published port, and the sandbox's end of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    #[serde(flatten)]
    pub publication: Publication,
    #[serde(flatten)]
    pub end: End,
}

/// Where a sandbox on several networks has a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The sandbox's own address there.
    pub own: IpAddr,
    /// Address of the host that it reaches there without a router.
    pub gateway: IpAddr,
}

/// What a supervisor is told when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub hears: Hears,
    /// Folder of the control group for the sockets.
    pub cgroup: PathBuf,
    pub ports: PortsAt,
    /// Folder in which the daemon's maps are pinned.
    pub maps: PathBuf,
}

/// What a supervisor's standard input is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hears {
    /// The descriptor of a filter; the programs under it are in this network
    /// namespace.
    Filter { netns: PathBuf },
    /// A socket, in this folder of its own, at which the runtime that becomes of
    /// the process that started the supervisor hands over filters.
    Runtime { folder: PathBuf },
}

/// Where [`Ports`] are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortsAt {
    File(PathBuf),
    /// In the file of this folder that names the programs' network namespace.
    Folder(PathBuf),
}

impl PortsAt {
    /// The folder with the files of all sandboxes.
    fn folder(&self) -> &Path {
        match self {
            Self::File(path) => path.parent().unwrap_or(Path::new("/")),
            Self::Folder(folder) => folder,
        }
    }
}

/// What holds for all sandboxes of a daemon: by this file in its run folder a
/// runtime finds it, whether or not the daemon lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub cgroup: PathBuf,
    /// The folder with the files that have [`Ports`].
    pub ports: PathBuf,
    pub maps: PathBuf,
}

impl Site {
    /// The file's name in the run folder.
    pub const FILE: &str = "direct.json";

    pub fn task(self, hears: Hears) -> Task {
        Task {
            hears,
            cgroup: self.cgroup,
            ports: PortsAt::Folder(self.ports),
            maps: self.maps,
        }
    }
}
