//! netdp's programs: entry points by direction. Each counts, and turns a
//! [`Verdict`](verdict::Verdict) into an action; everything else returns
//! `Result<Verdict, DropReason>`.
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "given by value, a key or a value lies on the stack a second time"
)]
#![no_std]
#![feature(asm_experimental_arch)]
#![no_main]

mod accelerated;
mod allocation;
mod alone;
mod arp;
mod atomic;
mod blocked;
mod calls;
mod count;
mod current;
mod direct;
mod driver;
mod early;
mod family;
mod fast;
mod fib;
mod flows;
mod found;
mod from_container;
mod from_netdev;
mod from_netkit;
mod hairpin;
mod host_socket;
mod icmp;
mod joined;
mod limit;
mod linked;
mod mapped;
mod maps;
mod masquerade;
mod nd;
mod others;
mod path;
mod ports;
mod published;
mod ranges;
mod refuse;
mod routed;
mod share;
mod skb;
mod source;
mod sweep;
mod to_container;
mod to_netdev;
mod to_resolver;
mod verdict;
mod work;

use aya_ebpf::{
    macros::{cgroup_sock_addr, cgroup_sockopt, classifier, sk_msg, sock_ops, socket_filter, xdp},
    programs::{
        SkBuffContext, SkMsgContext, SockAddrContext, SockOpsContext, SockoptContext, TcContext,
        XdpContext,
    },
};
use direct::datagrams;
use skb::Skb;

/// tcx ingress of an uplink: a frame that arrives from outside.
#[classifier]
pub fn from_netdev(ctx: TcContext) -> i32 {
    verdict::action(from_netdev::from_netdev(&Skb::new(&ctx)))
}

/// The driver of an uplink, before there is a packet for the stack: a frame that
/// arrives from outside.
#[xdp(frags)]
pub fn block_netdev(ctx: XdpContext) -> u32 {
    driver::block(&ctx)
}

/// tcx egress of an uplink: a frame that leaves, sent by the host's stack or
/// by `from_container`.
#[classifier]
pub fn to_netdev(ctx: TcContext) -> i32 {
    verdict::action(to_netdev::to_netdev(&Skb::new(&ctx)))
}

/// tc ingress of a host end: a frame that the container sends.
#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    verdict::action(from_container::from_container(&Skb::new(&ctx)))
}

/// netkit, the container's end: a frame that the container sends, still in its
/// own system call.
#[classifier]
pub fn from_netkit(ctx: TcContext) -> i32 {
    verdict::action(from_netkit::from_netkit(&Skb::new(&ctx)))
}

/// tc egress of a host end: a frame that the host's stack sends to the
/// container.
#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    verdict::action(to_container::to_container(&Skb::new(&ctx)))
}

/// tcx ingress of an uplink, before `from_netdev`: what arrives for a container
/// of another engine's network.
#[classifier]
pub fn acc_netdev_in(ctx: TcContext) -> i32 {
    accelerated::from_netdev(&Skb::new(&ctx))
}

/// tcx egress of an uplink, before `to_netdev`: what leaves beside the flows of
/// such containers.
#[classifier]
pub fn acc_netdev_out(ctx: TcContext) -> i32 {
    accelerated::to_netdev(&Skb::new(&ctx))
}

/// tcx ingress of such a container's host end, which is a port of its engine's
/// bridge.
#[classifier]
pub fn acc_container(ctx: TcContext) -> i32 {
    accelerated::from_container(&Skb::new(&ctx))
}

/// tc egress of a sandbox's loopback interface: a packet from one of its
/// programs to another, or to the resolver.
#[classifier]
pub fn to_resolver(ctx: TcContext) -> i32 {
    verdict::action(to_resolver::to_resolver(&Skb::new(&ctx)))
}

/// Starts the timer that expires flows; run once, by test_run, after loading.
#[classifier]
pub fn sweep_start(_ctx: TcContext) -> i32 {
    sweep::start()
}

/// cgroup: a socket of the host connects (TCP) or is connected (UDP).
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    host_socket::to_container4(&ctx);
    host_socket::ALLOW
}

/// cgroup: an unconnected UDP socket of the host sends.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    if !datagrams::has_heard(&ctx) {
        host_socket::to_container4(&ctx);
    }
    host_socket::ALLOW
}

