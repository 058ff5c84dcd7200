//! Installing packages on Debian and its kin.

use std::{
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::Result;
use xtask::path;

use crate::{privilege, process};

const UPDATE_LIMIT: Duration = Duration::from_secs(180);
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Whether packages may be installed without asking anyone.
pub fn may_install() -> bool {
    privilege::is_root() && is_present()
}

pub fn is_present() -> bool {
    path::first("apt-get").is_some()
}

/// The command that a user may type instead.
pub fn advice(packages: &[&str]) -> String {
    let sudo = if privilege::is_root() { "" } else { "sudo " };
    format!(
        "{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Says what it installs, then installs it.
pub fn install(packages: &[&str]) -> Result<()> {
    update()?;
    eprintln!("xtask: installing with apt: {}", packages.join(" "));
    let mut command = apt_get();
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages);
    process::run_within(&mut command, INSTALL_LIMIT)
}

/// The version of `package` that apt would install, such as
/// `1.96.0+dfsg1-1~deb12u2`.
pub fn candidate(package: &str) -> Result<Option<String>> {
    update()?;
    let output = Command::new("apt-cache")
        .args(["policy", package])
        .env("LC_ALL", "C")
        .output()?;
    let policy = String::from_utf8_lossy(&output.stdout);
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|&it| it != "(none)").map(str::to_owned))
}

/// Fetches the package lists, once: a fresh container has none.
pub fn update() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        eprintln!("xtask: fetching apt's package lists");
        process::run_within(apt_get().arg("update").stdout(Stdio::null()), UPDATE_LIMIT)?;
        DONE.get_or_init(|| ());
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive");
    command
}
