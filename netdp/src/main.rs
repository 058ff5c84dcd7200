//! The command `netdp`.

use std::process::ExitCode;

use git_version::git_version;
use netdp::{
    cni,
    direct::{DIRECT_COMMAND, supervisor_main},
    netavark, oci,
    sandbox::{INIT_COMMAND, SUPERVISE_COMMAND, init_main, supervise_main},
    version,
};

/// Empty where this isn't built in a working tree of git's.
const COMMIT: &str = git_version!(
    args = ["--always", "--exclude=*", "--abbrev=7", "--dirty=-dirty"],
    fallback = ""
);

fn main() -> ExitCode {
    version::is_of_commit(COMMIT);
    // These make namespaces for themselves, which wants a single thread: so
    // before anything else has a chance to make one.
    match std::env::args_os().nth(1) {
        Some(command) if command == INIT_COMMAND => init_main(),
        Some(command) if command == SUPERVISE_COMMAND => supervise_main(),
        Some(command) if command == DIRECT_COMMAND => supervisor_main(),
        _ if oci::is_called() => oci::main(),
        None if cni::is_called() => cni::main(),
        Some(_) if netavark::is_called() => netavark::main(),
        _ => netdp::cli::main(),
    }
}
