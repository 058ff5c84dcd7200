//! UDP by direct sockets. One hears whoever sends to it, and may send to those
//! alone: to its clients. A socket that lost its port neither hears nor sends.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::{
        bpf_get_socket_cookie, bpf_probe_read_kernel,
        generated::{bpf_sk_storage_get, bpf_skb_load_bytes_relative},
    },
    programs::{SkBuffContext, SockAddrContext},
};
use netdp_common::{
    addr::{Address, Be16, V4Addr, proto},
    maps::{Client, ClientKey, Datagrams, Published, seen},
    packet::{Packet, V4, V6, ethertype},
};

use super::may_send;
use crate::{
    atomic,
    family::{Family, is_any},
    host_socket::{
        ALLOW, REFUSE, addr4, addr6, bound4, bound6, is_host, mapping, on_or_everywhere, port,
        set_source4, set_source6, source4, source6,
    },
    maps::{CLOSED, DATAGRAMS, DIRECT_SEEN},
};

/// `PACKET_HOST` of `include/uapi/linux/if_packet.h`: to this host alone.
const PACKET_HOST: u32 = 0;
/// What a filter gives for a packet that is taken whole.
const WHOLE: i64 = u32::MAX as i64;
/// `include/uapi/linux/bpf.h`.
const BPF_HDR_START_NET: u32 = 1;

/// Where `struct bpf_sock_addr_kern`, which a context is of, has `t_ctx`, bytes;
/// set by the loader. 0 where programs can't read the kernel's memory.
#[unsafe(no_mangle)]
static T_CTX: Global<u64> = Global::new(0);
/// From where that points to, `addr` of `struct ipcm_cookie`, to the mark that the
/// datagram is sent with, bytes: modulo 2^64, for it lies before.
#[unsafe(no_mangle)]
static MARK4: Global<u64> = Global::new(0);
/// The same of IPv6, from `saddr` of `struct flowi6`.
#[unsafe(no_mangle)]
static MARK6: Global<u64> = Global::new(0);

/// Whether something of direct ports was seen on this host.
#[inline(always)]
pub fn was_seen(what: u32) -> bool {
    DIRECT_SEEN.get(what).is_some_and(|seen| *seen != 0)
}

#[inline(always)]
pub fn see(what: u32) {
    if let Some(seen) = DIRECT_SEEN.get_ptr_mut(what) {
        // SAFETY: only ever set, by any CPU.
        unsafe { atomic::set(seen, 1) };
    }
}

/// Whether a socket is a direct one that has received a datagram: what the
/// host's other sockets are sent by doesn't concern it.
#[inline(always)]
pub fn has_heard(ctx: &SockAddrContext) -> bool {
    !storage(ctx, 0).is_null()
}

#[inline(always)]
fn storage(ctx: &SockAddrContext, flags: u32) -> *mut Datagrams {
    let map = (&raw const DATAGRAMS).cast_mut().cast();
    // SAFETY: the context is valid while the program runs.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if socket.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: as above; what is made anew is all zeros.
    unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), u64::from(flags)) }.cast()
}

/// A datagram was received.
#[inline(always)]
pub fn heard4(ctx: &SockAddrContext) {
    let at = storage_of_host(ctx);
    if !at.is_null() {
        heard::<V4>(ctx, at, addr4(ctx), bound4(ctx));
    }
}

/// The same by a socket of IPv6, which may also speak IPv4.
#[inline(always)]
pub fn heard6(ctx: &SockAddrContext) {
    let at = storage_of_host(ctx);
    if at.is_null() {
        return;
    }
    let addr = addr6(ctx);
    if addr.is_mapped() {
        heard::<V4>(ctx, at, V4Addr(addr.0[3]), bound4(ctx));
    } else {
        heard::<V6>(ctx, at, addr, bound6(ctx));
    }
}

