//! What differs between IPv4 and IPv6 in the kernel: maps, helpers' parameters
//! and the bytes of the network header. All else is generic over [`Family`].

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_fib_lookup as FibParams, bpf_redir_neigh, bpf_sock_tuple},
    helpers::{
        bpf_fib_lookup, bpf_redirect_neigh, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
};
use netdp_common::{
    addr::{Address, Be16, Mac, V4Addr, V6Addr, proto},
    drop::DropReason,
    icmp::{self, Answer, Quote, Quoting},
    maps::{Endpoint, FragKey, Uplink, endpoint_flags, uplink_flags},
    nat,
    packet::{Bytes, ETH_LEN, Packet, Tuple, V4, V6},
};

use crate::{
    maps::{
        ADDRS4, ADDRS6, ALLOW4, ALLOW6, Addrs, Allowed, BACK_RANGES4, BACK_RANGES6, BACK4, BACK6,
        BackRanges, Backs, FLOWS4, FLOWS6, FRAGS4, FRAGS6, Flows, Frags, LINKS4, LINKS6, LOCAL4,
        LOCAL6, Links, Locals, ORDER4, ORDER6, Order, PATHS4, PATHS6, PENDING4, PENDING6, PORTS4,
        PORTS6, Paths, Pending, Ports, RANGES4, RANGES6, Ranges, SCRATCH4, SCRATCH6, SOCKS4,
        SOCKS6, Scratch, Socks,
    },
    skb::{Copied, Skb},
    verdict::Verdict,
};

/// `AF_INET` and `AF_INET6` of `include/linux/socket.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What the FIB says about a destination.
pub struct Route<A> {
    pub ifindex: u32,
    pub nexthop: A,
    /// Own and next hop's MAC address; absent while the neighbour is unknown.
    pub macs: Option<(Mac, Mac)>,
}

/// Why the FIB gives no way that the programs can take.
pub enum Unroutable {
    /// No route, or one that forbids.
    NoRoute,
    /// The packet is larger than the link's MTU.
    TooBig,
}

/// An address family in the kernel.
pub trait Family: Quoting {
    /// Whether the kernel's stack answers a packet that would have to be
    /// forwarded and can't be, where the interface that it came by alone
    /// forwards. Of IPv6 no stack before Linux 6.17 does (`force_forwarding`).
    const STACK_ANSWERS: bool;
    /// [`endpoint_flags`] of a container that the outside knows by its own
    /// address of this family.
    const ROUTED: u16;

    fn addrs() -> &'static Addrs<Self::Addr>;
    fn ports() -> &'static Ports<Self::Addr>;
    fn backs() -> &'static Backs<Self::Addr>;
    fn locals() -> &'static Locals<Self::Addr>;
    fn links() -> &'static Links<Self::Addr>;
    fn ranges() -> &'static Ranges<Self::Addr>;
    fn back_ranges() -> &'static BackRanges<Self::Addr>;
    fn allowed() -> &'static Allowed<Self::Addr>;
    fn flows() -> &'static Flows<Self::Addr>;
    fn pending() -> &'static Pending<Self::Addr>;
    fn order() -> &'static Order<Self::Addr>;
    fn frags() -> &'static Frags<Self::Addr>;
    fn socks() -> &'static Socks<Self::Addr>;
    fn paths() -> &'static Paths<Self::Addr>;
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
    /// `local` would reach: a connection, a listener, or a bound UDP socket.
    fn host_has_socket(skb: &Skb, inbound: &Tuple<Self::Addr>, proto: u8) -> bool;

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

impl Family for V4 {
    const STACK_ANSWERS: bool = true;
    const ROUTED: u16 = endpoint_flags::ROUTED4;

