//! The host and its containers speak to one server and port at once, from the
//! same source ports.

use std::collections::HashSet;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS, set_sysctls};
use netdp::netns::Namespace;
use netdp_tests::{
    PATIENCE, Topology, connect, connect_from, connect_within, hears, listen, talk, udp,
};
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// So many connections and UDP sockets of the host, and as many of two
/// containers together: none fails, and no two have one tuple at the server.
fn all_at_once(name: &str, count: usize) {
    let Some(topology) = Topology::start(name) else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let places = [
        (&topology.world.host, count),
        (&one.namespace, count / 2),
        (&other.namespace, count / 2),
    ];
    // Hardly more ports than the host needs: nearly each of a container's is
    // one of the host's, too.
    let last = 33_000 + count + count / 8;
    let range = format!("33000 {last}");
    for (place, _) in places {
        set_sysctls(place, &[("ipv4/ip_local_port_range", &range)]).unwrap();
    }
    connections(&topology, &places, 2 * count);
    datagrams(&topology, &places, 2 * count);
    for drops in topology.statistics().drops {
        assert_eq!(drops.packets, 0, "{}", drops.reason);
    }
}

/// Sockets that stay open without being open files of this process, of which
/// there may be some thousands only: on their way through a pair of sockets.
struct Parked {
    entrance: OwnedFd,
    exit: OwnedFd,
    waiting: Vec<OwnedFd>,
    messages: usize,
}

impl Parked {
    /// `SCM_MAX_FD` of the kernel's include/net/scm.h is 253.
    const AT_ONCE: usize = 250;

    fn new() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (entrance, exit) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        Self {
            entrance,
            exit,
            waiting: Vec::new(),
            messages: 0,
        }
    }

    fn add(&mut self, socket: impl Into<OwnedFd>) {
        self.waiting.push(socket.into());
        if self.waiting.len() == Self::AT_ONCE {
            self.send();
        }
    }

    fn send(&mut self) {
        let files: Vec<_> = self.waiting.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let bytes = [IoSlice::new(b"sockets")];
        let fd = self.entrance.as_raw_fd();
        sendmsg::<()>(fd, &bytes, &rights, MsgFlags::MSG_DONTWAIT, None).expect("park sockets");
        self.waiting.clear();
        self.messages += 1;
    }

    /// Takes them all out, in their order; each is closed when it is done with.
    fn each(mut self, mut then: impl FnMut(OwnedFd)) {
        if !self.waiting.is_empty() {
            self.send();
        }
        for _ in 0..self.messages {
            let mut payload = [0; 16];
            let mut parts = [IoSliceMut::new(&mut payload)];
            let mut space = cmsg_space!([i32; Self::AT_ONCE]);
            let fd = self.exit.as_raw_fd();
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags).unwrap();
            for control in message.cmsgs().unwrap() {
                let ControlMessageOwned::ScmRights(files) = control else {
                    panic!("{control:?}");
                };
                for file in files {
                    // SAFETY: received just now, and nobody else's.
                    then(unsafe { OwnedFd::from_raw_fd(file) });
                }
            }
        }
    }
}

fn connections(topology: &Topology, places: &[(&Namespace, usize)], all: usize) {
    let listener = listen(&topology.world.outside, ANY, 80).into_inner();
    let to = SocketAddr::from((OUTSIDE_ADDRESS, 80));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut streams = Parked::new();
            let mut seen = HashSet::new();
            for _ in 0..all {
                let (mut stream, from) = listener.accept().expect("a connection arrives");
                let mut number = [0; 8];
                stream.read_exact(&mut number).expect("its number");
                stream.write_all(&number).expect("answer");
                assert_eq!(from.ip(), HOST_ADDRESS);
                assert!(seen.insert(from), "{from} is two");
                streams.add(stream);
            }
            streams
        });
        let clients: Vec<_> = places
            .iter()
            .map(|&(place, count)| scope.spawn(move || open(place, to, count)))
            .collect();
        let near: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().expect("every connection is made"))
            .collect();
        let far = server.join().expect("every connection arrives");
        // All are open at once, and each still is its own.
        far.each(|stream| {
            let mut stream = TcpStream::from(stream);
            let port = stream.peer_addr().expect("its peer").port();
            stream.write_all(&port.to_be_bytes()).expect("say");
        });
        let mut ports = HashSet::new();
        for parked in near {
            parked.each(|stream| {
                let mut port = Vec::new();
                TcpStream::from(stream)
                    .read_to_end(&mut port)
                    .expect("hear");
                assert_eq!(port.len(), 2);
                assert!(ports.insert(port), "two hear of one port");
            });
        }
        assert_eq!(ports.len(), all);
    });
}

