//! Datagrams there and back, and one way.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::recorder::Recorder;
use super::{ClientConfig, Measurement};
use crate::load::LoadError;
use crate::load::datagram;

/// After this a datagram counts as lost: far above any queue on one machine.
const LOST_AFTER: Duration = Duration::from_millis(200);

fn connect(target: SocketAddr) -> Result<UdpSocket, LoadError> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let open = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(LOST_AFTER))?;
        io::Result::Ok(socket)
    };
    open().map_err(|source| LoadError::Reach {
        address: target,
        source,
    })
}

pub(super) fn request_response(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let socket = connect(config.target)?;
    let session = rand::random();
    let mut number = 0;
    let mut began = Instant::now();
    while !recorder.over(began) {
        number += 1;
        let answered = socket
            .send(&datagram::counted(session, number))
            .and_then(|_| answer(&socket, session, number));
        let ended = Instant::now();
        match answered {
            Ok(()) => recorder.done(began, ended, 2 * datagram::LENGTH as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => recorder.lost += 1,
            Err(error) => recorder.error("round trip", error),
        }
        began = ended;
    }
    Ok(recorder.finish(began))
}

/// Skips answers to earlier datagrams, which were counted as lost.
fn answer(socket: &UdpSocket, session: u32, number: u64) -> io::Result<()> {
    let mut buffer = [0; datagram::LENGTH];
    loop {
        let length = socket.recv(&mut buffer)?;
        match datagram::number(&buffer[..length], session) {
            Some(theirs) if theirs == number => return Ok(()),
            Some(theirs) if theirs < number => {}
            _ => return Err(io::Error::other("a foreign datagram came back")),
        }
    }
}

pub(super) fn one_way(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let socket = connect(config.target)?;
    let session = rand::random();
    if datagram::received(&socket, session).ok().flatten() != Some(0) {
        return Err(LoadError::NoReport(config.target));
    }
    // Asking took time that is not the sender's.
    recorder.restart(config);
    let (sent, now) = send(&socket, session, &mut recorder);
    match datagram::received(&socket, session) {
        Ok(Some(received)) => {
            recorder.arrived(received, received * datagram::LENGTH as u64);
            recorder.lost = sent.saturating_sub(received);
        }
        Ok(None) => return Err(LoadError::NoReport(config.target)),
        Err(error) => recorder.error("report of the sink", error),
    }
    Ok(recorder.finish(now))
}

/// Nobody is asked what arrived.
pub(super) fn dropped(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let socket = connect(config.target)?;
    let (sent, now) = send(&socket, rand::random(), &mut recorder);
    recorder.arrived(sent, sent * datagram::LENGTH as u64);
    Ok(recorder.finish(now))
}

/// As fast as they can be sent: how many, and until when.
fn send(socket: &UdpSocket, session: u32, recorder: &mut Recorder) -> (u64, Instant) {
    let mut sent = 0;
    let mut now = Instant::now();
    while !recorder.over(now) {
        match socket.send(&datagram::counted(session, sent)) {
            Ok(_) => sent += 1,
            Err(error) => recorder.error("send", error),
        }
        now = Instant::now();
    }
    (sent, now)
}
