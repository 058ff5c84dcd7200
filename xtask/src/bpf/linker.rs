//! Which `bpf-linker` fits the compiler.

use std::{env, path::PathBuf, process::Command};

use super::Candidate;
use crate::{path, workspace::Workspace};

/// The version that is installed where none fits.
///
/// 0.10 loads the compiler's own LLVM at run time. Later ones link LLVM when
/// they are built, which takes LLVM's static libraries.
pub const VERSION: &str = "0.10.4";

/// The major version of LLVM whose API [`VERSION`] speaks.
pub const LLVM_MAJOR: &str = "22";

/// A `bpf-linker` that speaks the compiler's LLVM.
#[derive(Debug, Clone)]
pub struct Linker {
    pub path: PathBuf,
    pub version: String,
}

/// Why a linker was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("not installed")]
    Absent,
    #[error("`bpf-linker --version` did not answer: {0}")]
    Silent(String),
    #[error("is version {found}, {VERSION} is needed")]
    OtherVersion { found: String },
}

/// Linkers in the order of preference: this checkout's own, then those on
/// `PATH` and where `cargo install` puts them.
pub fn candidates(workspace: &Workspace) -> impl Iterator<Item = Candidate<Linker, Unfit>> {
    let own = workspace.tools().join("bin/bpf-linker");
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let mut places = vec![own];
    places.extend(path::all("bpf-linker"));
    places.extend(cargo_home.map(|home| home.join("bin/bpf-linker")));
    let mut seen = Vec::new();
    places.retain(|place| {
        !seen.contains(place) && {
            seen.push(place.clone());
            true
        }
    });
    places.into_iter().map(|place| Candidate {
        name: place.display().to_string(),
        verdict: examine(place),
    })
}

fn examine(path: PathBuf) -> Result<Linker, Unfit> {
    if !path.is_file() {
        return Err(Unfit::Absent);
    }
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|error| Unfit::Silent(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(version) = said.trim().strip_prefix("bpf-linker ") else {
        return Err(Unfit::Silent(format!("it said {:?}", said.trim())));
    };
    if !fits(version) {
        return Err(Unfit::OtherVersion {
            found: version.to_owned(),
        });
    }
    Ok(Linker {
        version: version.to_owned(),
        path,
    })
}

/// The same minor version, whose API and LLVM are the same, from [`VERSION`]'s
/// patch level on.
fn fits(version: &str) -> bool {
    let split = |version: &str| {
        let (minor, patch) = version.rsplit_once('.')?;
        Some((minor.to_owned(), patch.parse::<u32>().ok()?))
    };
    match (split(version), split(VERSION)) {
        (Some((minor, patch)), Some((wanted, least))) => minor == wanted && patch >= least,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn only_the_series_that_loads_llvm_at_run_time_fits() {
        assert!(fits("0.10.4"));
        assert!(fits("0.10.12"));
        for other in ["0.10.3", "0.9.15", "0.11.0", "0.13.0", "0.10", "nonsense"] {
            assert!(!fits(other), "{other}");
        }
    }
}
