//! The virtual machine. Its processor is emulated: that works everywhere,
//! also inside another machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::process;

/// What a run left behind.
pub struct Outcome {
    /// What the guest's reports say.
    pub report: String,
    /// The kernel's messages, and what programs wrote to standard error.
    pub console: PathBuf,
    /// Why the machine did not get to its end by itself.
    pub cut_short: Option<anyhow::Error>,
}

/// Boots the kernel and waits for the machine to switch itself off, so long at
/// most.
pub fn run(kernel: &Kernel, initramfs: &Path, folder: &Path, limit: Duration) -> Result<Outcome> {
    let console = folder.join("console.log");
    let report = folder.join("report.log");
    for log in [&console, &report] {
        fs::write(log, "").with_context(|| format!("write {}", log.display()))?;
    }
    let serial = |log: &Path| format!("file:{}", log.display());
    let mut qemu = Command::new("qemu-system-x86_64");
    // One processor: with two, emulated in two threads, a kernel now and then
    // runs into a breakpoint of its own code patching and panics (qemu 7.2).
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "4G"])
        // Its clock counts instructions, one each ns, and runs ahead where all
        // wait: time limits hold, however slow this machine is.
        .args(["-icount", "shift=0,sleep=off"])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-nic",
            "none",
        ])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        // A panic ends the machine: it reboots at once, which -no-reboot turns
        // into an end.
        .args(["-append", "console=ttyS0 panic=-1"])
        .args(["-serial", &serial(&console), "-serial", &serial(&report)]);
    let cut_short = process::run_within(&mut qemu, limit).err();
    let report = fs::read(&report).with_context(|| format!("read {}", report.display()))?;
    Ok(Outcome {
        report: String::from_utf8_lossy(&report).into_owned(),
        console,
        cut_short,
    })
}