fn open(place: &Namespace, to: SocketAddr, count: usize) -> Parked {
    let number = |index: usize| (std::ptr::from_ref(place).addr() + index).to_be_bytes();
    let mut streams = Parked::new();
    for index in 0..count {
        let mut stream = connect_within(place, None, to, PATIENCE)
            .unwrap_or_else(|error| panic!("connection {index}: {error}"));
        stream.write_all(&number(index)).expect("say");
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).expect("hear");
        assert_eq!(heard, number(index));
        streams.add(stream);
    }
    streams
}

fn datagrams(topology: &Topology, places: &[(&Namespace, usize)], all: usize) {
    let server = udp(&topology.world.outside, ANY, 53);
    let to = SocketAddr::from((OUTSIDE_ADDRESS, 53));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut seen = HashSet::new();
            let mut number = [0; 16];
            while seen.len() < all {
                let (length, from) = server.recv_from(&mut number).expect("a datagram arrives");
                assert_eq!(from.ip(), HOST_ADDRESS);
                assert!(seen.insert(from), "{from} is two");
                server.send_to(&number[..length], from).expect("answer");
            }
        });
        let clients: Vec<_> = places
            .iter()
            .map(|&(place, count)| scope.spawn(move || ask(place, to, count)))
            .collect();
        for client in clients {
            client.join().expect("every datagram is answered");
        }
        server.join().expect("every datagram arrives");
    });
}

/// The sockets stay until all have been used.
fn ask(place: &Namespace, to: SocketAddr, count: usize) {
    let mut sockets = Parked::new();
    for index in 0..count {
        let socket = udp(place, ANY, 0);
        socket.connect(to).expect("connect");
        let number = index.to_be_bytes();
        socket.send(&number).expect("say");
        let mut heard = [0; 16];
        let length = socket
            .recv(&mut heard)
            .unwrap_or_else(|error| panic!("datagram {index}: {error}"));
        assert_eq!(heard[..length], number);
        sockets.add(socket);
    }
}

#[test]
fn host_and_containers_have_two_thousand_flows_each_to_one_server() {
    all_at_once("collide", 2_000);
}

#[test]
#[ignore = "takes long"]
fn host_and_containers_have_twenty_thousand_flows_each_to_one_server() {
    all_at_once("collide-long", 20_000);
}

/// Ports are published while connections and a UDP socket of another container
/// have them outside.
#[test]
fn a_conversation_outlives_the_publication_of_its_port() {
    const PORT: u16 = 40_000;
    let Some(topology) = Topology::start("col-published") else {
        return;
    };
    let world = &topology.world;
    let one = topology.container("one", "");
    let server = listen(&world.outside, ANY, 80);
    let near = connect_from(&one, (ANY, PORT), (OUTSIDE_ADDRESS, 80));
    let (far, seen) = server.accept();
    assert_eq!(seen, (HOST_ADDRESS, PORT).into());
    let (speaker, ear) = (udp(&one, ANY, PORT), udp(&world.outside, ANY, 53));
    let speak = || {
        speaker
            .send_to(b"a question", (OUTSIDE_ADDRESS, 53))
            .unwrap();
        assert_eq!(hears(&ear, b"a question"), (HOST_ADDRESS, PORT).into());
        ear.send_to(b"an answer", (HOST_ADDRESS, PORT)).unwrap();
        hears(&speaker, b"an answer");
    };
    talk(&near, &far);
    speak();

    let options = format!("-p {PORT}:80 -p {PORT}:53/udp");
    let other = topology.container("other", &options);
    let (listener, service) = (listen(&other, ANY, 80), udp(&other, ANY, 53));
    talk(&near, &far);
    speak();
    let client = connect(&world.client, (HOST_ADDRESS, PORT));
    let (answering, _) = listener.accept();
    talk(&client, &answering);
    let asking = udp(&world.outside, ANY, 0);
    asking
        .send_to(b"for the new one", (HOST_ADDRESS, PORT))
        .unwrap();
    hears(&service, b"for the new one");
    talk(&near, &far);
}
