//! A program of the host that reaches a published port: its socket is sent to
//! the container, and told the address that it asked for.

use aya_ebpf::{
    EbpfContext, Global,
    bindings::BPF_ANY,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use netdp_common::{
    addr::{Address, Be16, V4Addr},
    maps::{Asked, PortKey, Published, SockKey},
    packet::V4,
};

use crate::family::Family;

/// A cgroup program's verdict: go on.
pub const ALLOW: i32 = 1;

/// Cookie of the host's network namespace (`SO_NETNS_COOKIE`, Linux 5.14), set
/// by the loader. Sockets of other namespaces are none of netdp's business.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

/// Puts the container's address in place of a published one.
#[inline(always)]
pub fn to_container(ctx: &SockAddrContext) {
    if !is_host(ctx) {
        return;
    }
    let (addr, port) = destination(ctx);
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    let Some(published) = mapping::<V4>(addr, port, protocol) else {
        return;
    };
    // SAFETY: a map value stays readable while the program runs.
    let published = unsafe { published.read() };
    let key = key(ctx, published.addr, published.port);
    let asked = Asked {
        addr,
        port,
        pad: 0,
        fill: V4Addr::FILL,
    };
    if V4::socks().insert(key, asked, u64::from(BPF_ANY)).is_ok() {
        set_destination(ctx, published.addr, published.port);
    }
}

/// Puts the address that the program asked for in place of the container's.
#[inline(always)]
pub fn as_asked(ctx: &SockAddrContext) {
    if !is_host(ctx) {
        return;
    }
    let (addr, port) = destination(ctx);
    if let Some(asked) = V4::socks().get_ptr(key(ctx, addr, port)) {
        // SAFETY: a map value stays readable while the program runs.
        let asked = unsafe { asked.read() };
        set_destination(ctx, asked.addr, asked.port);
    }
}

/// A mapping on this address; one on all addresses counts at loopback and at
/// each address of the host.
#[inline(always)]
fn mapping<F: Family>(addr: F::Addr, port: Be16, proto: u8) -> Option<*const Published<F::Addr>> {
    if let Some(published) = F::ports().get_ptr(PortKey::new(addr, port, proto)) {
        return Some(published);
    }
    let published = F::ports().get_ptr(PortKey::new(F::Addr::ANY, port, proto))?;
    // Linux takes 0.0.0.0 as destination for loopback.
    if addr.is_loopback() || addr == F::Addr::ANY || F::locals().get_ptr(addr).is_some() {
        return Some(published);
    }
    None
}

#[inline(always)]
fn is_host(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) == HOST_NETNS.load() }
}

#[inline(always)]
fn key(ctx: &SockAddrContext, addr: V4Addr, port: Be16) -> SockKey<V4Addr> {
    SockKey {
        // SAFETY: as above.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        addr,
        port,
        pad: 0,
        fill: V4Addr::FILL,
    }
}

#[inline(always)]
fn destination(ctx: &SockAddrContext) -> (V4Addr, Be16) {
    // SAFETY: as above. Both fields are in network order; the port lies in the
    // low half of its word.
    unsafe {
        (
            V4Addr((*ctx.sock_addr).user_ip4),
            Be16::from_raw((*ctx.sock_addr).user_port as u16),
        )
    }
}

#[inline(always)]
fn set_destination(ctx: &SockAddrContext, addr: V4Addr, port: Be16) {
    // SAFETY: as above; a program of these hooks may write both.
    unsafe {
        (*ctx.sock_addr).user_ip4 = addr.0;
        (*ctx.sock_addr).user_port = u32::from(port.raw());
    }
}
