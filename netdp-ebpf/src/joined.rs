//! TCP between two sockets of this host: what one sends is put into the other's
//! queue, without the stack between them. `docs/sockmap.md` says when, and why no
//! byte is lost or overtaken.

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{
        BPF_F_INGRESS, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE,
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock, sk_action::SK_PASS,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_sk_storage_get, bpf_skc_to_mptcp_sock, bpf_skc_to_tcp_sock,
    },
    programs::{SkMsgContext, SockOpsContext},
};
use netdp_common::{
    addr::{Be16, V4Addr, V6Addr},
    joined::{goes_short, read},
    maps::{Half, Joined, Pair, SocketKey, joined_flags},
    packet::{V4, V6},
};

use crate::{
    family::Family,
    host_socket::{HOST_NETNS, words6},
    maps::{CONFIG, JOINED, PAIRS, SHORT, SOCKETS},
};

/// Where `struct tcp_sock` of this kernel has `write_seq`, bytes; set by the
/// loader.
#[unsafe(no_mangle)]
static WRITE_SEQ: Global<u32> = Global::new(0);
/// Where it has `sk_rmem_alloc`.
#[unsafe(no_mangle)]
static RMEM_ALLOC: Global<u32> = Global::new(0);

/// `AF_INET` and `AF_INET6` of `include/linux/socket.h`.
pub const AF_INET: u32 = 2;
pub const AF_INET6: u32 = 10;
/// `TCP_CLOSE` of `include/net/tcp_states.h`.
const CLOSE: u32 = 7;

/// What two addresses and a namespace come to.
#[repr(C, align(8))]
struct Ends {
    peer_netns: u64,
    slot: u32,
    /// 0 where the two are not joined.
    mode: u32,
}

/// Something has happened to a TCP socket.
#[inline(always)]
pub fn happened(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(ctx, true),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(ctx, false),
        // SAFETY: the context is valid while the program runs.
        BPF_SOCK_OPS_STATE_CB if unsafe { (*ctx.ops).__bindgen_anon_1.args[1] } == CLOSE => {
            closed(ctx);
        }
        _ => {}
    }
}

/// A connection is there: the socket is put where the other end finds it.
#[inline(always)]
fn established(ctx: &SockOpsContext, opened: bool) {
    let ops = ctx.ops;
    // SAFETY: the context is valid while the program runs, and read word by word
    // as the kernel lets it be read.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() || (*ops).is_fullsock == 0 {
            return;
        }
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        let mut ends = Ends {
            peer_netns: 0,
            slot: 0,
            mode: 0,
        };
        let family = (*ops).family;
        if family == AF_INET {
            let (local, remote) = (V4Addr((*ops).local_ip4), V4Addr((*ops).remote_ip4));
            find::<V4>(&local, &remote, netns, opened, &mut ends);
        } else if family == AF_INET6 {
            let local = words6(&raw const (*ops).local_ip6);
            let remote = words6(&raw const (*ops).remote_ip6);
            find6(&local, &remote, netns, opened, &mut ends);
        }
        if ends.mode == 0 {
            return;
        }
        // What the subflows of MPTCP carry is its own business.
        if !bpf_skc_to_mptcp_sock(sk.cast()).is_null() {
            return;
        }
        let first = (*ops).snd_nxt;
        let mut key = SocketKey {
            netns,
            peer_netns: ends.peer_netns,
            isn: first.wrapping_sub(1),
            peer_isn: (*ops).rcv_nxt.wrapping_sub(1),
            port: Be16::new((*ops).local_port as u16),
            peer_port: Be16::from_raw(remote_port((*ops).remote_port)),
            pad: 0,
        };
        if key.isn == key.peer_isn {
            return;
        }
        let flags = if opened { joined_flags::OPENED } else { 0 };
        let mut value = Joined {
            key,
            first,
            flags,
            mode: ends.mode,
            members: members(),
            slot: ends.slot,
            pad: 0,
        };
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        let stored = bpf_sk_storage_get(storage(), sk.cast(), (&raw mut value).cast(), create);
        if stored.is_null() {
            return;
        }
        // So that the last one to close takes the entry of both away.
        let flags = (*ops).bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG;
        if ctx.set_cb_flags(flags as i32).is_err() {
            return;
        }
        let pair = if key.is_second() { key.peer() } else { key };
        // The other end may have been here first.
        let _ = PAIRS.insert(&pair, &Pair::default(), u64::from(BPF_NOEXIST));
        let _ = SOCKETS.update(&mut key, &mut *ops, 0);
    }
}

