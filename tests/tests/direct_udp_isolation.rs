//! What can be done with a direct port's socket of UDP besides answering its
//! clients: nothing. As in `direct_isolation`, the tests take it out of the
//! program's hands.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use netdp::demo::world::{CLIENT_ADDRESS, CLIENT_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6};
use netdp_tests::{
    Topology, disconnect, hears, says_nothing, send_with_control, set_option, sockets_of, udp,
};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrIn, SockaddrStorage, bind, connect, getsockname, sendmsg,
    sendto,
};
use nix::unistd::{Uid, fchown};

const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// A server with a direct port, its socket, and a client of it.
struct Scene {
    topology: Topology,
    socket: OwnedFd,
    client: UdpSocket,
}

impl Scene {
    fn start(name: &str) -> Option<Self> {
        let topology = Topology::start(name)?;
        topology.netdp(&format!(
            "run -d --name dns -p 5353:53/udp,direct -- {SERVER} --udp 0.0.0.0:53"
        ));
        topology.wait_until("bound", || !topology.netdp("logs dns").is_empty());
        let client = udp(&topology.world.client, Ipv4Addr::UNSPECIFIED, 0);
        let socket = socket_of(topology.inspect("dns").pid.unwrap());
        Some(Self {
            topology,
            socket,
            client,
        })
    }

    /// Has the client ask, and gives its address.
    #[track_caller]
    fn serves(&self) -> SocketAddrV4 {
        self.client.send_to(b"?", (HOST_ADDRESS, 5353)).unwrap();
        let mut answer = [0; 128];
        let (_, from) = self.client.recv_from(&mut answer).expect("an answer");
        assert_eq!(from, (HOST_ADDRESS, 5353).into());
        let port = self.client.local_addr().unwrap().port();
        SocketAddrV4::new(CLIENT_ADDRESS, port)
    }

    fn send(&self, to: SocketAddrV4) -> Result<usize, Errno> {
        let to = SockaddrIn::from(to);
        sendto(self.socket.as_raw_fd(), b"!", &to, MsgFlags::MSG_DONTWAIT)
    }

    /// All that it may not reach.
    fn others(&self, client: SocketAddrV4) -> Vec<SocketAddrV4> {
        let other = self.topology.container("other", "");
        let at = SocketAddrV4::new;
        vec![
            at(Ipv4Addr::LOCALHOST, 7777),
            at(Ipv4Addr::UNSPECIFIED, 7777),
            at(HOST_ADDRESS, 7777),
            at(CLIENT_ADDRESS, client.port() ^ 1),
            at(Ipv4Addr::new(198, 18, 0, 200), client.port()),
            at(other.address, 7777),
            at(other.gateway, 7777),
            at(Ipv4Addr::BROADCAST, 7777),
            at(Ipv4Addr::new(224, 0, 0, 251), 5353),
        ]
    }
}

/// The socket of UDP that a process has.
fn socket_of(process: u32) -> OwnedFd {
    let mut sockets = sockets_of(process, libc::IPPROTO_UDP);
    sockets.pop().expect("a socket")
}

#[test]
fn it_sends_to_its_clients_alone() {
    let Some(scene) = Scene::start("dui-send") else {
        return;
    };
    let port = scene.client.local_addr().unwrap().port();
    let client = SocketAddrV4::new(CLIENT_ADDRESS, port);
    let others = scene.others(client);
    // Nobody is a client yet.
    assert_eq!(scene.send(client), Err(Errno::EPERM));
    assert_eq!(scene.serves(), client);
    scene.send(client).unwrap();
    hears(&scene.client, b"!");
    set_option(
        &scene.socket,
        libc::SOL_SOCKET,
        libc::SO_BROADCAST,
        &1i32.to_ne_bytes(),
    )
    .unwrap();
    for to in &others {
        assert_eq!(scene.send(*to), Err(Errno::EPERM), "{to}");
    }
    // With a peer, and without it again.
    for to in &others {
        let to = SockaddrIn::from(*to);
        let refused = connect(scene.socket.as_raw_fd(), &to);
        assert_eq!(refused, Err(Errno::EPERM), "{to}");
    }
    // What is sent without an address would go to such a peer.
    for addr in [CLIENT_ADDRESS, Ipv4Addr::LOCALHOST, HOST_ADDRESS] {
        let to = SockaddrIn::from(SocketAddrV4::new(addr, 0));
        let refused = connect(scene.socket.as_raw_fd(), &to);
        assert_eq!(refused, Err(Errno::EPERM), "{addr}");
    }
    connect(scene.socket.as_raw_fd(), &SockaddrIn::from(client)).unwrap();
    for to in &others {
        assert_eq!(scene.send(*to), Err(Errno::EPERM), "{to}");
    }
    disconnect(&scene.socket).unwrap();
    for to in &others {
        assert_eq!(scene.send(*to), Err(Errno::EPERM), "{to}");
    }
    let name: SockaddrIn = getsockname(scene.socket.as_raw_fd()).unwrap();
    assert_eq!(name.port(), 53);
    scene.serves();
}