    #[inline(always)]
    fn addrs() -> &'static Addrs<V4Addr> {
        &ADDRS4
    }
    #[inline(always)]
    fn ports() -> &'static Ports<V4Addr> {
        &PORTS4
    }
    #[inline(always)]
    fn backs() -> &'static Backs<V4Addr> {
        &BACK4
    }
    #[inline(always)]
    fn locals() -> &'static Locals<V4Addr> {
        &LOCAL4
    }
    #[inline(always)]
    fn links() -> &'static Links<V4Addr> {
        &LINKS4
    }
    #[inline(always)]
    fn ranges() -> &'static Ranges<V4Addr> {
        &RANGES4
    }
    #[inline(always)]
    fn back_ranges() -> &'static BackRanges<V4Addr> {
        &BACK_RANGES4
    }
    #[inline(always)]
    fn allowed() -> &'static Allowed<V4Addr> {
        &ALLOW4
    }
    #[inline(always)]
    fn flows() -> &'static Flows<V4Addr> {
        &FLOWS4
    }
    #[inline(always)]
    fn pending() -> &'static Pending<V4Addr> {
        &PENDING4
    }
    #[inline(always)]
    fn order() -> &'static Order<V4Addr> {
        &ORDER4
    }
    #[inline(always)]
    fn frags() -> &'static Frags<V4Addr> {
        &FRAGS4
    }
    #[inline(always)]
    fn socks() -> &'static Socks<V4Addr> {
        &SOCKS4
    }
    #[inline(always)]
    fn paths() -> &'static Paths<V4Addr> {
        &PATHS4
    }
    #[inline(always)]
    fn scratch() -> &'static Scratch<V4Addr> {
        &SCRATCH4
    }

    #[inline(always)]
    fn address(endpoint: &Endpoint) -> V4Addr {
        endpoint.addr4
    }
    #[inline(always)]
    fn gateway(endpoint: &Endpoint) -> V4Addr {
        endpoint.gateway4
    }
    #[inline(always)]
    fn external(uplink: &Uplink) -> V4Addr {
        uplink.addr4
    }
    #[inline(always)]
    fn source(endpoint: &Endpoint) -> V4Addr {
        endpoint.source4
    }
    #[inline(always)]
    fn is_by_route(uplink: &Uplink) -> bool {
        uplink.flags & uplink_flags::BY_ROUTE4 != 0
    }
    #[inline(always)]
    fn gateway_of(uplink: &Uplink) -> V4Addr {
        uplink.gateway4
    }
    #[inline(always)]
    fn is_on_link(uplink: &Uplink, addr: V4Addr) -> bool {
        addr.shares_prefix(uplink.addr4, uplink.prefix4)
    }

    #[inline(always)]
    fn spread(addr: V4Addr) -> u32 {
        // Knuth's multiplicative hash; its high bits are the good ones.
        addr.0.wrapping_mul(0x9e37_79b1) >> 16
    }

    #[inline(always)]
    fn apart<R>(step: impl FnOnce() -> R) -> R {
        step()
    }

    #[inline(always)]
    fn ask(params: &mut FibParams, tuple: &Tuple<V4Addr>) {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = tuple.saddr.0;
        params.__bindgen_anon_4.ipv4_dst = tuple.daddr.0;
    }

    #[inline(always)]
    fn nexthop(params: &FibParams) -> V4Addr {
        // SAFETY: integers, any of which are valid.
        V4Addr(unsafe { params.__bindgen_anon_4.ipv4_dst })
    }

    #[inline(always)]
    fn preferred(params: &FibParams) -> V4Addr {
        // SAFETY: as above.
        V4Addr(unsafe { params.__bindgen_anon_3.ipv4_src })
    }

    #[inline(always)]
    fn name_neighbour(params: &mut bpf_redir_neigh, nexthop: V4Addr) {
        params.nh_family = u32::from(AF_INET);
        params.__bindgen_anon_1.ipv4_nh = nexthop.0;
    }

    #[inline(always)]
    fn host_has_socket(skb: &Skb, inbound: &Tuple<V4Addr>, proto: u8) -> bool {
        // SAFETY: all bytes zero is a valid value of this union of integers.
        let mut tuple: Aligned<bpf_sock_tuple> = unsafe { core::mem::zeroed() };
        tuple.0.__bindgen_anon_1.ipv4.saddr = inbound.saddr.0;
        tuple.0.__bindgen_anon_1.ipv4.daddr = inbound.daddr.0;
        tuple.0.__bindgen_anon_1.ipv4.sport = inbound.sport.raw();
        tuple.0.__bindgen_anon_1.ipv4.dport = inbound.dport.raw();
        has_socket(skb, &mut tuple, 12, proto)
    }

    #[inline(always)]
    fn write_network(
        skb: &Skb,
        packet: &Packet<V4Addr>,
        to: &Tuple<V4Addr>,
        hop: bool,
    ) -> Result<(), DropReason> {
        let field: [u8; 2] = skb.read(ETH_LEN + 10).ok_or(DropReason::Malformed)?;
        let (offset, bytes) = nat::v4_header(packet, u16::from_ne_bytes(field), to, hop);
        skb.write(offset, bytes)
    }

    #[inline(always)]
    fn write_quoted(
        skb: &Skb,
        quote: &Quote<V4Addr>,
        to: &Tuple<V4Addr>,
    ) -> Result<(), DropReason> {
        let field: [u8; 2] = Copied(skb)
            .read(quote.l3 + 10)
            .ok_or(DropReason::Malformed)?;
        let (checksum, addresses) = icmp::v4_quoted(quote, u16::from_ne_bytes(field), to);
        skb.write(quote.l3 + 10, checksum)?;
        skb.write(quote.l3 + 12, addresses)
    }

    #[inline(always)]
    fn write_refusal(skb: &Skb, endpoint: &Endpoint, answer: &Answer) -> Result<(), DropReason> {
        let (from, to) = (endpoint.gateway4, endpoint.addr4);
        skb.write(ETH_LEN, icmp::v4_refusal(from, to, answer))
    }
}

