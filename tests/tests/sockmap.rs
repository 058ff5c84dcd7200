//! TCP between sockets of one host, joined past the stack.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use netdp::api::types::JoinedCounters;
use netdp::demo::world::ip;
use netdp_tests::{
    Container, Listener, PATIENCE, Pattern, Place, Reached, SIDES, SILENCE, Topology, abort,
    await_words, connect, connect_bound, hear, listen, talk,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Two containers on a network with this option, of both families.
struct Pair {
    topology: Topology,
    one: Container,
    other: Container,
}

impl Pair {
    fn start(name: &str, options: &str) -> Option<Self> {
        let topology = Topology::start_with_ipv6(name)?;
        topology.netdp(&format!("network create short --ipv6 {options}"));
        let one = topology.container("one", "--network short");
        let other = topology.container("other", "--network short -p 8080:80");
        Some(Self {
            topology,
            one,
            other,
        })
    }

    fn one(&self) -> Reached<'_> {
        Reached::new(&self.topology.world, &self.one.namespace)
    }

    fn other(&self) -> Reached<'_> {
        Reached::new(&self.topology.world, &self.other.namespace)
    }

    fn host(&self) -> Reached<'_> {
        Reached::new(&self.topology.world, &self.topology.world.host)
    }

    /// A connection from one to the other.
    #[track_caller]
    fn connected(&self) -> (TcpStream, TcpStream) {
        let listener = listen(&self.other(), ANY, 80);
        let near = connect(&self.one(), (self.other.address, 80));
        (near, listener.accept().0)
    }

    /// What all endpoints together have sent the short way.
    #[track_caller]
    fn joined(&self) -> JoinedCounters {
        let endpoints = self.topology.statistics().endpoints;
        endpoints
            .iter()
            .fold(JoinedCounters::default(), |sum, it| JoinedCounters {
                connections: sum.connections + it.joined.connections,
                messages: sum.messages + it.joined.messages,
                bytes: sum.bytes + it.joined.bytes,
            })
    }
}

#[track_caller]
fn reaches(place: &impl Place, to: impl Into<SocketAddr>, listener: &Listener) {
    let near = connect(place, to);
    let (far, _) = listener.accept();
    talk(&near, &far);
    talk(&far, &near);
}

#[test]
fn words_go_from_socket_to_socket() {
    for mode in ["auto", "on"] {
        let name = format!("sockmap-{mode}");
        let Some(pair) = Pair::start(&name, &format!("--opt sockmap={mode}")) else {
            return;
        };
        for side in SIDES {
            let listener = listen(&pair.other(), side.any, 80);
            let before = pair.joined();
            reaches(&pair.one(), (side.address(&pair.other), 80), &listener);
            let loopback: IpAddr = side.of("127.0.0.1", "::1").parse().unwrap();
            reaches(&pair.host(), (loopback, 8080), &listener);
            let after = pair.joined();
            assert_eq!(after.connections, before.connections + 2, "{side:?}");
            assert_eq!(after.messages, before.messages + 8);
            assert_eq!(after.bytes, before.bytes + 80);
        }
        let shown = pair.topology.netdp("network inspect short");
        assert!(
            shown.contains(&format!("\"sockmap\": \"{mode}\"")),
            "{shown}"
        );
        assert!(pair.topology.netdp("stats").contains("JOINED CONNECTIONS"));
    }
}

#[test]
fn a_socket_of_ipv6_that_speaks_ipv4_is_joined() {
    let Some(pair) = Pair::start("sockmap-mapped", "--opt sockmap=auto") else {
        return;
    };
    let place = pair.other();
    let socket = place.open_family(
        nix::sys::socket::AddressFamily::Inet6,
        nix::sys::socket::SockType::Stream,
        None,
    );
    let any = nix::sys::socket::SockaddrStorage::from(SocketAddr::from(([0u16; 8], 80)));
    nix::sys::socket::bind(socket.as_raw_fd(), &any).unwrap();
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let near = connect(&pair.one(), (pair.other.address, 80));
    let (far, _) = listener.accept().unwrap();
    talk(&near, &far);
    talk(&near, &far);
    assert_eq!(pair.joined().messages, 4);
}

