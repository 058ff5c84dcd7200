//! The maps, as the object has them, opened.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray},
};
use netdp_common::{
    addr::{Address, V4Addr, V6Addr},
    limit::Limit,
    maps::{
        Back, BackRange, Config, Endpoint, FlowKey, LinkKey, Local, Owner, PortKey, Published,
        PublishedRange, Stats, TimedSweep, Times, Uplink, Usage, config_flags, name,
    },
    range::{AllowPlace, RangePlace},
};

use super::{
    BpfError, FlowTables, Key, datapath::take, joined::Members, own::Filter, shared::Shared,
};

/// The maps that userspace reads or writes.
pub struct Maps {
    pub(super) config: Array<MapData, Config>,
    pub(super) endpoints: HashMap<MapData, u32, Endpoint>,
    pub(super) uplinks: HashMap<MapData, u32, Uplink>,
    pub(super) times: HashMap<MapData, u32, Times>,
    pub(super) v4: FamilyMaps<V4Addr>,
    pub(super) v6: FamilyMaps<V6Addr>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    pub(super) left: PerCpuArray<MapData, u64>,
    pub(super) stats: PerCpuArray<MapData, Stats>,
    pub(super) usage: Array<MapData, Usage>,
    pub(super) full: Array<MapData, u32>,
    pub(super) sweeper: Array<MapData, TimedSweep>,
    pub(super) limit: Array<MapData, Limit>,
    pub(super) own: Filter,
    pub(super) shared: Shared,
    pub(super) members: Members,
    /// What the programs ask for only where there is any: ranges of ports, and
    /// endpoints with times of their own.
    pub(super) rare: BTreeSet<Key>,
}

/// Those of one address family.
pub struct FamilyMaps<A: Address> {
    pub(super) addrs: HashMap<MapData, A, Owner>,
    pub(super) ports: HashMap<MapData, PortKey<A>, Published<A>>,
    pub(super) back: HashMap<MapData, PortKey<A>, Back<A>>,
    pub(super) local: HashMap<MapData, A, Local>,
    pub(super) links: HashMap<MapData, LinkKey<A>, u32>,
    pub(super) ranges: LpmTrie<MapData, RangePlace<A>, PublishedRange<A>>,
    pub(super) back_ranges: LpmTrie<MapData, RangePlace<A>, BackRange<A>>,
    pub(super) allowed: LpmTrie<MapData, AllowPlace<A>, u32>,
    pub(super) flows: FlowTables<A>,
    pub(super) buckets: HashMap<MapData, A, u64>,
    pub(super) heard: HashMap<MapData, FlowKey<A>, u32>,
}

/// The names of [`FamilyMaps`].
struct Names {
    addrs: &'static str,
    ports: &'static str,
    back: &'static str,
    local: &'static str,
    links: &'static str,
    ranges: &'static str,
    back_ranges: &'static str,
    allowed: &'static str,
    flows: &'static str,
    pending: &'static str,
    buckets: &'static str,
    heard: &'static str,
}

const NAMES4: Names = Names {
    addrs: name::ADDRS4,
    ports: name::PORTS4,
    back: name::BACK4,
    local: name::LOCAL4,
    links: name::LINKS4,
    ranges: name::RANGES4,
    back_ranges: name::BACK_RANGES4,
    allowed: name::ALLOW4,
    flows: name::FLOWS4,
    pending: name::PENDING4,
    buckets: name::BUCKETS4,
    heard: name::HEARD4,
};

const NAMES6: Names = Names {
    addrs: name::ADDRS6,
    ports: name::PORTS6,
    back: name::BACK6,
    local: name::LOCAL6,
    links: name::LINKS6,
    ranges: name::RANGES6,
    back_ranges: name::BACK_RANGES6,
    allowed: name::ALLOW6,
    flows: name::FLOWS6,
    pending: name::PENDING6,
    buckets: name::BUCKETS6,
    heard: name::HEARD6,
};

mod private {
    use super::{Address, FamilyMaps, Maps, V4Addr, V6Addr};

    pub trait Sealed: Address {
        fn maps(maps: &Maps) -> &FamilyMaps<Self>;
    }

    impl Sealed for V4Addr {
        fn maps(maps: &Maps) -> &FamilyMaps<Self> {
            &maps.v4
        }
    }

    impl Sealed for V6Addr {
        fn maps(maps: &Maps) -> &FamilyMaps<Self> {
            &maps.v6
        }
    }
}

/// An address whose family has tables: of IPv4 or IPv6.
pub trait TableAddress: private::Sealed {}

impl<A: private::Sealed> TableAddress for A {}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        macro_rules! open {
            ($name:expr) => {
                take(ebpf, $name)?
                    .try_into()
                    .map_err(BpfError::map($name))?
            };
        }
        macro_rules! family {
            ($names:ident) => {
                FamilyMaps {
                    addrs: open!($names.addrs),
                    ports: open!($names.ports),
                    back: open!($names.back),
                    local: open!($names.local),
                    links: open!($names.links),
                    ranges: open!($names.ranges),
                    back_ranges: open!($names.back_ranges),
                    allowed: open!($names.allowed),
                    flows: FlowTables::take(ebpf, $names.flows, $names.pending)?,
                    buckets: open!($names.buckets),
                    heard: open!($names.heard),
                }
            };
        }
        Ok(Self {
            config: open!(name::CONFIG),
            endpoints: open!(name::ENDPOINTS),
            uplinks: open!(name::UPLINKS),
            times: open!(name::TIMES),
            v4: family!(NAMES4),
            v6: family!(NAMES6),
            drops: open!(name::DROPS),
            left: open!(name::LEFT),
            stats: open!(name::STATS),
            usage: open!(name::USAGE),
            full: open!(name::FULL),
            sweeper: open!(name::SWEEPER),
            limit: open!(name::LIMIT),
            own: Filter::new(open!(name::OWN)),
            shared: Shared::default(),
            members: Members::take(ebpf)?,
            rare: BTreeSet::new(),
        })
    }

    pub fn config(&self) -> Result<Config, BpfError> {
        self.config.get(&0, 0).map_err(BpfError::map(name::CONFIG))
    }

    pub fn set_config(&mut self, config: &Config) -> Result<(), BpfError> {
        self.config
            .set(0, config, 0)
            .map_err(BpfError::map(name::CONFIG))
    }

    /// Before an entry is written.
    pub fn comes(&mut self, key: &Key) -> Result<(), BpfError> {
        if rare(key) != 0 && self.rare.insert(*key) {
            return self.tell_of_rare();
        }
        Ok(())
    }

    /// After an entry was removed.
    pub fn goes(&mut self, key: &Key) -> Result<(), BpfError> {
        if self.rare.remove(key) {
            return self.tell_of_rare();
        }
        Ok(())
    }

    /// Tells the programs what they have to ask for.
    pub fn tell_of_rare(&mut self) -> Result<(), BpfError> {
        let mut config = self.config()?;
        let before = config.flags;
        config.flags &= !(config_flags::RANGES | config_flags::TIMES);
        config.flags |= self.rare.iter().map(rare).fold(0, std::ops::BitOr::bitor);
        if config.flags == before {
            return Ok(());
        }
        self.set_config(&config)
    }
}

/// The bit of [`config_flags`] that says that there are entries like this one,
/// or 0 where there is none.
pub fn rare(key: &Key) -> u32 {
    match key {
        Key::Range4(_) | Key::Range6(_) | Key::BackRange4(_) | Key::BackRange6(_) => {
            config_flags::RANGES
        }
        Key::Times(_) => config_flags::TIMES,
        _ => 0,
    }
}