/// What has one is of the host: that is asked of each socket once.
#[inline(always)]
fn storage_of_host(ctx: &SockAddrContext) -> *mut Datagrams {
    let at = storage(ctx, 0);
    if at.is_null() && is_host(ctx) {
        return storage(ctx, BPF_SK_STORAGE_GET_F_CREATE);
    }
    at
}

#[inline(always)]
fn heard<F: Family>(ctx: &SockAddrContext, at: *mut Datagrams, client: F::Addr, bound: F::Addr) {
    let place = F::in_one(client, port(ctx));
    // SAFETY: the socket's own storage; one number, read and written whole.
    let last = unsafe { (&raw const (*at).last).read_volatile() };
    // Where answers are looked for in the table, it is to have who asks now.
    let is_noted = place != 0 && place == last && !was_seen(seen::ASKED);
    if is_noted || !note::<F>(ctx, client, bound) {
        return;
    }
    if place != 0 {
        // SAFETY: as above.
        unsafe { (&raw mut (*at).last).write_volatile(place) };
    }
}

/// False where the port isn't published any more.
#[inline(never)]
fn note<F: Family>(ctx: &SockAddrContext, client: F::Addr, bound: F::Addr) -> bool {
    let mut key = new_key::<F>(ctx, client);
    if !name_own::<F>(&mut key, bound) {
        return false;
    }
    if let Some(known) = F::clients().get_ptr_mut(&key) {
        // SAFETY: a map value stays readable while the program runs; a field is
        // written whole.
        unsafe { atomic::set(&raw mut (*known).heard, 1) };
        return true;
    }
    let new = Client {
        asked: F::Addr::any(),
        heard: 1,
        fill: F::Addr::FILL,
    };
    F::clients().insert(&key, &new, u64::from(BPF_ANY)).is_ok()
}

#[inline(always)]
fn new_key<F: Family>(ctx: &SockAddrContext, client: F::Addr) -> ClientKey<F::Addr> {
    // SAFETY: the context and its socket are valid while the program runs; in
    // host order.
    let own_port = unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_port };
    ClientKey {
        client,
        own: F::Addr::any(),
        client_port: port(ctx),
        port: Be16::new(own_port as u16),
        pad: 0,
    }
}

/// Puts the sandbox's own address into a key. False where the port is not
/// direct.
#[inline(always)]
fn name_own<F: Family>(key: &mut ClientKey<F::Addr>, bound: F::Addr) -> bool {
    let Some(found) = mapping::<F>(bound, key.port, proto::UDP) else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs.
    let published = unsafe { &*found };
    key.own = published.addr;
    published.is_direct()
}

/// A datagram is sent.
#[inline(always)]
pub fn sends4(ctx: &SockAddrContext) -> i32 {
    let at = storage(ctx, 0);
    if at.is_null() && !is_host(ctx) {
        return ALLOW;
    }
    if is_marked(ctx, MARK4.load()) {
        return REFUSE;
    }
    let bound = bound4(ctx);
    let is_free = is_any(bound) && is_any(source4(ctx));
    sends::<V4>(ctx, at, addr4(ctx), bound, |asked| {
        if is_free {
            set_source4(ctx, asked);
        }
    })
}

/// The same by a socket of IPv6. What it sends over IPv4 is asked of
/// [`sends4`].
#[inline(always)]
pub fn sends6(ctx: &SockAddrContext) -> i32 {
    let at = storage(ctx, 0);
    if at.is_null() && !is_host(ctx) {
        return ALLOW;
    }
    if is_marked(ctx, MARK6.load()) {
        return REFUSE;
    }
    let bound = bound6(ctx);
    let is_free = is_any(bound) && is_any(source6(ctx));
    sends::<V6>(ctx, at, addr6(ctx), bound, |asked| {
        if is_free {
            set_source6(ctx, asked);
        }
    })
}

