//! From desired and observed state to operations. Pure: [`Desired`] comes from
//! the model and what the host has, [`Observed`] from netlink and the pinned
//! maps, and the difference is a list of [`Op`]s in an order that never exposes
//! a half-made network.
//!
//! Applying happens in two rounds, because the tables name interfaces by
//! numbers that exist only after the first: [`links`], observe, [`tables`].

mod allowed;
mod desired;
pub mod diff;
mod driver;
mod ended;
mod entries;
mod facts;
mod foreign;
mod generation;
mod inside;
mod links;
mod observed;
mod op;
mod retract;
mod tables;

pub use desired::{ALIAS, Desired, DesiredBridge, DesiredPair, HOST_END, Hold, Neighbour, Route};
pub use driver::Driver;
pub use facts::{Facts, HostAddress, Reach, Uplink};
pub use foreign::{ForeignBridge, ForeignEndpoint, Write, foreign, writes};
pub use links::{links, packet_limits};
pub use observed::{Clock, Observed, ObservedLink, Role};
pub use op::{Conflict, Op, Plan};
pub use tables::tables;

#[cfg(test)]
mod tests;
