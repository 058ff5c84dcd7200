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
    addr::{Address, Be16, V4Addr, proto},
    nowhere,
    packet::{V4, V6},
};

use super::options::{BINDTOIFINDEX, SOL_SOCKET};
use crate::{
    family::{Family, is_any},
    host_socket::{HOST_NETNS, on_or_everywhere},
    joined::{AF_INET, AF_INET6, words6},
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

/// Whether it was made for the port that it has. One that was accepted was made
/// for none.
#[inline(always)]
fn is_at_its_port(ctx: &SockOpsContext) -> bool {
    let map = (&raw const MADE_FOR).cast_mut().cast();
    let ops = ctx.ops;
    // SAFETY: the context is valid while the program runs, and what is kept at a
    // socket stays while the socket does.
    unsafe {
        let socket = (*ops).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let port = bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0).cast::<u32>();
        !port.is_null() && *port == (*ops).local_port
    }
}

/// Whether it is at a direct port, of either family where it hears both.
#[inline(always)]
fn is_at_a_direct_port(ctx: &SockOpsContext) -> bool {
    let ops = ctx.ops;
    // SAFETY: the context is valid while the program runs, and read word by word
    // as the kernel lets it be read.
    let (family, port) = unsafe { ((*ops).family, Be16::new((*ops).local_port as u16)) };
    if family == AF_INET {
        // SAFETY: as above.
        return is_direct::<V4>(V4Addr(unsafe { (*ops).local_ip4 }), port);
    }
    if family != AF_INET6 {
        return false;
    }
    // SAFETY: as above.
    let addr = unsafe { words6(&raw const (*ops).local_ip6) };
    if addr.is_mapped() {
        return is_direct::<V4>(V4Addr(addr.0[3]), port);
    }
    is_direct::<V6>(addr, port) || is_any(addr) && is_direct::<V4>(V4Addr::any(), port)
}

#[inline(never)]
fn is_direct<F: Family>(addr: F::Addr, port: Be16) -> bool {
    match on_or_everywhere::<F>(addr, port, proto::TCP) {
        // SAFETY: a map value stays readable while the program runs.
        Some(found) => unsafe { (*found).is_direct() },
        None => false,
    }
}

/// Binds it to an interface that there isn't, from which its program can't take
/// it.
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