#[test]
fn nothing_is_joined_unless_it_was_asked_for() {
    // `cargo xtask test --network-opt sockmap=on` has it asked for everywhere.
    let is_everywhere =
        env::var("NETDP_DEFAULT_NETWORK_OPTS").is_ok_and(|options| options.contains("sockmap"));
    let options: &[&str] = match is_everywhere {
        true => &["--opt sockmap=off"],
        false => &["", "--opt sockmap=off"],
    };
    for options in options {
        let Some(pair) = Pair::start("sockmap-off", options) else {
            return;
        };
        let (near, far) = pair.connected();
        talk(&near, &far);
        assert_eq!(pair.joined(), JoinedCounters::default());
    }
}

#[test]
fn another_value_is_refused() {
    let Some(topology) = Topology::start("sockmap-value") else {
        return;
    };
    let refused = topology.refused("network create short --opt sockmap=maybe");
    assert!(refused.contains("one of auto, on, off"), "{refused}");
}

#[test]
fn bulk_goes_by_the_stack() {
    let Some(pair) = Pair::start("sockmap-bulk", "--opt sockmap=auto") else {
        return;
    };
    let (near, far) = pair.connected();
    let sent = 16 << 20;
    thread::scope(|scope| {
        scope.spawn(|| send_in_pieces(&near, 1, sent, |_| 8 << 10));
        receive_all(&far, 1, sent);
    });
    let joined = pair.joined();
    assert!(
        joined.messages > 0 && joined.bytes <= 64 << 10,
        "{joined:?}"
    );
}

/// Sends a stream in pieces of these sizes.
#[track_caller]
fn send_in_pieces(mut to: &TcpStream, seed: u64, length: u64, size: impl Fn(u64) -> u64) {
    let mut pattern = Pattern::new(seed);
    let mut number = 0;
    while pattern.position() < length {
        let piece = size(number).clamp(1, length - pattern.position());
        to.write_all(pattern.next(piece)).expect("send");
        number += 1;
    }
}

/// That the stream ends here.
#[track_caller]
fn assert_end(from: &TcpStream) {
    assert_eq!(hear(from, &mut [0]), 0, "the end");
}

/// Receives so many bytes of a stream, and compares them.
#[track_caller]
fn receive_all(from: &TcpStream, seed: u64, length: u64) {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 64 << 10];
    while pattern.position() < length {
        let rest = (length - pattern.position()).min(buffer.len() as u64);
        let got = hear(from, &mut buffer[..rest as usize]);
        assert!(got > 0, "it ends after {} bytes", pattern.position());
        pattern.check(&buffer[..got]);
    }
}

/// A number made of another: the same in each run.
fn mixed(seed: u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    state ^= state >> 29;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state ^ state >> 32
}

/// One of many conversations: words and answers, a stream, or both at once, in
/// pieces that go the short way, the long way, or change from one to the other.
fn converse(near: &TcpStream, far: &TcpStream, number: u64) {
    let sizes = |kind: u64| {
        move |piece: u64| match kind % 5 {
            0 => 1 + mixed(number ^ piece) % 64,
            1 => 1 + mixed(number ^ piece) % (8 << 10),
            2 => 1 + mixed(number ^ piece) % (40 << 10),
            // Small ones, then a large one now and then.
            3 if piece % 16 == 15 => 100 << 10,
            3 => 100,
            _ => 16 << 10,
        }
    };
    let there = 1 + mixed(number) % (200 << 10);
    let back = 1 + mixed(number + 1) % (100 << 10);
    if number.is_multiple_of(3) {
        // In turn.
        for round in 0..1 + number % 40 {
            for (from, to, way) in [(near, far, 0), (far, near, 1)] {
                let length = sizes(number / 3)(round);
                send_in_pieces(from, number + way, length, |_| length);
                receive_all(to, number + way, length);
            }
        }
        return;
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            send_in_pieces(near, number, there, sizes(number / 3));
            near.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            send_in_pieces(far, number + 1, back, sizes(number / 15));
            far.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            if number.is_multiple_of(7) {
                // A reader that comes late.
                thread::sleep(Duration::from_millis(20));
            }
            receive_all(far, number, there);
            assert_end(far);
        });
        receive_all(near, number + 1, back);
        assert_end(near);
    });
}

