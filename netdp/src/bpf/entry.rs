//! Entries of the configuration maps as the planner sees them.

use std::collections::BTreeMap;

use netdp_common::{
    addr::{V4Addr, V6Addr},
    block::BlockKey,
    limit::Limit,
    maps::{
        Back, BackRange, Endpoint, LinkKey, Local, Owner, PortKey, Published, PublishedRange,
        Times, Uplink,
    },
    range::{AllowKey, RangeKey},
};

/// Names one entry of one configuration map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// `endpoints`, by ifindex of the host end.
    Endpoint(u32),
    /// `addrs4`, by address of the container.
    Owner4(V4Addr),
    /// `ports4`, by host address (0: every address) and host port.
    Port4(PortKey<V4Addr>),
    /// `back4`, by container address and port.
    Back4(PortKey<V4Addr>),
    /// `local4`, by address of the host.
    Local4(V4Addr),
    /// `addrs6`, as [`Key::Owner4`].
    Owner6(V6Addr),
    /// `ports6`, as [`Key::Port4`].
    Port6(PortKey<V6Addr>),
    /// `back6`, as [`Key::Back4`].
    Back6(PortKey<V6Addr>),
    /// `local6`, as [`Key::Local4`].
    Local6(V6Addr),
    /// `links4`, by client, server and its port.
    Link4(LinkKey<V4Addr>),
    /// `links6`, as [`Key::Link4`].
    Link6(LinkKey<V6Addr>),
    /// `uplinks`, by ifindex.
    Uplink(u32),
    /// `times`, by counter slot of an endpoint.
    Times(u32),
    /// `ranges4`, by host address (0: every address) and what its ports begin
    /// with.
    Range4(RangeKey<V4Addr>),
    /// `back_ranges4`, by container address and what its ports begin with.
    BackRange4(RangeKey<V4Addr>),
    /// `allow4`, by set and what addresses begin with.
    Allow4(AllowKey<V4Addr>),
    /// `ranges6`, as [`Key::Range4`].
    Range6(RangeKey<V6Addr>),
    /// `back_ranges6`, as [`Key::BackRange4`].
    BackRange6(RangeKey<V6Addr>),
    /// `allow6`, as [`Key::Allow4`].
    Allow6(AllowKey<V6Addr>),
    /// `blocked4`, by what sources begin with.
    Blocked4(BlockKey<V4Addr>),
    /// `blocked6`, as [`Key::Blocked4`].
    Blocked6(BlockKey<V6Addr>),
    /// `limit`.
    Limit,
}

impl Key {
    /// Whether it says something of an address or port of the host.
    pub(super) const fn is_place(&self) -> bool {
        matches!(
            self,
            Self::Port4(_)
                | Self::Port6(_)
                | Self::Range4(_)
                | Self::Range6(_)
                | Self::Local4(_)
                | Self::Local6(_)
        )
    }
}

/// The value of such an entry; its kind is that of its [`Key`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Endpoint(Endpoint),
    Owner4(Owner),
    Port4(Published<V4Addr>),
    Back4(Back<V4Addr>),
    Local4(Local),
    Owner6(Owner),
    Port6(Published<V6Addr>),
    Back6(Back<V6Addr>),
    Local6(Local),
    /// The number of the network.
    Link(u32),
    Uplink(Uplink),
    Times(Times),
    Range4(PublishedRange<V4Addr>),
    BackRange4(BackRange<V4Addr>),
    Range6(PublishedRange<V6Addr>),
    BackRange6(BackRange<V6Addr>),
    /// Always 1.
    Allow(u32),
    /// Whatever it has counted.
    Blocked,
    /// One that is set.
    Limit(Limit),
}

impl Entry {
    /// Whether it makes a port of the host direct.
    pub(super) const fn is_direct(&self) -> bool {
        match self {
            Self::Port4(published) => published.is_direct(),
            Self::Port6(published) => published.is_direct(),
            Self::Range4(range) => range.published.is_direct(),
            Self::Range6(range) => range.published.is_direct(),
            _ => false,
        }
    }
}

/// Everything that the configuration maps hold, or should hold.
pub type Tables = BTreeMap<Key, Entry>;
