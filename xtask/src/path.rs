//! Programs on the search path.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Every executable called `name` on `PATH`, in order, then in the system
/// folders that an ordinary user's `PATH` leaves out (`ip` and `bpftool` lie
/// there).
pub fn all(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .filter(|file| is_executable(file))
        .collect();
    found.dedup();
    found
}

/// The first executable called `name`, as [`all`] finds it.
pub fn first(name: &str) -> Option<PathBuf> {
    all(name).into_iter().next()
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
