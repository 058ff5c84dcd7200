//! Compiling the BPF crate into one object with BTF.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Toolchain, environment};
use crate::workspace::Workspace;

/// The machine that will run the programs: BPF shares its byte order, and
/// `pt_regs` and kernel structures its layout.
#[derive(Debug, Clone)]
pub struct Machine {
    pub arch: String,
    pub big_endian: bool,
}

impl Machine {
    /// The machine this program was compiled for.
    pub fn host() -> Self {
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            big_endian: cfg!(target_endian = "big"),
        }
    }

    fn target(&self) -> &'static str {
        if self.big_endian {
            "bpfeb-unknown-none"
        } else {
            "bpfel-unknown-none"
        }
    }
}

/// Where [`build`]'s command leaves the object.
pub fn path(workspace: &Workspace, machine: &Machine) -> PathBuf {
    workspace
        .bpf_target()
        .join(machine.target())
        .join("bpf/netdp")
}

/// The command that compiles the object. Run again it does nothing as long as
/// `netdp-ebpf`, `netdp-common` and what they depend on are unchanged.
///
/// # Errors
///
/// When the folder that shows LLVM to the linker can't be made.
pub fn build(workspace: &Workspace, toolchain: &Toolchain, machine: &Machine) -> Result<Command> {
    cargo(workspace, toolchain, machine, "build", &[])
}

/// The command that checks the BPF crate with warnings denied, by clippy where
/// the compiler has it. The flags are part of what cargo names its files by,
/// so an object that is fresh stays so.
///
/// # Errors
///
/// As for [`build`].
pub fn lint(workspace: &Workspace, toolchain: &Toolchain, machine: &Machine) -> Result<Command> {
    let mut command = cargo(workspace, toolchain, machine, "check", &["-Dwarnings"])?;
    if let Some(clippy) = clippy(toolchain) {
        command.env("RUSTC_WORKSPACE_WRAPPER", clippy);
    }
    Ok(command)
}

/// The compiler's own clippy: another version's can't read its metadata.
pub fn clippy(toolchain: &Toolchain) -> Option<PathBuf> {
    Some(toolchain.compiler.sysroot.join("bin/clippy-driver")).filter(|driver| driver.is_file())
}

fn cargo(
    workspace: &Workspace,
    toolchain: &Toolchain,
    machine: &Machine,
    action: &str,
    more_flags: &[&str],
) -> Result<Command> {
    let compiler = &toolchain.compiler;
    let llvm = show_llvm(workspace, &compiler.libllvm)?;
    let mut command = Command::new(&compiler.cargo);
    environment::isolate(&mut command);
    command
        .current_dir(&workspace.root)
        .args([action, "--locked", "--package", "netdp-ebpf", "--bins"])
        .args(["--profile", "bpf", "-Z", "build-std=core"])
        .args(["--target", machine.target(), "--target-dir"])
        .arg(workspace.bpf_target())
        .env("RUSTC", &compiler.rustc)
        // Lets a compiler of a stable release take -Z build-std.
        .env("RUSTC_BOOTSTRAP", "1")
        // Empty values override wrappers from the user's cargo configuration.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags(toolchain, machine, more_flags),
        )
        .env("LD_LIBRARY_PATH", llvm);
    Ok(command)
}

/// In cargo's encoded form, in which a path may hold spaces.
fn flags(toolchain: &Toolchain, machine: &Machine, more: &[&str]) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(&toolchain.linker.path);
    // BPF programs read packet headers as byte arrays; the kernel's verifier
    // accepts unaligned loads on the machines it runs on, and without this
    // feature an address is read byte by byte.
    let fixed = [
        "-Clink-arg=--btf",
        "-Cdebuginfo=2",
        "-Ctarget-feature=+allows-misaligned-mem-access",
    ];
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", bpf_arch(&machine.arch));
    for flag in fixed
        .into_iter()
        .chain([arch.as_str()])
        .chain(more.iter().copied())
    {
        flags.push("\x1f");
        flags.push(flag);
    }
    flags
}

/// `aya-ebpf` knows one riscv64, rustc several.
fn bpf_arch(arch: &str) -> &str {
    if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        arch
    }
}

/// A folder that holds the compiler's LLVM and nothing else. `bpf-linker`
/// takes the first file called libLLVM* that it meets in `LD_LIBRARY_PATH`,
/// and a system's library folder may hold several versions.
fn show_llvm(workspace: &Workspace, libllvm: &Path) -> Result<PathBuf> {
    let folder = workspace.bpf_target().join("llvm");
    let link = folder.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|target| target == libllvm) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    // Linked aside and renamed: another build may be reading the old one.
    let aside = folder.join(format!("new.{}", std::process::id()));
    symlink(libllvm, &aside)
        .and_then(|()| fs::rename(&aside, &link))
        .with_context(|| format!("link {} to {}", link.display(), libllvm.display()))?;
    Ok(folder)
}
