//! What ICMP errors tell a program: that a port is closed, that a packet was
//! too big, and where it got to. In both families.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use netdp::demo::world::set_sysctls;
use netdp_tests::{
    PATIENCE, Place, SIDES, SILENCE, Side, Topology, connect, hears, listen, transfer, udp,
};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

/// Bytes of each direction.
const LENGTH: u64 = 3 << 20;

/// A world in which the way from the host's router to the outside takes packets
/// of 1280 bytes: who sends by it learns that by an error. The link itself takes
/// more, for what comes the other way.
fn narrow(name: &str) -> Option<Topology> {
    let topology = Topology::with_ipv6(name)?;
    let narrow = |address: IpAddr| format!("route add {address} dev outside mtu lock 1280\n");
    let lines = SIDES.map(|side| narrow(side.outside));
    topology.ip(&topology.world.client, &lines.concat());
    Some(topology)
}

/// A UDP socket that talks to one address alone, and so hears of errors.
fn connected(place: &impl Place, side: Side, to: impl Into<SocketAddr>) -> UdpSocket {
    let socket = udp(place, side.any, 0);
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

/// That whom a socket talks to has closed theirs. For a moment a process that
/// another test starts has that one, too, and what comes then is heard.
#[track_caller]
fn hears_it_is_closed(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let began = Instant::now();
    let error = loop {
        let sent = socket.send(b"the answer");
        match sent.and_then(|_| socket.recv(&mut [0; 16])) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => break error,
            answer => assert!(began.elapsed() < PATIENCE, "{answer:?}"),
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
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
    let container = topology.container("one", "--network six");
    // Another one, for the first has the path's MTU already.
    let other = topology.container("two", "--network six");
    for side in SIDES {
        let server = listen(&topology.world.outside, side.any, 80);
        let near = connect(&container, (side.outside, 80));
        transfer(&near, &server.accept().0, LENGTH);
        let far = udp(&topology.world.outside, side.any, 5000);
        let near = connected(&other, side, (side.outside, 5000));
        near.send(b"short").unwrap();
        hears(&far, b"short");
        assert_too_long(&near, 1400);
    }
}

#[test]
fn a_published_server_learns_the_path_mtu() {
    let Some(topology) = narrow("icmp-pmtu-in") else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80");
    let names = topology.container("names", "--network six -p 5353:53/udp");
    for side in SIDES {
        let server = listen(&web, side.any, 80);
        let near = connect(&topology.world.outside, (side.host, 8080));
        transfer(&near, &server.accept().0, LENGTH);
        let server = udp(&names, side.any, 53);
        let client = udp(&topology.world.outside, side.any, 5000);
        client.send_to(b"question", (side.host, 5353)).unwrap();
        let from = hears(&server, b"question");
        assert_eq!(from, (side.outside, 5000).into());
        server.connect(from).unwrap();
        assert_too_long(&server, 1400);
    }
}

/// The host's own link is the narrow one.
#[test]
fn a_narrow_uplink_is_learned_of() {
    let Some(topology) = Topology::with_ipv6("icmp-pmtu-uplink") else {
        return;
    };
    topology.ip(&topology.world.host, "link set eth0 mtu 1400\n");
    topology.ip(&topology.world.client, "link set wire0 mtu 1400\n");
    let stream = topology.container("stream", "--network six");
    let asker = topology.container("asker", "--network six");
    for side in SIDES {
        let server = listen(&topology.world.outside, side.any, 80);
        let near = connect(&stream, (side.outside, 80));
        transfer(&near, &server.accept().0, LENGTH);
        // In fragments, the first of which are too large.
        let far = udp(&topology.world.outside, side.any, 5000);
        far.set_nonblocking(true).unwrap();
        let near = udp(&asker, side.any, 0);
        let words = vec![7; 5000];
        topology.wait_until("a datagram in smaller fragments", || {
            near.send_to(&words, (side.outside, 5000)).unwrap();
            let mut heard = vec![0; 6000];
            matches!(far.recv(&mut heard), Ok(5000))
        });
    }
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let Some(topology) = Topology::with_ipv6("icmp-closed") else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80 -p 5353:53/udp");
    let other = topology.container("other", "--network six");
    for side in SIDES {
        // Nobody listens at the other side of any of these.
        let to_outside = connected(&other, side, (side.outside, 9));
        let to_published = connected(&topology.world.client, side, (side.host, 5353));
        let from_behind = connected(&topology.world.outside, side, (side.host, 5353));
        let hairpin = connected(&other, side, (side.host, 5353));
        let itself = connected(&web, side, (side.host, 5353));
        let direct = connected(&other, side, (side.address(&web), 53));
        let from_host = connected(&topology.host_program(), side, (side.host, 5353));
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
}

#[test]
fn a_server_hears_that_its_client_has_gone() {
    let Some(topology) = Topology::with_ipv6("icmp-gone") else {
        return;
    };
    let web = topology.container("web", "--network six -p 5353:53/udp");
    let other = topology.container("other", "--network six");
    for side in SIDES {
        let ask = |place: &dyn Fn() -> UdpSocket| {
            let server = udp(&web, side.any, 53);
            let client = place();
            client.send_to(b"question", (side.host, 5353)).unwrap();
            server.connect(hears(&server, b"question")).unwrap();
            drop(client);
            hears_it_is_closed(&server);
        };
        ask(&|| udp(&topology.world.client, side.any, 0));
        ask(&|| udp(&topology.world.outside, side.any, 0));
        ask(&|| udp(&other, side.any, 0));
        // One that asked itself, and is answered too late.
        let server = udp(&topology.world.outside, side.any, 53);
        let client = udp(&other, side.any, 0);
        client.send_to(b"question", (side.outside, 53)).unwrap();
        server.connect(hears(&server, b"question")).unwrap();
        drop(client);
        hears_it_is_closed(&server);
    }
}

/// What an error says (RFC 792, RFC 4443).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Unreachable,
    Exceeded,
}

/// A UDP socket that hears what errors say, and of whom.
fn tracer(place: &impl Place, side: Side) -> UdpSocket {
    let socket = udp(place, side.any, 0);
    if side.is_v4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap();
    }
    socket
}

/// Sends a datagram with this TTL and waits for the error about it.
#[track_caller]
fn probe(socket: &UdpSocket, ttl: i32, to: SocketAddr) -> (Said, IpAddr) {
    if to.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4Ttl, &ttl).unwrap();
    } else {
        setsockopt(socket, sockopt::Ipv6Ttl, &ttl).unwrap();
    }
    socket.send_to(b"probe", to).unwrap();
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "no error about TTL {ttl}");
        let mut bytes = [0; 512];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let mut room = vec![0; 256];
        let message = recvmsg::<SockaddrStorage>(
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
            let (kind, offender) = match control {
                ControlMessageOwned::Ipv4RecvErr(error, Some(offender)) => {
                    let offender = u32::from_be(offender.sin_addr.s_addr);
                    (error.ee_type, IpAddr::V4(offender.into()))
                }
                ControlMessageOwned::Ipv6RecvErr(error, Some(offender)) => {
                    let offender = Ipv6Addr::from(offender.sin6_addr.s6_addr);
                    (error.ee_type, offender.into())
                }
                _ => continue,
            };
            let said = match (to.is_ipv4(), kind) {
                (true, 3) | (false, 1) => Said::Unreachable,
                (true, 11) | (false, 3) => Said::Exceeded,
                (_, kind) => panic!("an error of type {kind} about TTL {ttl}"),
            };
            return (said, offender);
        }
    }
}

#[test]
fn a_trace_shows_every_hop() {
    use Said::{Exceeded, Unreachable};
    let Some(topology) = Topology::with_ipv6("icmp-trace") else {
        return;
    };
    // Errors of all routers at once, not one a second.
    for namespace in [&topology.world.host, &topology.world.client] {
        let limits = [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")];
        set_sysctls(namespace, &limits).unwrap();
    }
    let container = topology.container("one", "--network six");
    let _web = topology.container("web", "--network six -p 5353:53/udp");
    for side in SIDES {
        let socket = tracer(&container, side);
        let to = (side.outside, 33_434).into();
        let hops: Vec<_> = (1..=3).map(|ttl| probe(&socket, ttl, to)).collect();
        assert_eq!(
            hops,
            [
                (Exceeded, side.gateway(&container)),
                (Exceeded, side.client),
                (Unreachable, side.outside),
            ]
        );
        // To a published port the host is the last hop, as to a port of its own.
        let socket = tracer(&topology.world.outside, side);
        let to = (side.host, 5353).into();
        assert_eq!(probe(&socket, 1, to).0, Exceeded);
        assert_eq!(probe(&socket, 2, to), (Unreachable, side.host));
    }
}
