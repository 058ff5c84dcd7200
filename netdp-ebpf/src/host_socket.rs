//! A program of the host that reaches a published port: its socket is sent to
//! the container, and told the address that it asked for.

use aya_ebpf::{
    EbpfContext, Global,
    bindings::BPF_ANY,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr, proto},
    maps::{Asked, OwnPlace, OwnWay, PortKey, Published, SockKey, seen},
    packet::{V4, V6},
};

use crate::{
    direct::{self, datagrams},
    family::{Family, is_any},
    ranges,
};

/// A cgroup program's verdict: go on.
pub const ALLOW: i32 = 1;
/// The system call fails.
pub const REFUSE: i32 = 0;

/// `EINVAL` of `include/uapi/asm-generic/errno-base.h`.
const EINVAL: i32 = 22;

/// Cookie of the host's network namespace (`SO_NETNS_COOKIE`, Linux 5.14), set
/// by the loader. Sockets of other namespaces are none of netdp's business.
#[unsafe(no_mangle)]
pub static HOST_NETNS: Global<u64> = Global::new(0);

/// Puts the container's address in place of a published one.
#[inline(always)]
pub fn to_container4(ctx: &SockAddrContext) {
    if is_host(ctx) {
        redirect::<V4>(ctx, addr4(ctx), |addr| set_addr4(ctx, addr));
    } else if !bound4(ctx).is_loopback() {
        let place = |way: &'static OwnWay| &way.v4;
        to_itself::<V4>(ctx, addr4(ctx), place, |addr| set_addr4(ctx, addr));
    }
}

