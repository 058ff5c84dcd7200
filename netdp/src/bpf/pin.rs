//! What is pinned, and in which shape.

use std::fs;

use aya::{Ebpf, maps::lpm_trie::Key as Prefix, programs::Program};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    block::BlockPlace,
    limit::Limit,
    maps::{
        Asked, Back, BackRange, Client, ClientKey, Config, Datagrams, Endpoint, Flow, FlowKey,
        Frag, FragKey, Joined, LinkKey, Local, MAX_ALLOWED, MAX_BLOCKED, MAX_BUCKETS, MAX_CALLS,
        MAX_CLIENTS, MAX_CLOSED, MAX_ENDPOINTS, MAX_HEARD, MAX_LINKS, MAX_LOCAL, MAX_OWN_WAYS,
        MAX_PAIRS, MAX_PENDING, MAX_PORTS, MAX_RANGES, MAX_SOCKETS, MAX_UPLINKS, MadeFor, Member,
        OwnPort, OwnWay, Owner, Pair, Path, PortKey, Published, PublishedRange, Short, SockKey,
        SocketKey, Stats, TimedSweep, Times, Uplink, Usage, name, seen,
    },
    own,
    range::{AllowPlace, RangePlace},
};

use super::{BpfError, accelerated, datapath::unpin, joined, layout::Layout, netkit};

/// Maps that outlive the daemon. `work`, `scratch4` and `scratch6` hold nothing
/// between two packets.
pub(super) const MAPS: [&str; 66] = [
    name::CONFIG,
    name::ENDPOINTS,
    name::UPLINKS,
    name::TIMES,
    name::DROPS,
    name::STATS,
    name::HOST_FLOWS,
    name::EXPECTING,
    name::USAGE,
    name::OWN,
    name::MAPPINGS,
    name::FULL,
    name::SWEEPER,
    name::SOCKETS,
    name::JOINED,
    name::UNSEALED,
    name::MADE_FOR,
    name::INWARD,
    name::OWN_WAYS,
    name::DATAGRAMS,
    name::DIRECT_SEEN,
    name::CLOSED,
    name::CLIENTS4,
    name::CLIENTS6,
    name::PAIRS,
    name::SHORT,
    name::MEMBERS4,
    name::MEMBERS6,
    name::BLOCKING,
    name::LIMIT,
    name::ADDRS4,
    name::PORTS4,
    name::BACK4,
    name::LOCAL4,
    name::FLOWS4,
    name::PENDING4,
    name::ORDER4,
    name::FRAGS4,
    name::SOCKS4,
    name::CALLS4,
    name::PATHS4,
    name::LINKS4,
    name::RANGES4,
    name::BACK_RANGES4,
    name::ALLOW4,
    name::BLOCKED4,
    name::BUCKETS4,
    name::HEARD4,
    name::ADDRS6,
    name::PORTS6,
    name::BACK6,
    name::LOCAL6,
    name::FLOWS6,
    name::PENDING6,
    name::ORDER6,
    name::FRAGS6,
    name::SOCKS6,
    name::CALLS6,
    name::PATHS6,
    name::LINKS6,
    name::RANGES6,
    name::BACK_RANGES6,
    name::ALLOW6,
    name::BLOCKED6,
    name::BUCKETS6,
    name::HEARD6,
];

/// Sizes in bytes, and the number of entries.
pub(super) struct Shape {
    pub key: u32,
    pub value: u32,
    pub entries: u32,
}

