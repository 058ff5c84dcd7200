//! Programs of the host that use published ports by sockets of IPv6, which may
//! speak IPv4 as well (RFC 3493, section 3.7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use netdp::demo::world::{HOST_ADDRESS, HOST_ADDRESS6};
use netdp_tests::{Container, PATIENCE, Place, Topology, hears, listen, says_nothing, talk, udp};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrIn6, SockaddrStorage, bind, connect, setsockopt, sockopt,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A host with IPv6, and a container of a network that has both families.
fn start(name: &str, options: &str) -> Option<(Topology, Container)> {
    let topology = Topology::start_with_ipv6(name)?;
    topology.netdp("network create both --ipv6");
    let web = topology.container("web", &format!("--network both {options}"));
    Some((topology, web))
}

/// As sockets of IPv6 name an address of either family.
fn mapped(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    let address = match address.into() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    SocketAddr::from((address, port))
}

/// A connection by a socket of IPv6.
fn connects(place: &impl Place, to: SocketAddr) -> Result<TcpStream, Errno> {
    let socket = place.open_family(AddressFamily::Inet6, SockType::Stream, None);
    setsockopt(&socket, sockopt::Ipv6V6Only, &false).unwrap();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(stream)
}

/// A socket of IPv6 for datagrams, bound.
fn datagrams(place: &impl Place) -> UdpSocket {
    let socket = place.open_family(AddressFamily::Inet6, SockType::Datagram, None);
    setsockopt(&socket, sockopt::Ipv6V6Only, &false).unwrap();
    let any = std::net::SocketAddrV6::new(ANY6, 0, 0, 0);
    bind(socket.as_raw_fd(), &SockaddrIn6::from(any)).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The server's answer comes from where the client sent to.
#[track_caller]
fn asks(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) {
    let words = to.to_string();
    client.send_to(words.as_bytes(), to).unwrap();
    let seen = hears(server, words.as_bytes());
    server.send_to(words.as_bytes(), seen).unwrap();
    assert_eq!(hears(client, words.as_bytes()), to);
}

#[test]
fn connections_of_either_family_reach_a_published_port() {
    let Some((topology, web)) = start("host6-tcp", "-p 8080:80 -p 127.0.0.1:8081:80") else {
        return;
    };
    let program = topology.host_program();
    let (http, http6) = (listen(&web, ANY, 80), listen(&web, ANY6, 80));
    for address in [LOOPBACK, HOST_ADDRESS, web.gateway] {
        let to = mapped(address, 8080);
        let near = connects(&program, to).unwrap();
        let (far, _) = http.accept();
        assert_eq!(near.peer_addr().unwrap(), to);
        talk(&near, &far);
    }
    for address in [Ipv6Addr::LOCALHOST, HOST_ADDRESS6] {
        let to = mapped(address, 8080);
        let near = connects(&program, to).unwrap();
        let (far, _) = http6.accept();
        assert_eq!(near.peer_addr().unwrap(), to);
        talk(&near, &far);
    }
    // Linux takes :: and ::ffff:0.0.0.0 for loopback.
    for (address, listener) in [(IpAddr::V6(ANY6), &http6), (IpAddr::V4(ANY), &http)] {
        let near = connects(&program, mapped(address, 8080)).unwrap();
        let (far, _) = listener.accept();
        talk(&near, &far);
    }
    // One that is on an address of IPv4 is on none of IPv6.
    let near = connects(&program, mapped(LOOPBACK, 8081)).unwrap();
    talk(&near, &http.accept().0);
    let refused = connects(&program, mapped(Ipv6Addr::LOCALHOST, 8081));
    assert_eq!(refused.unwrap_err(), Errno::ECONNREFUSED);
}

#[test]
fn one_socket_sends_datagrams_to_both_families() {
    let Some((topology, dns)) = start("host6-udp", "-p 5353:53/udp") else {
        return;
    };
    let program = topology.host_program();
    let (server, server6) = (udp(&dns, ANY, 53), udp(&dns, ANY6, 53));
    let client = datagrams(&program);
    for _ in 0..2 {
        for address in [LOOPBACK, HOST_ADDRESS, dns.gateway] {
            asks(&client, mapped(address, 5353), &server);
        }
        for address in [Ipv6Addr::LOCALHOST, HOST_ADDRESS6] {
            asks(&client, mapped(address, 5353), &server6);
        }
    }
    for (address, server) in [
        (IpAddr::V4(LOOPBACK), &server),
        (Ipv6Addr::LOCALHOST.into(), &server6),
    ] {
        let to = mapped(address, 5353);
        let connected = datagrams(&program);
        connected.connect(to).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), to);
        connected.send(b"question").unwrap();
        let seen = hears(server, b"question");
        server.send_to(b"answer", seen).unwrap();
        assert_eq!(hears(&connected, b"answer"), to);
    }
}

#[test]
fn a_socket_bound_to_loopback_is_told_at_once() {
    let Some((topology, web)) = start("host6-bound", "-p 8080:80 -p 5353:53/udp") else {
        return;
    };
    let program = topology.host_program();
    let (http, dns) = (listen(&web, ANY6, 80), udp(&web, ANY6, 53));
    for loopback in [IpAddr::V4(LOOPBACK), Ipv6Addr::LOCALHOST.into()] {
        for (kind, port) in [(SockType::Stream, 8080), (SockType::Datagram, 5353)] {
            let socket = program.open_family(AddressFamily::Inet6, kind, None);
            setsockopt(&socket, sockopt::Ipv6V6Only, &false).unwrap();
            bind(
                socket.as_raw_fd(),
                &SockaddrStorage::from(mapped(loopback, 0)),
            )
            .unwrap();
            let to = mapped(loopback, port);
            let connected = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
            assert_eq!(connected, Err(Errno::EINVAL), "{kind:?} to {to}");
            if kind == SockType::Datagram {
                let sent = UdpSocket::from(socket).send_to(b"words", to);
                let error = sent.unwrap_err().raw_os_error();
                assert_eq!(error, Some(Errno::EINVAL as i32), "to {to}");
            }
        }
    }
    http.assert_nobody_came();
    says_nothing(&dns);
}
