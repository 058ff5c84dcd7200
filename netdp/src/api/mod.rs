//! HTTP with JSON on a unix socket: what the daemon answers and how to ask it.

pub mod acceleration;
mod block;
pub mod client;
mod explain;
mod extract;
mod flows;
mod host_sockets;
pub mod listen;
mod listing;
mod patience;
mod refused;
mod sandboxes;
pub mod server;
pub mod types;
mod view;

/// Folder of the daemon's socket unless another one is given.
pub const RUN_DIR: &str = "/run/netdp";

/// Variable of the environment that gives another one.
pub const RUN_DIR_VARIABLE: &str = "NETDP_RUN_DIR";
