//! What the programs keep of packets that they saw.

use crate::addr::{Address, Be16, Mac};

use super::Delivery;

/// Key of `flows4` and `pending4`.
///
/// A published flow is keyed by the tuple as the container sees it. A
/// masqueraded flow is keyed by the tuple as the outside sees it with `local`
/// 0, whatever the host's address: so that while the source port is kept, the
/// container's own packets find it too and one entry serves both directions.
/// A masqueraded flow whose port had to be changed has a second entry, keyed
/// by the container's tuple.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey<A> {
    /// The peer.
    pub remote: A,
    /// The container, or 0 for a masqueraded flow.
    pub local: A,
    pub remote_port: Be16,
    /// For ICMP echo, the identifier.
    pub local_port: Be16,
    pub proto: u8,
    /// 1 in the keys of mappings and of who may send to them, which name no
    /// port of a peer; 0 in those of flows.
    pub mapping: u8,
    pub pad: u16,
}

/// What a flow is: [`Flow::kind`].
pub mod flow_kind {
    /// From outside, or from another container, to a published port.
    pub const PUBLISHED: u8 = 1;
    /// From a container to the outside; found by either side's packets.
    pub const MASQUERADE: u8 = 2;
    /// The container's side of a masqueraded flow whose port was changed.
    pub const MASQUERADE_OUT: u8 = 3;
    /// A socket of the host's own whose port was taken by a container's flow.
    pub const HOST: u8 = 4;
    /// The host's side of such a flow.
    pub const HOST_OUT: u8 = 5;
    /// From a container to a port that it published itself.
    pub const HAIRPIN: u8 = 6;
    /// A container's UDP port towards every peer, as the outside sees it; who
    /// may send there has a [`PERMIT`].
    pub const MAPPING: u8 = 7;
    /// The same where everybody may.
    pub const MAPPING_OPEN: u8 = 8;
    /// The container's side of either, where the port was changed.
    pub const MAPPING_OUT: u8 = 9;
    /// An address outside that may send to a [`MAPPING`].
    pub const PERMIT: u8 = 10;
    /// From a container to the outside, under its own address.
    pub const ROUTED: u8 = 11;
}

/// Value of `flows4` and `pending4`.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<A> {
    /// Published: the host's address that the client used. Masqueraded: the
    /// container's address.
    pub addr: A,
    /// The host's address that the outside sees.
    pub external: A,
    /// Published: the host's port that the client used. Masqueraded: the
    /// container's port. Entries `*_OUT`: the port that the outside sees.
    pub port: Be16,
    /// [`flow_kind`].
    pub kind: u8,
    /// [`crate::tcp::state`] for TCP; otherwise [`crate::flow`].
    pub state: u8,
    /// Seconds without a packet until this flow is forgotten.
    pub timeout: u32,
    /// Masqueraded: the container. Published: the client, if it is a container;
    /// otherwise no interface. The slot is that of the endpoint in whose share
    /// the entry counts: the container, or the client that is one.
    pub to: Delivery,
    /// Second of `CLOCK_MONOTONIC` in which the last packet came; written at
    /// most once a second.
    pub last_seen: u32,
    /// Published: the interface that the first packet came in by. Masqueraded:
    /// the uplink that it left by. 0 where the route alone says.
    pub ifindex: u32,
    /// In `pending4`, [`FlowKey::tag`] of its key: an LRU table may give the
    /// place of a value that is being read to another. In `flows4`, the number
    /// of its place in `order4`.
    pub tag: u32,
    /// Published: [`Endpoint::generation`](super::Endpoint::generation) under which the port was last found
    /// to be published, or 0 if nobody has looked.
    pub generation: u32,
    pub pad: u32,
}

/// Key of `frags4` (RFC 791: source, destination, protocol, identification).
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FragKey<A> {
    pub saddr: A,
    pub daddr: A,
    pub id: u32,
    pub proto: u32,
}

/// Value of `frags4`: the ports of the first fragment, and what of the datagram
/// has been seen ([`crate::fragment`]). Offsets count bytes from the end of the
/// network header, in host order.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frag {
    pub sport: Be16,
    pub dport: Be16,
    /// Where what was seen beyond a gap begins, and where it ends; both 0 where
    /// there is none.
    pub island: u16,
    pub island_end: u16,
    /// All before this has been seen.
    pub seen: u16,
    /// Where the datagram ends; 0 while its last fragment has not been seen.
    pub total: u16,
    /// Second of `CLOCK_MONOTONIC` in which the first fragment came.
    pub since: u32,
    /// Protocol number of the transport: of IPv6, later fragments name the
    /// header that comes first behind theirs.
    pub proto: u32,
    /// 1 while a program has sent the first fragment in once more.
    pub again: u32,
}