/// The shape of a pinned map.
pub(super) fn shape(map: &str) -> Option<Shape> {
    fn of<K, V>(entries: u32) -> Option<Shape> {
        Some(Shape {
            key: size_of::<K>() as u32,
            value: size_of::<V>() as u32,
            entries,
        })
    }
    match map {
        name::CONFIG => of::<u32, Config>(1),
        name::ENDPOINTS => of::<u32, Endpoint>(MAX_ENDPOINTS),
        name::UPLINKS => of::<u32, Uplink>(MAX_UPLINKS),
        name::TIMES => of::<u32, Times>(MAX_ENDPOINTS),
        name::DROPS => of::<u32, u64>(64),
        name::STATS => of::<u32, Stats>(MAX_ENDPOINTS),
        name::HOST_FLOWS | name::MAPPINGS | name::EXPECTING | name::BLOCKING | name::INWARD => {
            of::<u32, u32>(1)
        }
        name::LIMIT => of::<u32, Limit>(1),
        name::FULL => of::<u32, u32>(2),
        name::USAGE => of::<u32, Usage>(MAX_ENDPOINTS),
        name::OWN => of::<u32, u64>(own::WORDS),
        name::SWEEPER => of::<u32, TimedSweep>(1),
        name::SOCKETS => of::<SocketKey, u32>(MAX_SOCKETS),
        name::JOINED => of::<u32, Joined>(0),
        name::UNSEALED => of::<u32, u32>(0),
        name::MADE_FOR => of::<u32, MadeFor>(0),
        name::OWN_WAYS => of::<OwnPort, OwnWay>(MAX_OWN_WAYS),
        name::DATAGRAMS => of::<u32, Datagrams>(0),
        name::DIRECT_SEEN => of::<u32, u32>(seen::COUNT),
        name::CLOSED => of::<u64, u32>(MAX_CLOSED),
        name::CLIENTS4 => of::<ClientKey<V4Addr>, Client<V4Addr>>(MAX_CLIENTS),
        name::CLIENTS6 => of::<ClientKey<V6Addr>, Client<V6Addr>>(MAX_CLIENTS),
        name::PAIRS => of::<SocketKey, Pair>(MAX_PAIRS),
        name::SHORT => of::<u32, Short>(MAX_ENDPOINTS),
        name::MEMBERS4 => of::<V4Addr, Member>(MAX_ENDPOINTS),
        name::MEMBERS6 => of::<V6Addr, Member>(MAX_ENDPOINTS),
        name::ADDRS4 => of::<V4Addr, Owner>(MAX_ENDPOINTS),
        name::PORTS4 => of::<PortKey<V4Addr>, Published<V4Addr>>(MAX_PORTS),
        name::BACK4 => of::<PortKey<V4Addr>, Back<V4Addr>>(MAX_PORTS),
        name::LOCAL4 => of::<V4Addr, Local>(MAX_LOCAL),
        name::FLOWS4 => of::<FlowKey<V4Addr>, Flow<V4Addr>>(0),
        name::PENDING4 => of::<FlowKey<V4Addr>, Flow<V4Addr>>(MAX_PENDING),
        name::ORDER4 => of::<(), FlowKey<V4Addr>>(0),
        name::FRAGS4 => of::<FragKey<V4Addr>, Frag>(8192),
        name::CALLS4 => of::<FlowKey<V4Addr>, u32>(MAX_CALLS),
        name::SOCKS4 => of::<SockKey<V4Addr>, Asked<V4Addr>>(65_536),
        name::PATHS4 => of::<u32, Path<V4Addr>>(256),
        name::LINKS4 => of::<LinkKey<V4Addr>, u32>(MAX_LINKS),
        name::RANGES4 => of::<Prefix<RangePlace<V4Addr>>, PublishedRange<V4Addr>>(MAX_RANGES),
        name::BACK_RANGES4 => of::<Prefix<RangePlace<V4Addr>>, BackRange<V4Addr>>(MAX_RANGES),
        name::ALLOW4 => of::<Prefix<AllowPlace<V4Addr>>, u32>(MAX_ALLOWED),
        name::BLOCKED4 => of::<Prefix<BlockPlace<V4Addr>>, u64>(MAX_BLOCKED),
        name::BUCKETS4 => of::<V4Addr, u64>(MAX_BUCKETS),
        name::HEARD4 => of::<FlowKey<V4Addr>, u32>(MAX_HEARD),
        name::ADDRS6 => of::<V6Addr, Owner>(MAX_ENDPOINTS),
        name::PORTS6 => of::<PortKey<V6Addr>, Published<V6Addr>>(MAX_PORTS),
        name::BACK6 => of::<PortKey<V6Addr>, Back<V6Addr>>(MAX_PORTS),
        name::LOCAL6 => of::<V6Addr, Local>(MAX_LOCAL),
        name::FLOWS6 => of::<FlowKey<V6Addr>, Flow<V6Addr>>(0),
        name::PENDING6 => of::<FlowKey<V6Addr>, Flow<V6Addr>>(MAX_PENDING),
        name::ORDER6 => of::<(), FlowKey<V6Addr>>(0),
        name::FRAGS6 => of::<FragKey<V6Addr>, Frag>(8192),
        name::CALLS6 => of::<FlowKey<V6Addr>, u32>(MAX_CALLS),
        name::SOCKS6 => of::<SockKey<V6Addr>, Asked<V6Addr>>(65_536),
        name::PATHS6 => of::<u32, Path<V6Addr>>(256),
        name::LINKS6 => of::<LinkKey<V6Addr>, u32>(MAX_LINKS),
        name::RANGES6 => of::<Prefix<RangePlace<V6Addr>>, PublishedRange<V6Addr>>(MAX_RANGES),
        name::BACK_RANGES6 => of::<Prefix<RangePlace<V6Addr>>, BackRange<V6Addr>>(MAX_RANGES),
        name::ALLOW6 => of::<Prefix<AllowPlace<V6Addr>>, u32>(MAX_ALLOWED),
        name::BLOCKED6 => of::<Prefix<BlockPlace<V6Addr>>, u64>(MAX_BLOCKED),
        name::BUCKETS6 => of::<V6Addr, u64>(MAX_BUCKETS),
        name::HEARD6 => of::<FlowKey<V6Addr>, u32>(MAX_HEARD),
        _ => None,
    }
}