fn every_byte(name: &str, options: &str, connections: usize) {
    let Some(pair) = Pair::start(name, options) else {
        return;
    };
    let (one, other, host) = (pair.one(), pair.other(), pair.host());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                // Each has its own port, so that it knows its own.
                let listener = listen(&other, ANY, 0);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= connections {
                        return;
                    }
                    let to = (pair.other.address, listener.port());
                    let near = if number % 4 == 3 {
                        connect(&host, to)
                    } else {
                        connect(&one, to)
                    };
                    let (far, _) = listener.accept();
                    converse(&near, &far, number as u64 * 100);
                }
            });
        }
    });
    let joined = pair.joined();
    println!("{connections} connections: {joined:?}");
    if options.contains("auto") || options.contains("on") {
        assert!(joined.connections > connections as u64 / 2, "{joined:?}");
    }
}

#[test]
fn every_byte_of_mixed_connections_arrives() {
    for mode in ["auto", "on", "off"] {
        let name = format!("sockmap-bytes-{mode}");
        every_byte(&name, &format!("--opt sockmap={mode}"), 150);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn every_byte_of_ten_thousand_mixed_connections_arrives() {
    for mode in ["auto", "on"] {
        let name = format!("sockmap-all-{mode}");
        every_byte(&name, &format!("--opt sockmap={mode}"), 10_000);
    }
}

#[test]
fn what_was_said_before_the_end_is_heard() {
    let Some(pair) = Pair::start("sockmap-ends", "--opt sockmap=auto") else {
        return;
    };
    // One side says that it has done, and hears the answer nevertheless.
    let (near, far) = pair.connected();
    talk(&near, &far);
    { &near }.write_all(b"the last").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    { &far }.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"the last");
    { &far }.write_all(b"the answer to that").unwrap();
    drop(far);
    let mut heard = Vec::new();
    { &near }.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"the answer to that");
    assert_eq!(pair.joined().messages, 4);
    drop(near);

    // One is closed with words that nobody has read yet, in either direction.
    let (near, far) = pair.connected();
    talk(&near, &far);
    { &near }.write_all(b"words").unwrap();
    drop(near);
    let mut heard = [0; 5];
    { &far }.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"words");
    assert_eq!({ &far }.read(&mut heard).unwrap(), 0);
}

