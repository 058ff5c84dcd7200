//! The maps. `docs/maps.md` says who writes what.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_timer},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, SkStorage, SockHash},
    macros::btf_map,
};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    block::BlockPlace,
    left::MAX_LEFT,
    limit::Limit,
    maps::{
        Asked, Back, BackRange, Client, ClientKey, Config, DEFAULT_FLOWS, Datagrams, EARLY_GROUPS,
        EARLY_IN_GROUP, Early, EarlyGroup, Endpoint, Flow, FlowKey, Frag, FragKey, Joined, Known,
        LinkKey, Local, MAX_ALLOWED, MAX_BLOCKED, MAX_BUCKETS, MAX_CALLS, MAX_CLIENTS, MAX_CLOSED,
        MAX_ENDPOINTS, MAX_HEARD, MAX_LINKS, MAX_LOCAL, MAX_OWN_WAYS, MAX_PAIRS, MAX_PENDING,
        MAX_PORTS, MAX_RANGES, MAX_SOCKETS, MAX_UPLINKS, MadeFor, Member, ORDER_PER_FLOW, OwnPort,
        OwnWay, Owner, Pair, Path, PortKey, Published, PublishedRange, Refusals, Short, SockKey,
        SocketKey, Stats, Sweep, Times, Uplink, Usage, seen,
    },
    own,
    range::{AllowPlace, RangePlace},
};

/// Entries of `drops`: more than there are reasons.
pub const MAX_DROPS: usize = 64;
/// Size of a value of `work`, in words of 64 bits.
pub const WORK_WORDS: usize = 64;
/// Bytes of the value of `quoted`: a power of two.
pub const QUOTE_ROOM: usize = 2048;
/// Entries of `paths4` on each CPU, a power of two.
pub const MAX_PATHS: usize = 256;
/// Entries of `known4` on each CPU, a power of two.
pub const MAX_KNOWN: usize = 128;

pub type Addrs<A> = HashMap<A, Owner, { MAX_ENDPOINTS as usize }>;
/// The tables that the daemon alone writes are as large as any host may need, and
/// few need much: entries take memory only when they are made.
pub type Ports<A> =
    HashMap<PortKey<A>, Published<A>, { MAX_PORTS as usize }, { BPF_F_NO_PREALLOC as usize }>;
pub type Backs<A> =
    HashMap<PortKey<A>, Back<A>, { MAX_PORTS as usize }, { BPF_F_NO_PREALLOC as usize }>;
pub type Locals<A> = HashMap<A, Local, { MAX_LOCAL as usize }, { BPF_F_NO_PREALLOC as usize }>;
/// Few hosts have any, so entries take memory only when they are made.
pub type Links<A> =
    HashMap<LinkKey<A>, u32, { MAX_LINKS as usize }, { BPF_F_NO_PREALLOC as usize }>;
/// One entry, unless the loader makes room for
/// [`MAX_OTHERS`](netdp_common::maps::MAX_OTHERS).
pub type Others<A> = LruHashMap<FlowKey<A>, u32, 1>;
pub type Ranges<A> = LpmTrie<RangePlace<A>, PublishedRange<A>, { MAX_RANGES as usize }>;
pub type BackRanges<A> = LpmTrie<RangePlace<A>, BackRange<A>, { MAX_RANGES as usize }>;
pub type Allowed<A> = LpmTrie<AllowPlace<A>, u32, { MAX_ALLOWED as usize }>;
pub type Blocked<A> = LpmTrie<BlockPlace<A>, u64, { MAX_BLOCKED as usize }>;
/// When the bucket of a source will be full, nanoseconds of `CLOCK_MONOTONIC`.
pub type Buckets<A> = LruHashMap<A, u64, { MAX_BUCKETS as usize }>;
/// Second of the last datagram.
pub type Heard<A> = LruHashMap<FlowKey<A>, u32, { MAX_HEARD as usize }>;
pub type Flows<A> = HashMap<FlowKey<A>, Flow<A>, { DEFAULT_FLOWS as usize }>;
pub type Pending<A> = LruHashMap<FlowKey<A>, Flow<A>, { MAX_PENDING as usize }>;
/// Places of flows in the order in which the sweep looks at them, see
/// [`FlowKey::place`].
pub type Order<A> = Queue<FlowKey<A>, { (ORDER_PER_FLOW * DEFAULT_FLOWS) as usize }>;
pub type Frags<A> = LruHashMap<FragKey<A>, Frag, 8192>;
pub type EarlyPlaces = Array<Early, { (EARLY_GROUPS * EARLY_IN_GROUP) as usize }>;
pub type Calls<A> = LruHashMap<FlowKey<A>, u32, { MAX_CALLS as usize }>;
/// Few hosts have any.
pub type Members<A> =
    HashMap<A, Member, { MAX_ENDPOINTS as usize }, { BPF_F_NO_PREALLOC as usize }>;
