//! Keys and values of the BPF maps: one definition for kernel and userspace.
//!
//! Every type is `repr(C)` without implicit padding, so that equal keys have
//! equal bytes, and what programs keep on their stack is aligned to eight
//! bytes, because the verifier refuses stack accesses across them. Addresses and
//! ports are in network order, as in the packet; all other numbers are in host
//! order. `docs/maps.md` says who writes what. Maps whose names end in 4 are
//! described below; those of IPv6, which end in 6, are the same.

use crate::{
    addr::{Address, Be16, Mac, V4Addr, V6Addr},
    range::{AllowPlace, RangePlace, shifted},
};

/// Names under which maps are pinned; at most 15 bytes, as the kernel keeps.
pub mod name {
    pub const CONFIG: &str = "config";
    pub const ENDPOINTS: &str = "endpoints";
    pub const ADDRS4: &str = "addrs4";
    pub const PORTS4: &str = "ports4";
    pub const BACK4: &str = "back4";
    pub const LOCAL4: &str = "local4";
    pub const UPLINKS: &str = "uplinks";
    pub const FLOWS4: &str = "flows4";
    pub const PENDING4: &str = "pending4";
    pub const ORDER4: &str = "order4";
    pub const FRAGS4: &str = "frags4";
    pub const SOCKS4: &str = "socks4";
    pub const PATHS4: &str = "paths4";
    pub const LINKS4: &str = "links4";
    pub const RANGES4: &str = "ranges4";
    pub const BACK_RANGES4: &str = "back_ranges4";
    pub const ALLOW4: &str = "allow4";
    pub const ADDRS6: &str = "addrs6";
    pub const PORTS6: &str = "ports6";
    pub const BACK6: &str = "back6";
    pub const LOCAL6: &str = "local6";
    pub const FLOWS6: &str = "flows6";
    pub const PENDING6: &str = "pending6";
    pub const ORDER6: &str = "order6";
    pub const FRAGS6: &str = "frags6";
    pub const SOCKS6: &str = "socks6";
    pub const PATHS6: &str = "paths6";
    pub const LINKS6: &str = "links6";
    pub const RANGES6: &str = "ranges6";
    pub const BACK_RANGES6: &str = "back_ranges6";
    pub const ALLOW6: &str = "allow6";
    pub const DROPS: &str = "drops";
    pub const STATS: &str = "stats";
    pub const SWEEPER: &str = "sweeper";
    pub const HOST_FLOWS: &str = "host_flows";
    pub const MAPPINGS: &str = "mappings";
    pub const USAGE: &str = "usage";
    pub const OWN: &str = "own";
}

/// How many endpoints can have counters of their own: entries of `stats`.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Entries of `ports4` and of `back4`, and of those of IPv6 each: so it is with
/// the numbers below, too.
pub const MAX_PORTS: u32 = 131_072;
/// Entries of `ranges4` and of `back_ranges4`.
pub const MAX_RANGES: u32 = 16_384;
/// Entries of `allow4`.
pub const MAX_ALLOWED: u32 = 65_536;
/// Entries of `flows4` unless the daemon is told otherwise.
pub const DEFAULT_FLOWS: u32 = 262_144;
/// `order4` has so many places for each entry of `flows4`: what has left the
/// table keeps its place until the sweep comes by.
pub const ORDER_PER_FLOW: u32 = 2;
/// Entries of `pending4`.
pub const MAX_PENDING: u32 = 65_536;
/// The part of the flow tables that one endpoint may fill is one in so many,
/// unless the daemon is told otherwise. Then an endpoint may have as many flows
/// as there are ports towards one peer.
pub const ENDPOINT_SHARE: u32 = 4;
/// Entries of `local4`.
pub const MAX_LOCAL: u32 = 16_384;
/// Entries of `links4`.
pub const MAX_LINKS: u32 = 65_536;
/// Entries of `uplinks`.
pub const MAX_UPLINKS: u32 = 256;

/// `config[0]`: what the programs are told by the daemon.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Seconds without a packet until a TCP flow in this state is forgotten.
    pub tcp_established: u32,
    /// The same for a TCP flow that is opening or closing.
    pub tcp_transitory: u32,
    /// The same for UDP.
    pub udp: u32,
    /// The same for ICMP echo.
    pub icmp: u32,
    /// First port of the range from which masquerade takes ports, host order.
    pub port_first: u16,
    /// Last port of that range, inclusive, host order.
    pub port_last: u16,
    /// Seconds between two sweeps of the flow tables.
    pub sweep_interval: u32,
    /// Entries of the main flow table that one endpoint may have by its own
    /// conversations, and again by those with its published ports.
    pub flows_per_endpoint: u32,
    /// Entries of the table of what isn't answered yet that one endpoint may
    /// have.
    pub pending_per_endpoint: u32,
    /// How many uplinks there are.
    pub uplinks: u32,
    /// [`config_flags`].
    pub flags: u32,
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// A range of ports is published, of either family.
    pub const RANGES: u32 = 1;
}

