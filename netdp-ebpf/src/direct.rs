//! Direct ports: what the host's stack has a socket for, and what those may do
//! who hold such a socket.
//!
//! The programs on the control group of these sockets see no other. A socket is
//! of the group that it was made in, whoever holds it.

pub mod datagrams;
mod known;
pub mod listening;
mod options;

use core::ptr;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::bpf_sock,
    helpers::{bpf_get_netns_cookie, generated::bpf_sk_storage_get},
    programs::{SockAddrContext, SockoptContext},
};
use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    drop::DropReason,
    maps::{OwnPlace, OwnPort, OwnWay, Published, endpoint_flags, seen},
    nowhere,
    packet::{Packet, Tuple, V4, V6},
};

pub use known::{is_sent, is_to_known};

use crate::{
    atomic, calls,
    family::{Family, is_any, translate},
    host_socket::{
        ALLOW, HOST_NETNS, REFUSE, addr4, addr6, is_host, mapping, port, protocol, set_addr4,
        set_addr6, set_mapped, set_port,
    },
    maps::{INWARD, OWN_WAYS, UNSEALED},
    ports::{back_of, mapping_of},
    ranges,
    skb::Skb,
    work::{self, Decision, Exit, Work, copy},
};

/// Number of the control group of direct sockets (`cgroup_id`), set by the loader; 0
/// where there is none.
#[unsafe(no_mangle)]
pub static DIRECT_GROUP: Global<u64> = Global::new(0);

/// Whether a packet for a published port is one of the host's own: its program
/// has a socket there, or a connection of one. `usual` is the address that
/// answers to its sender leave from by themselves.
///
/// A function of its own: the socket's tuple has no place on the caller's stack.
#[inline(always)]
pub fn is_hosts<F: Family>(
    skb: &Skb,
    mapping: &Published<F::Addr>,
    packet: &Packet<F::Addr>,
    usual: &F::Addr,
) -> bool {
    if !mapping.is_direct() {
        return false;
    }
    let keeps = known::is_all::<F>(mapping, packet, usual);
    if !known::listens::<F>(skb, packet, keeps) && !has_socket::<F>(skb, packet) {
        return false;
    }
    if packet.proto == proto::UDP {
        datagrams::asked::<F>(mapping, packet, usual);
    }
    true
}

#[inline(never)]
fn has_socket<F: Family>(skb: &Skb, packet: &Packet<F::Addr>) -> bool {
    F::host_has_socket(skb.as_ptr(), &packet.tuple, packet.proto)
}

/// Whether a socket of the host has sent the packet that an error from outside
/// quotes, by a direct port.
#[inline(never)]
pub fn has_sent<F: Family>(skb: &Skb, work: &Work<F::Addr>) -> bool {
    let (sent, proto) = (&work.quote.tuple, work.quote.proto);
    let Some(found) = mapping_of::<F>(&sent.saddr, sent.sport, proto) else {
        return false;
    };
    let answer = Tuple {
        saddr: sent.daddr,
        daddr: sent.saddr,
        sport: sent.dport,
        dport: sent.sport,
    };
    // SAFETY: a map value stays readable while the program runs.
    let is_direct = unsafe { (*found).is_direct() };
    is_direct && F::host_has_socket(skb.as_ptr(), &answer, proto)
}

/// Whether who sends may use a port: everybody, who is in its set, or who is of
/// this host, of which others have judged.
#[inline(always)]
fn may_send<F: Family>(published: &Published<F::Addr>, from: &F::Addr) -> bool {
    ranges::is_allowed::<F>(published.allow, from)
        || from.is_loopback()
        || F::locals().get_ptr(from).is_some()
        || F::addrs().get_ptr(from).is_some()
}

/// Whether a program listens at a published port by a socket of the host.
#[inline(never)]
pub fn listens<F: Family>(ctx: &SockAddrContext, addr: F::Addr, port: Be16, proto: u8) -> bool {
    let client = Tuple {
        saddr: F::Addr::any(),
        daddr: addr,
        sport: Be16::default(),
        dport: port,
    };
    F::host_has_socket(ctx.as_ptr(), &client, proto)
}

/// Whether a container's packet for another one's own address is for a socket of
/// the host that a program of the latter has. Decides on the address and port of
/// the host then.
#[inline(never)]
pub fn is_instead<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    decision: &mut Decision<F::Addr>,
) -> bool {
    let asked = &packet.tuple;
    let back = back_of::<F>(&asked.daddr, asked.dport, packet.proto);
    if back.is_null() {
        return false;
    }
    // SAFETY: a map value stays readable while the program runs.
    let back = unsafe { &*back };
    if back.until != 0 {
        return false;
    }
    copy(&mut decision.to.daddr, &back.addr);
    decision.to.dport = back.host_port(asked.dport);
    if !is_direct::<F>(&decision.to, packet.proto)
        || !F::host_has_socket(skb.as_ptr(), &decision.to, packet.proto)
    {
        copy(&mut decision.to.daddr, &asked.daddr);
        decision.to.dport = asked.dport;
        return false;
    }
    decision.exit = Exit::Host;
    if let Some(seen) = INWARD.get_ptr_mut(0) {
        // SAFETY: only ever set, by any CPU.
        unsafe { atomic::set(seen, 1) };
    }
    true
}

