//! SIGINT, SIGTERM and SIGHUP as a flag: whoever waits looks at it, returns,
//! and what was made is removed on the way out.

use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// From here on those signals no longer end the process.
pub(crate) fn catch() -> nix::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is
        // async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn note(signal: libc::c_int) {
    RECEIVED.store(signal, Ordering::Relaxed);
}

/// The number of the signal that came.
pub(crate) fn received() -> Option<i32> {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}

/// The status to end with, 128 plus the signal's number, where one came; `what`
/// has been ended by it.
pub(crate) fn exit_code(what: &str) -> Option<ExitCode> {
    let signal = received()?;
    eprintln!("interrupted; everything that {what} made is removed");
    Some(ExitCode::from(128_u8.saturating_add(signal as u8)))
}