impl Default for Config {
    /// Times of RFC 5382 (TCP), RFC 4787 (UDP) and RFC 5508 (ICMP).
    fn default() -> Self {
        Self {
            tcp_established: 7440,
            tcp_transitory: 240,
            udp: 300,
            icmp: 60,
            port_first: 1024,
            port_last: 65535,
            sweep_interval: 5,
            flows_per_endpoint: DEFAULT_FLOWS / ENDPOINT_SHARE,
            pending_per_endpoint: MAX_PENDING / ENDPOINT_SHARE,
            uplinks: 0,
            flags: 0,
        }
    }
}

/// Bits of [`Endpoint::flags`], those of its network included.
pub mod endpoint_flags {
    /// Something outside may be reached, masqueraded as the uplink's address.
    pub const MASQUERADE: u16 = 1;
    /// Endpoints of the same network may be reached.
    pub const ICC: u16 = 2;
    /// The endpoint has at least one published port, or has had: its flows may
    /// still be there.
    pub const PUBLISHED: u16 = 4;
    /// Without [`ICC`]: at least one entry of `links4` or `links6` names it.
    pub const LINKED: u16 = 8;
    /// Nothing but the same network and the host itself may be reached: no
    /// published port of the host either.
    pub const INTERNAL: u16 = 16;
    /// A UDP port has one port outside towards every peer: endpoint-independent
    /// mapping (RFC 4787, REQ-1). Peers whose address the container has sent to
    /// may answer there: address-dependent filtering.
    pub const MAPPED: u16 = 0x100;
    /// With [`MAPPED`]: everybody may send there, endpoint-independent
    /// filtering (RFC 4787, REQ-8).
    pub const OPEN: u16 = 0x200;
    /// What it sends outside over IPv4 keeps its address, and the outside
    /// reaches it there.
    pub const ROUTED4: u16 = 0x400;
    /// The same over IPv6.
    pub const ROUTED6: u16 = 0x800;
}

/// Value of `endpoints`, keyed by the ifindex (u32) of the veth's host end.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// MAC address of the container's interface.
    pub mac: Mac,
    /// [`endpoint_flags`].
    pub flags: u16,
    /// MAC address of the host end: what the container takes for its gateway.
    pub host_mac: Mac,
    pub pad: u16,
    /// Number of the network, unique on this host and never 0.
    pub network: u32,
    /// Index into `stats`.
    pub slot: u32,
    /// IPv4 address of the container, or 0.
    pub addr4: V4Addr,
    /// Gateway of the network, or 0.
    pub gateway4: V4Addr,
    /// IPv6 address of the container, or 0.
    pub addr6: V6Addr,
    /// IPv6 gateway of the network, or 0.
    pub gateway6: V6Addr,
    /// Stands for the endpoint's set of published ports, and is never 0: a flow
    /// that was made under another one has to ask whether its port is still
    /// published.
    pub generation: u32,
    /// Address of the host that masqueraded packets get whatever the uplink's,
    /// or 0.
    pub source4: V4Addr,
    /// The same of IPv6.
    pub source6: V6Addr,
}

/// Where to hand a packet over to a container: all that a redirect needs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Delivery {
    /// Host end of the container's veth pair; 0 for none.
    pub ifindex: u32,
    /// Index into `stats`.
    pub slot: u32,
    /// MAC address of the container's interface.
    pub mac: Mac,
    /// MAC address of the host end.
    pub host_mac: Mac,
}

/// Value of `addrs4`: whose address it is. Keyed by the container's address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub to: Delivery,
    /// Number of the network.
    pub network: u32,
    /// [`endpoint_flags`].
    pub flags: u32,
}

/// Key of `ports4` (host address, host port; address 0 for every address of
/// the host) and of `back4` (container address, container port).
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortKey<A: Address> {
    pub addr: A,
    pub port: Be16,
    /// TCP or UDP, by its protocol number.
    pub proto: u8,
    pub pad: u8,
    pub fill: A::Fill,
}

impl<A: Address> PortKey<A> {
    #[inline(always)]
    pub const fn new(addr: A, port: Be16, proto: u8) -> Self {
        Self {
            addr,
            port,
            proto,
            pad: 0,
            fill: A::FILL,
        }
    }
}