/// A port of UDP that isn't direct has a socket as well: the one that holds it.
#[inline(always)]
fn is_direct<F: Family>(to: &Tuple<F::Addr>, proto: u8) -> bool {
    if proto == proto::TCP {
        return true;
    }
    match mapping_of::<F>(&to.daddr, to.dport, proto) {
        // SAFETY: a map value stays readable while the program runs.
        Some(found) => unsafe { (*found).is_direct() },
        None => false,
    }
}

/// Whether there may be an answer to such a packet.
#[inline(always)]
pub fn is_inward() -> bool {
    INWARD.get(0).is_some_and(|seen| *seen != 0)
}

/// Puts the address and port in place of the host's under which a container has
/// asked.
#[inline(never)]
pub fn answer<F: Family>(skb: &Skb) -> Result<(), DropReason> {
    let Ok(work) = work::begin::<F>(skb) else {
        return Ok(());
    };
    let from = &work.packet.tuple;
    if !work.packet.transport.is_tcp_or_udp() {
        return Ok(());
    }
    let Some(found) = mapping_of::<F>(&from.saddr, from.sport, work.packet.proto) else {
        return Ok(());
    };
    // SAFETY: a map value stays readable while the program runs.
    let published = unsafe { &*found };
    if !published.is_direct() {
        return Ok(());
    }
    copy(&mut work.decision.to.saddr, &published.addr);
    work.decision.to.sport = published.container_port(from.sport);
    if !calls::is_kept::<F>(skb, work) {
        return Ok(());
    }
    translate::<F>(skb, &work.packet, &work.decision.to, false)
}

/// The place of the host where a program of a container listens, by the
/// container's own address and port.
#[inline(always)]
pub fn place_of<F: Family>(
    ctx: &SockAddrContext,
    addr: F::Addr,
    port: Be16,
    proto: u8,
) -> Option<(F::Addr, Be16)> {
    if proto != proto::TCP && !datagrams::was_seen(seen::DATAGRAMS) {
        return None;
    }
    let owner = F::addrs().get_ptr(addr)?;
    // SAFETY: a map value stays readable while the program runs.
    if unsafe { (*owner).flags } & u32::from(endpoint_flags::DIRECT) == 0 {
        return None;
    }
    let back = back_of::<F>(&addr, port, proto);
    if back.is_null() {
        return None;
    }
    // SAFETY: as above.
    let back = unsafe { &*back };
    let (addr, port) = (back.addr, back.host_port(port));
    if back.until != 0
        || proto != proto::TCP && !is_direct_at::<F>(addr, port, proto)
        || !listens::<F>(ctx, addr, port, proto)
    {
        return None;
    }
    Some((addr, port))
}

/// As [`is_direct`], of a socket.
#[inline(always)]
fn is_direct_at<F: Family>(addr: F::Addr, port: Be16, proto: u8) -> bool {
    match mapping::<F>(addr, port, proto) {
        // SAFETY: a map value stays readable while the program runs.
        Some(found) => unsafe { (*found).is_direct() },
        None => false,
    }
}

/// The place of the host where a program of the socket's own sandbox listens, by
/// what the sandbox takes for itself. None where a program listens there inside.
#[inline(always)]
pub fn own_place<F: Family>(
    ctx: &SockAddrContext,
    (addr, port): (F::Addr, Be16),
    proto: u8,
    of: impl FnOnce(&'static OwnWay) -> &'static OwnPlace<F::Addr>,
) -> Option<(F::Addr, Be16)> {
    // SAFETY: the context is valid while the program runs.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let way = OWN_WAYS.get_ptr(OwnPort::new(netns, port, proto))?;
    // SAFETY: a map value stays readable while the program runs.
    let place = of(unsafe { &*way });
    let is_itself = addr.is_loopback() || is_any(addr) || addr == place.own;
    if !is_itself || is_any(place.to) || listens::<F>(ctx, addr, port, proto) {
        return None;
    }
    // The port may have gone to another sandbox, or to the host, since then.
    let found = mapping_of::<F>(&place.to, place.port, proto)?;
    // SAFETY: as above.
    let published = unsafe { &*found };
    let is_own = published.is_direct() && published.addr == place.own;
    is_own.then_some((place.to, place.port))
}

/// A connection to anywhere would begin in the host's network. One of UDP may
/// have a client for its peer.
#[inline(always)]
pub fn connects4(ctx: &SockAddrContext) -> i32 {
    if !is_host(ctx) {
        ALLOW
    } else if protocol(ctx) == proto::UDP {
        datagrams::connects4(ctx)
    } else {
        REFUSE
    }
}

/// The same of a socket of IPv6.
#[inline(always)]
pub fn connects6(ctx: &SockAddrContext) -> i32 {
    if !is_host(ctx) {
        ALLOW
    } else if protocol(ctx) == proto::UDP {
        datagrams::connects6(ctx)
    } else {
        REFUSE
    }
}

/// Binding is netdp's: of a socket that was handed out, only to make one of
/// another port.
#[inline(always)]
pub fn only_while_made(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context and its socket are valid while the program runs.
    if !is_host(ctx) || unsafe { is_unsealed((*ctx.sock_addr).__bindgen_anon_1.sk) } {
        return ALLOW;
    }
    REFUSE
}

/// Whether netdp is still about to make this socket of the group. Connections
/// that one accepts are born sealed.
///
/// # Safety
/// The socket is that of the running program's context.
#[inline(always)]
unsafe fn is_unsealed(socket: *mut bpf_sock) -> bool {
    if socket.is_null() {
        return false;
    }
    let map = (&raw const UNSEALED).cast_mut().cast();
    // SAFETY: as said above; nothing is made where nothing is found.
    let found = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) };
    !found.is_null()
}

