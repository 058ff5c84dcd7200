//! `netdp install`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;

#[derive(Debug, Subcommand)]
pub enum InstallCommand {
    /// Docker's network driver netdp, started by systemd before dockerd.
    Docker(DockerArgs),
    /// netdp as a runtime of Podman's, for containers with direct ports.
    Podman(InstallArgs),
}

#[derive(Debug, Args)]
pub struct DockerArgs {
    /// Also make netdp a runtime of Docker's, for containers with direct ports; with
    /// --remove, take that back alone.
    #[arg(long)]
    pub direct_ports: bool,
    #[command(flatten)]
    pub install: InstallArgs,
}

#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Take back what was written; of Docker, end the daemon that systemd started.
    #[arg(long)]
    pub remove: bool,
    /// Another root folder, such as that of an image: files alone are written
    /// there, and nothing is started.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}
