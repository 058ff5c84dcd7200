//! seccomp's user notification (`include/uapi/linux/seccomp.h`, 5.9): a system
//! call of another process, waiting for what is to become of it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::{errno::Errno, ioctl_readwrite, ioctl_write_ptr, libc};

use crate::sandbox::ARCH;

ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
ioctl_readwrite!(send, b'!', 1, libc::seccomp_notif_resp);
ioctl_write_ptr!(is_valid, b'!', 2, u64);
ioctl_write_ptr!(add_descriptor, b'!', 3, libc::seccomp_notif_addfd);

/// What a supervisor can't go on without.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("can't hear of system calls: {0}")]
    Receive(io::Error),
    #[error("can't wait for system calls: {0}")]
    Wait(io::Error),
}

/// A system call that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    id: u64,
    /// The thread that made it.
    pub thread: u32,
    /// Whether it is `bind`, of a program of this machine's own architecture:
    /// filters of others than netdp may hand over anything.
    pub is_bind: bool,
    pub arguments: [u64; 6],
}

/// The system call that waits at a filter's descriptor, which is ready to be read;
/// none if it waits no longer.
pub(super) fn receive_call(listener: BorrowedFd<'_>) -> Result<Option<Call>, NotifyError> {
    // SAFETY: plain numbers, for which 0 is a value; the kernel wants them
    // zeroed.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes no more than the structure.
    match unsafe { receive(listener.as_raw_fd(), &raw mut call) } {
        Ok(_) => Ok(Some(Call {
            id: call.id,
            thread: call.pid,
            is_bind: call.data.arch == ARCH && i64::from(call.data.nr) == libc::SYS_bind,
            arguments: call.data.args,
        })),
        // Who made it was killed, or another signal came first.
        Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
        Err(errno) => Err(NotifyError::Receive(errno.into())),
    }
}

impl Call {
    /// Whether the thread still waits: until this was asked, its number might
    /// be another's, and what was read by it as well.
    pub fn still_waits(&self, listener: BorrowedFd<'_>) -> bool {
        // SAFETY: the kernel reads the number.
        unsafe { is_valid(listener.as_raw_fd(), &raw const self.id) }.is_ok()
    }

    /// Lets the system call go on as if nobody had looked.
    pub fn go_on(&self, listener: BorrowedFd<'_>) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        self.answer(listener, 0, flags);
    }

    /// Answers it: done, or the error.
    pub fn finish(&self, listener: BorrowedFd<'_>, done: Result<(), Errno>) {
        let error = done.err().map_or(0, |errno| -(errno as i32));
        self.answer(listener, error, 0);
    }

    /// A thread that has gone meanwhile needs no answer.
    fn answer(&self, listener: BorrowedFd<'_>, error: i32, flags: u32) {
        let mut answer = libc::seccomp_notif_resp {
            id: self.id,
            val: 0,
            error,
            flags,
        };
        // SAFETY: the kernel reads the structure.
        let _ = unsafe { send(listener.as_raw_fd(), &raw mut answer) };
    }

    /// Puts a copy of `descriptor` in the place of the process's `number`.
    pub fn replace(
        &self,
        listener: BorrowedFd<'_>,
        number: u32,
        descriptor: impl AsFd,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let given = libc::seccomp_notif_addfd {
            id: self.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: descriptor.as_fd().as_raw_fd() as u32,
            newfd: number,
            newfd_flags: if close_on_exec {
                libc::O_CLOEXEC as u32
            } else {
                0
            },
        };
        // SAFETY: the kernel reads the structure.
        unsafe { add_descriptor(listener.as_raw_fd(), &raw const given) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<libc::seccomp_notif>(), 80);
        assert_eq!(size_of::<libc::seccomp_notif_resp>(), 24);
        assert_eq!(size_of::<libc::seccomp_notif_addfd>(), 24);
    }

    #[test]
    fn a_call_that_nobody_made_waits_for_nothing() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let call = Call {
            id: 1,
            thread: 1,
            is_bind: true,
            arguments: [0; 6],
        };
        assert!(!call.still_waits(file.as_fd()));
    }
}
