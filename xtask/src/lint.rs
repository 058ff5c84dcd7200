//! Formatting and warnings.

use anyhow::Result;
use xtask::{
    bpf::object::{self, Machine},
    workspace::Workspace,
};

use crate::{apt, compile, install, process};

/// Debian's clippy for [`install::DEBIAN_COMPILER`].
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// Stops at the first tool that complains.
pub fn run(workspace: &Workspace) -> Result<()> {
    step("formatting");
    let mut fmt = process::cargo();
    process::run(
        fmt.current_dir(&workspace.root)
            .args(["fmt", "--all", "--check"]),
    )?;

    // clippy runs netdp's build script, which wants the object.
    compile::bpf(workspace)?;
    step("clippy, crates of the host");
    let mut clippy = process::cargo();
    clippy.current_dir(&workspace.root).args([
        "clippy",
        "--locked",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    process::run(&mut clippy)?;

    bpf(workspace)
}

fn bpf(workspace: &Workspace) -> Result<()> {
    let toolchain = install::toolchain(workspace)?;
    if object::clippy(&toolchain).is_none()
        && toolchain.compiler.is_system()
        && apt::may_install()
        && apt::candidate(DEBIAN_CLIPPY).is_ok_and(|version| version.is_some())
        && let Err(error) = apt::install(&[DEBIAN_CLIPPY])
    {
        eprintln!("xtask: {error:#}");
    }
    match object::clippy(&toolchain) {
        Some(driver) => step(&format!("clippy, BPF programs, by {}", driver.display())),
        None => step(&format!(
            "compiler warnings, BPF programs: {} has no clippy",
            toolchain.compiler
        )),
    }
    process::run(&mut object::lint(workspace, &toolchain, &Machine::host())?)
}

fn step(what: &str) {
    eprintln!("xtask: {what}");
}