#[test]
fn a_reset_is_felt() {
    let Some(pair) = Pair::start("sockmap-reset", "--opt sockmap=auto") else {
        return;
    };
    let (near, far) = pair.connected();
    talk(&near, &far);
    abort(near);
    let error = { &far }.read(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = { &far }.write(b"words").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_next_connection_with_the_same_ports_is_another() {
    let Some(pair) = Pair::start("sockmap-again", "--opt sockmap=auto") else {
        return;
    };
    let listener = listen(&pair.other(), ANY, 80);
    let from = SocketAddr::from((pair.one.address, 40_000));
    let to = SocketAddr::from((pair.other.address, 80));
    // The earlier ends stay open on the far side.
    let mut stale = Vec::new();
    for number in 0..20u8 {
        let near = connect_bound(&pair.one(), Some(from), to, PATIENCE).unwrap();
        let (far, _) = listener.accept();
        { &near }.write_all(&[number; 7]).unwrap();
        let mut heard = [0; 7];
        { &far }.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [number; 7]);
        talk(&far, &near);
        abort(near);
        stale.push(far);
    }
    assert_eq!(pair.joined().connections, 20);
}

#[test]
fn a_program_that_is_killed_ends_its_connections() {
    let Some(pair) = Pair::start("sockmap-killed", "--opt sockmap=auto") else {
        return;
    };
    let world = &pair.topology.world;
    let mut server = world
        .within_reach(&pair.other.namespace, world.netdp_path())
        .args(["__load-server", "--listen", "echo=0.0.0.0:80"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 1];
    server
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    let near = connect(&pair.one(), (pair.other.address, 80));
    let mut heard = [0; 4];
    { &near }.write_all(b"word").unwrap();
    { &near }.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"word");
    assert!(pair.joined().messages >= 2);
    server.kill().unwrap();
    server.wait().unwrap();
    match { &near }.read(&mut heard) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_slow_reader_holds_the_sender_up() {
    for mode in ["auto", "on"] {
        let name = format!("sockmap-slow-{mode}");
        let Some(pair) = Pair::start(&name, &format!("--opt sockmap={mode}")) else {
            return;
        };
        for size in [100, 8 << 10, 64 << 10] {
            let (near, far) = pair.connected();
            near.set_nonblocking(true).unwrap();
            let mut pattern = Pattern::new(9);
            let mut sent = 0u64;
            let mut whole = Pattern::new(9);
            // Until there is no more room, which has to be before long.
            loop {
                let piece = pattern.next(size).to_vec();
                match { &near }.write(&piece) {
                    Ok(length) if length == piece.len() => sent += length as u64,
                    Ok(length) => {
                        sent += length as u64;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
                assert!(sent < 64 << 20, "there is always room");
            }
            let mut buffer = vec![0; 64 << 10];
            while whole.position() < sent {
                let got = { &far }.read(&mut buffer).unwrap();
                whole.check(&buffer[..got]);
            }
            assert_eq!(whole.position(), sent);
        }
    }
}

#[test]
fn who_waits_for_words_is_woken_and_may_look_before_it_reads() {
    let Some(pair) = Pair::start("sockmap-poll", "--opt sockmap=auto") else {
        return;
    };
    let (near, far) = pair.connected();
    talk(&near, &far);
    far.set_nonblocking(true).unwrap();
    let mut heard = [0; 16];
    let none = { &far }.read(&mut heard).unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            { &near }.write_all(b"words").unwrap();
        });
        await_words(&far);
    });
    assert_eq!(far.peek(&mut heard).unwrap(), 5);
    assert_eq!({ &far }.read(&mut heard[..2]).unwrap(), 2);
    assert_eq!({ &far }.read(&mut heard[2..]).unwrap(), 3);
    assert_eq!(&heard[..5], b"words");
}

#[test]
fn urgent_words_come_in_their_turn() {
    let Some(pair) = Pair::start("sockmap-urgent", "--opt sockmap=auto") else {
        return;
    };
    let (near, far) = pair.connected();
    { &near }.write_all(b"ab").unwrap();
    // SAFETY: a buffer of one byte.
    let sent = unsafe { libc::send(near.as_raw_fd(), b"c".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    { &near }.write_all(b"de").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    { &far }.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"abcde");
}

#[test]
fn files_are_sent() {
    let Some(pair) = Pair::start("sockmap-files", "--opt sockmap=auto") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let length = 300_000;
    let mut whole = Pattern::new(3);
    let mut bytes = Vec::new();
    while bytes.len() < length {
        bytes.extend_from_slice(whole.next((length - bytes.len()) as u64));
    }
    std::fs::write(&path, &bytes).unwrap();
    for piece in [1000, length] {
        let (near, far) = pair.connected();
        let file = File::open(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut sent = 0;
                while sent < length {
                    // SAFETY: both descriptors are open.
                    let went = unsafe {
                        let rest = piece.min(length - sent);
                        libc::sendfile(
                            near.as_raw_fd(),
                            file.as_raw_fd(),
                            std::ptr::null_mut(),
                            rest,
                        )
                    };
                    assert!(went > 0, "{}", io::Error::last_os_error());
                    sent += went as usize;
                }
            });
            receive_all(&far, 3, length as u64);
        });
    }
}