pub type Socks<A> = LruHashMap<SockKey<A>, Asked<A>, 65536>;
pub type Clients<A> = LruHashMap<ClientKey<A>, Client<A>, { MAX_CLIENTS as usize }>;
/// Room for an entry in the making.
pub type Scratch<A> = PerCpuArray<Flow<A>, 1>;
pub type Paths<A> = PerCpuArray<Path<A>, MAX_PATHS>;
pub type KnownPlaces<A> = PerCpuArray<Known<A>, MAX_KNOWN>;

#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<u32, Endpoint, { MAX_ENDPOINTS as usize }> = HashMap::new();
#[btf_map(name = "uplinks")]
pub static UPLINKS: HashMap<u32, Uplink, { MAX_UPLINKS as usize }> = HashMap::new();
/// The filter of [`own`].
#[btf_map(name = "own")]
pub static OWN: Array<u64, { own::WORDS as usize }> = Array::new();
#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<u64, MAX_DROPS> = PerCpuArray::new();
/// What the programs for another engine left to the stack, by reason.
#[btf_map(name = "left")]
pub static LEFT: PerCpuArray<u64, MAX_LEFT> = PerCpuArray::new();
#[btf_map(name = "stats")]
pub static STATS: PerCpuArray<Stats, { MAX_ENDPOINTS as usize }> = PerCpuArray::new();
#[btf_map(name = "usage")]
pub static USAGE: Array<Usage, { MAX_ENDPOINTS as usize }> = Array::new();
/// Set once a flow of a host's socket had to be translated, so
/// that hosts without any don't look for one.
#[btf_map(name = "host_flows")]
pub static HOST_FLOWS: Array<u32, 1> = Array::new();
/// Set once a mapping was made, so that hosts without any don't look for one.
#[btf_map(name = "mappings")]
pub static MAPPINGS: Array<u32, 1> = Array::new();
/// Set once a container's packet for another container's own address went to a
/// socket of the host, so that hosts without any don't look for one.
#[btf_map(name = "inward")]
pub static INWARD: Array<u32, 1> = Array::new();
/// Set once there was an unanswered entry of a client that the tables alone don't
/// lead back to, so that hosts without any don't look for one.
#[btf_map(name = "expecting")]
pub static EXPECTING: Array<u32, 1> = Array::new();
/// Second in which the flow table of a family last had no room, by
/// [`Family::FULL`](crate::family::Family::FULL).
#[btf_map(name = "full")]
pub static FULL: Array<u32, 2> = Array::new();
/// Times of endpoints whose network has some of its own, by counter slot.
#[btf_map(name = "times")]
pub static TIMES: HashMap<u32, Times, { MAX_ENDPOINTS as usize }> = HashMap::new();
/// 1 while a source is blocked, so that hosts without any don't look for one.
#[btf_map(name = "blocking")]
pub static BLOCKING: Array<u32, 1> = Array::new();
/// Zeros while sources may begin as many conversations as they like.
#[btf_map(name = "limit")]
pub static LIMIT: Array<Limit, 1> = Array::new();
#[btf_map(name = "sweeper")]
pub static SWEEPER: Array<Sweeper, 1> = Array::new();