/// cgroup: a UDP socket of the host has received; the sender's address is told.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    host_socket::as_asked4(&ctx);
    host_socket::ALLOW
}

/// cgroup: a socket of the host asks for its peer's address.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    host_socket::peer_as_asked4(&ctx);
    host_socket::ALLOW
}

/// cgroup: as `connect4`, of a socket of IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    host_socket::to_container6(&ctx)
}

/// cgroup: as `sendmsg4`, of a socket of IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    if datagrams::has_heard(&ctx) {
        return host_socket::ALLOW;
    }
    host_socket::to_container6(&ctx)
}

/// cgroup: as `recvmsg4`, of a socket of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    host_socket::as_asked6(&ctx);
    host_socket::ALLOW
}

/// cgroup: as `getpeername4`, of a socket of IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    host_socket::peer_as_asked6(&ctx);
    host_socket::ALLOW
}

/// cgroup of direct sockets: one connects.
#[cgroup_sock_addr(connect4)]
pub fn direct_connect4(ctx: SockAddrContext) -> i32 {
    direct::connects4(&ctx)
}

/// As `direct_connect4`, of a socket of IPv6.
#[cgroup_sock_addr(connect6)]
pub fn direct_connect6(ctx: SockAddrContext) -> i32 {
    direct::connects6(&ctx)
}

/// cgroup of direct sockets: one of UDP sends.
#[cgroup_sock_addr(sendmsg4)]
pub fn direct_sendmsg4(ctx: SockAddrContext) -> i32 {
    datagrams::sends4(&ctx)
}

/// As `direct_sendmsg4`, of a socket of IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn direct_sendmsg6(ctx: SockAddrContext) -> i32 {
    datagrams::sends6(&ctx)
}

/// cgroup of direct sockets: one of UDP has received.
#[cgroup_sock_addr(recvmsg4)]
pub fn direct_recvmsg4(ctx: SockAddrContext) -> i32 {
    datagrams::heard4(&ctx);
    host_socket::ALLOW
}

/// As `direct_recvmsg4`, of a socket of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn direct_recvmsg6(ctx: SockAddrContext) -> i32 {
    datagrams::heard6(&ctx);
    host_socket::ALLOW
}

/// Filter of a direct socket of UDP: a datagram comes for it.
#[socket_filter]
pub fn direct_filter(ctx: SkBuffContext) -> i64 {
    datagrams::taken(&ctx)
}

/// cgroup of direct sockets: one is bound.
#[cgroup_sock_addr(bind4)]
pub fn direct_bind4(ctx: SockAddrContext) -> i32 {
    direct::only_while_made(&ctx)
}

/// As `direct_bind4`, of a socket of IPv6.
#[cgroup_sock_addr(bind6)]
pub fn direct_bind6(ctx: SockAddrContext) -> i32 {
    direct::only_while_made(&ctx)
}

/// cgroup of direct sockets: one asks for its own address.
#[cgroup_sock_addr(getsockname4)]
pub fn direct_name4(ctx: SockAddrContext) -> i32 {
    direct::as_inside4(&ctx);
    host_socket::ALLOW
}

/// As `direct_name4`, of a socket of IPv6.
#[cgroup_sock_addr(getsockname6)]
pub fn direct_name6(ctx: SockAddrContext) -> i32 {
    direct::as_inside6(&ctx);
    host_socket::ALLOW
}

/// cgroup of direct sockets: an option of one is set.
#[cgroup_sockopt(setsockopt)]
pub fn direct_option(ctx: SockoptContext) -> i32 {
    direct::harmless(&ctx)
}

/// cgroup of direct sockets: what happens to those of TCP; here, that one listens
/// or was accepted.
#[sock_ops]
pub fn direct_listen(ctx: SockOpsContext) -> u32 {
    direct::listening::happened(&ctx);
    1
}

/// cgroup: what happens to TCP sockets; here, that a connection is there, and
/// that it has gone.
#[sock_ops]
pub fn join(ctx: SockOpsContext) -> u32 {
    joined::happened(&ctx);
    1
}

/// sockhash `sockets`: a joined socket sends.
#[sk_msg]
pub fn send_short(ctx: SkMsgContext) -> u32 {
    joined::send(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers such as `bpf_timer_*` and `bpf_redirect_peer` are for programs under
/// a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
