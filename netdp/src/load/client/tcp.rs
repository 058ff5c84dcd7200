//! TCP without a protocol on top: round trips, connections, bulk.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::recorder::Recorder;
use super::{ClientConfig, Measurement};
use crate::load::server::set_congestion;
use crate::load::{LoadError, cpu};

/// An answer that takes longer is counted as an error; it must exceed the
/// first retransmission timeouts (1 s for a SYN), which are latency, not loss.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
const BULK_BUFFER: usize = 128 << 10;

pub(super) fn connect(config: &ClientConfig) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&config.target, ANSWER_TIMEOUT)?;
    if let Some(name) = &config.congestion {
        set_congestion(&stream, name)?;
    }
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

fn first_connection(config: &ClientConfig) -> Result<TcpStream, LoadError> {
    connect(config).map_err(|source| LoadError::Reach {
        address: config.target,
        source,
    })
}

pub(super) fn request_response(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let mut stream = first_connection(config)?;
    let mut byte = [0];
    let mut began = Instant::now();
    while !recorder.over(began) {
        let round_trip = stream
            .write_all(&byte)
            .and_then(|()| stream.read_exact(&mut byte));
        let ended = Instant::now();
        match round_trip {
            Ok(()) => recorder.done(began, ended, 2),
            Err(error) => {
                recorder.error("round trip", error);
                match connect(config) {
                    Ok(new) => stream = new,
                    Err(error) => recorder.error("connect", error),
                }
            }
        }
        began = ended;
    }
    Ok(recorder.finish(began))
}

/// The server closes first, so TIME_WAIT stays on its side and the client's
/// ports are free at once. The client walks through its whole ephemeral range
/// before it comes back to a port, and by then its SYN carries a newer
/// timestamp and sequence number, which a socket in TIME_WAIT takes as a new
/// connection (RFC 6191). netperf's way out, SO_LINGER of zero or a range of
/// bound source ports, would either end connections by RST, which no real
/// client does and which tears flow state down earlier than a FIN, or cost
/// another system call a connection.
pub(super) fn connections(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    one_connection(config.target).map_err(|source| LoadError::Reach {
        address: config.target,
        source,
    })?;
    let mut began = Instant::now();
    while !recorder.over(began) {
        let connection = one_connection(config.target);
        let ended = Instant::now();
        match connection {
            Ok(()) => recorder.done(began, ended, 2),
            Err(error) => recorder.error("connection", error),
        }
        began = ended;
    }
    Ok(recorder.finish(began))
}

/// Plain `connect`: the non-blocking way with its poll would double the
/// system calls of what is measured. The kernel's own SYN retries bound it.
fn one_connection(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target)?;
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    // Waits for the server's FIN: closing before it would move TIME_WAIT here.
    match stream.read(&mut byte)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than one byte came back")),
    }
}

pub(super) fn bulk(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let mut stream = first_connection(config)?;
    let _in_turn = cpu::InTurn::begin();
    let buffer = [0; BULK_BUFFER];
    let mut sent = 0;
    while !recorder.over(Instant::now()) {
        match stream.write(&buffer) {
            Ok(length) => sent += length as u64,
            Err(error) => {
                recorder.error("send", error);
                break;
            }
        }
    }
    // Written is not arrived: the sink tells what came, and the clock runs
    // until it has.
    let mut received = [0; 8];
    match stream
        .shutdown(Shutdown::Write)
        .and_then(|()| stream.read_exact(&mut received))
    {
        Ok(()) => {
            let received = u64::from_be_bytes(received);
            recorder.arrived(1, received);
            if received != sent {
                recorder.error("bulk", format!("sent {sent} bytes, {received} arrived"));
            }
        }
        Err(error) => recorder.error("report of the sink", error),
    }
    Ok(recorder.finish(Instant::now()))
}

pub(super) fn bulk_back(
    config: &ClientConfig,
    mut recorder: Recorder,
) -> Result<Measurement, LoadError> {
    let mut stream = first_connection(config)?;
    let _in_turn = cpu::InTurn::begin();
    let mut buffer = vec![0; BULK_BUFFER];
    let mut received = 0;
    while !recorder.over(Instant::now()) {
        match stream.read(&mut buffer) {
            Ok(0) => {
                recorder.error("receive", "the source closed");
                break;
            }
            Ok(length) => received += length as u64,
            Err(error) => {
                recorder.error("receive", error);
                break;
            }
        }
    }
    recorder.arrived(1, received);
    Ok(recorder.finish(Instant::now()))
}