impl Family for V6 {
    const STACK_ANSWERS: bool = false;
    const ROUTED: u16 = endpoint_flags::ROUTED6;

    #[inline(always)]
    fn addrs() -> &'static Addrs<V6Addr> {
        &ADDRS6
    }
    #[inline(always)]
    fn ports() -> &'static Ports<V6Addr> {
        &PORTS6
    }
    #[inline(always)]
    fn backs() -> &'static Backs<V6Addr> {
        &BACK6
    }
    #[inline(always)]
    fn locals() -> &'static Locals<V6Addr> {
        &LOCAL6
    }
    #[inline(always)]
    fn ranges() -> &'static Ranges<V6Addr> {
        &RANGES6
    }
    #[inline(always)]
    fn back_ranges() -> &'static BackRanges<V6Addr> {
        &BACK_RANGES6
    }
    #[inline(always)]
    fn allowed() -> &'static Allowed<V6Addr> {
        &ALLOW6
    }
    #[inline(always)]
    fn flows() -> &'static Flows<V6Addr> {
        &FLOWS6
    }
    #[inline(always)]
    fn pending() -> &'static Pending<V6Addr> {
        &PENDING6
    }
    #[inline(always)]
    fn order() -> &'static Order<V6Addr> {
        &ORDER6
    }
    #[inline(always)]
    fn frags() -> &'static Frags<V6Addr> {
        &FRAGS6
    }
    #[inline(always)]
    fn links() -> &'static Links<V6Addr> {
        &LINKS6
    }
    #[inline(always)]
    fn socks() -> &'static Socks<V6Addr> {
        &SOCKS6
    }
    #[inline(always)]
    fn paths() -> &'static Paths<V6Addr> {
        &PATHS6
    }
    #[inline(always)]
    fn scratch() -> &'static Scratch<V6Addr> {
        &SCRATCH6
    }

    #[inline(always)]
    fn address(endpoint: &Endpoint) -> V6Addr {
        endpoint.addr6
    }
    #[inline(always)]
    fn gateway(endpoint: &Endpoint) -> V6Addr {
        endpoint.gateway6
    }
    #[inline(always)]
    fn external(uplink: &Uplink) -> V6Addr {
        uplink.addr6
    }
    #[inline(always)]
    fn source(endpoint: &Endpoint) -> V6Addr {
        endpoint.source6
    }
    #[inline(always)]
    fn is_by_route(uplink: &Uplink) -> bool {
        uplink.flags & uplink_flags::BY_ROUTE6 != 0
    }
    #[inline(always)]
    fn gateway_of(uplink: &Uplink) -> V6Addr {
        uplink.gateway6
    }
    #[inline(always)]
    fn is_on_link(uplink: &Uplink, addr: V6Addr) -> bool {
        addr.shares_prefix(uplink.addr6, uplink.prefix6)
    }

    #[inline(always)]
    fn spread(addr: V6Addr) -> u32 {
        let [a, b, c, d] = addr.0;
        (a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d).wrapping_mul(0x9e37_79b1) >> 16
    }

    #[inline(never)]
    fn apart<R>(step: impl FnOnce() -> R) -> R {
        step()
    }

    #[inline(always)]
    fn ask(params: &mut FibParams, tuple: &Tuple<V6Addr>) {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = tuple.saddr.0;
        params.__bindgen_anon_4.ipv6_dst = tuple.daddr.0;
    }

    #[inline(always)]
    fn nexthop(params: &FibParams) -> V6Addr {
        // SAFETY: integers, any of which are valid.
        V6Addr(unsafe { params.__bindgen_anon_4.ipv6_dst })
    }

    #[inline(always)]
    fn preferred(params: &FibParams) -> V6Addr {
        // SAFETY: as above.
        V6Addr(unsafe { params.__bindgen_anon_3.ipv6_src })
    }

    #[inline(always)]
    fn name_neighbour(params: &mut bpf_redir_neigh, nexthop: V6Addr) {
        params.nh_family = u32::from(AF_INET6);
        // Word by word: it lies at an offset that isn't a multiple of eight.
        let words = (&raw mut params.__bindgen_anon_1.ipv6_nh).cast::<u32>();
        for (index, word) in nexthop.0.into_iter().enumerate() {
            // SAFETY: there are four.
            unsafe { words.add(index).write_volatile(word) };
        }
    }

    #[inline(always)]
    fn host_has_socket(skb: &Skb, inbound: &Tuple<V6Addr>, proto: u8) -> bool {
        // SAFETY: all bytes zero is a valid value of this union of integers.
        let mut tuple: Aligned<bpf_sock_tuple> = unsafe { core::mem::zeroed() };
        tuple.0.__bindgen_anon_1.ipv6.saddr = inbound.saddr.0;
        tuple.0.__bindgen_anon_1.ipv6.daddr = inbound.daddr.0;
        tuple.0.__bindgen_anon_1.ipv6.sport = inbound.sport.raw();
        tuple.0.__bindgen_anon_1.ipv6.dport = inbound.dport.raw();
        has_socket(skb, &mut tuple, 36, proto)
    }

    #[inline(always)]
    fn write_network(
        skb: &Skb,
        packet: &Packet<V6Addr>,
        to: &Tuple<V6Addr>,
        hop: bool,
    ) -> Result<(), DropReason> {
        let start: [u8; 8] = skb.read(ETH_LEN).ok_or(DropReason::Malformed)?;
        let header = nat::v6_header(packet, u64::from_ne_bytes(start), to, hop);
        // No checksum of its own makes up for what changes in this header.
        skb.write_summed(ETH_LEN, header)
    }

    #[inline(always)]
    fn write_quoted(
        skb: &Skb,
        quote: &Quote<V6Addr>,
        to: &Tuple<V6Addr>,
    ) -> Result<(), DropReason> {
        // Source and destination, at 8 bytes from the header's start.
        skb.write(quote.l3 + 8, [to.saddr, to.daddr])
    }

    #[inline(always)]
    fn write_refusal(skb: &Skb, endpoint: &Endpoint, answer: &Answer) -> Result<(), DropReason> {
        let (from, to) = (endpoint.gateway6, endpoint.addr6);
        skb.write(ETH_LEN, icmp::v6_refusal(from, to, answer))
    }

    fn frag_key(packet: &Packet<V6Addr>) -> FragKey<V6Addr> {
        // RFC 8200, section 4.5: whatever the next header, which is not the
        // transport where that has extension headers of its own.
        FragKey {
            saddr: packet.tuple.saddr,
            daddr: packet.tuple.daddr,
            id: packet.id,
            proto: 0,
        }
    }
}

