//! Asking resolvers outside.

use std::{io, net::SocketAddr, time::Duration};

use hickory_proto::op::ResponseCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

use super::answer::{Transport, is_response, question};

/// How long one resolver may take, and all together: less than the 5 seconds
/// after which programs ask again (resolv.conf(5)).
const ONE: Duration = Duration::from_millis(1500);
const ALL: Duration = Duration::from_millis(4500);

/// Asks one resolver after another until one knows; an answer that says that
/// it failed only counts when none is better. None answers: none.
///
/// The question goes out as it came, but for an identifier that nobody can
/// guess.
pub async fn ask(
    upstreams: &[SocketAddr],
    message: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let latest = Instant::now() + ALL;
    let mut failed = None;
    while Instant::now() < latest && failed.is_none() && !upstreams.is_empty() {
        let round = Instant::now();
        for upstream in upstreams {
            let patience = latest.min(Instant::now() + ONE);
            let Ok(Ok(answer)) = timeout_at(patience, one(*upstream, message, transport)).await
            else {
                continue;
            };
            if is_refusal(&answer) {
                failed = Some(answer);
            } else {
                return Some(answer);
            }
        }
        // Refused by the kernel: asking again at once would be no better.
        if round.elapsed() < ONE {
            break;
        }
    }
    failed
}

async fn one(upstream: SocketAddr, message: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    let mut asked = message.to_vec();
    asked[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    let mut answer = match transport {
        Transport::Udp => by_udp(upstream, &asked).await?,
        Transport::Tcp => by_tcp(upstream, &asked).await?,
    };
    answer[..2].copy_from_slice(&message[..2]);
    Ok(answer)
}

async fn by_udp(upstream: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_answer(&buffer[..length], asked) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(upstream: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    write(&mut stream, asked).await?;
    let answer = read(&mut stream).await?;
    if is_answer(&answer, asked) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Reads a message behind its length (RFC 1035, section 4.2.2).
pub async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// As [`read`], or nothing where nothing comes in time.
pub async fn read_within(stream: &mut TcpStream, patience: Duration) -> io::Result<Vec<u8>> {
    timeout(patience, read(stream)).await?
}

/// Writes a message behind its length.
pub async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(message);
    stream.write_all(&frame).await
}

/// Whether `answer` belongs to the question (RFC 5452, section 9.1); the
/// socket has seen to its source.
fn is_answer(answer: &[u8], asked: &[u8]) -> bool {
    is_response(answer)
        && answer[..2] == asked[..2]
        && match (question(answer), question(asked)) {
            (Some(echoed), Some(asked)) => echoed.eq_ignore_ascii_case(asked),
            // Who didn't understand the question may leave it out.
            (None, Some(_)) => code(answer) == ResponseCode::FormErr.low(),
            _ => false,
        }
}

fn is_refusal(answer: &[u8]) -> bool {
    [ResponseCode::ServFail, ResponseCode::Refused]
        .iter()
        .any(|refusal| code(answer) == refusal.low())
}

/// RCODE (RFC 1035, section 4.1.1).
fn code(message: &[u8]) -> u8 {
    message[3] & 0x0f
}