/// A connection has gone.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    // SAFETY: as above; storage stays while its socket does.
    unsafe {
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let joined = bpf_sk_storage_get(storage(), sk.cast(), ptr::null_mut(), 0).cast::<Joined>();
        if joined.is_null() {
            return;
        }
        let key = (*joined).key;
        let pair = if key.is_second() { key.peer() } else { key };
        let _ = PAIRS.remove(&pair);
    }
}

/// A joined socket sends. The kernel holds its lock.
#[inline(always)]
pub fn send(ctx: &SkMsgContext) -> u32 {
    // SAFETY: the context is valid while the program runs; storage stays while
    // its socket does, and is this socket's alone.
    unsafe {
        let sk = (*ctx.msg).__bindgen_anon_3.sk;
        let joined = bpf_sk_storage_get(storage(), sk.cast(), ptr::null_mut(), 0).cast::<Joined>();
        if joined.is_null() || (*joined).flags & joined_flags::STACK != 0 {
            return SK_PASS;
        }
        if !send_short(ctx, sk, joined) {
            (*joined).flags |= joined_flags::STACK;
        }
    }
    SK_PASS
}

/// False where the message has to go by the stack.
///
/// # Safety
/// The socket and its storage.
#[inline(always)]
unsafe fn send_short(ctx: &SkMsgContext, sk: *mut bpf_sock, joined: *mut Joined) -> bool {
    // SAFETY: the caller's. What is read of the kernel's socket is at the offsets
    // that its type information names.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(sk.cast()).cast::<u8>();
        if tcp.is_null() {
            return false;
        }
        // Something was given to the stack that this program was not asked about:
        // by a call that was under way when the connection came to be.
        let write_seq = tcp
            .add(WRITE_SEQ.load() as usize)
            .cast::<u32>()
            .read_volatile();
        if write_seq != (*joined).first {
            return false;
        }
        let queued = tcp
            .add(RMEM_ALLOC.load() as usize)
            .cast::<u32>()
            .read_volatile();
        let members = members();
        if (*joined).members != members {
            if !is_still_so(ctx, joined) {
                return false;
            }
            (*joined).members = members;
        }
        let key = (*joined).key;
        let mut peer = key.peer();
        let is_second = key.is_second();
        let Some(pair) = PAIRS.get_ptr_mut(if is_second { &peer } else { &key }) else {
            return false;
        };
        let (mine, its): (*mut Half, *mut Half) = if is_second {
            (&raw mut (*pair).second, &raw mut (*pair).first)
        } else {
            (&raw mut (*pair).first, &raw mut (*pair).second)
        };
        let its_sent = (&raw const (*its).sent).read_volatile();
        (&raw mut (*its).read).write_volatile(read(its_sent, queued));

        let size = (*ctx.msg).size;
        let sent = (*mine).sent;
        let has_been_read = (&raw const (*mine).read).read_volatile();
        if !goes_short((*joined).mode, size, sent, has_been_read) {
            return false;
        }
        if SOCKETS.redirect_msg(ctx, &mut peer, u64::from(BPF_F_INGRESS)) != i64::from(SK_PASS) {
            return false;
        }
        (&raw mut (*mine).sent).write_volatile(sent.wrapping_add(u64::from(size)));
        count((*joined).slot, size, sent == 0 && its_sent == 0);
        true
    }
}

