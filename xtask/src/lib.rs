//! How netdp's BPF programs are compiled.
//!
//! The `xtask` command and netdp's build script share this library, so that
//! `cargo build` and `cargo xtask build` make the same object in the same way.
//! Nothing in here installs anything: that is the command's part.

pub mod bpf;
pub mod path;
pub mod workspace;
