//! Direct ports: a program of a sandbox that listens at a published port gets a
//! socket of the host's network in place of its own, without knowing.
//!
//! A seccomp filter hands each `bind` of the sandbox to a supervisor
//! ([`supervise`]), one process for each sandbox that has direct ports. What it
//! doesn't change goes on as if nobody had looked. It needs nothing but the file
//! that the daemon writes ([`Ports`]), so it outlives every daemon; and when it
//! dies, programs keep the sockets that they have.

mod claims;
mod notification;
mod options;
mod place;
mod process;
mod supervisor;
mod ways;

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use notification::NotifyError;
pub use place::PORT_OWNER;
pub use process::{DirectError, start};
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
    /// The sandbox's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the host that it reaches without a router.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    pub published: Vec<Publication>,
}

/// What a supervisor is told when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The sandbox's network namespace.
    pub netns: PathBuf,
    /// Folder of the control group for the sockets.
    pub cgroup: PathBuf,
    /// The file with [`Ports`].
    pub ports: PathBuf,
    /// Folder in which the daemon's maps are pinned.
    pub maps: PathBuf,
}
