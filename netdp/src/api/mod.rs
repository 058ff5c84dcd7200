//! HTTP with JSON on a unix socket: what the daemon answers and how to ask it.

pub mod client;
mod explain;
mod flows;
pub mod listen;
mod listing;
mod patience;
mod refused;
pub mod server;
pub mod types;
mod view;
