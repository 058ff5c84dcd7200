//! What can be done with a direct port's socket besides serving its clients:
//! nothing. A socket is of the control group that it was made in, whoever holds
//! it, so these tests take it out of the program's hands.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS};
use netdp::netns::Namespace;
use netdp_tests::{
    PATIENCE, SILENCE, Topology, connect, connect_within, disconnect, listen, number_option,
    set_option, sockets_of,
};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrStorage, bind,
    connect as connect_socket, getsockname, listen as listen_on, recvmsg, sendmsg, sendto,
};
use nix::unistd::{Uid, fchown};

const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// A server with a direct port, its listening socket and that of a connection.
struct Scene {
    topology: Topology,
    listener: OwnedFd,
    connection: OwnedFd,
    /// The connection's client.
    client: TcpStream,
}

impl Scene {
    fn start(name: &str) -> Option<Self> {
        let topology = Topology::start(name)?;
        let words = format!("run -d --name web -p 8080:80,direct -- {SERVER} 0.0.0.0:80");
        topology.netdp(&words);
        topology.wait_until("listening", || !topology.netdp("logs web").is_empty());
        let mut client = connect(&topology.world.client, (HOST_ADDRESS, 8080));
        client.read_exact(&mut [0]).unwrap();
        let mut sockets = sockets_of(topology.inspect("web").pid.unwrap(), libc::IPPROTO_TCP);
        let listener = sockets.iter().position(is_listening).expect("a listener");
        let listener = sockets.remove(listener);
        let connection = sockets.pop().expect("a connection");
        Some(Self {
            topology,
            listener,
            connection,
            client,
        })
    }

    /// It still serves.
    #[track_caller]
    fn serves(&self) {
        let mut stream = connect(&self.topology.world.client, (HOST_ADDRESS, 8080));
        stream.read_exact(&mut [0]).unwrap();
    }
}

fn is_listening(socket: &OwnedFd) -> bool {
    number_option(socket, libc::SO_ACCEPTCONN) == Some(1)
}

fn name(socket: &OwnedFd) -> SocketAddr {
    let name: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    SocketAddr::new(name.ip().into(), name.port())
}

#[test]
fn it_connects_to_nothing() {
    let Some(scene) = Scene::start("dis-connect") else {
        return;
    };
    let target = listen(&scene.topology.host_program(), Ipv4Addr::LOCALHOST, 7777);
    disconnect(&scene.connection).unwrap();
    for socket in [&scene.connection, &scene.listener] {
        for to in [Ipv4Addr::LOCALHOST, HOST_ADDRESS, CLIENT_ADDRESS] {
            let to = SockaddrStorage::from(SocketAddr::new(IpAddr::V4(to), 7777));
            // A listener has to be taken off its clients first.
            let refused = connect_socket(socket.as_raw_fd(), &to).unwrap_err();
            assert!(
                matches!(refused, Errno::EPERM | Errno::EISCONN),
                "{refused}"
            );
            let fast = sendto(
                socket.as_raw_fd(),
                b"x",
                &to,
                MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
            );
            assert!(fast.is_err());
        }
    }
    let to = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 7777)));
    disconnect(&scene.listener).unwrap();
    let refused = connect_socket(scene.listener.as_raw_fd(), &to);
    assert_eq!(refused, Err(Errno::EPERM));
    target.assert_nobody_came();
}

#[test]
fn it_binds_and_serves_no_other_port_of_the_host() {
    let Some(scene) = Scene::start("dis-bind") else {
        return;
    };
    let connection = &scene.connection;
    disconnect(connection).unwrap();
    for addr in [(Ipv4Addr::UNSPECIFIED, 7777), (HOST_ADDRESS, 0)] {
        let addr = SockaddrStorage::from(SocketAddr::from(addr));
        assert_eq!(bind(connection.as_raw_fd(), &addr), Err(Errno::EPERM));
    }
    // Without `bind`, the kernel chooses a port.
    listen_on(connection, Backlog::new(8).unwrap()).unwrap();
    let port = name(connection).port();
    assert!(port != 80 && port != 8080);
    let host = scene.topology.host_program();
    for at in [Ipv4Addr::LOCALHOST, HOST_ADDRESS] {
        let to = SocketAddr::from((at, port));
        assert!(connect_within(&host, None, to, SILENCE).is_err());
    }
    let to = SocketAddr::from((HOST_ADDRESS, port));
    assert!(connect_within(&scene.topology.world.client, None, to, SILENCE).is_err());
    scene.serves();
}

