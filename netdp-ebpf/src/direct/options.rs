//! Socket options by what they have an effect on. Numbers are those of
//! `include/uapi/asm-generic/socket.h`, `linux/in.h`, `linux/in6.h`,
//! `linux/tcp.h` and `linux/tls.h`, the same on x86-64 and arm64.

/// What setting an option of a direct socket has an effect on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The socket and its connection.
    OfItsOwn,
    /// Who else may bind the port: settled when the socket was made.
    OnThePort,
    /// The interface that it hears and sends by.
    OnTheInterface,
    /// The class of the host's queues that it sends by.
    OnTheClass,
    /// The host's interfaces, routes, marks or filters; and all that isn't
    /// known.
    OnTheHost,
}

pub const SOL_SOCKET: i32 = 1;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const IPPROTO_IPV6: i32 = 41;
const SOL_TLS: i32 = 282;

/// The effect of an option.
#[inline(always)]
pub fn of(level: i32, name: i32) -> Effect {
    let Ok(bit) = u32::try_from(name) else {
        return Effect::OnTheHost;
    };
    if level == SOL_SOCKET && matches!(bit, REUSEADDR | REUSEPORT) {
        return Effect::OnThePort;
    }
    if level == SOL_SOCKET && bit == BINDTOIFINDEX {
        return Effect::OnTheInterface;
    }
    if level == SOL_SOCKET && bit == PRIORITY {
        return Effect::OnTheClass;
    }
    let (low, high) = match level {
        SOL_SOCKET => SOCKET,
        IPPROTO_IP => IP,
        IPPROTO_TCP => TCP,
        IPPROTO_UDP => UDP,
        IPPROTO_IPV6 => IPV6,
        SOL_TLS => (u64::MAX, u64::MAX),
        _ => (0, 0),
    };
    let known = match bit {
        0..64 => low >> bit & 1,
        64..128 => high >> (bit - 64) & 1,
        _ => 0,
    };
    if known == 1 {
        Effect::OfItsOwn
    } else {
        Effect::OnTheHost
    }
}

const REUSEADDR: u32 = 2;
const PRIORITY: u32 = 12;
const REUSEPORT: u32 = 15;
pub const BINDTOIFINDEX: u32 = 62;

/// Options 0 to 63, and 64 to 127.
type Set = (u64, u64);

const fn set(names: &[u32]) -> Set {
    let mut set = (0, 0);
    let mut at = 0;
    while at < names.len() {
        let name = names[at];
        if name < 64 {
            set.0 |= 1 << name;
        } else {
            set.1 |= 1 << (name - 64);
        }
        at += 1;
    }
    set
}

/// `SO_BROADCAST`, without which it would be sent to no more than its clients
/// either; `SO_SNDBUF`, `SO_RCVBUF`, `SO_KEEPALIVE`, `SO_OOBINLINE`, `SO_NO_CHECK`,
/// `SO_LINGER`, `SO_PASSCRED`, `SO_RCVLOWAT`, `SO_RCVTIMEO`, `SO_SNDTIMEO`,
/// `SO_TIMESTAMP`, `SO_TIMESTAMPNS`, `SO_TIMESTAMPING`, `SO_RXQ_OVFL`,
/// `SO_PEEK_OFF`, `SO_SELECT_ERR_QUEUE`, `SO_BUSY_POLL`, `SO_MAX_PACING_RATE`,
/// `SO_INCOMING_CPU`, `SO_ZEROCOPY`, the later forms of times (63 to 67),
/// `SO_PREFER_BUSY_POLL`, `SO_BUSY_POLL_BUDGET`, `SO_BUF_LOCK`, `SO_TXREHASH`;
/// `SO_RCVMARK` left out.
const SOCKET: Set = set(&[
    6, 7, 8, 9, 10, 11, 13, 16, 18, 20, 21, 29, 35, 37, 40, 42, 45, 46, 47, 49, 60, 63, 64, 65, 66,
    67, 69, 70, 72, 74,
]);

/// `IP_TOS`, `IP_TTL`, `IP_RECVOPTS`, `IP_RETOPTS`, `IP_PKTINFO`,
/// `IP_MTU_DISCOVER`, `IP_RECVERR`, `IP_RECVTTL`, `IP_RECVTOS`,
/// `IP_RECVORIGDSTADDR`, `IP_MINTTL`, `IP_CHECKSUM`, `IP_BIND_ADDRESS_NO_PORT`,
/// `IP_RECVFRAGSIZE`, `IP_RECVERR_RFC4884`.
const IP: Set = set(&[1, 2, 6, 7, 8, 10, 11, 12, 13, 20, 21, 23, 24, 25, 26]);

/// All but the repairing of connections (`TCP_REPAIR` and what it opens, 19 to
/// 22 and 29), `TCP_ULP` (31) and what goes with other keys than the program's.
/// `TCP_RTO_MAX_MS`, `TCP_RTO_MIN_US` and `TCP_DELACK_MAX_US` (44 to 46) are of
/// 6.15 and later.
const TCP: Set = set(&[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 17, 18, 23, 25, 26, 27, 28, 30, 32, 33, 34, 36,
    37, 44, 45, 46,
]);

/// `UDP_CORK`, `UDP_NO_CHECK6_TX`, `UDP_NO_CHECK6_RX`, `UDP_SEGMENT`, `UDP_GRO`;
/// not what has the kernel take datagrams for those of a tunnel (`UDP_ENCAP`).
const UDP: Set = set(&[1, 101, 102, 103, 104]);

/// What `IPV6_RECV...` was before RFC 3542 (2 to 5 and 8), `IPV6_FLOWINFO`,
/// `IPV6_UNICAST_HOPS`, `IPV6_MTU_DISCOVER`, `IPV6_MTU`, `IPV6_RECVERR`,
/// `IPV6_V6ONLY`, `IPV6_RECVERR_RFC4884`, `IPV6_FLOWINFO_SEND`,
/// `IPV6_RECVPKTINFO`, `IPV6_RECVHOPLIMIT`, `IPV6_RECVHOPOPTS`,
/// `IPV6_RECVRTHDR`, `IPV6_RECVDSTOPTS`, `IPV6_RECVPATHMTU`, `IPV6_DONTFRAG`,
/// `IPV6_RECVTCLASS`, `IPV6_TCLASS`, `IPV6_AUTOFLOWLABEL`,
/// `IPV6_ADDR_PREFERENCES`, `IPV6_MINHOPCOUNT`, `IPV6_RECVORIGDSTADDR`,
/// `IPV6_RECVFRAGSIZE`.
const IPV6: Set = set(&[
    2, 3, 4, 5, 8, 11, 16, 23, 24, 25, 26, 31, 33, 49, 51, 53, 56, 58, 60, 62, 66, 67, 70, 72, 73,
    74, 77,
]);
