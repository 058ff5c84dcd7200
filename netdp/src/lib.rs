//! netdp: an eBPF-accelerated container datapath.
//!
//! Userspace depends one way: [`cli`] and the engine plugins, then [`api`],
//! then [`model`], then [`plan`] and [`daemon`], then [`bpf`] and [`netlink`].
//! Only [`bpf`] speaks to aya, only [`netlink`] to rtnetlink.

pub mod accelerate;
pub mod api;
#[cfg(test)]
mod at_last;
pub mod bench;
pub mod bpf;
mod callers;
pub mod cli;
pub mod cni;
pub mod daemon;
pub mod demo;
pub mod direct;
pub mod docker;
pub mod explain;
pub mod install;
pub mod load;
pub mod model;
mod mountinfo;
pub mod netavark;
pub mod netlink;
pub mod netns;
pub mod oci;
pub mod plan;
mod plugin;
mod printed;
mod progress;
pub mod resolver;
pub mod sandbox;
pub mod store;
mod taken;
pub mod version;
mod whole;
pub mod world;