#[test]
fn no_option_leads_out_of_its_connection() {
    let Some(scene) = Scene::start("dis-option") else {
        return;
    };
    let one = 1i32.to_ne_bytes();
    let group: Vec<u8> = [[239, 1, 2, 3], HOST_ADDRESS.octets()].concat();
    let group6: Vec<u8> = [&[0xff, 2][..], &[0; 13], &[9], &0u32.to_ne_bytes()].concat();
    let class = 0x1_0001i32.to_ne_bytes();
    let refused: [(i32, i32, &[u8]); 23] = [
        (libc::SOL_SOCKET, libc::SO_PRIORITY, &class),
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0"),
        (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &one),
        (libc::SOL_SOCKET, libc::SO_MARK, &one),
        (libc::SOL_SOCKET, libc::SO_DONTROUTE, &one),
        (libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &one),
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &[0; 16]),
        (libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &one),
        (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &[0; 16]),
        (libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &0i32.to_ne_bytes()),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &one),
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT, &one),
        (libc::IPPROTO_IP, libc::IP_FREEBIND, &one),
        (
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            &[0x83, 7, 4, 10, 0, 0, 1, 0],
        ),
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &[198, 18, 0, 2]),
        (libc::IPPROTO_IP, libc::IP_UNICAST_IF, &one),
        (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &group6),
        (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, &one),
        (libc::IPPROTO_IPV6, 1, &2i32.to_ne_bytes()),
        (libc::IPPROTO_TCP, libc::TCP_REPAIR, &one),
        (libc::IPPROTO_TCP, libc::TCP_ULP, b"tls"),
        (263, 1, &one),
    ];
    // What is longer than a page the kernel reads again from the program.
    let mut long = vec![0; 8192];
    long[..4].copy_from_slice(&(1i32 << 30).to_ne_bytes());
    for socket in [&scene.listener, &scene.connection] {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX);
        assert_eq!(set_option(socket, level, name, &long), Err(Errno::EPERM));
        for (level, name, value) in refused {
            assert_eq!(
                set_option(socket, level, name, value),
                Err(Errno::EPERM),
                "{level} {name}"
            );
        }
        let linger: Vec<u8> = [1i32, 0].iter().flat_map(|it| it.to_ne_bytes()).collect();
        let allowed: [(i32, i32, &[u8]); 9] = [
            (libc::SOL_SOCKET, libc::SO_PRIORITY, &6i32.to_ne_bytes()),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, &one),
            (libc::SOL_SOCKET, libc::SO_LINGER, &linger),
            (libc::SOL_SOCKET, libc::SO_RCVBUF, &9000i32.to_ne_bytes()),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT, &0i32.to_ne_bytes()),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, &one),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &9i32.to_ne_bytes()),
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"reno"),
            (libc::IPPROTO_IP, libc::IP_TOS, &16i32.to_ne_bytes()),
        ];
        for (level, name, value) in allowed {
            assert_eq!(
                set_option(socket, level, name, value),
                Ok(()),
                "{level} {name}"
            );
        }
        // Who shares the port was settled when the socket was made.
        assert_eq!(number_option(socket, libc::SO_REUSEPORT), Some(1));
    }
}