/// Something that lies at a multiple of eight bytes, as stores to the stack
/// have to.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// `BPF_FIB_LKUP_RET_*` of `include/uapi/linux/bpf.h`.
const SUCCESS: i64 = 0;
const NO_NEIGH: i64 = 7;
const FRAG_NEEDED: i64 = 8;

/// Asks the FIB for the way to a packet's destination, as if it came in by this
/// interface. The link's `mtu` also comes of one that is too big for it.
#[inline(always)]
pub fn route<F: Family>(
    skb: &Skb,
    ifindex: u32,
    tuple: &Tuple<F::Addr>,
    mtu: &mut u32,
) -> Result<Route<F::Addr>, Unroutable> {
    if tuple.daddr.is_link_local() {
        return Err(Unroutable::NoRoute);
    }
    // SAFETY: all bytes zero is a valid value of this struct of integers.
    let mut params: Aligned<FibParams> = unsafe { core::mem::zeroed() };
    F::ask(&mut params.0, tuple);
    params.0.ifindex = ifindex;
    // SAFETY: the struct lives on this stack and has the size given.
    let ret = unsafe {
        bpf_fib_lookup(
            skb.as_ptr(),
            &raw mut params.0,
            size_of::<FibParams>() as i32,
            0,
        )
    };
    let nexthop = F::nexthop(&params.0);
    // SAFETY: without a length given the helper leaves the MTU there.
    *mtu = u32::from(unsafe { params.0.__bindgen_anon_1.mtu_result });
    match ret {
        SUCCESS => Ok(Route {
            ifindex: params.0.ifindex,
            nexthop,
            macs: Some((params.0.smac, params.0.dmac)),
        }),
        NO_NEIGH => Ok(Route {
            ifindex: params.0.ifindex,
            nexthop,
            macs: None,
        }),
        FRAG_NEEDED => Err(Unroutable::TooBig),
        _ => Err(Unroutable::NoRoute),
    }
}

