//! Building netdp.

use std::path::PathBuf;

use anyhow::Result;
use xtask::{
    bpf::object::{self, Machine},
    workspace::Workspace,
};

use crate::{install, process};

/// Compiles the BPF object, then the command around it, and returns the
/// command's path. netdp's build script would compile the object too; here its
/// progress and its errors are on the terminal, and what is missing gets
/// installed.
pub fn netdp(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    bpf(workspace)?;
    let mut build = process::cargo();
    build.current_dir(&workspace.root).args([
        "build",
        "--locked",
        "--package",
        "netdp",
        "--bin",
        "netdp",
    ]);
    if release {
        build.arg("--release");
    }
    process::run(&mut build)?;
    Ok(workspace.netdp(release))
}

/// Compiles the BPF object.
pub fn bpf(workspace: &Workspace) -> Result<()> {
    let toolchain = install::toolchain(workspace)?;
    process::run(&mut object::build(workspace, &toolchain, &Machine::host())?)
}