/// Places of `early` in one group: as many fragments of one datagram can wait.
pub const EARLY_IN_GROUP: u32 = 64;
/// Groups of places. One half is for what containers send, the other for what
/// comes from outside.
pub const EARLY_GROUPS: u32 = 16;
/// Bytes of a frame that can wait in `early`: a power of two.
pub const EARLY_FRAME: usize = 2048;

/// Value of `early`: a fragment that came before its first one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Early {
    /// 1 while a program reads or writes the place; changed atomically.
    pub busy: u64,
    /// [`FragKey::tag`] of its datagram; 0 where the place is free.
    pub tag: u32,
    /// Interface that it came by.
    pub ifindex: u32,
    /// Second of `CLOCK_MONOTONIC` in which it came.
    pub since: u32,
    /// Bytes of `frame` that are its own.
    pub length: u32,
    /// Whether it is lost unless its first fragment comes: the host's stack has
    /// no copy.
    pub only: u32,
    pub pad: u32,
    /// As it came, from the Ethernet header on.
    pub frame: [u8; EARLY_FRAME],
}

/// Value of `early_groups`: counters that programs change atomically.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EarlyGroup {
    /// Fragments put into the group's places so far; they take turns.
    pub next: u64,
    /// Places that are taken.
    pub waiting: u64,
}

/// Key of `socks4`: a socket of the host that was sent to a container.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SockKey<A: Address> {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Container address and port that it was sent to.
    pub addr: A,
    pub port: Be16,
    pub pad: u16,
    pub fill: A::Fill,
}

/// Value of `socks4`: the address that the program asked for.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<A: Address> {
    pub addr: A,
    pub port: Be16,
    pub pad: u16,
    pub fill: A::Fill,
}

/// Value of `stats`, per CPU: one endpoint's counters. Received and sent as
/// the container sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub drops: u64,
}

/// Entries of the flow tables that count in an endpoint's share.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// In the main table: conversations that the endpoint has opened.
    pub flows: u64,
    /// In the table of what isn't answered yet: the same.
    pub pending: u64,
    /// In the main table: conversations of the outside with its published
    /// ports.
    pub published: u64,
}

/// Value of `usage`, keyed by counter slot: what an endpoint has of the flow
/// tables. Programs add and subtract as entries come and go; the sweep puts
/// right what they can't see, such as an entry that an LRU table gave away.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Now; a number that is negative as an i64 counts as 0.
    pub now: Share,
    /// At the start of the sweep.
    pub before: Share,
    /// What the sweep has found so far.
    pub found: Share,
    /// What has left the main table since the sweep began.
    pub gone: Share,
}

/// Value of `sweeper` behind its timer: how far the sweep is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sweep {
    /// The longest that one run of the timer has taken, nanoseconds.
    pub longest: u64,
    /// How often the timer has run, and what that took in all, nanoseconds.
    pub runs: u64,
    pub busy: u64,
    /// Sweeps that have come to their end.
    pub sweeps: u64,
    /// What the next run does.
    pub step: u32,
    /// Whether every entry of the flow tables has its place in `order4` and
    /// `order6`. Programs write 0 where there was no room.
    pub complete: u32,
}

/// Value of `sweeper`. A `bpf_timer` is 16 bytes (`include/uapi/linux/bpf.h`,
/// 5.15).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimedSweep {
    pub timer: [u64; 2],
    pub sweep: Sweep,
}

/// Value of `refusals`, keyed by counter slot: the ICMP errors that an endpoint
/// was sent about packets that were refused.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// Second of `CLOCK_MONOTONIC` of the last one.
    pub second: u32,
    /// How many in that second, those that were too many counted.
    pub sent: u32,
}

/// Value of `paths4`, per CPU: the way out for a destination, asked of the FIB
/// once a second.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path<A> {
    pub daddr: A,
    /// Coarse second in which the FIB said so; 0 for an empty entry.
    pub second: u32,
    pub ifindex: u32,
    pub smac: Mac,
    pub dmac: Mac,
    /// The longest packet that goes this way, bytes from the IP header on.
    pub mtu: u32,
}
