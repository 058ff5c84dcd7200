//! Sockets taken out of a program's hands, to try what can be done with them.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Copies of a process's sockets of this protocol, such as `IPPROTO_TCP`.
pub fn sockets_of(process: u32, protocol: i32) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(process.cast_signed()).expect("a process");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("the process");
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).expect("its descriptors");
    descriptors
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok())
        .filter(|socket| number_option(socket, libc::SO_PROTOCOL) == Some(protocol))
        .collect()
}

/// An option of `SOL_SOCKET` that is a number; none of what isn't a socket.
pub fn number_option(socket: &OwnedFd, name: i32) -> Option<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the number.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (got == 0).then_some(value)
}

/// # Errors
/// The kernel's.
pub fn set_option(socket: &OwnedFd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as there are.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    Errno::result(set).map(drop)
}

/// Takes a socket off its peer, or a listener off its queue.
///
/// # Errors
/// The kernel's.
pub fn disconnect(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as u16;
    // SAFETY: the kernel reads the address.
    let done = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const nowhere,
            size_of_val(&nowhere) as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}