/// Pins every program under its name.
pub(super) fn pin_programs(ebpf: &mut Ebpf, layout: &Layout) -> Result<(), BpfError> {
    for (name, program) in own(ebpf) {
        pin_program(name, program, layout)?;
    }
    Ok(())
}

/// Pins every program in the place of an earlier one.
pub(super) fn replace_programs(ebpf: &mut Ebpf, layout: &Layout) -> Result<(), BpfError> {
    for (name, program) in own(ebpf) {
        unpin(&layout.program(name))?;
        pin_program(name, program, layout)?;
    }
    Ok(())
}

/// Those that outlive the daemon.
fn own(ebpf: &mut Ebpf) -> impl Iterator<Item = (&str, &mut Program)> {
    let programs = ebpf.programs_mut();
    // One that this kernel didn't take can't be pinned.
    programs.filter(|(name, program)| {
        let may_lack = joined::is_one(name) || *name == netkit::PROGRAM;
        !accelerated::is_one(name) && (!may_lack || program.fd().is_ok())
    })
}

fn pin_program(name: &str, program: &mut Program, layout: &Layout) -> Result<(), BpfError> {
    let path = layout.program(name);
    program.pin(&path).map_err(|source| BpfError::Pin {
        path,
        source: Box::new(source),
    })
}

/// Moves the links of one folder to another, so that they stay attached.
pub(super) fn move_links(from: &Layout, to: &Layout) -> Result<(), BpfError> {
    let folder = from.links();
    for entry in fs::read_dir(&folder).map_err(BpfError::io("read", &folder))? {
        let entry = entry.map_err(BpfError::io("read", &folder))?;
        fs::rename(entry.path(), to.links().join(entry.file_name()))
            .map_err(BpfError::io("move", entry.path()))?;
    }
    Ok(())
}
