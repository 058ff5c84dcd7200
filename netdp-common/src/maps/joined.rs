//! What is known of TCP connections between two sockets of this host.

use crate::addr::Be16;

/// Key of `sockets`: a socket by its connection. Two sockets are the ends of one
/// connection where each has the other's key turned round.
///
/// The cookie of a namespace is given once (`SO_NETNS_COOKIE`), and within a
/// namespace ports and the initial sequence numbers tell connections apart, also
/// one from the next with the same addresses and ports. Addresses have been
/// compared before there is a key.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketKey {
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    pub peer_netns: u64,
    /// Initial sequence number of the socket, host order.
    pub isn: u32,
    pub peer_isn: u32,
    pub port: Be16,
    pub peer_port: Be16,
    pub pad: u32,
}

impl SocketKey {
    /// That of the other end.
    #[inline(always)]
    pub const fn peer(&self) -> Self {
        Self {
            netns: self.peer_netns,
            peer_netns: self.netns,
            isn: self.peer_isn,
            peer_isn: self.isn,
            port: self.peer_port,
            peer_port: self.port,
            pad: 0,
        }
    }

    /// Which of a connection's two ends this one is: the same to both. Ends with
    /// equal numbers are not joined.
    #[inline(always)]
    pub const fn is_second(&self) -> bool {
        self.isn > self.peer_isn
    }
}

/// Value of `joined`, the storage of a socket.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Joined {
    pub key: SocketKey,
    /// Sequence number of the first byte that it sends.
    pub first: u32,
    /// [`joined_flags`].
    pub flags: u32,
    /// [`sockmap`] of its network.
    pub mode: u32,
    /// [`Config::members`](super::Config::members) when it was last made sure
    /// that both ends are members.
    pub members: u32,
    /// Index into `short`.
    pub slot: u32,
    pub pad: u32,
}

/// Bits of [`Joined::flags`].
pub mod joined_flags {
    /// What it sends goes by the stack, from now on.
    pub const STACK: u32 = 1;
    /// It has opened the connection.
    pub const OPENED: u32 = 2;
}

/// Value of `pairs`, keyed by the [`SocketKey`] of the first of two joined
/// sockets.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pair {
    /// By which the first end sends.
    pub first: Half,
    pub second: Half,
}

/// One direction of a joined connection.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Half {
    /// Bytes that were sent the short way.
    pub sent: u64,
    /// How many of them the receiver had read when it last sent something
    /// itself.
    pub read: u64,
}

/// Value of `members4`, keyed by the address of a container whose sockets may be
/// joined.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Number of the network.
    pub network: u32,
    /// Index into `short`.
    pub slot: u32,
    /// [`sockmap`].
    pub mode: u32,
    /// 1 where endpoints of the network may reach each other.
    pub icc: u32,
}

/// What a network wants of it: [`Member::mode`].
pub mod sockmap {
    /// Requests and answers.
    pub const AUTO: u32 = 1;
    /// Whatever there is room for.
    pub const ON: u32 = 2;
}

/// Value of `short`, keyed by counter slot: what was sent the short way by
/// sockets of an endpoint, and by those of the host to it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Short {
    /// Connections of which at least one message went the short way.
    pub connections: u64,
    pub messages: u64,
    pub bytes: u64,
}
