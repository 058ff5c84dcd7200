//! Docker's own bridge networks, carried by netdp's programs.
//!
//! Docker is the store: networks, containers, addresses and ports are read from
//! its API, and nothing of it is kept or changed. What is carried ends with the
//! daemon, and goes on by Docker's own rules; which networks were asked for is
//! kept for the next daemon.

mod docker;
mod error;
mod follow;
mod inside;
mod keeper;
mod names;
#[cfg(test)]
mod recorded;
mod rules;
mod select;
mod view;
mod wanted;
mod work;

pub use error::DockerError;
pub use keeper::{AccelerateError, Accelerator, Request, Seen, Shown};
pub use names::{Called, at, called, key, name_of};
pub use view::{DockerContainer, DockerNetwork};
pub use wanted::{Carried, Member};

/// What was asked for is kept by this name.
const ENGINE: &str = "docker";

/// Where Docker listens unless it was told otherwise.
pub const SOCKET: &str = "/var/run/docker.sock";
