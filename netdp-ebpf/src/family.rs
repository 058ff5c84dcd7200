//! What differs between IPv4 and IPv6 in the kernel: maps, helpers' parameters
//! and the bytes of the network header. All else is generic over [`Family`].

mod v4;
mod v6;

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_fib_lookup as FibParams, bpf_redir_neigh, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use netdp_common::{
    addr::{Address, Be16, proto},
    drop::DropReason,
    icmp::{Answer, Quote, Quoting},
    maps::{Endpoint, FragKey, Uplink},
    nat,
    packet::{Packet, Tuple, plain::Framed},
};

use crate::{
    alone::Alone,
    maps::{
        Addrs, Allowed, BackRanges, Backs, Blocked, Buckets, Calls, Clients, Flows, Frags, Heard,
        KnownPlaces, Links, Locals, Members, Order, Others, Paths, Pending, Ports, Ranges, Scratch,
        Socks,
    },
    skb::Skb,
};

/// An address family in the kernel.
pub trait Family: Quoting + Alone + Framed {
    /// Whether the kernel's stack answers a packet that would have to be
    /// forwarded and can't be, where the interface that it came by alone
    /// forwards. Of IPv6 no stack before Linux 6.17 does (`force_forwarding`).
    const STACK_ANSWERS: bool;
    /// [`endpoint_flags`] of a container that the outside knows by its own
    /// address of this family.
    const ROUTED: u16;
    /// Index in [`FULL`](crate::maps::FULL).
    const FULL: u32;
    /// Where the network header has the protocol of what follows it, in bytes.
    const NEXT: usize;
    /// Where the network header has the source address, in bytes.
    const SADDR: usize;
    /// Length of the network header without options or extension headers, bytes.
    const LENGTH: usize;

    fn addrs() -> &'static Addrs<Self::Addr>;
    fn ports() -> &'static Ports<Self::Addr>;
    fn backs() -> &'static Backs<Self::Addr>;
    fn locals() -> &'static Locals<Self::Addr>;
    fn links() -> &'static Links<Self::Addr>;
    fn members() -> &'static Members<Self::Addr>;
    fn others() -> &'static Others<Self::Addr>;
    fn ranges() -> &'static Ranges<Self::Addr>;
    fn back_ranges() -> &'static BackRanges<Self::Addr>;
    fn allowed() -> &'static Allowed<Self::Addr>;
    fn blocked() -> &'static Blocked<Self::Addr>;
    fn buckets() -> &'static Buckets<Self::Addr>;
    fn heard() -> &'static Heard<Self::Addr>;
    fn flows() -> &'static Flows<Self::Addr>;
    fn pending() -> &'static Pending<Self::Addr>;
    fn order() -> &'static Order<Self::Addr>;
    fn frags() -> &'static Frags<Self::Addr>;
    fn calls() -> &'static Calls<Self::Addr>;
    fn socks() -> &'static Socks<Self::Addr>;
    fn clients() -> &'static Clients<Self::Addr>;
    fn paths() -> &'static Paths<Self::Addr>;
    fn known() -> &'static KnownPlaces<Self::Addr>;
    fn scratch() -> &'static Scratch<Self::Addr>;

    fn address(endpoint: &Endpoint) -> Self::Addr;
    fn gateway(endpoint: &Endpoint) -> Self::Addr;
    fn external(uplink: &Uplink) -> Self::Addr;
    /// The address that an endpoint's masqueraded packets get whatever the
    /// uplink's, or unspecified.
    fn source(endpoint: &Endpoint) -> Self::Addr;
    /// Whether the route decides which address of an uplink they get.
    fn is_by_route(uplink: &Uplink) -> bool;
    /// Where an uplink's own default route leads, or unspecified.
    fn gateway_of(uplink: &Uplink) -> Self::Addr;
    /// Whether an address is on the link, by the subnet of the uplink's own.
    fn is_on_link(uplink: &Uplink, addr: Self::Addr) -> bool;

    /// An address and port in one number, never 0; or 0 where they have no room
    /// in one.
    fn in_one(addr: Self::Addr, port: Be16) -> u64;

