//! Compiles the BPF programs and hands their object to the crate:
//! `env!("NETDP_BPF_OBJECT")` is the object's absolute path, to be embedded
//! with `aya::include_bytes_aligned!`.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use xtask::{
    bpf::{self, object::Machine},
    workspace::Workspace,
};

/// What the object is made of, relative to the workspace.
const SOURCES: [&str; 6] = [
    "netdp-ebpf/src",
    "netdp-ebpf/Cargo.toml",
    "netdp-common/src",
    "netdp-common/Cargo.toml",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() -> ExitCode {
    let workspace = Workspace::here();
    for source in SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.root.join(source).display()
        );
    }
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    match embed(&workspace) {
        Ok(exit) => exit,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo::error={line}");
            }
            println!("cargo::error=`cargo xtask build` installs what is missing or says how");
            ExitCode::SUCCESS
        }
    }
}

/// An error that reaches `main` is about the toolchain and is shown as one
/// message. What the compiler says about the sources goes to standard error,
/// which cargo shows as it is when the script fails.
fn embed(workspace: &Workspace) -> Result<ExitCode> {
    let toolchain = bpf::find(workspace)?;
    let machine = machine()?;
    let mut build = bpf::object::build(workspace, &toolchain, &machine)?;
    let output = build
        .output()
        .with_context(|| format!("run {:?}", build.get_program()))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Ok(ExitCode::FAILURE);
    }
    let built = bpf::object::path(workspace, &machine);
    // Copied to where cargo cleans it up together with this script's output.
    let object =
        PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join("netdp.bpf.o");
    fs::copy(&built, &object)
        .with_context(|| format!("copy {} to {}", built.display(), object.display()))?;
    println!("cargo::rustc-env=NETDP_BPF_OBJECT={}", object.display());
    Ok(ExitCode::SUCCESS)
}

fn machine() -> Result<Machine> {
    Ok(Machine {
        arch: env::var("CARGO_CFG_TARGET_ARCH").context("read the target's architecture")?,
        big_endian: env::var("CARGO_CFG_TARGET_ENDIAN").context("read the target's byte order")?
            == "big",
    })
}