/// Puts the container's address and port in place of the host's.
#[inline(always)]
pub fn as_inside4(ctx: &SockAddrContext) {
    if is_host(ctx) {
        inside::<V4>(ctx, addr4(ctx), |addr| set_addr4(ctx, addr));
    }
}

/// The same of a socket of IPv6, which may also speak IPv4.
#[inline(always)]
pub fn as_inside6(ctx: &SockAddrContext) {
    if !is_host(ctx) {
        return;
    }
    let addr = addr6(ctx);
    if !addr.is_mapped() {
        return inside::<V6>(ctx, addr, |addr| set_addr6(ctx, addr));
    }
    let v4 = V4Addr(addr.0[3]);
    inside::<V4>(ctx, v4, |addr| set_mapped(ctx, addr));
    if is_any(v4) {
        // It was bound to all addresses, of which only those of IPv4 are
        // published.
        set_addr6(ctx, V6Addr::any());
    }
}

/// A socket that is bound to all addresses stays so.
#[inline(always)]
fn inside<F: Family>(ctx: &SockAddrContext, addr: F::Addr, set: impl FnOnce(F::Addr)) {
    let host_port = port(ctx);
    let Some(found) = mapping::<F>(addr, host_port, protocol(ctx)) else {
        return;
    };
    // SAFETY: a map value stays readable while the program runs.
    let published = unsafe { &*found };
    if !published.is_direct() {
        return;
    }
    if !is_any(addr) {
        set(published.addr);
    }
    set_port(ctx, published.container_port(host_port));
}

/// Options that matter to the connection alone, and what makes it deaf.
#[inline(always)]
pub fn harmless(ctx: &SockoptContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let (level, name, socket, netns) = unsafe {
        let option = ctx.sockopt;
        let socket = (*option).__bindgen_anon_1.sk;
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        ((*option).level, (*option).optname, socket, netns)
    };
    // SAFETY: as above.
    if netns != HOST_NETNS.load() || unsafe { is_unsealed(socket) } {
        return ALLOW;
    }
    match options::of(level, name) {
        options::Effect::OfItsOwn => ALLOW,
        options::Effect::OnThePort => {
            // Answered as done, and left as it is.
            // SAFETY: as above; a program of this hook may write it.
            unsafe { (*ctx.sockopt).optlen = -1 };
            ALLOW
        }
        options::Effect::OnTheInterface if value(ctx).is_some_and(nowhere::is) => ALLOW,
        options::Effect::OnTheClass if value(ctx).is_some_and(is_priority) => ALLOW,
        _ => REFUSE,
    }
}

/// Priorities as everybody may set them; others name a class of the host's queues
/// (`sk_set_prio_allowed`, net/core/sock.c, 6.18).
fn is_priority(value: i32) -> bool {
    (0..=6).contains(&value)
}

/// The value of an option that is a number. What is longer than a page the kernel
/// reads from the program's memory once more
/// (`__cgroup_bpf_run_filter_setsockopt`, kernel/bpf/cgroup.c, 6.4).
#[inline(always)]
fn value(ctx: &SockoptContext) -> Option<i32> {
    // SAFETY: the context is valid while the program runs.
    let (value, end, length) = unsafe {
        let option = ctx.sockopt;
        let value = (*option).__bindgen_anon_2.optval;
        let end = (*option).__bindgen_anon_3.optval_end;
        (value, end, (*option).optlen)
    };
    let behind = value.wrapping_byte_add(size_of::<i32>());
    if length != size_of::<i32>() as i32 || behind > end {
        return None;
    }
    // SAFETY: as many bytes as are read lie before the end.
    Some(unsafe { value.cast::<i32>().read_unaligned() })
}