    /// A number that spreads addresses over `paths`.
    fn spread(addr: Self::Addr) -> u32;

    /// Does it on a stack frame of its own where the family's addresses would
    /// not leave enough of the stack for what is called from there.
    fn apart<R>(step: impl FnOnce() -> R) -> R;

    /// Writes the family and a packet's addresses into a question to the FIB.
    fn ask(params: &mut FibParams, tuple: &Tuple<Self::Addr>);

    /// The next hop, or the destination, that the FIB has left there.
    fn nexthop(params: &FibParams) -> Self::Addr;

    /// The source address that it has left there.
    fn preferred(params: &FibParams) -> Self::Addr;

    /// Writes the family and the address of a neighbour.
    fn name_neighbour(params: &mut bpf_redir_neigh, nexthop: Self::Addr);

    /// Whether the host itself has a socket that a packet from `remote` to
    /// `local` would reach: a connection, a listener, or a bound UDP socket. The
    /// context is that of a packet of the host, or of a socket.
    fn host_has_socket(ctx: *mut c_void, inbound: &Tuple<Self::Addr>, proto: u8) -> bool;

    /// Writes addresses, and the TTL or hop limit less one where `hop`.
    fn write_network(
        skb: &Skb,
        packet: &Packet<Self::Addr>,
        to: &Tuple<Self::Addr>,
        hop: bool,
    ) -> Result<(), DropReason>;

    /// Writes the addresses of a quoted network header.
    fn write_quoted(
        skb: &Skb,
        quote: &Quote<Self::Addr>,
        to: &Tuple<Self::Addr>,
    ) -> Result<(), DropReason>;

    /// Writes the headers of a refusal before the packet that was refused, into
    /// the room made for them.
    fn write_refusal(skb: &Skb, endpoint: &Endpoint, answer: &Answer) -> Result<(), DropReason>;

    fn frag_key(packet: &Packet<Self::Addr>) -> FragKey<Self::Addr> {
        FragKey {
            saddr: packet.tuple.saddr,
            daddr: packet.tuple.daddr,
            id: packet.id,
            proto: u32::from(packet.proto),
        }
    }
}

/// Something that lies at a multiple of eight bytes, as stores to the stack
/// have to.
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// Asks the kernel for a socket of this namespace. `T` is a family's half of
/// `bpf_sock_tuple`, whose size tells it which (`sk_lookup`, net/core/filter.c).
#[inline(always)]
fn has_socket<T>(ctx: *mut c_void, tuple: &mut Aligned<T>, proto: u8) -> bool {
    let netns = BPF_F_CURRENT_NETNS as u64;
    let size = size_of::<T>() as u32;
    let tuple = (&raw mut tuple.0).cast::<bpf_sock_tuple>();
    // SAFETY: the tuple lives on the caller's stack; a socket found is released.
    unsafe {
        let socket = if proto == proto::TCP {
            bpf_skc_lookup_tcp(ctx, tuple, size, netns, 0)
        } else {
            bpf_sk_lookup_udp(ctx, tuple, size, netns, 0)
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

/// Gives a packet the addresses and ports of `to`; `hop` where it leaves or
/// enters the host like a router's.
#[inline(always)]
pub fn translate<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    to: &Tuple<F::Addr>,
    hop: bool,
) -> Result<(), DropReason> {
    F::write_network(skb, packet, to, hop)?;
    if !packet.transport.has_ports() {
        return Ok(());
    }
    let from = &packet.tuple;
    if packet.proto == proto::TCP || packet.proto == proto::UDP {
        if from.sport != to.sport || from.dport != to.dport {
            skb.write(packet.l4, [to.sport.raw(), to.dport.raw()])?;
        }
    } else {
        // The identifier is the one of the two that isn't 0 (RFC 792).
        let identifier = Be16::from_raw(to.sport.raw() | to.dport.raw());
        skb.write(packet.l4 + 4, identifier.raw())?;
    }
    skb.update_l4(&nat::l4_change(packet, to))
}

/// Whether an address is nobody's on this host: unspecified.
#[inline(always)]
pub fn is_any<A: Address>(addr: A) -> bool {
    addr == A::ANY
}
