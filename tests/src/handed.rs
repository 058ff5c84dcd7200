//! Sockets taken out of a program's hands, to try what can be done with them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::SockaddrStorage;
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

/// Sends a byte, to the peer where there is no address, with a control message.
///
/// # Errors
/// The kernel's.
pub fn send_with_control(
    socket: impl AsFd,
    to: Option<SocketAddr>,
    (level, kind): (i32, i32),
    value: &[u8],
) -> Result<(), Errno> {
    // Words, for the kernel's structure is aligned as they are.
    let mut control = [0u64; 32];
    let to = to.map(SockaddrStorage::from);
    let mut byte = libc::iovec {
        iov_base: b"!".as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: plain numbers and pointers; the message has room for the value, and
    // the kernel reads what lies here until it returns.
    let sent = unsafe {
        let length = value.len() as libc::c_uint;
        assert!(libc::CMSG_SPACE(length) as usize <= size_of_val(&control));
        let mut message: libc::msghdr = std::mem::zeroed();
        if let Some(to) = &to {
            message.msg_name = std::ptr::from_ref(to).cast_mut().cast();
            message.msg_namelen = nix::sys::socket::SockaddrLike::len(to);
        }
        message.msg_iov = &raw mut byte;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = libc::CMSG_SPACE(length) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
        let data = libc::CMSG_DATA(header);
        std::ptr::copy_nonoverlapping(value.as_ptr(), data, value.len());
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT,
        )
    };
    Errno::result(sent).map(drop)
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
