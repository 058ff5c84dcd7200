//! Keys and values of the BPF maps: one definition for kernel and userspace.
//!
//! Every type is `repr(C)` without implicit padding, so that equal keys have
//! equal bytes, and what programs keep on their stack is aligned to eight
//! bytes, because the verifier refuses stack accesses across them. Addresses and
//! ports are in network order, as in the packet; all other numbers are in host
//! order. `docs/maps.md` says who writes what. Maps whose names end in 4 are
//! described below; those of IPv6, which end in 6, are the same.

mod configuration;
mod direct;
mod joined;
mod layout;
mod state;

pub use configuration::*;
pub use direct::{Client, ClientKey, Datagrams, Known, MadeFor, OwnPlace, OwnPort, OwnWay, seen};
pub use joined::*;
pub use state::*;

/// Names under which maps are pinned; at most 15 bytes, as the kernel keeps.
pub mod name {
    pub const CONFIG: &str = "config";
    pub const ENDPOINTS: &str = "endpoints";
    pub const TIMES: &str = "times";
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
    pub const CALLS4: &str = "calls4";
    pub const PATHS4: &str = "paths4";
    pub const LINKS4: &str = "links4";
    pub const OTHERS4: &str = "others4";
    pub const RANGES4: &str = "ranges4";
    pub const BACK_RANGES4: &str = "back_ranges4";
    pub const ALLOW4: &str = "allow4";
    pub const BLOCKED4: &str = "blocked4";
    pub const BUCKETS4: &str = "buckets4";
    pub const HEARD4: &str = "heard4";
    pub const ADDRS6: &str = "addrs6";
    pub const PORTS6: &str = "ports6";
    pub const BACK6: &str = "back6";
    pub const LOCAL6: &str = "local6";
    pub const FLOWS6: &str = "flows6";
    pub const PENDING6: &str = "pending6";
    pub const ORDER6: &str = "order6";
    pub const FRAGS6: &str = "frags6";
    pub const SOCKS6: &str = "socks6";
    pub const CALLS6: &str = "calls6";
    pub const PATHS6: &str = "paths6";
    pub const LINKS6: &str = "links6";
    pub const OTHERS6: &str = "others6";
    pub const RANGES6: &str = "ranges6";
    pub const BACK_RANGES6: &str = "back_ranges6";
    pub const ALLOW6: &str = "allow6";
    pub const BLOCKED6: &str = "blocked6";
    pub const BUCKETS6: &str = "buckets6";
    pub const HEARD6: &str = "heard6";
    pub const DROPS: &str = "drops";
    pub const LEFT: &str = "left";
    pub const STATS: &str = "stats";
    pub const SWEEPER: &str = "sweeper";
    pub const HOST_FLOWS: &str = "host_flows";
    pub const MAPPINGS: &str = "mappings";
    pub const EXPECTING: &str = "expecting";
    pub const FULL: &str = "full";
    pub const USAGE: &str = "usage";
    pub const OWN: &str = "own";
    pub const SOCKETS: &str = "sockets";
    pub const JOINED: &str = "joined";
    pub const UNSEALED: &str = "unsealed";
    pub const MADE_FOR: &str = "made_for";
    pub const INWARD: &str = "inward";
    pub const OWN_WAYS: &str = "own_ways";
    pub const DATAGRAMS: &str = "datagrams";
    pub const DIRECT_SEEN: &str = "direct_seen";
    pub const CLOSED: &str = "closed";
    pub const CLIENTS4: &str = "clients4";
    pub const CLIENTS6: &str = "clients6";
    pub const PAIRS: &str = "pairs";
    pub const SHORT: &str = "short";
    pub const MEMBERS4: &str = "members4";
    pub const MEMBERS6: &str = "members6";
    pub const BLOCKING: &str = "blocking";
    pub const LIMIT: &str = "limit";
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
/// Entries of `blocked4`.
pub const MAX_BLOCKED: u32 = 65_536;
/// Entries of `buckets4`: sources that have begun conversations lately.
pub const MAX_BUCKETS: u32 = 32_768;
/// Entries of `heard4`: conversations of UDP that have been let through.
pub const MAX_HEARD: u32 = 32_768;
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
/// Entries of `calls4`.
pub const MAX_CALLS: u32 = 16_384;
/// Entries of `links4`.
pub const MAX_LINKS: u32 = 65_536;
/// Entries of `others4` where containers of another engine are carried.
pub const MAX_OTHERS: u32 = 65_536;
/// Entries of `uplinks`.
pub const MAX_UPLINKS: u32 = 256;
/// Entries of `sockets`: two for each connection.
pub const MAX_SOCKETS: u32 = 131_072;
/// Entries of `own_ways`.
pub const MAX_OWN_WAYS: u32 = 16_384;
/// Entries of `clients4`: those that are not answered within so many others are
/// forgotten.
pub const MAX_CLIENTS: u32 = 32_768;
/// Entries of `closed`.
pub const MAX_CLOSED: u32 = 16_384;
/// Entries of `pairs`.
pub const MAX_PAIRS: u32 = MAX_SOCKETS / 2;
