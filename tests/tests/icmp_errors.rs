//! What ICMP errors tell a program: that a port is closed, that a packet was
//! too big, and where it got to.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS, set_sysctls};
use netdp_tests::{PATIENCE, Place, Topology, connect, hears, listen, transfer, udp};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Bytes of each direction.
const LENGTH: u64 = 3 << 20;

/// A world whose link behind the host's router takes packets of 1280 bytes, on
/// the router's side alone: who sends from elsewhere learns it by an error.
fn narrow(name: &str) -> Option<Topology> {
    let topology = Topology::start(name)?;
    topology.ip(&topology.world.client, "link set outside mtu 1280\n");
    Some(topology)
}

/// A UDP socket that talks to one address alone, and so hears of errors.
fn connected(place: &impl Place, to: impl Into<SocketAddr>) -> UdpSocket {
    let socket = udp(place, ANY, 0);
    socket.connect(to.into()).expect("connect a UDP socket");
    socket
}

/// The error that an ICMP message left at a socket.
#[track_caller]
fn error_of(socket: &UdpSocket) -> io::ErrorKind {
    let error = socket.recv(&mut [0; 16]).expect_err("an error");
    assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "nothing came");
    error.kind()
}

/// Sends datagrams of this length, which may not be fragmented on the way
/// (`IP_PMTUDISC_WANT`, ip(7)), until the socket is told that the path doesn't
/// take them.
#[track_caller]
fn assert_too_long(socket: &UdpSocket, length: usize) {
    let began = Instant::now();
    let error = loop {
        if let Err(error) = socket.send(&vec![0; length]) {
            break error;
        }
        assert!(began.elapsed() < PATIENCE, "no error came");
        std::thread::yield_now();
    };
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
}

#[test]
fn a_masqueraded_connection_learns_the_path_mtu() {
    let Some(topology) = narrow("icmp-pmtu-out") else {
        return;
    };
    let container = topology.container("one", "");
    let server = listen(&topology.world.outside, ANY, 80);
    let near = connect(&container, (OUTSIDE_ADDRESS, 80));
    transfer(&near, &server.accept().0, LENGTH);
    // Another one, for the first has the path's MTU already.
    let other = topology.container("two", "");
    let far = udp(&topology.world.outside, ANY, 5000);
    let near = connected(&other, (OUTSIDE_ADDRESS, 5000));
    near.send(b"short").unwrap();
    hears(&far, b"short");
    assert_too_long(&near, 1400);
}

#[test]
fn a_published_server_learns_the_path_mtu() {
    let Some(topology) = narrow("icmp-pmtu-in") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80");
    let names = topology.container("names", "-p 5353:53/udp");
    let server = listen(&web, ANY, 80);
    let near = connect(&topology.world.outside, (HOST_ADDRESS, 8080));
    transfer(&near, &server.accept().0, LENGTH);
    let server = udp(&names, ANY, 53);
    let client = udp(&topology.world.outside, ANY, 5000);
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    let from = hears(&server, b"question");
    assert_eq!(from, (OUTSIDE_ADDRESS, 5000).into());
    server.connect(from).unwrap();
    assert_too_long(&server, 1400);
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let Some(topology) = Topology::start("icmp-closed") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
    let other = topology.container("other", "");
    // Nobody listens at the other side of any of these.
    let to_outside = connected(&other, (OUTSIDE_ADDRESS, 9));
    let to_published = connected(&topology.world.client, (HOST_ADDRESS, 5353));
    let from_behind = connected(&topology.world.outside, (HOST_ADDRESS, 5353));
    let hairpin = connected(&other, (HOST_ADDRESS, 5353));
    let itself = connected(&web, (HOST_ADDRESS, 5353));
    let direct = connected(&other, (web.address, 53));
    let from_host = connected(&topology.host_program(), (HOST_ADDRESS, 5353));
    for socket in [
        to_outside,
        to_published,
        from_behind,
        hairpin,
        itself,
        direct,
        from_host,
    ] {
        socket.send(b"anyone").unwrap();
        let error = error_of(&socket);
        assert_eq!(error, io::ErrorKind::ConnectionRefused, "{socket:?}");
    }
}

#[test]
fn a_server_hears_that_its_client_has_gone() {
    let Some(topology) = Topology::start("icmp-gone") else {
        return;
    };
    let web = topology.container("web", "-p 5353:53/udp");
    let other = topology.container("other", "");
    let ask = |place: &dyn Fn() -> UdpSocket| {
        let server = udp(&web, ANY, 53);
        let client = place();
        client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
        server.connect(hears(&server, b"question")).unwrap();
        drop(client);
        server.send(b"the answer").unwrap();
        assert_eq!(error_of(&server), io::ErrorKind::ConnectionRefused);
    };
    ask(&|| udp(&topology.world.client, ANY, 0));
    ask(&|| udp(&topology.world.outside, ANY, 0));
    ask(&|| udp(&other, ANY, 0));
    // One that asked itself, and is answered too late.
    let server = udp(&topology.world.outside, ANY, 53);
    let client = udp(&other, ANY, 0);
    client.send_to(b"question", (OUTSIDE_ADDRESS, 53)).unwrap();
    server.connect(hears(&server, b"question")).unwrap();
    drop(client);
    server.send(b"the answer").unwrap();
    assert_eq!(error_of(&server), io::ErrorKind::ConnectionRefused);
}

/// Sends a datagram with this TTL and waits for the error about it: its type
/// and who sent it.
#[track_caller]
fn probe(socket: &UdpSocket, ttl: i32, to: SocketAddr) -> (u8, Ipv4Addr) {
    setsockopt(socket, sockopt::Ipv4Ttl, &ttl).unwrap();
    socket.send_to(b"probe", to).unwrap();
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "no error about TTL {ttl}");
        let mut bytes = [0; 512];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let mut room = vec![0; 256];
        let message = recvmsg::<SockaddrIn>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut room),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        );
        let Ok(message) = message else {
            std::thread::yield_now();
            continue;
        };
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::Ipv4RecvErr(error, Some(offender)) = control {
                let offender = u32::from_be(offender.sin_addr.s_addr).into();
                return (error.ee_type, offender);
            }
        }
    }
}

#[test]
fn a_trace_shows_every_hop() {
    const UNREACHABLE: u8 = 3;
    const EXCEEDED: u8 = 11;
    let Some(topology) = Topology::start("icmp-trace") else {
        return;
    };
    // Errors of all routers at once, not one a second.
    for namespace in [&topology.world.host, &topology.world.client] {
        set_sysctls(namespace, &[("ipv4/icmp_ratelimit", "0")]).unwrap();
    }
    let container = topology.container("one", "");
    let socket = udp(&container, ANY, 0);
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    let to = (OUTSIDE_ADDRESS, 33_434).into();
    let hops: Vec<_> = (1..=3).map(|ttl| probe(&socket, ttl, to)).collect();
    assert_eq!(
        hops,
        [
            (EXCEEDED, container.gateway),
            (EXCEEDED, CLIENT_ADDRESS),
            (UNREACHABLE, OUTSIDE_ADDRESS),
        ]
    );

    // To a published port the host is the last hop, as to a port of its own.
    let web = topology.container("web", "-p 5353:53/udp");
    let socket = udp(&topology.world.outside, ANY, 0);
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    let to = (HOST_ADDRESS, 5353).into();
    let (kind, _) = probe(&socket, 1, to);
    assert_eq!(kind, EXCEEDED);
    assert_eq!(probe(&socket, 2, to), (UNREACHABLE, HOST_ADDRESS));
    drop(web);
}
