//! The parent of a detached program.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{ForkResult, fork, setsid};

use super::INIT_COMMAND;
use super::exec::{inherited_socket, reexec};
use super::wire::{Report, send};

/// Runs the hidden command [`SUPERVISE_COMMAND`](super::SUPERVISE_COMMAND):
/// returns at once in the process that was started, and in its child when the
/// program has ended. The caller passes the result to `exit`.
pub fn supervise_main() -> ExitCode {
    let socket = match inherited_socket() {
        Ok(socket) => socket,
        Err(status) => return status,
    };
    // SAFETY: this process was just executed and has one thread.
    match unsafe { fork() } {
        // Orphaned, the child is nobody's to reap but init's.
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => {
            eprintln!("netdp: can't fork: {}", io::Error::from(error));
            return ExitCode::FAILURE;
        }
    }
    // A new process is no group leader, so this can't fail.
    let _ = setsid();
    let socket = OwnedFd::from(socket);
    let spawned = reexec(Path::new("/proc/self/exe"), INIT_COMMAND, &socket)
        .and_then(|mut command| command.spawn());
    match spawned {
        Ok(mut child) => {
            // The end of the socket means that the program runs: only the
            // sandbox's first process may hold it.
            drop(socket);
            match child.wait() {
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("netdp: can't wait for the program: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            let reason = format!("can't start netdp for the sandbox: {error}");
            let mut stream = UnixStream::from(socket);
            // Nobody is left to be told when this fails too.
            let _ = send(&mut stream, &Report::Setup { reason });
            ExitCode::FAILURE
        }
    }
}