/// Whether a control message gives the datagram another mark than its socket's
/// (`SO_MARK`, which takes CAP_NET_RAW): the host's routes and firewall go by it.
/// Of what this hook is told nothing says so. The kernel has read the message by
/// now, and what it made of it lies beside the address that the hook may set
/// (`udp_sendmsg`, net/ipv4/udp.c, and `udpv6_sendmsg`, net/ipv6/udp.c, 6.18).
#[inline(always)]
fn is_marked(ctx: &SockAddrContext, mark: u64) -> bool {
    let at = T_CTX.load();
    if at == 0 {
        return false;
    }
    let from = ctx.as_ptr().cast::<u8>().wrapping_add(at as usize);
    // SAFETY: the kernel checks what it reads, and the socket is valid while the
    // program runs.
    unsafe {
        let own = (*(*ctx.sock_addr).__bindgen_anon_1.sk).mark;
        let Ok(sent) = bpf_probe_read_kernel(from.cast::<*const u8>()) else {
            return true;
        };
        bpf_probe_read_kernel(sent.wrapping_add(mark as usize).cast::<u32>()) != Ok(own)
    }
}

/// A socket is to have one peer from now on. Nobody has sent from port 0, to which
/// the kernel would send what then has no address.
#[inline(always)]
pub fn connects4(ctx: &SockAddrContext) -> i32 {
    if port(ctx).raw() == 0 {
        return REFUSE;
    }
    sends::<V4>(ctx, storage(ctx, 0), addr4(ctx), bound4(ctx), |_| {})
}

/// The same of a socket of IPv6, which may also speak IPv4.
#[inline(always)]
pub fn connects6(ctx: &SockAddrContext) -> i32 {
    if port(ctx).raw() == 0 {
        return REFUSE;
    }
    let (at, addr) = (storage(ctx, 0), addr6(ctx));
    if addr.is_mapped() {
        sends::<V4>(ctx, at, V4Addr(addr.0[3]), bound4(ctx), |_| {})
    } else {
        sends::<V6>(ctx, at, addr, bound6(ctx), |_| {})
    }
}

#[inline(always)]
fn sends<F: Family>(
    ctx: &SockAddrContext,
    at: *mut Datagrams,
    client: F::Addr,
    bound: F::Addr,
    answer_from: impl FnOnce(F::Addr),
) -> i32 {
    if was_seen(seen::CLOSED) && is_closed(ctx) {
        return REFUSE;
    }
    // Without an address the datagram goes to the peer that `connect` was
    // allowed; one with it and without a port is refused by the kernel.
    if port(ctx).raw() == 0 {
        return ALLOW;
    }
    let place = F::in_one(client, port(ctx));
    if !was_seen(seen::ASKED) && place != 0 && !at.is_null() {
        // SAFETY: the socket's own storage.
        let last = unsafe { (&raw const (*at).last).read_volatile() };
        if last == place {
            return ALLOW;
        }
    }
    let Some(known) = find::<F>(ctx, client, bound) else {
        return REFUSE;
    };
    // SAFETY: a map value stays readable while the program runs.
    let asked = unsafe { (*known).asked };
    if !is_any(asked) {
        answer_from(asked);
    }
    ALLOW
}

/// A client that the program has received something from.
#[inline(always)]
fn find<F: Family>(
    ctx: &SockAddrContext,
    client: F::Addr,
    bound: F::Addr,
) -> Option<*const Client<F::Addr>> {
    let mut key = new_key::<F>(ctx, client);
    if !name_own::<F>(&mut key, bound) {
        return None;
    }
    let known = F::clients().get_ptr(&key)?;
    // SAFETY: a map value stays readable while the program runs.
    (unsafe { (*known).heard } != 0).then_some(known)
}

#[inline(always)]
fn is_closed(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    CLOSED.get_ptr(&cookie).is_some()
}

