//! What the daemon tells the programs, and nobody else writes.

use crate::{
    addr::{Address, Be16, Mac, V4Addr, V6Addr},
    range::shifted,
};

use super::{DEFAULT_FLOWS, ENDPOINT_SHARE, MAX_PENDING};

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
    /// Another number each time that `members` loses an entry, or an entry changes.
    pub members: u32,
    /// Another number each time that something of `ports`, `ranges` or `local` has
    /// changed while ports are direct.
    pub ports: u32,
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// A range of ports is published, of either family.
    pub const RANGES: u32 = 1;
    /// `times` has entries.
    pub const TIMES: u32 = 2;
    /// `others` is kept: these programs carry containers of another engine.
    pub const OTHERS: u32 = 4;
    /// A port is direct, or has been.
    pub const DIRECT: u32 = 8;
    /// Of a direct port, [`Published::shared`](super::Published::shared) isn't 0.
    pub const DIRECT_SHARED: u32 = 16;
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
            members: 0,
            ports: 0,
        }
    }
}

/// Value of `times`, keyed by counter slot: times of the flows that count in an
/// endpoint's share, where its network has some of its own.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// Seconds, by [`Time`](crate::flow::Time); 0 where that of [`Config`] is
    /// to be taken.
    pub seconds: [u32; 4],
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
    /// It has direct ports.
    pub const DIRECT: u16 = 0x1000;
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
    /// Not 0 while a masqueraded flow that began before may have the port: then
    /// packets of its peer are the flow's. Of state, not of configuration.
    pub shared: u32,
    /// [`published_flags`].
    pub flags: u32,
    pub pad: u32,
}

/// Bits of [`Published::flags`].
pub mod published_flags {
    /// The container's program may have a socket of the host at this port:
    /// where there is one, packets are the host's.
    pub const DIRECT: u32 = 1;
}

impl<A> Published<A> {
    /// Whether the host's stack may have a socket for this port.
    #[inline(always)]
    pub const fn is_direct(&self) -> bool {
        self.flags & published_flags::DIRECT != 0
    }

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
    /// A bridge of this host on which others' containers are, and which leads
    /// no further.
    pub const BESIDE: u32 = 4;
}

/// [`Uplink::prefix4`] and [`Uplink::prefix6`] of a link that leads on without
/// a gateway.
pub const ALL_ON_LINK: u8 = u8::MAX;
