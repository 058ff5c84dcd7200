//! Getting the BPF toolchain, where it may be installed without asking.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use xtask::{
    bpf::{
        self, Missing, Toolchain,
        compiler::{self, NIGHTLY, Unfit},
        environment, linker,
    },
    path,
    workspace::Workspace,
};

use crate::{apt, process};

/// Debian's compiler that follows the releases, and the source of its `core`.
pub const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

const COMPONENT_LIMIT: Duration = Duration::from_secs(120);
const TOOLCHAIN_LIMIT: Duration = Duration::from_secs(900);

/// The toolchain, after installing what of it is missing.
pub fn toolchain(workspace: &Workspace) -> Result<Toolchain> {
    match bpf::find(workspace) {
        Ok(found) => return Ok(found),
        Err(missing @ Missing::Compiler(_)) => compiler(&missing)?,
        Err(Missing::Linker { .. }) => {}
    }
    match bpf::find(workspace) {
        Ok(found) => return Ok(found),
        Err(missing @ Missing::Compiler(_)) => bail!(missing),
        Err(missing @ Missing::Linker { .. }) => bpf_linker(workspace, &missing)?,
    }
    Ok(bpf::find(workspace)?)
}

/// Tries what changes least first: the missing half of a nightly that is
/// there, then the distribution's compiler, then a nightly.
fn compiler(missing: &Missing) -> Result<()> {
    eprintln!("xtask: {missing}");
    let ways: [fn() -> Result<()>; 3] = [complete_nightly, from_apt, from_rustup];
    for way in ways {
        if let Err(error) = way() {
            eprintln!("xtask: {error:#}");
        }
        if compiler::candidates().any(|candidate| candidate.verdict.is_ok()) {
            return Ok(());
        }
    }
    bail!(
        "nothing that may be installed here compiles for the BPF target; do one of these and try again:{}",
        advice()
            .iter()
            .map(|line| format!("\n  {line}"))
            .collect::<String>()
    );
}

/// Every way to get a compiler, as commands to type.
pub fn advice() -> Vec<String> {
    let mut ways = vec![process::words(&rustup_install())];
    if path::first("rustup").is_none() {
        ways[0].push_str("    (rustup itself: https://rustup.rs)");
    }
    if apt::is_present() {
        ways.push(apt::advice(&DEBIAN_COMPILER));
    }
    ways
}

fn complete_nightly() -> Result<()> {
    for candidate in compiler::candidates() {
        if !candidate.name.starts_with("nightly")
            || !matches!(candidate.verdict, Err(Unfit::NoSource(_)))
        {
            continue;
        }
        eprintln!("xtask: adding rust-src to rustup's {}", candidate.name);
        let mut add = rustup();
        add.args([
            "component",
            "add",
            "rust-src",
            "--toolchain",
            &candidate.name,
        ]);
        process::run_within(&mut add, COMPONENT_LIMIT)?;
    }
    Ok(())
}

fn from_apt() -> Result<()> {
    if !apt::may_install() {
        return Ok(());
    }
    let least = env!("CARGO_PKG_RUST_VERSION");
    for package in DEBIAN_COMPILER {
        let Some(version) = apt::candidate(package)? else {
            bail!("apt has no package {package}");
        };
        if !compiler::at_least(&version, least) {
            bail!("apt's {package} is {version}, {least} is the oldest that does");
        }
    }
    apt::install(&DEBIAN_COMPILER)
}

fn from_rustup() -> Result<()> {
    if path::first("rustup").is_none() {
        return Ok(());
    }
    eprintln!("xtask: installing rustup's {NIGHTLY} with rust-src");
    process::run_within(&mut rustup_install(), TOOLCHAIN_LIMIT)
}

fn rustup_install() -> Command {
    let mut command = rustup();
    command
        .args(["toolchain", "install", NIGHTLY, "--profile", "minimal"])
        .args(["--component", "rust-src", "--component", "clippy"]);
    command
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    environment::isolate(&mut command);
    // A download that fails is explained without rustup's own call stack.
    command.env("RUST_BACKTRACE", "0");
    command
}

fn bpf_linker(workspace: &Workspace, missing: &Missing) -> Result<()> {
    eprintln!("xtask: {missing}");
    let version = linker::VERSION;
    let tools = workspace.tools();
    eprintln!(
        "xtask: installing bpf-linker {version} into {} (a minute or two)",
        tools.display()
    );
    let mut install = process::cargo();
    environment::isolate(&mut install);
    install
        .current_dir(&workspace.root)
        .args([
            "install",
            "bpf-linker",
            "--version",
            version,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&tools);
    process::run_within(&mut install, TOOLCHAIN_LIMIT).with_context(|| {
        format!(
            "bpf-linker {version} could not be installed; with a network, type `{}`",
            process::words(&install)
        )
    })
}