/// Asks the FIB which address of the host the route to a packet's destination
/// prefers; unspecified where there is no route, and before Linux 6.7.
#[inline(never)]
pub fn preferred_source<F: Family>(skb: &Skb, tuple: &Tuple<F::Addr>, to: &mut F::Addr) {
    /// `BPF_FIB_LOOKUP_SRC` of `include/uapi/linux/bpf.h`.
    const SOURCE: u32 = 1 << 4;
    // SAFETY: all bytes zero is a valid value of this struct of integers.
    let mut params: Aligned<FibParams> = unsafe { core::mem::zeroed() };
    F::ask(&mut params.0, tuple);
    params.0.ifindex = skb.ifindex();
    // SAFETY: the struct lives on this stack and has the size given.
    let ret = unsafe {
        bpf_fib_lookup(
            skb.as_ptr(),
            &raw mut params.0,
            size_of::<FibParams>() as i32,
            SOURCE,
        )
    };
    *to = match ret {
        SUCCESS | NO_NEIGH | FRAG_NEEDED => F::preferred(&params.0),
        _ => F::Addr::ANY,
    };
}

/// Sends the packet by way of the kernel's neighbour table, which resolves the
/// next hop, queueing the packet where it must.
#[inline(always)]
pub fn redirect_neigh<F: Family>(ifindex: u32, nexthop: F::Addr) -> Verdict {
    // SAFETY: all bytes zero is a valid value of this struct of integers.
    let mut params: Aligned<bpf_redir_neigh> = unsafe { core::mem::zeroed() };
    F::name_neighbour(&mut params.0, nexthop);
    // SAFETY: the struct lives on this stack and has the size given.
    let code = unsafe {
        bpf_redirect_neigh(
            ifindex,
            &raw mut params.0,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        )
    };
    Verdict::Redirect(code as i32)
}

/// Asks the kernel for a socket of this namespace. The size of the tuple tells
/// it the family (`sk_lookup`, net/core/filter.c).
#[inline(always)]
fn has_socket(skb: &Skb, tuple: &mut Aligned<bpf_sock_tuple>, size: u32, proto: u8) -> bool {
    let netns = BPF_F_CURRENT_NETNS as u64;
    // SAFETY: the tuple lives on the caller's stack; a socket found is released.
    unsafe {
        let socket = if proto == proto::TCP {
            bpf_skc_lookup_tcp(skb.as_ptr(), &raw mut tuple.0, size, netns, 0)
        } else {
            bpf_sk_lookup_udp(skb.as_ptr(), &raw mut tuple.0, size, netns, 0)
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