/// The kernel shows the control group's programs no options that are set by calls
/// of another architecture.
#[test]
fn nobody_sets_options_by_calls_of_32_bits() {
    let program = env!("CARGO_BIN_EXE_foreign_options");
    let output = std::process::Command::new(program).output().unwrap();
    if !output.status.success() {
        return println!("skipped: this kernel has no calls of 32 bits");
    }
    let Some(topology) = Topology::start("dis-foreign") else {
        return;
    };
    let said = |options: &str| {
        let words = format!("run {options} -- {program}");
        let printed = topology.netdp(&words);
        let lines = printed.lines().map(str::to_owned);
        lines.collect::<Vec<String>>()
    };
    let refused = Errno::EPERM as i32;
    let direct = said("-p 8080:80,direct");
    for call in ["setsockopt", "socketcall", "io_uring_setup", "x32"] {
        let line = format!("{call} -{refused}");
        assert!(direct.contains(&line), "{direct:?}");
    }
    assert!(direct.contains(&"getpid 0".to_owned()), "{direct:?}");
    let plain = said("-p 8080:80");
    for call in ["setsockopt", "socketcall", "getpid"] {
        assert!(plain.contains(&format!("{call} 0")), "{plain:?}");
    }
}

#[test]
fn its_connections_are_its_clients() {
    let Some(mut scene) = Scene::start("dis-clients") else {
        return;
    };
    assert_eq!(name(&scene.connection).port(), 80);
    let mut connection = TcpStream::from(scene.connection.try_clone().unwrap());
    assert_eq!(
        connection.peer_addr().unwrap(),
        scene.client.local_addr().unwrap()
    );
    connection.write_all(b"!").unwrap();
    scene.client.read_exact(&mut [0]).unwrap();
    // In other hands it is as good, and no better.
    let listener = TcpListener::from(scene.listener.try_clone().unwrap());
    assert_eq!(
        listener.local_addr().unwrap(),
        "0.0.0.0:80".parse().unwrap()
    );
    scene.serves();
}

#[test]
fn who_rules_networks_but_not_the_host_gets_none() {
    let Some(topology) = Topology::start("dis-rights") else {
        return;
    };
    let Ok(setpriv) = std::process::Command::new("setpriv")
        .arg("--version")
        .output()
    else {
        return println!("skipped: there is no setpriv");
    };
    assert!(setpriv.status.success());
    let is_direct = |name: &str, port: u16, program: &str| {
        let file = topology.world.dir().join(name);
        std::fs::write(&file, program).unwrap();
        let script = file.display();
        topology.netdp(&format!(
            "run -d --name {name} -p {port},direct -- sh {script}"
        ));
        topology.wait_until("listening", || {
            topology.netdp(&format!("logs {name}")).contains(" is ")
        });
        // Nobody who is not led elsewhere finds it in its own network.
        let own = Namespace::open(&topology.inspect(name).netns).unwrap();
        connect_within(&own, None, (Ipv4Addr::LOCALHOST, port), SILENCE).is_err()
    };
    let server = |port: u16| format!("{SERVER} 0.0.0.0:{port}");
    let only = |rights: &str, port| format!("exec setpriv {rights} -- {}", server(port));
    assert!(is_direct("root", 80, &only("--nnp", 80)));
    let half = "--bounding-set=-sys_admin";
    assert!(!is_direct("half", 80, &only(half, 80)));
    let neither = "--bounding-set=-sys_admin,-net_admin";
    // Its user lost the others, and keeps this one.
    let kept = "--reuid 1000 --clear-groups --inh-caps=+net_admin --ambient-caps=+net_admin";
    assert!(!is_direct("kept", 8080, &only(kept, 8080)));
    assert!(is_direct("neither", 80, &only(neither, 80)));
    // It could hand the socket to the one that started it.
    for (name, by) in [
        ("handed", "setpriv --bounding-set=-net_admin --"),
        ("userns", "unshare --user --map-root-user"),
    ] {
        let child = format!("{by} {} & wait", server(8081));
        let program = format!("exec setpriv {half} -- sh -c '{child}'");
        assert!(!is_direct(name, 8081, &program), "{name}");
    }
    // Without the right to a low port the kernel's answer is the sandbox's own.
    for (name, by) in [
        ("low", "setpriv --bounding-set=-net_bind_service --"),
        // It has every capability there, and none in the sandbox's network.
        ("own", "unshare --user --map-root-user"),
    ] {
        topology.netdp(&format!(
            "run -d --name {name} -p 80,direct -- {by} {SERVER} 0.0.0.0:80"
        ));
        let said = || topology.netdp(&format!("logs {name}"));
        topology.wait_until("told", || !said().is_empty());
        let said = said();
        assert!(said.contains("Permission denied"), "{name}: {said}");
    }
}

