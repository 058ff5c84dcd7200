//! Real container engines, each on a host of its own.

mod docker;
mod host;
mod state;
mod web;

pub use docker::Docker;
pub use host::EngineHost;
pub use state::Left;
pub use web::{Seen, fetch, fetch_within};