/// The same of a socket of IPv6, which may also speak IPv4.
///
/// One that is bound to ::1 is refused with the error that the kernel has for
/// 127.0.0.1: it would send what no host takes from a link, and hear nothing.
#[inline(always)]
pub fn to_container6(ctx: &SockAddrContext) -> i32 {
    let addr = addr6(ctx);
    if !is_host(ctx) {
        if addr.is_mapped() {
            let (addr, place) = (V4Addr(addr.0[3]), |way: &'static OwnWay| &way.v4);
            to_itself::<V4>(ctx, addr, place, |addr| set_mapped(ctx, addr));
        } else if !bound6(ctx).is_loopback() {
            let place = |way: &'static OwnWay| &way.v6;
            to_itself::<V6>(ctx, addr, place, |addr| set_addr6(ctx, addr));
        }
        return ALLOW;
    }
    if addr.is_mapped() {
        redirect::<V4>(ctx, V4Addr(addr.0[3]), |addr| set_mapped(ctx, addr));
        return ALLOW;
    }
    let mut verdict = ALLOW;
    redirect::<V6>(ctx, addr, |addr| {
        set_addr6(ctx, addr);
        if bound6(ctx).is_loopback() {
            // SAFETY: no pointers. Linux 5.18.
            unsafe { bpf_set_retval(-EINVAL) };
            verdict = REFUSE;
        }
    });
    verdict
}

/// The same of the peer of a socket of any network: sandboxes connect to
/// themselves. Also asked of each socket that is accepted, which has asked for
/// nothing.
#[inline(always)]
pub fn peer_as_asked4(ctx: &SockAddrContext) {
    if has_peers(ctx) {
        restore_peer4(ctx);
    }
}

#[inline(always)]
fn restore_peer4(ctx: &SockAddrContext) {
    restore::<V4>(ctx, addr4(ctx), |addr| set_addr4(ctx, addr));
}

/// The same of a socket of IPv6, which may also speak IPv4.
#[inline(always)]
pub fn peer_as_asked6(ctx: &SockAddrContext) {
    if has_peers(ctx) {
        restore_peer6(ctx);
    }
}

#[inline(always)]
fn restore_peer6(ctx: &SockAddrContext) {
    let addr = addr6(ctx);
    if addr.is_mapped() {
        restore::<V4>(ctx, V4Addr(addr.0[3]), |addr| set_mapped(ctx, addr));
    } else {
        restore::<V6>(ctx, addr, |addr| set_addr6(ctx, addr));
    }
}

/// Puts the address that the program asked for in place of the container's.
#[inline(always)]
pub fn as_asked4(ctx: &SockAddrContext) {
    if may_have_asked(ctx) {
        restore::<V4>(ctx, addr4(ctx), |addr| set_addr4(ctx, addr));
    }
}

/// The same of a socket of IPv6, which may also speak IPv4.
#[inline(always)]
pub fn as_asked6(ctx: &SockAddrContext) {
    if may_have_asked(ctx) {
        restore_peer6(ctx);
    }
}

/// Whether sockets of the host, or of sandboxes, were connected elsewhere than
/// they asked for.
#[inline(always)]
fn has_peers(ctx: &SockAddrContext) -> bool {
    if is_host(ctx) {
        datagrams::was_seen(seen::SENT)
    } else {
        datagrams::was_seen(seen::CONNECTED)
    }
}

/// Whether a socket of UDP may have been sent elsewhere than it asked for.
#[inline(always)]
fn may_have_asked(ctx: &SockAddrContext) -> bool {
    let (sent, own) = (
        datagrams::was_seen(seen::SENT),
        datagrams::was_seen(seen::OWN),
    );
    // Asked of each datagram: mostly two loads.
    if !sent && !own {
        return false;
    }
    if is_host(ctx) {
        sent && !datagrams::has_heard(ctx)
    } else {
        own
    }
}

#[inline(always)]
fn redirect<F: Family>(ctx: &SockAddrContext, addr: F::Addr, set: impl FnOnce(F::Addr)) {
    let port = port(ctx);
    let protocol = protocol(ctx);
    let (to, to_port) = match mapping::<F>(addr, port, protocol) {
        Some(published) => {
            // SAFETY: a map value stays readable while the program runs.
            let published = unsafe { &*published };
            if published.is_direct() && direct::listens::<F>(ctx, addr, port, protocol) {
                return;
            }
            (published.addr, published.container_port(port))
        }
        None => match direct::place_of::<F>(ctx, addr, port, protocol) {
            Some(place) => place,
            None => return,
        },
    };
    see_once(seen::SENT);
    send_to::<F>(ctx, (addr, port), (to, to_port), set);
}

/// All CPUs read it.
#[inline(always)]
fn see_once(what: u32) {
    if !datagrams::was_seen(what) {
        datagrams::see(what);
    }
}

/// Puts the place of the host, where a program of the sandbox listens, in place
/// of what the sandbox takes for itself.
#[inline(always)]
fn to_itself<F: Family>(
    ctx: &SockAddrContext,
    addr: F::Addr,
    place: impl FnOnce(&'static OwnWay) -> &'static OwnPlace<F::Addr>,
    set: impl FnOnce(F::Addr),
) {
    let (port, protocol) = (port(ctx), protocol(ctx));
    // Datagrams are many, and few of them go to what is never another's.
    if protocol != proto::TCP && !addr.is_loopback() && !is_any(addr) {
        return;
    }
    if let Some(to) = direct::own_place::<F>(ctx, (addr, port), protocol, place) {
        if protocol == proto::UDP {
            see_once(seen::OWN);
        }
        see_once(seen::CONNECTED);
        send_to::<F>(ctx, (addr, port), to, set);
    }
}

/// Notes what was asked for, and puts another address and port in its place.
#[inline(always)]
fn send_to<F: Family>(
    ctx: &SockAddrContext,
    (addr, port): (F::Addr, Be16),
    (to, to_port): (F::Addr, Be16),
    set: impl FnOnce(F::Addr),
) {
    let asked = Asked {
        addr,
        port,
        pad: 0,
        fill: F::Addr::FILL,
    };
    let key = key::<F>(ctx, to, to_port);
    if F::socks().insert(key, asked, u64::from(BPF_ANY)).is_ok() {
        set(to);
        set_port(ctx, to_port);
    }
}

#[inline(always)]
fn restore<F: Family>(ctx: &SockAddrContext, addr: F::Addr, set: impl FnOnce(F::Addr)) {
    if let Some(asked) = F::socks().get_ptr(key::<F>(ctx, addr, port(ctx))) {
        // SAFETY: a map value stays readable while the program runs.
        let (addr, port) = unsafe { ((*asked).addr, (*asked).port) };
        set(addr);
        set_port(ctx, port);
    }
}

/// A mapping on this address; one on all addresses counts at loopback and at
/// each address of the host.
#[inline(always)]
pub fn mapping<F: Family>(
    addr: F::Addr,
    port: Be16,
    proto: u8,
) -> Option<*const Published<F::Addr>> {
    let mut key = PortKey::new(addr, port, proto);
    if let Some(published) = on::<F>(&key) {
        return Some(published);
    }
    // Linux takes 0.0.0.0 and :: as destination for loopback.
    if addr.is_loopback() || addr == F::Addr::ANY || F::locals().get_ptr(addr).is_some() {
        key.addr = F::Addr::any();
        return on::<F>(&key);
    }
    None
}

/// A mapping on this address, or on all addresses.
#[inline(always)]
pub fn on_or_everywhere<F: Family>(
    addr: F::Addr,
    port: Be16,
    proto: u8,
) -> Option<*const Published<F::Addr>> {
    let mut key = PortKey::new(F::Addr::any(), port, proto);
    if let Some(published) = on::<F>(&key) {
        return Some(published);
    }
    key.addr = addr;
    on::<F>(&key)
}

/// A port, or the range that it is part of.
#[inline(always)]
fn on<F: Family>(key: &PortKey<F::Addr>) -> Option<*const Published<F::Addr>> {
    if let Some(published) = F::ports().get_ptr(key) {
        return Some(published);
    }
    if !ranges::are_there() {
        return None;
    }
    let range = ranges::published::<F>(&key.addr, false, key.port, key.proto);
    if range.is_null() { None } else { Some(range) }
}

#[inline(always)]
pub fn is_host(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) == HOST_NETNS.load() }
}

