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

/// `SO_MEMINFO` (as above, 4.12), an array of numbers of 32 bits, and which of them
/// says how many bytes its options take (`SK_MEMINFO_OPTMEM`,
/// `include/uapi/linux/sock_diag.h`): keys of signatures, groups, filters, headers
/// of IPv6. Of keys nothing else tells.
const SO_MEMINFO: i32 = 55;
const OPTMEM: usize = 6;

// What libc lacks, of `include/uapi/asm-generic/socket.h`, `linux/in.h`,
// `linux/in6.h`, `linux/tcp.h` and `linux/udp.h` (6.18).
const SO_PEEK_OFF: i32 = 42;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_TXTIME: i32 = 61;
const SO_RESERVE_MEM: i32 = 73;
const SO_TXREHASH: i32 = 74;
const SO_RCVMARK: i32 = 75;
const SO_RCVPRIORITY: i32 = 82;
const IP_CHECKSUM: i32 = 23;
const IP_RECVERR_RFC4884: i32 = 26;
const IP_UNICAST_IF: i32 = 50;
const IPV6_2292PKTINFO: i32 = 2;
const IPV6_2292HOPOPTS: i32 = 3;
const IPV6_2292DSTOPTS: i32 = 4;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292HOPLIMIT: i32 = 8;
const IPV6_FLOWINFO: i32 = 11;
const IPV6_RECVERR_RFC4884: i32 = 31;
const IPV6_FLOWINFO_SEND: i32 = 33;
const IPV6_RECVORIGDSTADDR: i32 = 74;
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_RECVFRAGSIZE: i32 = 77;
const TCP_TX_DELAY: i32 = 37;
const TCP_RTO_MAX_MS: i32 = 44;
const TCP_RTO_MIN_US: i32 = 45;
const TCP_DELACK_MAX_US: i32 = 46;
const UDP_ENCAP: i32 = 100;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;

/// Options that are set anew where they differ from those of a new socket, in this
/// order: of two forms of one, the later goes first, for the earlier one reads as
/// set then too. The manual has this list: `docs/direct.md`.
const CARRIED: [(i32, i32); 90] = [
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_NO_CHECK),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, SO_TIMESTAMP_NEW),
    (libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW),
    (libc::SOL_SOCKET, SO_TIMESTAMPING_NEW),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, SO_PEEK_OFF),
    (libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::SOL_SOCKET, SO_TXREHASH),
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
    (libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE),
    (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_INQ),
    (libc::IPPROTO_TCP, TCP_TX_DELAY),
    (libc::IPPROTO_TCP, TCP_RTO_MAX_MS),
    (libc::IPPROTO_TCP, TCP_RTO_MIN_US),
    (libc::IPPROTO_TCP, TCP_DELACK_MAX_US),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, IP_RECVERR_RFC4884),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVOPTS),
    (libc::IPPROTO_IP, libc::IP_RETOPTS),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IP, libc::IP_RECVFRAGSIZE),
    (libc::IPPROTO_IP, IP_CHECKSUM),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL),
    (libc::IPPROTO_IPV6, libc::IPV6_ADDR_PREFERENCES),
    (libc::IPPROTO_IPV6, IPV6_FLOWINFO),
    (libc::IPPROTO_IPV6, IPV6_FLOWINFO_SEND),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, IPV6_RECVERR_RFC4884),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVRTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVDSTOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPATHMTU),
    (libc::IPPROTO_IPV6, IPV6_RECVORIGDSTADDR),
    (libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE),
    (libc::IPPROTO_IPV6, IPV6_2292PKTINFO),
    (libc::IPPROTO_IPV6, IPV6_2292HOPLIMIT),
    (libc::IPPROTO_IPV6, IPV6_2292HOPOPTS),
    (libc::IPPROTO_IPV6, IPV6_2292RTHDR),
    (libc::IPPROTO_IPV6, IPV6_2292DSTOPTS),
    (libc::IPPROTO_UDP, libc::UDP_CORK),
    (libc::IPPROTO_UDP, UDP_NO_CHECK6_TX),
    (libc::IPPROTO_UDP, UDP_NO_CHECK6_RX),
    (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
    (libc::IPPROTO_UDP, libc::UDP_GRO),
];

