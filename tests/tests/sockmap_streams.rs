//! What programs see of connections that are joined past the stack: every byte, in
//! its turn, and the end.

mod sockmap_world;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use netdp_tests::{
    PATIENCE, Pattern, abort, await_words, connect, connect_bound, hear, listen, talk,
};
use sockmap_world::{ANY, Pair};

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

/// The end that waits is woken as its last word is acknowledged, too.
#[test]
fn who_has_said_its_last_word_hears_the_answer() {
    let Some(pair) = Pair::start("sockmap-half", "--opt sockmap=auto") else {
        return;
    };
    for (number, length) in (0..60).zip([5, 4_000, 60_000].into_iter().cycle()) {
        let (near, far) = pair.connected();
        thread::scope(|scope| {
            scope.spawn(|| {
                send_in_pieces(&near, number, length, |_| 8 << 10);
                near.shutdown(Shutdown::Write).unwrap();
                // It waits here before there is an answer.
                receive_all(&near, number + 1, length);
                assert_end(&near);
            });
            receive_all(&far, number, length);
            assert_end(&far);
            send_in_pieces(&far, number + 1, length, |_| 8 << 10);
            far.shutdown(Shutdown::Write).unwrap();
        });
    }
    assert!(pair.joined().messages > 0);
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
    assert!(pair.joined().messages > 0);
}

#[test]
fn what_a_pipe_holds_is_spliced_into_them() {
    let Some(pair) = Pair::start("sockmap-splice", "--opt sockmap=auto") else {
        return;
    };
    let length = 300_000;
    // The first by the short way while little is unread, the second as bulk.
    for piece in [1000, 64 << 10] {
        let (near, far) = pair.connected();
        let (reader, mut writer) = io::pipe().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut whole = Pattern::new(3);
                while whole.position() < length {
                    let rest = length - whole.position();
                    writer.write_all(whole.next(rest.min(1000))).unwrap();
                }
            });
            scope.spawn(|| splice_all(&reader, &near, piece));
            receive_all(&far, 3, length);
        });
    }
    assert!(pair.joined().messages > 0);
}

/// All that a pipe holds until its other end is closed, in pieces of so many
/// bytes at most.
fn splice_all(from: &io::PipeReader, to: &TcpStream, piece: usize) {
    loop {
        // SAFETY: both descriptors are open; there are no offsets.
        let went = unsafe {
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            libc::splice(
                from,
                std::ptr::null_mut(),
                to,
                std::ptr::null_mut(),
                piece,
                0,
            )
        };
        assert!(went >= 0, "{}", io::Error::last_os_error());
        if went == 0 {
            return;
        }
    }
}
