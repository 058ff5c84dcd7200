//! The environment of a compiler that is started from within another build.

use std::{env, process::Command};

/// `CARGO_*` variables that say how to reach registries and what to print,
/// not what is being compiled.
const KEPT: [&str; 7] = [
    "CARGO_HOME",
    "CARGO_BUILD_JOBS",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// Set by cargo for build scripts, by rustup's proxies, by `cargo clippy` and
/// by users for their host compiler.
const DROPPED_PREFIXES: [&str; 7] = [
    "CARGO_",
    "CLIPPY_",
    "DEP_",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

const DROPPED: [&str; 11] = [
    "CARGO",
    "DEBUG",
    "HOST",
    "LD_LIBRARY_PATH",
    "MAKEFLAGS",
    "MFLAGS",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "TARGET",
];

/// Takes out of `command`'s environment whatever would make the BPF build
/// depend on the host build that started it.
pub fn isolate(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_host_build) {
            command.env_remove(name);
        }
    }
}

fn belongs_to_host_build(name: &str) -> bool {
    let starts_with_one_of = |prefixes: &[&str]| prefixes.iter().any(|it| name.starts_with(it));
    DROPPED.contains(&name) || (starts_with_one_of(&DROPPED_PREFIXES) && !starts_with_one_of(&KEPT))
}

#[cfg(test)]
mod tests {
    use super::belongs_to_host_build;

    #[test]
    fn host_build_does_not_leak_into_the_bpf_build() {
        for name in [
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_BPF_LTO",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "TARGET",
        ] {
            assert!(belongs_to_host_build(name), "{name}");
        }
    }

    #[test]
    fn registries_stay_reachable() {
        for name in [
            "PATH",
            "HOME",
            "RUSTUP_HOME",
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_REGISTRIES_X_INDEX",
        ] {
            assert!(!belongs_to_host_build(name), "{name}");
        }
    }
}