/// Joined sockets, by their connections.
#[btf_map(name = "sockets")]
pub static SOCKETS: SockHash<SocketKey, { MAX_SOCKETS as usize }> = SockHash::new();
/// What a socket that was joined needs for each message.
#[btf_map(name = "joined")]
pub static JOINED: SkStorage<Joined> = SkStorage::new();
/// Direct sockets that are being made: what has an entry may be bound and set as
/// netdp does it.
#[btf_map(name = "unsealed")]
pub static UNSEALED: SkStorage<u32> = SkStorage::new();
/// What netdp has made a direct socket of TCP for. It tells the daemon, too, which
/// sockets of a program are netdp's.
#[btf_map(name = "made_for")]
pub static MADE_FOR: SkStorage<MadeFor> = SkStorage::new();
/// Where direct ports are for programs of their own sandbox.
#[btf_map(name = "own_ways")]
pub static OWN_WAYS: HashMap<
    OwnPort,
    OwnWay,
    { MAX_OWN_WAYS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
/// What direct sockets of UDP have heard of last.
#[btf_map(name = "datagrams")]
pub static DATAGRAMS: SkStorage<Datagrams> = SkStorage::new();
/// By [`seen`], 1 where there was such a thing, so that hosts without don't look
/// for it.
#[btf_map(name = "direct_seen")]
pub static DIRECT_SEEN: Array<u32, { seen::COUNT as usize }> = Array::new();
/// Cookies of direct sockets of UDP that have lost their port.
#[btf_map(name = "closed")]
pub static CLOSED: HashMap<u64, u32, { MAX_CLOSED as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
/// How far both directions of a joined connection are.
#[btf_map(name = "pairs")]
pub static PAIRS: HashMap<SocketKey, Pair, { MAX_PAIRS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map(name = "short")]
pub static SHORT: PerCpuArray<Short, { MAX_ENDPOINTS as usize }> = PerCpuArray::new();

#[btf_map(name = "addrs4")]
pub static ADDRS4: Addrs<V4Addr> = HashMap::new();
#[btf_map(name = "ports4")]
pub static PORTS4: Ports<V4Addr> = HashMap::new();
#[btf_map(name = "back4")]
pub static BACK4: Backs<V4Addr> = HashMap::new();
#[btf_map(name = "local4")]
pub static LOCAL4: Locals<V4Addr> = HashMap::new();
#[btf_map(name = "flows4")]
pub static FLOWS4: Flows<V4Addr> = HashMap::new();
#[btf_map(name = "pending4")]
pub static PENDING4: Pending<V4Addr> = LruHashMap::new();
#[btf_map(name = "order4")]
pub static ORDER4: Order<V4Addr> = Queue::new();
#[btf_map(name = "frags4")]
pub static FRAGS4: Frags<V4Addr> = LruHashMap::new();
#[btf_map(name = "calls4")]
pub static CALLS4: Calls<V4Addr> = LruHashMap::new();
#[btf_map(name = "socks4")]
pub static SOCKS4: Socks<V4Addr> = LruHashMap::new();
/// Fragments of either family that came before their first one.
#[btf_map(name = "early")]
pub static EARLY: EarlyPlaces = Array::new();
#[btf_map(name = "early_groups")]
pub static EARLY_GROUP: Array<EarlyGroup, { EARLY_GROUPS as usize }> = Array::new();
/// How many ICMP errors an endpoint was sent lately, by counter slot.
#[btf_map(name = "refusals")]
pub static REFUSALS: Array<Refusals, { MAX_ENDPOINTS as usize }> = Array::new();
/// What an ICMP error is going to quote.
#[btf_map(name = "quoted")]
pub static QUOTED: PerCpuArray<[u8; QUOTE_ROOM], 1> = PerCpuArray::new();
/// A [`Work`](crate::work::Work) of either family.
#[btf_map(name = "work")]
pub static WORK: PerCpuArray<[u64; WORK_WORDS], 1> = PerCpuArray::new();
#[btf_map(name = "clients4")]
pub static CLIENTS4: Clients<V4Addr> = LruHashMap::new();
#[btf_map(name = "scratch4")]
pub static SCRATCH4: Scratch<V4Addr> = PerCpuArray::new();
#[btf_map(name = "paths4")]
pub static PATHS4: Paths<V4Addr> = PerCpuArray::new();
#[btf_map(name = "known4")]
pub static KNOWN4: KnownPlaces<V4Addr> = PerCpuArray::new();
#[btf_map(name = "members4")]
pub static MEMBERS4: Members<V4Addr> = HashMap::new();
#[btf_map(name = "links4")]
pub static LINKS4: Links<V4Addr> = HashMap::new();
#[btf_map(name = "others4")]
pub static OTHERS4: Others<V4Addr> = LruHashMap::new();
#[btf_map(name = "ranges4")]
pub static RANGES4: Ranges<V4Addr> = LpmTrie::new();
#[btf_map(name = "back_ranges4")]
pub static BACK_RANGES4: BackRanges<V4Addr> = LpmTrie::new();
#[btf_map(name = "allow4")]
pub static ALLOW4: Allowed<V4Addr> = LpmTrie::new();
#[btf_map(name = "blocked4")]
pub static BLOCKED4: Blocked<V4Addr> = LpmTrie::new();
#[btf_map(name = "buckets4")]
pub static BUCKETS4: Buckets<V4Addr> = LruHashMap::new();
#[btf_map(name = "heard4")]
pub static HEARD4: Heard<V4Addr> = LruHashMap::new();

#[btf_map(name = "addrs6")]
pub static ADDRS6: Addrs<V6Addr> = HashMap::new();
#[btf_map(name = "ports6")]
pub static PORTS6: Ports<V6Addr> = HashMap::new();
#[btf_map(name = "back6")]
pub static BACK6: Backs<V6Addr> = HashMap::new();
#[btf_map(name = "local6")]
pub static LOCAL6: Locals<V6Addr> = HashMap::new();
#[btf_map(name = "flows6")]
pub static FLOWS6: Flows<V6Addr> = HashMap::new();
#[btf_map(name = "pending6")]
pub static PENDING6: Pending<V6Addr> = LruHashMap::new();
#[btf_map(name = "order6")]
pub static ORDER6: Order<V6Addr> = Queue::new();
#[btf_map(name = "frags6")]
pub static FRAGS6: Frags<V6Addr> = LruHashMap::new();
#[btf_map(name = "calls6")]
pub static CALLS6: Calls<V6Addr> = LruHashMap::new();
#[btf_map(name = "socks6")]
pub static SOCKS6: Socks<V6Addr> = LruHashMap::new();
#[btf_map(name = "clients6")]
pub static CLIENTS6: Clients<V6Addr> = LruHashMap::new();
#[btf_map(name = "scratch6")]
pub static SCRATCH6: Scratch<V6Addr> = PerCpuArray::new();
#[btf_map(name = "paths6")]
pub static PATHS6: Paths<V6Addr> = PerCpuArray::new();
#[btf_map(name = "known6")]
pub static KNOWN6: KnownPlaces<V6Addr> = PerCpuArray::new();
#[btf_map(name = "members6")]
pub static MEMBERS6: Members<V6Addr> = HashMap::new();
#[btf_map(name = "links6")]
pub static LINKS6: Links<V6Addr> = HashMap::new();
#[btf_map(name = "others6")]
pub static OTHERS6: Others<V6Addr> = LruHashMap::new();
#[btf_map(name = "ranges6")]
pub static RANGES6: Ranges<V6Addr> = LpmTrie::new();
#[btf_map(name = "back_ranges6")]
pub static BACK_RANGES6: BackRanges<V6Addr> = LpmTrie::new();
#[btf_map(name = "allow6")]
pub static ALLOW6: Allowed<V6Addr> = LpmTrie::new();
#[btf_map(name = "blocked6")]
pub static BLOCKED6: Blocked<V6Addr> = LpmTrie::new();
#[btf_map(name = "buckets6")]
pub static BUCKETS6: Buckets<V6Addr> = LruHashMap::new();
#[btf_map(name = "heard6")]
pub static HEARD6: Heard<V6Addr> = LruHashMap::new();

/// The timer that expires flows, a
/// [`TimedSweep`](netdp_common::maps::TimedSweep) as the kernel has to see it.
#[repr(C)]
pub struct Sweeper {
    pub timer: bpf_timer,
    pub sweep: Sweep,
}
