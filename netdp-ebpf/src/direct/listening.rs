//! TCP by direct sockets that are no longer at the port that they were made for.
//! Whoever takes a connection off its peer (`connect` to AF_UNSPEC) can listen by
//! it, at a port of the host that the kernel chooses: nobody is heard there.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_LISTEN_CB},
    helpers::{bpf_get_netns_cookie, bpf_setsockopt, generated::bpf_sk_storage_get},
    programs::SockOpsContext,
};
use netdp_common::{
    addr::{Be16, V4Addr, proto},
    maps::{MadeFor, Published},
    nowhere,
    packet::{V4, V6},
};

use super::options::{BINDTOIFINDEX, SOL_SOCKET};
use crate::{
    family::{Family, is_any},
    host_socket::{HOST_NETNS, on_or_everywhere, words6},
    joined::{AF_INET, AF_INET6},
    maps::MADE_FOR,
};

/// A socket listens, or was accepted by one that does: while the former becomes
/// deaf, the kernel may accept for it.
#[inline(always)]
pub fn happened(ctx: &SockOpsContext) {
    let op = ctx.op();
    if op != BPF_SOCK_OPS_TCP_LISTEN_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return;
    }
    // SAFETY: no memory of the program's.
    if unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } != HOST_NETNS.load() {
        return;
    }
    let is_right = if op == BPF_SOCK_OPS_TCP_LISTEN_CB {
        is_at_its_port(ctx)
    } else {
        is_at_a_direct_port(ctx)
    };
    if !is_right {
        be_deaf(ctx);
    }
}

/// Whether it is where it was made for, and the sandbox that it was made for has
/// that still. One that was accepted was made for nothing.
#[inline(always)]
fn is_at_its_port(ctx: &SockOpsContext) -> bool {
    let map = (&raw const MADE_FOR).cast_mut().cast();
    let ops = ctx.ops;
    // SAFETY: the context is valid while the program runs, and what is kept at a
    // socket stays while the socket does.
    let made_for = unsafe {
        let socket = (*ops).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let made_for = bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0);
        if made_for.is_null() {
            return false;
        }
        &*made_for.cast::<MadeFor>()
    };
    // SAFETY: as above.
    let (family, port) = unsafe { ((*ops).family, (*ops).local_port) };
    if made_for.port != port {
        return false;
    }
    let (own4, own6, port) = (made_for.own4, made_for.own6, Be16::new(port as u16));
    if family == AF_INET {
        // SAFETY: as above, word by word as the kernel lets it be read.
        return is_of::<V4>(V4Addr(unsafe { (*ops).local_ip4 }), port, own4);
    }
    // SAFETY: as above.
    let at = unsafe { words6(&raw const (*ops).local_ip6) };
    let at4 = V4Addr(if at.is_mapped() { at.0[3] } else { 0 });
    (is_any(own4) || is_of::<V4>(at4, port, own4)) && (is_any(own6) || is_of::<V6>(at, port, own6))
}

/// Whether a port is direct, and the sandbox's with this address.
#[inline(never)]
fn is_of<F: Family>(addr: F::Addr, port: Be16, own: F::Addr) -> bool {
    direct::<F>(addr, port).is_some_and(|published| published.addr == own)
}

/// Whether one that was accepted is at a direct port.
#[inline(always)]
fn is_at_a_direct_port(ctx: &SockOpsContext) -> bool {
    let ops = ctx.ops;
    // SAFETY: the context is valid while the program runs, and read word by word
    // as the kernel lets it be read.
    let (family, port) = unsafe { ((*ops).family, Be16::new((*ops).local_port as u16)) };
    if family == AF_INET {
        // SAFETY: as above.
        return direct::<V4>(V4Addr(unsafe { (*ops).local_ip4 }), port).is_some();
    }
    if family != AF_INET6 {
        return false;
    }
    // SAFETY: as above.
    let addr = unsafe { words6(&raw const (*ops).local_ip6) };
    if addr.is_mapped() {
        direct::<V4>(V4Addr(addr.0[3]), port).is_some()
    } else {
        direct::<V6>(addr, port).is_some()
    }
}

#[inline(always)]
fn direct<F: Family>(addr: F::Addr, port: Be16) -> Option<&'static Published<F::Addr>> {
    let found = on_or_everywhere::<F>(addr, port, proto::TCP)?;
    // SAFETY: a map value stays readable while the program runs.
    let published = unsafe { &*found };
    published.is_direct().then_some(published)
}

/// Binds it to an interface that there isn't, from which its program can't take
/// it. The kernel refuses that of those alone that are bound to one already: such as
/// are deaf, and connections of link-local clients, which docs/direct.md leaves.
#[inline(always)]
fn be_deaf(ctx: &SockOpsContext) {
    let mut nowhere = nowhere::FIRST;
    let length = size_of_val(&nowhere) as i32;
    // SAFETY: as many bytes as are said; the socket is that of the context.
    unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            BINDTOIFINDEX as i32,
            ptr::from_mut(&mut nowhere).cast(),
            length,
        );
    }
}