/// The filter of direct sockets of UDP, and of those of TCP that not everybody may
/// connect to: nothing that was sent to many, which published ports don't hear
/// either.
#[inline(always)]
pub fn taken(ctx: &SkBuffContext) -> i64 {
    // SAFETY: the context is valid while the program runs.
    let kind = unsafe { (*ctx.skb.skb).pkt_type };
    if kind != PACKET_HOST {
        return 0;
    }
    if was_seen(seen::CLOSED) {
        // SAFETY: as above.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        if CLOSED.get_ptr(&cookie).is_some() {
            return 0;
        }
    }
    if was_seen(seen::LIMITED) && !is_allowed(ctx) {
        return 0;
    }
    WHOLE
}

/// Whether who sends may. The filter's data begin with the header of UDP or TCP.
#[inline(always)]
fn is_allowed(ctx: &SkBuffContext) -> bool {
    const DPORT: usize = 2;
    let Ok(dport) = ctx.load::<[u8; 2]>(DPORT) else {
        return false;
    };
    let dport = Be16::from_raw(u16::from_ne_bytes(dport));
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { (*ctx.skb.skb).protocol } as u16;
    match u16::from_be(protocol) {
        ethertype::IPV4 => is_allowed_by::<V4>(ctx, dport),
        ethertype::IPV6 => is_allowed_by::<V6>(ctx, dport),
        _ => false,
    }
}

#[inline(never)]
fn is_allowed_by<F: Family>(ctx: &SkBuffContext, dport: Be16) -> bool {
    let (mut next, mut saddr, mut daddr) = (0_u8, F::Addr::any(), F::Addr::any());
    let at = F::SADDR as u32;
    let length = size_of::<F::Addr>() as u32;
    if !read_network(ctx, F::NEXT as u32, &mut next)
        || !read_network(ctx, at, &mut saddr)
        || !read_network(ctx, at + length, &mut daddr)
    {
        return false;
    }
    // Behind extension headers it is one or the other.
    (next == proto::UDP || may_reach::<F>(daddr, dport, proto::TCP, &saddr))
        && (next == proto::TCP || may_reach::<F>(daddr, dport, proto::UDP, &saddr))
}

#[inline(never)]
fn may_reach<F: Family>(to: F::Addr, port: Be16, proto: u8, from: &F::Addr) -> bool {
    match on_or_everywhere::<F>(to, port, proto) {
        // SAFETY: a map value stays readable while the program runs.
        Some(found) => may_send::<F>(unsafe { &*found }, from),
        None => true,
    }
}

/// Reads what is so many bytes from the begin of the network header.
#[inline(always)]
fn read_network<A>(ctx: &SkBuffContext, at: u32, to: &mut A) -> bool {
    let length = size_of::<A>() as u32;
    let to = ptr::from_mut(to).cast();
    // SAFETY: as many bytes as there is room for; any bytes are an address or a
    // number.
    unsafe { bpf_skb_load_bytes_relative(ctx.as_ptr(), at, to, length, BPF_HDR_START_NET) == 0 }
}

/// Notes at which address a client has asked, where answers would leave from
/// another one; `usual` is the one that they leave from.
#[inline(never)]
pub fn asked<F: Family>(mapping: &Published<F::Addr>, packet: &Packet<F::Addr>, usual: &F::Addr) {
    let from = &packet.tuple;
    let is_usual = from.daddr == *usual;
    if is_usual && !was_seen(seen::ASKED) {
        return;
    }
    if !is_usual {
        see(seen::ASKED);
    }
    let key = ClientKey {
        client: from.saddr,
        own: mapping.addr,
        client_port: from.sport,
        port: from.dport,
        pad: 0,
    };
    let asked = if is_usual { F::Addr::any() } else { from.daddr };
    if let Some(known) = F::clients().get_ptr_mut(&key) {
        // SAFETY: a map value stays readable while the program runs. Two CPUs
        // write it where a client asks two addresses at once.
        unsafe { (&raw mut (*known).asked).write(asked) };
        return;
    }
    if is_usual {
        return;
    }
    let new = Client {
        asked,
        heard: 0,
        fill: F::Addr::FILL,
    };
    // Without an entry the answer leaves from the usual one.
    let _ = F::clients().insert(&key, &new, u64::from(BPF_ANY));
}
