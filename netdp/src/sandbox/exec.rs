//! Executing again: this program under a hidden name, and the program that was
//! asked for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::wire::Report;

/// Exit status of shells for a program that wasn't found.
const NOT_FOUND: u8 = 127;
/// Exit status of shells for a program that can't be executed.
const NOT_EXECUTABLE: u8 = 126;

/// A command that becomes `program`, told by its arguments which descriptor is
/// its end of the socket pair.
pub(super) fn reexec(program: &Path, name: &str, socket: &OwnedFd) -> io::Result<Command> {
    // A copy, so that the descriptor stays open until the command is dropped.
    let socket = socket.try_clone()?;
    let mut command = Command::new(program);
    command.arg(name).arg(socket.as_raw_fd().to_string());
    // SAFETY: fcntl is a plain system call and nothing here allocates or takes
    // a lock, so the closure may run between fork and exec.
    unsafe {
        command.pre_exec(move || {
            fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    Ok(command)
}

/// The socket that [`reexec`] passed to this process. The program to come
/// doesn't inherit it.
pub(super) fn inherited_socket() -> Result<UnixStream, ExitCode> {
    let socket = std::env::args()
        .nth(2)
        .and_then(|argument| argument.parse::<RawFd>().ok())
        .filter(|fd| *fd > 2)
        .and_then(adopt);
    socket.ok_or_else(|| {
        eprintln!("netdp: this command is netdp's own; use 'netdp run'");
        ExitCode::from(2)
    })
}

fn adopt(fd: RawFd) -> Option<UnixStream> {
    // SAFETY: F_GETFD of any number is harmless.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: the descriptor is open, and in this process, just executed,
    // nothing else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    let stream = UnixStream::from(fd);
    stream.peer_addr().is_ok().then_some(stream)
}

/// Becomes the program, with these variables besides; returns only why not.
/// Signals that Rust programs ignore act as usual in it.
pub(super) fn become_program(argv: &[OsString], environment: &BTreeMap<String, String>) -> Report {
    let Some((program, arguments)) = argv.split_first() else {
        return Report::Setup {
            reason: super::SandboxError::NoProgram.to_string(),
        };
    };
    let error = Command::new(program)
        .args(arguments)
        .envs(environment)
        .exec();
    let (reason, status) = explain(program, &error);
    Report::Exec {
        program: program.display().to_string(),
        reason,
        status,
    }
}

fn explain(program: &OsString, error: &io::Error) -> (String, u8) {
    let path = Path::new(program);
    let has_slash = program.as_encoded_bytes().contains(&b'/');
    match error.kind() {
        io::ErrorKind::NotFound if !has_slash => ("not found in PATH".into(), NOT_FOUND),
        io::ErrorKind::NotFound if path.exists() => (
            "the interpreter or loader that it names doesn't exist".into(),
            NOT_FOUND,
        ),
        io::ErrorKind::NotFound => ("no such file".into(), NOT_FOUND),
        io::ErrorKind::PermissionDenied if path.is_dir() => {
            ("it is a folder".into(), NOT_EXECUTABLE)
        }
        io::ErrorKind::PermissionDenied => (
            "permission denied; make it executable with chmod +x".into(),
            NOT_EXECUTABLE,
        ),
        _ => (error.to_string(), NOT_EXECUTABLE),
    }
}
