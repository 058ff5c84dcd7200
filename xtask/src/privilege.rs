//! What needs root.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use xtask::path;

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The words to put before a program that needs root: none for root itself.
/// `keep` are variables that the program has to see; sudo resets the
/// environment and not every policy lets users say `sudo -E`.
pub fn prefix(keep: &[(&str, &OsStr)]) -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    let Some(sudo) = path::first("sudo") else {
        bail!("this needs root, and sudo is not installed: run it again as root");
    };
    let mut words = vec![sudo.into_os_string(), "env".into()];
    for (name, value) in keep {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        words.push(assignment);
    }
    Ok(words)
}

/// Replaces this process by `program`, as root.
pub fn exec_as_root<T>(program: &Path, args: &[OsString]) -> Result<T> {
    let own: Vec<(String, OsString)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| {
            name.starts_with("NETDP_") || name == "RUST_LOG" || name == "RUST_BACKTRACE"
        })
        .collect();
    let keep: Vec<(&str, &OsStr)> = own
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_os_str()))
        .collect();
    let mut words = prefix(&keep)?;
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(args)
        // cargo's, for this program alone.
        .env_remove("LD_LIBRARY_PATH");
    Err(command.exec()).with_context(|| format!("start {}", program.display()))
}