#[inline(always)]
fn key<F: Family>(ctx: &SockAddrContext, addr: F::Addr, port: Be16) -> SockKey<F::Addr> {
    SockKey {
        // SAFETY: as above.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        addr,
        port,
        pad: 0,
        fill: F::Addr::FILL,
    }
}

/// A number of [`proto`].
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: as above.
    unsafe { (*ctx.sock_addr).protocol as u8 }
}

/// The port lies in the low half of its word, in network order.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> Be16 {
    // SAFETY: as above.
    Be16::from_raw(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
pub fn set_port(ctx: &SockAddrContext, port: Be16) {
    // SAFETY: as above; a program of these hooks may write it.
    unsafe { (*ctx.sock_addr).user_port = u32::from(port.raw()) };
}

#[inline(always)]
pub fn addr4(ctx: &SockAddrContext) -> V4Addr {
    // SAFETY: as above; in network order.
    V4Addr(unsafe { (*ctx.sock_addr).user_ip4 })
}

#[inline(always)]
pub fn set_addr4(ctx: &SockAddrContext, addr: V4Addr) {
    // SAFETY: as above; a program of these hooks may write it.
    unsafe { (*ctx.sock_addr).user_ip4 = addr.0 };
}

/// Word by word, as the kernel lets the context be read: through a pointer
/// that nothing was added to.
///
/// # Safety
/// They may be read while the program runs.
#[inline(always)]
pub unsafe fn words6(words: *const [u32; 4]) -> V6Addr {
    // SAFETY: as said above; in network order.
    unsafe {
        V6Addr([
            (&raw const (*words)[0]).read_volatile(),
            (&raw const (*words)[1]).read_volatile(),
            (&raw const (*words)[2]).read_volatile(),
            (&raw const (*words)[3]).read_volatile(),
        ])
    }
}

#[inline(always)]
pub fn addr6(ctx: &SockAddrContext) -> V6Addr {
    // SAFETY: as above.
    unsafe { words6(&raw const (*ctx.sock_addr).user_ip6) }
}

/// The socket's own address; 0 while it is not bound to one.
#[inline(always)]
pub fn bound4(ctx: &SockAddrContext) -> V4Addr {
    // SAFETY: as above; the socket stays while the program runs.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        V4Addr((*socket).src_ip4)
    }
}

/// The socket's own address; `::` while it is not bound to one.
#[inline(always)]
pub fn bound6(ctx: &SockAddrContext) -> V6Addr {
    // SAFETY: as above; the socket stays while the program runs.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        words6(&raw const (*socket).src_ip6)
    }
}

/// The address that a datagram is to be sent from; 0 where the stack chooses.
#[inline(always)]
pub fn source4(ctx: &SockAddrContext) -> V4Addr {
    // SAFETY: as above; of the hooks `sendmsg4` and `sendmsg6` alone.
    V4Addr(unsafe { (*ctx.sock_addr).msg_src_ip4 })
}

#[inline(always)]
pub fn source6(ctx: &SockAddrContext) -> V6Addr {
    // SAFETY: as above.
    unsafe { words6(&raw const (*ctx.sock_addr).msg_src_ip6) }
}

#[inline(always)]
pub fn set_source4(ctx: &SockAddrContext, addr: V4Addr) {
    // SAFETY: as above; a program of these hooks may write it.
    unsafe { (*ctx.sock_addr).msg_src_ip4 = addr.0 };
}

#[inline(always)]
pub fn set_source6(ctx: &SockAddrContext, addr: V6Addr) {
    // SAFETY: as above.
    unsafe { set_words6(&raw mut (*ctx.sock_addr).msg_src_ip6, addr) };
}

#[inline(always)]
pub fn set_addr6(ctx: &SockAddrContext, addr: V6Addr) {
    // SAFETY: as above; a program of these hooks may write it.
    unsafe { set_words6(&raw mut (*ctx.sock_addr).user_ip6, addr) };
}

/// As [`words6`].
///
/// # Safety
/// They may be written while the program runs.
#[inline(always)]
unsafe fn set_words6(words: *mut [u32; 4], addr: V6Addr) {
    // SAFETY: as said above.
    unsafe {
        (&raw mut (*words)[0]).write_volatile(addr.0[0]);
        (&raw mut (*words)[1]).write_volatile(addr.0[1]);
        (&raw mut (*words)[2]).write_volatile(addr.0[2]);
        (&raw mut (*words)[3]).write_volatile(addr.0[3]);
    }
}

/// Another IPv4 address in place of one that is written as IPv6.
#[inline(always)]
pub fn set_mapped(ctx: &SockAddrContext, addr: V4Addr) {
    // SAFETY: as above.
    unsafe { (&raw mut (*ctx.sock_addr).user_ip6[3]).write_volatile(addr.0) };
}