#[test]
fn control_messages_lead_nowhere_else() {
    let Some(scene) = Scene::start("dui-control") else {
        return;
    };
    let client = scene.serves();
    let others = scene.others(client);
    let send = |to: SocketAddrV4, source: Ipv4Addr, ifindex: i32| {
        let info = libc::in_pktinfo {
            ipi_ifindex: ifindex,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(source.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let bytes = [IoSlice::new(b"!")];
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let (fd, to) = (scene.socket.as_raw_fd(), SockaddrIn::from(to));
        sendmsg(fd, &bytes, &control, MsgFlags::MSG_DONTWAIT, Some(&to))
    };
    for to in &others {
        for (source, ifindex) in [
            (HOST_ADDRESS, 0),
            (Ipv4Addr::LOCALHOST, 0),
            (HOST_ADDRESS, 1),
        ] {
            assert_eq!(send(*to, source, ifindex), Err(Errno::EPERM), "{to}");
        }
    }
    // Of nobody here, or of no use on the way to the client.
    for source in [Ipv4Addr::new(198, 18, 0, 99), Ipv4Addr::LOCALHOST] {
        assert!(send(client, source, 0).is_err(), "{source}");
    }
    send(client, HOST_ADDRESS, 0).unwrap();
    hears(&scene.client, b"!");
    // A peer, and control messages without an address.
    connect(scene.socket.as_raw_fd(), &SockaddrIn::from(client)).unwrap();
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let sent = sendmsg(
        scene.socket.as_raw_fd(),
        &[IoSlice::new(b"!")],
        &[ControlMessage::Ipv4PacketInfo(&info)],
        MsgFlags::MSG_DONTWAIT,
        None::<&SockaddrIn>,
    );
    assert_eq!(sent, Ok(1));
    hears(&scene.client, b"!");
}

/// The host's routes and firewall go by marks. The kernel asks for CAP_NET_RAW,
/// which containers have, and so has this test.
#[test]
fn no_control_message_gives_a_mark() {
    let Some(topology) = Topology::with_ipv6("dui-mark") else {
        return;
    };
    let mark = |socket: &OwnedFd, to, mark: u32| {
        let mark = mark.to_ne_bytes();
        send_with_control(socket, to, (libc::SOL_SOCKET, libc::SO_MARK), &mark)
    };
    let (client, host) = (&topology.world.client, topology.host_program());
    let ends: [(IpAddr, IpAddr, IpAddr); 2] = [
        (
            HOST_ADDRESS.into(),
            CLIENT_ADDRESS.into(),
            Ipv4Addr::UNSPECIFIED.into(),
        ),
        (
            HOST_ADDRESS6.into(),
            CLIENT_ADDRESS6.into(),
            Ipv6Addr::UNSPECIFIED.into(),
        ),
    ];
    for (asked, known_as, any) in ends {
        topology.netdp(&format!(
            "run -d --name dns --network six -p 5353:53/udp,direct -- {SERVER} --udp [::]:53"
        ));
        topology.wait_until("bound", || !topology.netdp("logs dns").is_empty());
        let socket = socket_of(topology.inspect("dns").pid.unwrap());
        let asks = udp(client, any, 0);
        asks.send_to(b"?", (asked, 5353)).unwrap();
        asks.recv_from(&mut [0; 128]).expect("an answer");
        let port = asks.local_addr().unwrap().port();
        // A socket of the host's own may, so it isn't the kernel that refuses.
        let there = Some((known_as, port).into());
        mark(&udp(&host, any, 0).into(), there, 0x77).unwrap();
        hears(&asks, b"!");
        // One of IPv6 names addresses of IPv4 as IPv6 does.
        let there = match known_as {
            IpAddr::V4(v4) => Some((v4.to_ipv6_mapped(), port).into()),
            IpAddr::V6(_) => there,
        };
        for other in [1, 0x77, u32::MAX] {
            assert_eq!(mark(&socket, there, other), Err(Errno::EPERM), "{asked}");
        }
        // That of the socket, as of every one that none was set of.
        mark(&socket, there, 0).unwrap();
        hears(&asks, b"!");
        // A peer, and control messages without an address.
        let peer = SockaddrStorage::from(there.unwrap());
        connect(socket.as_raw_fd(), &peer).unwrap();
        assert_eq!(mark(&socket, None, 0x77), Err(Errno::EPERM), "{asked}");
        mark(&socket, None, 0).unwrap();
        hears(&asks, b"!");
        drop(socket);
        topology.netdp("rm -f dns");
    }
}

#[test]
fn no_option_leads_elsewhere() {
    let Some(scene) = Scene::start("dui-options") else {
        return;
    };
    let one = 1i32.to_ne_bytes();
    let group: Vec<u8> = [[224, 0, 0, 251], HOST_ADDRESS.octets()].concat();
    let filter = [0u8; 16];
    const UDP_ENCAP: i32 = 100;
    for (level, name, value) in [
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &b"lo"[..]),
        (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &one[..]),
        (libc::SOL_SOCKET, libc::SO_MARK, &one),
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter),
        (libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &one),
        (libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &[0; 4]),
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &group),
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT, &one),
        (libc::IPPROTO_IP, libc::IP_FREEBIND, &one),
        (libc::IPPROTO_IP, libc::IP_OPTIONS, &one),
        (libc::IPPROTO_IP, libc::IP_HDRINCL, &one),
        (libc::IPPROTO_UDP, UDP_ENCAP, &one),
    ] {
        let refused = set_option(&scene.socket, level, name, value);
        assert_eq!(refused, Err(Errno::EPERM), "{level} {name}");
    }
    let to = SockaddrStorage::from(SocketAddr::from((HOST_ADDRESS, 7777)));
    let bound = bind(scene.socket.as_raw_fd(), &to);
    assert!(
        matches!(bound, Err(Errno::EPERM | Errno::EINVAL)),
        "{bound:?}"
    );
    scene.serves();
}