#[test]
fn a_listener_that_lost_its_port_gets_none_of_the_next_ones_connections() {
    // One that listens, and one that `sock_diag` doesn't tell of: it doesn't
    // listen, and was given to another user.
    for (name, hides) in [("dii-lost", false), ("dii-hid", true)] {
        let Some(scene) = Scene::start(name) else {
            return;
        };
        if hides {
            disconnect(&scene.listener).unwrap();
            fchown(&scene.listener, Some(Uid::from_raw(0)), None).unwrap();
        }
        let Scene { topology, .. } = &scene;
        topology.netdp("unpublish web 8080:80");
        // It may listen again, and is in nobody's way.
        listen_on(&scene.listener, Backlog::new(9).unwrap()).unwrap();
        topology.netdp(&format!(
            "run -d --name next -p 8080:80,direct -- {SERVER} 0.0.0.0:80"
        ));
        topology.wait_until("listening", || !topology.netdp("logs next").is_empty());
        let device = 1i32.to_ne_bytes();
        let back = set_option(
            &scene.listener,
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            &device,
        );
        assert_eq!(back, Err(Errno::EPERM), "it is sealed again");
        for _ in 0..20 {
            let mut stream = connect(&topology.world.client, (HOST_ADDRESS, 8080));
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            stream.read_exact(&mut [0]).expect("the next one's answer");
        }
        // Nor when it was taken off whatever it was bound to.
        disconnect(&scene.listener).unwrap();
        listen_on(&scene.listener, Backlog::new(9).unwrap()).unwrap();
        for _ in 0..20 {
            scene.serves();
        }
    }
}

/// One that nobody had as a descriptor while its port went to another sandbox: it
/// was on its way in a message. The kernel chooses it for some of the next one's
/// connections, which are lost.
#[test]
fn a_socket_that_was_hidden_reads_none_of_the_next_ones_connections() {
    let Some(scene) = Scene::start("dii-message") else {
        return;
    };
    let Scene {
        topology, listener, ..
    } = { scene };
    disconnect(&listener).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let rights = [ControlMessage::ScmRights(&[listener.as_raw_fd()])];
    let byte = [IoSlice::new(b"x")];
    sendmsg::<()>(near.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None).unwrap();
    drop(listener);
    topology.netdp("rm -f web");
    topology.netdp(&format!(
        "run -d --name next -p 8080:80,direct -- {SERVER} 0.0.0.0:80"
    ));
    topology.wait_until("listening", || !topology.netdp("logs next").is_empty());
    let hidden = received(&far);
    listen_on(&hidden, Backlog::new(9).unwrap()).unwrap();
    assert!(is_listening(&hidden));
    let hidden = TcpListener::from(hidden);
    hidden.set_nonblocking(true).unwrap();
    for _ in 0..12 {
        let to = SocketAddr::from((HOST_ADDRESS, 8080));
        if let Ok(mut stream) = connect_within(&topology.world.client, None, to, SILENCE) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut [0]).expect("the next one's answer");
        }
        let nobody = hidden.accept().unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    }
}

/// The descriptor of a message.
fn received(stream: &UnixStream) -> OwnedFd {
    let mut space = cmsg_space!(RawFd);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let fd = stream.as_raw_fd();
    let message = recvmsg::<()>(
        fd,
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .unwrap();
    let mut messages = message.cmsgs().unwrap();
    let Some(ControlMessageOwned::ScmRights(numbers)) = messages.next() else {
        panic!("a message without a descriptor");
    };
    // SAFETY: the kernel has just made it for this process.
    unsafe { OwnedFd::from_raw_fd(numbers[0]) }
}
