//! Questions to the resolver and its answers on loopback, under test_run. Needs
//! root.

mod program_world;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use netdp::bpf::{TestPacket, TestRun};
use netdp_common::resolver::{ADDRESS, HELD_PORT, PORT};
use program_world::{
    NEXT, WEB, World,
    closed::nobody_has,
    frame::{ACK, Body, Frame, SYN, at},
    world,
};

/// Number of every namespace's `lo`.
const LOOPBACK: u32 = 1;
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000);

fn resolver(port: u16) -> SocketAddrV4 {
    at(ADDRESS.bytes().into(), port)
}

fn run(world: &mut World, bytes: &[u8]) -> TestRun {
    let packet = TestPacket::sent(bytes, LOOPBACK);
    let run = world.datapath.test_run("to_resolver", &packet).unwrap();
    assert_eq!(run.action, NEXT);
    run
}

/// The sockets of a resolver in the calling thread's namespace.
fn listen() -> (UdpSocket, TcpListener) {
    let address = resolver(HELD_PORT);
    (
        UdpSocket::bind(address).unwrap(),
        TcpListener::bind(address).unwrap(),
    )
}

#[test]
fn questions_and_answers_exchange_ports() {
    world(|world| {
        let _sockets = listen();
        for body in [
            Body::Udp,
            Body::UdpUnchecked,
            Body::Tcp(SYN),
            Body::Tcp(ACK),
        ] {
            let question = Frame::new(body, CLIENT, resolver(PORT));
            let heard = Frame::of(&run(world, &question.bytes()).packet);
            assert_eq!((heard.from, heard.to), (CLIENT, resolver(HELD_PORT)));
            assert_eq!(heard.payload, question.payload);
            assert_eq!(heard.ttl, question.ttl);
            let answer = Frame::new(body, resolver(HELD_PORT), CLIENT);
            let heard = Frame::of(&run(world, &answer.bytes()).packet);
            assert_eq!((heard.from, heard.to), (resolver(PORT), CLIENT));
        }
    });
}

#[test]
fn a_question_that_nobody_hears_stays() {
    world(|world| {
        for body in [Body::Udp, Body::Tcp(SYN)] {
            let question = Frame::new(body, CLIENT, resolver(PORT)).bytes();
            assert_eq!(run(world, &question).packet, question, "{body:?}");
        }
        let (udp, tcp) = listen();
        drop(udp);
        nobody_has(HELD_PORT, "udp");
        let by_udp = Frame::new(Body::Udp, CLIENT, resolver(PORT)).bytes();
        assert_eq!(run(world, &by_udp).packet, by_udp);
        let by_tcp = Frame::new(Body::Tcp(SYN), CLIENT, resolver(PORT)).bytes();
        assert_ne!(run(world, &by_tcp).packet, by_tcp);
        drop(tcp);
    });
}

#[test]
fn everything_else_on_loopback_stays() {
    world(|world| {
        let _sockets = listen();
        for frame in [
            Frame::udp(CLIENT, at(Ipv4Addr::LOCALHOST, PORT)),
            Frame::udp(at(Ipv4Addr::LOCALHOST, PORT), CLIENT),
            Frame::udp(at(WEB, 40_000), at(WEB, HELD_PORT)),
            Frame::tcp(SYN, CLIENT, resolver(80)),
            Frame::echo_request(Ipv4Addr::LOCALHOST, ADDRESS.bytes().into(), PORT),
        ] {
            let bytes = frame.bytes();
            assert_eq!(run(world, &bytes).packet, bytes, "{frame:?}");
        }
        // Cut off, and later parts of a datagram.
        let mut bytes = Frame::udp(CLIENT, resolver(PORT)).bytes();
        bytes[21] = 1;
        assert_eq!(run(world, &bytes).packet, bytes);
        bytes[21] = 0;
        bytes.truncate(36);
        assert_eq!(run(world, &bytes).packet, bytes);
    });
}