/// Value of `ports4`: the container behind a published port.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published<A> {
    /// Address of the container.
    pub addr: A,
    /// Port in the container.
    pub port: Be16,
    /// Port of the host that leads there. Of a range, the first: those that
    /// follow it lead to those that follow `port`.
    pub host_port: Be16,
    pub to: Delivery,
    /// The host address that `back4` names for this container port if this
    /// very mapping is the way back, otherwise 0. A client that used this
    /// address needs no entry: the way back follows from the tables alone.
    pub back_addr: A,
    /// Number of the set of addresses that may use it, or 0 for all.
    pub allow: u32,
    pub pad: u32,
}

impl<A> Published<A> {
    /// The container's port behind one of the host's.
    #[inline(always)]
    pub const fn container_port(&self, host_port: Be16) -> Be16 {
        shifted(host_port, self.host_port, self.port)
    }
}

/// Value of `ranges4`: the container behind published ports that follow each
/// other.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishedRange<A> {
    pub published: Published<A>,
    /// How many ports there are besides the first.
    pub span: u16,
    /// [`TrieKey::prefix`](crate::range::TrieKey::prefix) of its key.
    pub prefix: u16,
    pub pad: u32,
}

/// Value of `back4`: source address and port that answers of a container port
/// get when no flow says otherwise.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Back<A: Address> {
    /// Address of the host, never 0.
    pub addr: A,
    /// Published port of the host.
    pub port: Be16,
    /// Port of the container that answers by it. Of a range, the first: those
    /// that follow it answer by those that follow `port`.
    pub own_port: Be16,
    /// 0 while the port is published. Afterwards the second of
    /// `CLOCK_MONOTONIC` until which answers are dropped: nothing but this
    /// tells them from a conversation that the container begins.
    pub until: u32,
    pub pad: u32,
    pub fill: A::Fill,
}

impl<A: Address> Back<A> {
    #[inline(always)]
    pub const fn new(addr: A, port: Be16, own_port: Be16) -> Self {
        Self {
            addr,
            port,
            own_port,
            until: 0,
            pad: 0,
            fill: A::FILL,
        }
    }

    /// The host's port by which one of the container's answers.
    #[inline(always)]
    pub const fn host_port(&self, container_port: Be16) -> Be16 {
        shifted(container_port, self.own_port, self.port)
    }
}

/// Value of `back_ranges4`: how container ports that follow each other answer.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackRange<A: Address> {
    pub back: Back<A>,
    /// How many ports there are besides the first.
    pub span: u16,
    /// [`TrieKey::prefix`](crate::range::TrieKey::prefix) of its key.
    pub prefix: u16,
    pub pad: u32,
}

/// Key of `links4`: a port of a container that another one may use although
/// their network has `icc=false`. The value is the number of the network.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkKey<A> {
    /// Address of the container that may ask.
    pub client: A,
    /// Address of the container that answers.
    pub server: A,
    /// Port of the latter.
    pub port: Be16,
    /// TCP or UDP, by its protocol number.
    pub proto: u8,
    pub pad: u8,
    pub pad2: u32,
}

impl<A> LinkKey<A> {
    #[inline(always)]
    pub const fn new(client: A, server: A, port: Be16, proto: u8) -> Self {
        Self {
            client,
            server,
            port,
            proto,
            pad: 0,
            pad2: 0,
        }
    }
}

/// Bits of [`Local::flags`].
pub mod local_flags {
    /// Gateway of a network, on its bridge.
    pub const GATEWAY: u32 = 1;
}

/// Value of `local4`, keyed by an address of the host (not loopback).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// The interface that has it.
    pub ifindex: u32,
    /// [`local_flags`].
    pub flags: u32,
}

/// Value of `uplinks`, keyed by ifindex (u32).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    pub mac: Mac,
    /// What of [`Self::addr4`] is the subnet on the link, bits; 0 where
    /// nothing is known to be on it, [`ALL_ON_LINK`] where everything is.
    pub prefix4: u8,
    /// The same of IPv6.
    pub prefix6: u8,
    /// Address that masqueraded packets get, or 0 for none.
    pub addr4: V4Addr,
    /// Where its own default route leads, or 0 if it has none. It need not be
    /// the one that the host prefers.
    pub gateway4: V4Addr,
    /// As `addr4`: a global or unique local one.
    pub addr6: V6Addr,
    pub gateway6: V6Addr,
    /// [`uplink_flags`].
    pub flags: u32,
    pub pad: u32,
}

/// Bits of [`Uplink::flags`].
pub mod uplink_flags {
    /// It is up to the kernel's route which of several IPv4 addresses a new
    /// masqueraded flow gets.
    pub const BY_ROUTE4: u32 = 1;
    /// The same of IPv6.
    pub const BY_ROUTE6: u32 = 2;
}