#[test]
fn who_is_taken_off_the_network_is_not_heard_any_more() {
    let Some(pair) = Pair::start("sockmap-leave", "--opt sockmap=auto") else {
        return;
    };
    pair.topology.netdp("network create second");
    pair.topology.netdp("connect second other");
    let (near, far) = pair.connected();
    talk(&near, &far);
    assert_eq!(pair.joined().messages, 2);
    pair.topology.netdp("disconnect short other");
    { &near }.write_all(b"words").unwrap();
    { &far }.write_all(b"words").unwrap();
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let heard = { socket }.read(&mut [0; 5]);
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[test]
fn where_containers_may_not_speak_they_are_not_joined() {
    let Some(pair) = Pair::start("sockmap-icc", "--icc=false --opt sockmap=auto") else {
        return;
    };
    let listener = listen(&pair.other(), ANY, 80);
    reaches(&pair.host(), (Ipv4Addr::LOCALHOST, 8080), &listener);
    assert_eq!(pair.joined().messages, 4);
    pair.topology
        .netdp("network create apart --opt sockmap=auto");
    let apart = pair.topology.container("apart", "--network apart");
    let place = Reached::new(&pair.topology.world, &apart.namespace);
    let reached = connect_bound(&place, None, (pair.other.address, 80), SILENCE);
    assert!(reached.is_err());
    listener.assert_nobody_came();
}

/// A namespace that has taken both addresses holds a connection between them
/// that looks like another's.
#[test]
fn a_namespace_that_nobody_attached_is_nobody() {
    let Some(pair) = Pair::start("sockmap-forged", "--opt sockmap=auto") else {
        return;
    };
    let forged = pair.topology.world.add_namespace("forged").unwrap();
    let (one, other) = (pair.one.address, pair.other.address);
    ip(
        &forged,
        &format!("link set lo up\naddr add {one}/32 dev lo\naddr add {other}/32 dev lo\n"),
    )
    .unwrap();
    let place = Reached::new(&pair.topology.world, &forged);
    let listener = listen(&place, ANY, 80);
    let from = SocketAddr::from((one, 40_000));
    let to = SocketAddr::from((other, 80));
    let near = connect_bound(&place, Some(from), to, PATIENCE).unwrap();
    let (far, _) = listener.accept();

    let real = listen(&pair.other(), ANY, 80);
    let real_near = connect_bound(&pair.one(), Some(from), to, PATIENCE).unwrap();
    let (real_far, _) = real.accept();
    talk(&near, &far);
    talk(&real_near, &real_far);
    talk(&far, &near);
    assert_eq!(pair.joined().messages, 2);
}

#[test]
fn connections_go_on_without_the_daemon() {
    let Some(mut pair) = Pair::start("sockmap-restart", "--opt sockmap=auto") else {
        return;
    };
    let (near, far) = pair.connected();
    talk(&near, &far);
    pair.topology.world.kill_daemon();
    talk(&near, &far);
    let (young_near, young_far) = pair.connected();
    talk(&young_near, &young_far);
    { &near }.write_all(b"kept over the start").unwrap();
    pair.topology.start_daemon();
    let mut heard = [0; 19];
    { &far }.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"kept over the start");
    talk(&near, &far);
    talk(&young_near, &young_far);
    let (last_near, last_far) = pair.connected();
    talk(&last_near, &last_far);
    let joined = pair.joined();
    assert_eq!((joined.connections, joined.messages), (3, 13));
}

#[test]
fn the_last_network_takes_the_program_off_the_group() {
    let Some(topology) = Topology::start("sockmap-none") else {
        return;
    };
    let link = topology.world.bpffs().join("netdp/links/cgroup-join");
    assert!(!link.exists());
    topology.netdp("network create short --opt sockmap=auto");
    let _container = topology.container("one", "--network short");
    assert!(link.exists());
    topology.netdp("rm one");
    assert!(!link.exists());
}
