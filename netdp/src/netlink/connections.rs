//! Connections of TCP that this thread's network has, and whether a packet would
//! find a socket: `sock_diag(7)`.

use std::{io, mem::offset_of, net::SocketAddr, ops::ControlFlow, time::Duration};

use nix::libc;

use super::{
    Sockets,
    inet_diag::{INFO, Request, SOCK_DIAG_BY_FAMILY, SocketId, ask, dump},
};

/// States of a connection (`include/net/tcp_states.h`): neither one that isn't
/// open yet, nor the rest of one (`TIME_WAIT`).
mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const CLOSING: u8 = 11;
    pub const ALL: [u8; 6] = [
        ESTABLISHED,
        FIN_WAIT1,
        FIN_WAIT2,
        CLOSE_WAIT,
        LAST_ACK,
        CLOSING,
    ];
}

/// A connection, of which IPv4 is IPv4 also where its socket is of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    pub own: SocketAddr,
    pub peer: SocketAddr,
    /// Neither side has closed it.
    pub is_established: bool,
    /// Since either side has sent something, if the kernel says it.
    pub idle: Option<Duration>,
    /// Bytes that it has received, and that its peer has acknowledged.
    pub received: u64,
    pub acknowledged: u64,
    /// Inode of the control group that its listener was made in.
    pub group: Option<u64>,
}

impl Sockets {
    /// Calls `each` for every connection until it breaks.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn connections(
        self,
        mut each: impl FnMut(Connection) -> ControlFlow<()>,
    ) -> io::Result<()> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let (of, any) = ((libc::IPPROTO_TCP, family), SocketId::with_port(0));
            let mut request = Request::new(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, of, any);
            request.states = state::ALL.iter().map(|state| 1 << state).sum();
            request.extensions = 1 << (INFO - 1);
            let dumped = dump(&self.0, &request, |answer| {
                let info = answer.attribute(INFO).unwrap_or_default();
                each(Connection {
                    own: answer.id.own(family),
                    peer: answer.id.peer(family),
                    is_established: answer.state == state::ESTABLISHED,
                    idle: idle(info),
                    received: bytes(info, BYTES_RECEIVED),
                    acknowledged: bytes(info, BYTES_ACKED),
                    group: answer.group(),
                })
            })?;
            if dumped.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a packet from `peer` to `own` would find a socket: one that is
    /// connected, or hears everybody.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn has(&self, protocol: i32, own: SocketAddr, peer: SocketAddr) -> io::Result<bool> {
        let family = if own.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        // Of UDP they are exchanged (`udp_dump_one`, net/ipv4/udp_diag.c).
        let id = if protocol == libc::IPPROTO_UDP {
            SocketId::between(peer, own)
        } else {
            SocketId::between(own, peer)
        };
        ask(
            &self.0,
            &Request::new(SOCK_DIAG_BY_FAMILY, 0, (protocol, family), id),
        )
    }
}

/// Where `struct tcp_info` has these (include/uapi/linux/tcp.h, 4.1), in which
/// libc's ends before.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;

fn bytes(info: &[u8], at: usize) -> u64 {
    let number = info.get(at..).and_then(|it| it.first_chunk());
    number.map_or(0, |it| u64::from_ne_bytes(*it))
}

/// By `struct tcp_info`, in which times are in milliseconds.
fn idle(info: &[u8]) -> Option<Duration> {
    let number = |at: usize| Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let sent = number(offset_of!(libc::tcp_info, tcpi_last_data_sent))?;
    let heard = number(offset_of!(libc::tcp_info, tcpi_last_data_recv))?;
    let acknowledged = number(offset_of!(libc::tcp_info, tcpi_last_ack_recv))?;
    let last = sent.min(heard).min(acknowledged);
    Some(Duration::from_millis(last.into()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream, UdpSocket},
    };

    use super::*;
    use crate::at_last;

    fn connections() -> Vec<Connection> {
        let mut found = Vec::new();
        let sockets = Sockets::open().unwrap();
        let all = |connection| {
            found.push(connection);
            ControlFlow::Continue(())
        };
        sockets.connections(all).unwrap();
        found
    }

    #[test]
    fn connections_are_told_from_both_ends() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(addr).unwrap();
            let own = listener.local_addr().unwrap();
            let near = TcpStream::connect(own).unwrap();
            let peer = near.local_addr().unwrap();
            let (far, _) = listener.accept().unwrap();
            let found = connections();
            let of = |own, peer| {
                let mut found = found.iter().filter(|it| (it.own, it.peer) == (own, peer));
                *found.next().expect("a connection")
            };
            for end in [of(own, peer), of(peer, own)] {
                assert!(end.is_established);
                assert!(end.idle.unwrap() < Duration::from_secs(60), "{end:?}");
            }
            assert!(!found.iter().any(|it| it.peer.port() == 0));
            (&near).write_all(b"seven..").unwrap();
            (&far).read_exact(&mut [0; 7]).unwrap();
            let [at_far, at_near] = [(own, peer), (peer, own)].map(|(own, peer)| {
                let mut found = connections().into_iter();
                found.find(|it| (it.own, it.peer) == (own, peer)).unwrap()
            });
            assert_eq!((at_far.received, at_far.acknowledged), (7, 0));
            // The one that connects counts its SYN.
            assert_eq!(at_near.received, 0);
            assert!(at_near.acknowledged.abs_diff(7) <= 1, "{at_near:?}");
            drop(near);
            let is_closing = |it: &Connection| it.own == own && !it.is_established;
            at_last::holds(|| connections().iter().any(is_closing));
            drop(far);
        }
    }

    #[test]
    fn who_breaks_hears_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut heard = 0;
        let once = |_| {
            heard += 1;
            ControlFlow::Break(())
        };
        Sockets::open().unwrap().connections(once).unwrap();
        assert_eq!(heard, 1);
    }

    #[test]
    fn a_packet_finds_a_listener_or_its_own_connection() {
        let sockets = Sockets::open().unwrap();
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(addr).unwrap();
            let own = listener.local_addr().unwrap();
            let near = TcpStream::connect(own).unwrap();
            let (peer, mut other) = (near.local_addr().unwrap(), own);
            other.set_port(1);
            let has = |peer| sockets.has(libc::IPPROTO_TCP, own, peer).unwrap();
            assert!(has(peer) && has(other));
            assert!(!sockets.has(libc::IPPROTO_TCP, other, own).unwrap());
            let (far, _) = listener.accept().unwrap();
            drop(listener);
            at_last::holds(|| has(peer) && !has(other));
            drop((near, far));
            // One that hears one peer alone.
            let bound = UdpSocket::bind(addr).unwrap();
            let own = bound.local_addr().unwrap();
            let has = |peer| sockets.has(libc::IPPROTO_UDP, own, peer).unwrap();
            assert!(has(other));
            bound.connect(peer).unwrap();
            assert!(has(peer) && !has(other));
        }
    }
}