/// [`Uplink::prefix4`] and [`Uplink::prefix6`] of a link that leads on without
/// a gateway.
pub const ALL_ON_LINK: u8 = u8::MAX;

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
    /// Published: [`Endpoint::generation`] under which the port was last found
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
    pub pad: u32,
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

/// Asserts that no bytes of a type are implicit padding.
macro_rules! assert_layout {
    ($($type:ty: $size:literal = $($part:expr),+;)*) => {
        $(const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(0 $(+ $part)+ == $size);
        };)*
    };
}

assert_layout! {
    Config: 40 = 4 * 4, 2 * 2, 4, 4 * 3, 4;
    Endpoint: 88 = 8, 8, 8, 8, 32, 8, 16;
    Delivery: 20 = 8, 12;
    Owner: 28 = 20, 8;
    PortKey<V4Addr>: 8 = 4, 2, 1, 1;
    PortKey<V6Addr>: 24 = 16, 2, 1, 1, 4;
    Published<V4Addr>: 40 = 4, 4, 20, 4, 8;
    Published<V6Addr>: 64 = 16, 4, 20, 16, 8;
    PublishedRange<V4Addr>: 48 = 40, 4, 4;
    PublishedRange<V6Addr>: 72 = 64, 4, 4;
    Back<V4Addr>: 16 = 4, 4, 4, 4;
    Back<V6Addr>: 32 = 16, 4, 4, 4, 4;
    BackRange<V4Addr>: 24 = 16, 4, 4;
    BackRange<V6Addr>: 40 = 32, 4, 4;
    RangePlace<V4Addr>: 16 = 4, 4, 4, 2, 2;
    RangePlace<V6Addr>: 32 = 4, 4, 16, 2, 2, 4;
    AllowPlace<V4Addr>: 16 = 4, 4, 4, 4;
    AllowPlace<V6Addr>: 32 = 4, 4, 16, 4, 4;
    LinkKey<V4Addr>: 16 = 8, 4, 4;
    LinkKey<V6Addr>: 40 = 32, 4, 4;
    Local: 8 = 4, 4;
    Uplink: 56 = 8, 4, 4, 16, 16, 4, 4;
    FlowKey<V4Addr>: 16 = 4, 4, 4, 4;
    FlowKey<V6Addr>: 40 = 16, 16, 4, 4;
    Flow<V4Addr>: 56 = 8, 4, 4, 20, 8, 4, 8;
    Flow<V6Addr>: 80 = 32, 4, 4, 20, 8, 4, 8;
    FragKey<V4Addr>: 16 = 8, 8;
    FragKey<V6Addr>: 40 = 32, 8;
    Frag: 24 = 4, 4, 4, 4, 8;
    Early: 2080 = 8, 4, 4, 4, 4, 4, 4, 2048;
    EarlyGroup: 16 = 8, 8;
    SockKey<V4Addr>: 16 = 8, 8;
    SockKey<V6Addr>: 32 = 8, 16, 4, 4;
    Asked<V4Addr>: 8 = 8;
    Asked<V6Addr>: 24 = 16, 4, 4;
    Stats: 40 = 40;
    Share: 24 = 8 * 3;
    Usage: 96 = 24 * 4;
    Sweep: 40 = 8, 8, 8, 8, 4, 4;
    TimedSweep: 56 = 16, 40;
    Refusals: 8 = 4, 4;
    Path<V4Addr>: 28 = 4, 8, 12, 4;
    Path<V6Addr>: 40 = 16, 8, 12, 4;
}

#[cfg(feature = "user")]
mod pod {
    use super::{
        Asked, Back, BackRange, Config, Endpoint, Flow, FlowKey, Frag, FragKey, LinkKey, Local,
        Owner, Path, PortKey, Published, PublishedRange, SockKey, Stats, TimedSweep, Uplink, Usage,
    };
    use crate::{
        addr::{Address, V4Addr, V6Addr},
        range::{AllowPlace, RangePlace},
    };

    macro_rules! pod {
        ($($type:ty),* $(,)?) => {
            // SAFETY: repr(C), Copy, without padding (asserted above), and any
            // bytes are a valid value.
            $(unsafe impl aya::Pod for $type {})*
        };
    }

    macro_rules! family_pod {
        ($($type:ident),* $(,)?) => {
            // SAFETY: as above, for both kinds of address that there are.
            $(unsafe impl<A: Address> aya::Pod for $type<A> {})*
        };
    }

    pod!(
        Config, Endpoint, Owner, Local, Uplink, Frag, Stats, Usage, TimedSweep, V4Addr, V6Addr,
    );
    family_pod!(
        PortKey,
        Published,
        Back,
        FlowKey,
        Flow,
        FragKey,
        SockKey,
        Asked,
        Path,
        LinkKey,
        PublishedRange,
        BackRange,
        RangePlace,
        AllowPlace,
    );
}
