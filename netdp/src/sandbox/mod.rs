//! The world a program runs in: a network, mounts and a host name of its own.
//!
//! Starting a program takes two steps, since its network is made by somebody
//! else. [`Sandbox::start`] makes a process in new namespaces that waits; the
//! caller then has an endpoint put into its network namespace; and
//! [`Sandbox::release`] hands over the files that depend on it and lets the
//! process become the program.
//!
//! ```text
//! foreground   netdp run ── __sandbox-init ▸ program
//! detached     netdp run    __supervise ── __sandbox-init ▸ program
//! ```
//!
//! Making namespaces for oneself wants a process with one thread, and what may
//! be done between fork and exec in a process with several is next to nothing.
//! So both are this program, executed again under a hidden name
//! ([`INIT_COMMAND`], [`SUPERVISE_COMMAND`]) with one end of a socket pair. When
//! the caller ends before the release, the socket closes and the waiting
//! process ends too.

mod error;
mod exec;
mod files;
mod filter;
pub mod hosts;
mod init;
mod process;
mod signals;
mod start;
mod supervise;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use error::SandboxError;
pub(crate) use filter::{ARCH, refuse_foreign_options};
pub use init::init_main;
pub use process::{ProcessError, ProcessId};
pub use start::{Foreground, Launcher, Program, Sandbox};
pub use supervise::supervise_main;

/// The hidden command that must call [`init_main`], before anything makes a
/// thread.
pub const INIT_COMMAND: &str = "__sandbox-init";

/// The hidden command that must call [`supervise_main`], before anything makes
/// a thread.
pub const SUPERVISE_COMMAND: &str = "__supervise";

/// What is known of a sandbox before it has a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program, found by `PATH` unless it has a slash, and its arguments.
    pub argv: Vec<OsString>,
    pub network: Network,
    /// None keeps the host's.
    pub hostname: Option<String>,
}

/// The network namespace that a program gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A new one that holds nothing but loopback, which is up.
    New,
    /// The caller's.
    Host,
    /// An existing one, such as `/proc/PID/ns/net`.
    Join(PathBuf),
}

/// The files that a program sees in place of the host's; none leaves the
/// host's where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// `/etc/hosts`
    pub hosts: Option<String>,
    /// `/etc/resolv.conf`
    pub resolv_conf: Option<String>,
    /// `/etc/hostname`
    pub hostname: Option<String>,
}

/// What a program gets that is known only when its network is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Release {
    files: Files,
    /// Variables that it has besides, or instead of, those of the command.
    environment: BTreeMap<String, String>,
    /// Ports that it binds are looked at: the first process says by
    /// [`Report::Filtered`](wire::Report) how, and waits for the word to go on.
    direct: bool,
}

/// How a program relates to the command that starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It shares standard input, output, error and the terminal.
    Foreground,
    /// It has a session of its own, no input, and appends its output to `log`.
    Detached { log: PathBuf },
}