/// Whether the two ends are still members of one network.
///
/// # Safety
/// The storage is the socket's.
#[inline(always)]
unsafe fn is_still_so(ctx: &SkMsgContext, joined: *const Joined) -> bool {
    let msg = ctx.msg;
    let mut ends = Ends {
        peer_netns: 0,
        slot: 0,
        mode: 0,
    };
    // SAFETY: the caller's, and the context.
    unsafe {
        let opened = (*joined).flags & joined_flags::OPENED != 0;
        let netns = (*joined).key.netns;
        if (*msg).family == AF_INET {
            let (local, remote) = (V4Addr((*msg).local_ip4), V4Addr((*msg).remote_ip4));
            find::<V4>(&local, &remote, netns, opened, &mut ends);
        } else {
            let local = words6(&raw const (*msg).local_ip6);
            let remote = words6(&raw const (*msg).remote_ip6);
            find6(&local, &remote, netns, opened, &mut ends);
        }
        ends.mode == (*joined).mode && ends.peer_netns == (*joined).key.peer_netns
    }
}

/// A socket of IPv6 may speak IPv4.
#[inline(always)]
fn find6(local: &V6Addr, remote: &V6Addr, netns: u64, opened: bool, ends: &mut Ends) {
    if remote.is_mapped() {
        let (local, remote) = (V4Addr(local.0[3]), V4Addr(remote.0[3]));
        find::<V4>(&local, &remote, netns, opened, ends);
    } else {
        find::<V6>(local, remote, netns, opened, ends);
    }
}

/// Who the two ends of a connection are, seen from a socket of the namespace
/// `netns`: two containers of one network whose endpoints may reach each other,
/// or a program of the host that has connected to a container.
#[inline(always)]
fn find<F: Family>(local: &F::Addr, remote: &F::Addr, netns: u64, opened: bool, ends: &mut Ends) {
    let host = HOST_NETNS.load();
    let far = F::members().get_ptr(remote);
    // SAFETY: map values stay readable while the program runs.
    unsafe {
        if netns == host {
            if let Some(far) = far
                && opened
            {
                ends.peer_netns = (*far).netns;
                ends.slot = (*far).slot;
                ends.mode = (*far).mode;
            }
            return;
        }
        let Some(near) = F::members().get_ptr(local) else {
            return;
        };
        if (*near).netns != netns {
            return;
        }
        if let Some(far) = far {
            // Within a container there is no way to be shortened.
            if (*far).network == (*near).network && (*near).icc != 0 && (*far).netns != netns {
                ends.peer_netns = (*far).netns;
                ends.slot = (*near).slot;
                ends.mode = (*near).mode;
            }
        } else if !opened && F::locals().get_ptr(remote).is_some() {
            ends.peer_netns = host;
            ends.slot = (*near).slot;
            ends.mode = (*near).mode;
        }
    }
}

/// Adds atomically, for a process may be preempted in the middle.
#[inline(always)]
fn count(slot: u32, size: u32, first: bool) {
    let Some(short) = SHORT.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: fields of a live map value.
    unsafe {
        if first {
            add(&raw mut (*short).connections, 1);
        }
        add(&raw mut (*short).messages, 1);
        add(&raw mut (*short).bytes, u64::from(size));
    }
}

/// # Safety
/// Points into a live map value.
#[inline(always)]
unsafe fn add(counter: *mut u64, by: u64) {
    // SAFETY: the caller's; `BPF_XADD` of an aligned word.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {by}",
            counter = in(reg) counter,
            by = in(reg) by,
            options(nostack),
        );
    }
}

/// [`Config::members`](netdp_common::maps::Config::members).
#[inline(always)]
fn members() -> u32 {
    match CONFIG.get_ptr(0) {
        // SAFETY: a map value stays readable while the program runs.
        Some(config) => unsafe { (&raw const (*config).members).read_volatile() },
        None => 0,
    }
}

#[inline(always)]
fn storage() -> *mut c_void {
    (&raw const JOINED).cast_mut().cast()
}

/// The context has the port in network order, as the upper half of a number in
/// host order on machines that are little-endian (`sock_ops_convert_ctx_access`
/// in net/core/filter.c, 6.12).
#[inline(always)]
const fn remote_port(field: u32) -> u16 {
    if cfg!(target_endian = "little") {
        (field >> 16) as u16
    } else {
        field as u16
    }
}
