//! Reading and setting socket options as bytes, and which of them go from a
//! program's socket to the one that takes its place.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::{errno::Errno, libc};

/// `SO_BUF_LOCK` (`include/uapi/asm-generic/socket.h`, 5.14): which buffer sizes
/// were set by hand.
const SO_BUF_LOCK: i32 = 72;
const SNDBUF_LOCK: i32 = 1;
const RCVBUF_LOCK: i32 = 2;

/// As above.
const SO_PEEK_OFF: i32 = 42;

/// Options that are set anew where they differ from those of a new socket. The
/// manual has this list: `docs/direct.md`.
const CARRIED: [(i32, i32); 50] = [
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
    (libc::IPPROTO_UDP, libc::UDP_GRO),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, SO_PEEK_OFF),
];

/// What bars a socket from being replaced: it leads somewhere else, or has a
/// filter of its own.
const BARRING: [(i32, i32); 5] = [
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_GET_FILTER),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
];

/// The longest value of an option that matters here.
const LONGEST: usize = 64;

/// The value of an option.
pub(super) fn get(socket: impl AsFd, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; LONGEST];
    let mut length = LONGEST as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(got)?;
    value.truncate(length as usize);
    Ok(value)
}

/// The value of an option that is a number.
pub(super) fn number(socket: impl AsFd, level: i32, name: i32) -> Result<i32, Errno> {
    let value = get(socket, level, name)?;
    let bytes = value.first_chunk().ok_or(Errno::EINVAL)?;
    Ok(i32::from_ne_bytes(*bytes))
}

pub(super) fn set(socket: impl AsFd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as the value has.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    Errno::result(set).map(drop)
}

pub(super) fn set_number(socket: impl AsFd, level: i32, name: i32, to: i32) -> Result<(), Errno> {
    set(socket, level, name, &to.to_ne_bytes())
}

/// Whether a socket has an option that the other could not have.
pub(super) fn is_barred(socket: impl AsFd) -> bool {
    BARRING.iter().any(|&(level, name)| {
        // Of a filter that isn't a classic one the kernel says no more than
        // that there is one.
        if name == libc::SO_GET_FILTER && level == libc::SOL_SOCKET {
            return has_filter(&socket);
        }
        get(&socket, level, name).is_ok_and(|value| value.iter().any(|byte| *byte != 0))
    })
}

/// Asked with no room, the kernel tells how many instructions there are.
fn has_filter(socket: impl AsFd) -> bool {
    let mut length: libc::socklen_t = 0;
    // SAFETY: nothing is written but the length.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut length,
        )
    };
    got != 0 || length != 0
}

/// Sets what was set on the one socket on the other.
///
/// # Errors
/// The first that was refused: then the program would have another socket than
/// it asked for.
pub(super) fn carry(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    for (level, name) in CARRIED {
        // What one of them doesn't know, it doesn't have.
        let (Ok(asked), Ok(is)) = (get(&from, level, name), get(&to, level, name)) else {
            continue;
        };
        if asked != is {
            set(&to, level, name, &asked)?;
        }
    }
    let locked = number(&from, libc::SOL_SOCKET, SO_BUF_LOCK).unwrap_or(0);
    for (lock, name, force) in [
        (SNDBUF_LOCK, libc::SO_SNDBUF, libc::SO_SNDBUFFORCE),
        (RCVBUF_LOCK, libc::SO_RCVBUF, libc::SO_RCVBUFFORCE),
    ] {
        if locked & lock != 0 {
            // The kernel doubles what is set (socket(7)).
            let size = number(&from, libc::SOL_SOCKET, name)? / 2;
            set_number(&to, libc::SOL_SOCKET, force, size)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    use super::*;

    fn tcp() -> OwnedFd {
        let kind = SockType::Stream;
        socket(AddressFamily::Inet6, kind, SockFlag::SOCK_CLOEXEC, None).unwrap()
    }

    #[test]
    fn what_was_set_is_carried_over_and_nothing_else() {
        let (from, to) = (tcp(), tcp());
        let before = number(&to, libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap();
        for (level, name, value) in [
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 77),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 8),
        ] {
            set_number(&from, level, name, value).unwrap();
        }
        let linger: Vec<u8> = [1i32, 5].iter().flat_map(|it| it.to_ne_bytes()).collect();
        set(&from, libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
        set(&from, libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"reno").unwrap();
        set_number(&from, libc::SOL_SOCKET, libc::SO_RCVBUF, 9000).unwrap();
        if nix::unistd::geteuid().is_root() {
            carry(&from, &to).unwrap();
            assert_eq!(number(&to, libc::SOL_SOCKET, libc::SO_RCVBUF), Ok(18_000));
        } else {
            return eprintln!("skipped: buffer sizes need root");
        }
        for (level, name) in CARRIED {
            assert_eq!(
                get(&to, level, name),
                get(&from, level, name),
                "{level} {name}"
            );
        }
        assert_eq!(number(&to, libc::SOL_SOCKET, libc::SO_SNDBUF), Ok(before));
    }

    #[test]
    fn a_socket_with_a_filter_or_a_device_is_barred() {
        let socket = tcp();
        assert!(!is_barred(&socket));
        set_number(&socket, libc::IPPROTO_IP, libc::IP_FREEBIND, 1).unwrap();
        assert!(is_barred(&socket));
        let socket = tcp();
        if set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo").is_ok() {
            assert!(is_barred(&socket));
        }
    }
}
