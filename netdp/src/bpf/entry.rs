//! Entries of the configuration maps as the planner sees them.

use std::collections::BTreeMap;

use netdp_common::{
    addr::{V4Addr, V6Addr},
    maps::{Back, Endpoint, LinkKey, Local, Owner, PortKey, Published, Uplink},
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
}

/// Everything that the configuration maps hold, or should hold.
pub type Tables = BTreeMap<Key, Entry>;