/// What bars a socket from being replaced: it leads somewhere else, tells of the
/// host, or has a filter of its own.
const BARRING: [(i32, i32, &str); 15] = [
    (libc::SOL_SOCKET, libc::SO_DONTROUTE, "SO_DONTROUTE"),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, "SO_BINDTODEVICE"),
    (libc::SOL_SOCKET, libc::SO_MARK, "SO_MARK"),
    (libc::SOL_SOCKET, libc::SO_LOCK_FILTER, "SO_LOCK_FILTER"),
    (libc::SOL_SOCKET, SO_TXTIME, "SO_TXTIME"),
    (libc::SOL_SOCKET, SO_RESERVE_MEM, "SO_RESERVE_MEM"),
    (libc::SOL_SOCKET, SO_RCVMARK, "SO_RCVMARK"),
    (libc::SOL_SOCKET, SO_RCVPRIORITY, "SO_RCVPRIORITY"),
    (libc::IPPROTO_IP, libc::IP_OPTIONS, "IP_OPTIONS"),
    (libc::IPPROTO_IP, libc::IP_PASSSEC, "IP_PASSSEC"),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    (libc::IPPROTO_IP, libc::IP_FREEBIND, "IP_FREEBIND"),
    (libc::IPPROTO_IP, IP_UNICAST_IF, "IP_UNICAST_IF"),
    (libc::IPPROTO_IPV6, IPV6_UNICAST_IF, "IPV6_UNICAST_IF"),
    (libc::IPPROTO_UDP, UDP_ENCAP, "UDP_ENCAP"),
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

/// What a socket has that the other could not have, if anything.
pub(super) fn bar(socket: impl AsFd) -> Option<&'static str> {
    let is_set = |level, name| {
        get(&socket, level, name).is_ok_and(|value| value.iter().any(|byte| *byte != 0))
    };
    if let Some((.., name)) = BARRING.iter().find(|it| is_set(it.0, it.1)) {
        return Some(name);
    }
    if has_filter(&socket) {
        return Some("a filter (SO_ATTACH_FILTER, SO_ATTACH_BPF)");
    }
    // As everybody may set them: others name classes of the host's queues.
    let priority = number(&socket, libc::SOL_SOCKET, libc::SO_PRIORITY);
    if priority.is_ok_and(|priority| !(0..=6).contains(&priority)) {
        return Some("a priority above 6 (SO_PRIORITY)");
    }
    has_memory(&socket).then_some(
        "a key for signatures (TCP_MD5SIG, TCP_AO), a group that it has joined \
         (IP_ADD_MEMBERSHIP), headers of IPv6 (IPV6_HOPOPTS), or a storage of another program's",
    )
}

/// Whether options of the socket take memory.
fn has_memory(socket: impl AsFd) -> bool {
    let numbers = get(socket, libc::SOL_SOCKET, SO_MEMINFO).unwrap_or_default();
    let number = numbers.chunks_exact(size_of::<u32>()).nth(OPTMEM);
    number.is_some_and(|number| number.iter().any(|byte| *byte != 0))
}

