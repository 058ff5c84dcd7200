//! Signals on their way to the program in the foreground.
//!
//! The program is in the command's process group, so what the terminal sends
//! (Ctrl-C, Ctrl-\, a hang-up, a new window size) reaches it without help, and
//! passing it on would deliver it twice. What another process sends reaches
//! the command alone. The sender tells the two apart: the kernel, or a
//! process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use signal_hook_registry::{SigId, register_sigaction, unregister};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Signals that mean the program rather than the command. Those that stop are
/// left out: the terminal stops the whole group, and a shell wants to see it.
const PASSED_ON: [i32; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
];

/// Catches signals from its making until it is dropped.
#[derive(Debug)]
pub(super) struct Signals {
    arrived: pipe::Receiver,
    registrations: Vec<SigId>,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let writer = Arc::new(writer);
        let mut signals = Self {
            arrived: pipe::Receiver::from_owned_fd(reader)?,
            registrations: Vec::new(),
        };
        for signal in PASSED_ON {
            let id = register(signal, Arc::clone(&writer))?;
            signals.registrations.push(id);
        }
        Ok(signals)
    }

    /// The next signal that is to be passed on.
    pub(super) async fn next(&mut self) -> io::Result<i32> {
        Ok(self.arrived.read_u8().await?.into())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registrations.drain(..) {
            unregister(id);
        }
    }
}

fn register(signal: i32, writer: Arc<OwnedFd>) -> io::Result<SigId> {
    let number = u8::try_from(signal).map_err(io::Error::other)?;
    let action = move |origin: &libc::siginfo_t| {
        // Positive codes are the kernel's.
        if origin.si_code > 0 {
            return;
        }
        // SAFETY: writes one byte from a local variable to a descriptor that
        // the closure owns; write(2) is async-signal-safe. A full pipe holds
        // thousands of signals that weren't passed on yet: one is lost.
        unsafe { libc::write(writer.as_raw_fd(), (&raw const number).cast(), 1) };
    };
    // SAFETY: the action calls nothing but write, neither allocates nor locks,
    // and the registry keeps errno.
    unsafe { register_sigaction(signal, action) }
}