#[test]
fn it_hears_nothing_that_is_for_many() {
    let Some(scene) = Scene::start("dui-many") else {
        return;
    };
    let client = &scene.client;
    client.set_broadcast(true).unwrap();
    for to in [
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(198, 18, 0, 255),
        Ipv4Addr::new(224, 0, 0, 1),
    ] {
        // What there is no way to is heard by nobody either.
        let _ = client.send_to(b"all", (to, 5353));
    }
    says_nothing(client);
    // A socket of the host's own at another port hears the host's broadcast.
    let own = udp(&scene.topology.host_program(), Ipv4Addr::UNSPECIFIED, 5454);
    client
        .send_to(b"all", (Ipv4Addr::new(198, 18, 0, 255), 5454))
        .unwrap();
    hears(&own, b"all");
    scene.serves();
}

#[test]
fn a_socket_that_lost_its_port_neither_hears_nor_sends() {
    let Some(scene) = Scene::start("dui-lost") else {
        return;
    };
    let client = scene.serves();
    scene.topology.netdp("unpublish dns 5353:53/udp");
    for attempt in 0..2 {
        assert_eq!(scene.send(client), Err(Errno::EPERM));
        let connected = connect(scene.socket.as_raw_fd(), &SockaddrIn::from(client));
        assert_eq!(connected, Err(Errno::EPERM));
        for from in [
            udp(&scene.topology.world.client, Ipv4Addr::UNSPECIFIED, 0),
            udp(&scene.topology.host_program(), Ipv4Addr::UNSPECIFIED, 0),
        ] {
            let _ = from.send_to(b"?", (HOST_ADDRESS, 5353));
            says_nothing(&from);
        }
        if attempt == 0 {
            // Which frees it of the interface that it was bound to.
            disconnect(&scene.socket).unwrap();
        }
    }
    let said = scene.topology.netdp("logs dns");
    assert!(said.contains("no datagram: Software caused"), "{said}");
}

#[test]
fn a_socket_of_another_user_loses_its_port_as_well() {
    let Some(scene) = Scene::start("dui-user") else {
        return;
    };
    let client = scene.serves();
    fchown(&scene.socket, Some(Uid::from_raw(0)), None).unwrap();
    let Scene { topology, .. } = &scene;
    topology.netdp("unpublish dns 5353:53/udp");
    assert_eq!(scene.send(client), Err(Errno::EPERM));
    let said = topology.netdp("logs dns");
    assert!(said.contains("no datagram: Software caused"), "{said}");
    topology.netdp(&format!(
        "run -d --name next -p 5353:53/udp,direct -- {SERVER} --udp 0.0.0.0:53"
    ));
    topology.wait_until("bound", || !topology.netdp("logs next").is_empty());
    for _ in 0..9 {
        scene.serves();
    }
}

#[test]
fn all_that_share_a_port_are_told_that_they_lose_it() {
    let Some(topology) = Topology::start("dui-shared") else {
        return;
    };
    topology.netdp(&format!(
        "run -d --name dns -p 5353:53/udp,direct -- {SERVER} \
         --shared --udp 0.0.0.0:53 0.0.0.0:53 0.0.0.0:53"
    ));
    topology.wait_until("bound", || topology.netdp("logs dns").lines().count() == 3);
    topology.netdp("unpublish dns 5353:53/udp");
    topology.wait_until("told", || {
        let said = topology.netdp("logs dns");
        said.matches("no datagram: Software caused").count() == 3
    });
}