/// Asked with no room, the kernel tells how many instructions there are. Of a filter
/// that isn't a classic one it says no more than that there is one.
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

    fn udp(family: AddressFamily) -> OwnedFd {
        socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap()
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
    fn a_socket_that_could_not_be_the_hosts_is_barred() {
        assert_eq!(bar(tcp()), None);
        assert_eq!(bar(udp(AddressFamily::Inet)), None);
        assert_eq!(bar(udp(AddressFamily::Inet6)), None);
        let set_on = |socket: OwnedFd, level, name, value: &[u8]| {
            set(&socket, level, name, value).map(|()| bar(&socket))
        };
        let one = 1i32.to_ne_bytes();
        let freebind = set_on(tcp(), libc::IPPROTO_IP, libc::IP_FREEBIND, &one);
        assert_eq!(freebind, Ok(Some("IP_FREEBIND")));
        let route = set_on(tcp(), libc::SOL_SOCKET, libc::SO_DONTROUTE, &one);
        assert_eq!(route, Ok(Some("SO_DONTROUTE")));
        // What takes rights is refused without.
        for (name, value, why) in [
            (libc::SO_BINDTODEVICE, &b"lo"[..], "SO_BINDTODEVICE"),
            (libc::SO_MARK, &one, "SO_MARK"),
            (libc::SO_PRIORITY, &0x10001i32.to_ne_bytes(), "a priority"),
        ] {
            match set_on(tcp(), libc::SOL_SOCKET, name, value) {
                Err(errno) => assert_eq!(errno, Errno::EPERM),
                Ok(found) => assert!(found.unwrap().starts_with(why), "{found:?}"),
            }
        }
    }

    /// Of none of these the kernel tells by their own names.
    #[test]
    fn keys_and_groups_are_known_by_the_memory_that_they_take() {
        // `struct tcp_md5sig` of include/uapi/linux/tcp.h: the peer, the length
        // of the key at byte 130, the key at 136.
        let mut key = [0u8; 216];
        key[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        key[8 + 15] = 1;
        key[130..132].copy_from_slice(&3u16.to_ne_bytes());
        key[136..139].copy_from_slice(b"key");
        let socket = tcp();
        match set(&socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &key) {
            Ok(()) => assert!(bar(&socket).unwrap().contains("TCP_MD5SIG")),
            Err(Errno::ENOPROTOOPT) => println!("skipped: no CONFIG_TCP_MD5SIG"),
            Err(errno) => panic!("{errno}"),
        }
        let socket = udp(AddressFamily::Inet);
        let group = [[224, 0, 0, 251], [127, 0, 0, 1]].concat();
        set(&socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group).unwrap();
        assert!(bar(&socket).unwrap().contains("a group"));
    }

    /// Those that are neither carried over nor a bar, and why that is right.
    const OTHER: [(i32, &[i32]); 5] = [
        // SO_DEBUG, SO_REUSEADDR, SO_TYPE, SO_ERROR, the sizes of buffers (carried
        // by themselves), SO_BSDCOMPAT, SO_REUSEPORT (the claims'), SO_PEERCRED,
        // SO_SNDLOWAT, the filter (asked otherwise), SO_PEERNAME, SO_ACCEPTCONN,
        // SO_PEERSEC, SO_PASSSEC, SO_PROTOCOL, SO_DOMAIN, SO_WIFI_STATUS, SO_NOFCS,
        // SO_BPF_EXTENSIONS, SO_MEMINFO, SO_INCOMING_NAPI_ID, SO_COOKIE,
        // SO_BINDTOIFINDEX (as SO_BINDTODEVICE), later forms of times,
        // SO_NETNS_COOKIE, SO_BUF_LOCK; SO_PASSCRED of Unix sockets.
        (
            libc::SOL_SOCKET,
            &[
                1, 2, 3, 4, 7, 8, 14, 15, 16, 17, 19, 26, 28, 30, 31, 34, 38, 39, 41, 43, 48, 55,
                56, 57, 62, 66, 67, 71, 72,
            ],
        ),
        // IP_HDRINCL, IP_ROUTER_ALERT and IP_NODEFRAG of raw sockets,
        // IP_PKTOPTIONS, IP_MTU, IP_BIND_ADDRESS_NO_PORT and IP_LOCAL_PORT_RANGE
        // (neither is for a port that is named), multicast, which a direct socket
        // neither sends nor hears.
        (
            libc::IPPROTO_IP,
            &[3, 5, 9, 14, 22, 24, 32, 33, 34, 41, 49, 51, 52],
        ),
        // IPV6_2292PKTOPTIONS, multicast, IPV6_ROUTER_ALERT of raw
        // sockets, IPV6_MTU, IPV6_V6ONLY (the place's), what IPv4 has in common,
        // headers (known by their memory).
        (
            libc::IPPROTO_IPV6,
            &[
                6, 17, 18, 19, 22, 24, 26, 29, 30, 54, 55, 57, 59, 61, 75, 78,
            ],
        ),
        // TCP_INFO, TCP_QUICKACK, which lasts a moment, TCP_THIN_DUPACK, which does
        // nothing, repairing, TCP_TIMESTAMP, TCP_CC_INFO, TCP_SAVED_SYN,
        // TCP_FASTOPEN_CONNECT, TCP_ULP, TCP_FASTOPEN_KEY (its own isn't told from
        // the network's), TCP_ZEROCOPY_RECEIVE, TCP_IS_MPTCP.
        (
            libc::IPPROTO_TCP,
            &[
                11, 12, 17, 19, 20, 21, 22, 24, 26, 28, 29, 30, 31, 33, 35, 43,
            ],
        ),
        // Of UDP-Lite.
        (libc::IPPROTO_UDP, &[10, 11]),
    ];

    /// Up to the last of Linux 6.18.
    #[test]
    fn every_option_that_can_be_read_was_thought_of() {
        for (level, last) in [
            (libc::SOL_SOCKET, 83),
            (libc::IPPROTO_IP, 52),
            (libc::IPPROTO_IPV6, 80),
            (libc::IPPROTO_TCP, 46),
            (libc::IPPROTO_UDP, 104),
        ] {
            for name in 1..=last {
                let is_read = [tcp(), udp(AddressFamily::Inet), udp(AddressFamily::Inet6)]
                    .iter()
                    .any(|socket| get(socket, level, name).is_ok());
                let places = [
                    CARRIED.contains(&(level, name)),
                    BARRING.iter().any(|it| (it.0, it.1) == (level, name)),
                    OTHER
                        .iter()
                        .any(|(of, names)| *of == level && names.contains(&name)),
                ];
                let places = places.iter().filter(|is_there| **is_there).count();
                assert!(places == 1 || !is_read && places == 0, "{level} {name}");
            }
        }
    }
}
