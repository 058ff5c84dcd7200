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

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };
    use tokio::net::TcpListener;

    use super::*;

    fn asked() -> Vec<u8> {
        let mut message = Message::query();
        let name = Name::from_ascii("wWw.Example.net.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.to_vec().unwrap()
    }

    /// The question as an answer with this code.
    fn reply(asked: &[u8], code: ResponseCode) -> Vec<u8> {
        let mut reply = asked.to_vec();
        reply[2] |= 0x80;
        reply[3] = code.low();
        reply
    }

    /// A resolver that answers all that it is asked with what `replies` makes
    /// of it.
    async fn upstream(replies: fn(&[u8]) -> Vec<Vec<u8>>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                for reply in replies(&buffer[..length]) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        address
    }

    async fn good() -> SocketAddr {
        upstream(|asked| vec![reply(asked, ResponseCode::NoError)]).await
    }

    async fn failing() -> SocketAddr {
        upstream(|asked| vec![reply(asked, ResponseCode::ServFail)]).await
    }

    /// Where nobody is, which the kernel says at once.
    async fn nobody() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    }

    #[tokio::test]
    async fn the_first_that_knows_is_believed() {
        let question = asked();
        let upstreams = [nobody().await, failing().await, good().await];
        let answer = ask(&upstreams, &question, Transport::Udp).await;
        assert_eq!(answer, Some(reply(&question, ResponseCode::NoError)));
        let unknown = upstream(|asked| vec![reply(asked, ResponseCode::NXDomain)]).await;
        let answer = ask(&[unknown, good().await], &question, Transport::Udp).await;
        assert_eq!(answer, Some(reply(&question, ResponseCode::NXDomain)));
    }

    #[tokio::test]
    async fn a_failure_is_told_where_nobody_knows_better() {
        let question = asked();
        for upstreams in [
            [failing().await, nobody().await],
            [nobody().await, failing().await],
        ] {
            let answer = ask(&upstreams, &question, Transport::Udp).await;
            assert_eq!(answer, Some(reply(&question, ResponseCode::ServFail)));
        }
        let none = [nobody().await, nobody().await];
        assert_eq!(ask(&none, &question, Transport::Udp).await, None);
        assert_eq!(ask(&[], &question, Transport::Udp).await, None);
    }

    #[tokio::test]
    async fn one_that_is_silent_is_left_for_the_next() {
        let question = asked();
        let silent = upstream(|_| Vec::new()).await;
        let began = Instant::now();
        let answer = ask(&[silent, good().await], &question, Transport::Udp).await;
        assert_eq!(answer, Some(reply(&question, ResponseCode::NoError)));
        assert!(began.elapsed() >= ONE);
        assert!(began.elapsed() < ALL);
    }

    #[tokio::test]
    async fn what_belongs_to_another_question_is_not_believed() {
        let question = asked();
        let forger = upstream(|asked| {
            let good = reply(asked, ResponseCode::NoError);
            let mut number = good.clone();
            number[0] ^= 1;
            let mut name = good.clone();
            name[13] = b'x';
            let mut kind = good.clone();
            let end = kind.len();
            kind[end - 3] = 28;
            let cut = good[..14].to_vec();
            let mut without = good[..12].to_vec();
            without[5] = 0;
            // A question, nothing, and, in another case, what is believed.
            let mut last = good.to_ascii_lowercase();
            last[..12].copy_from_slice(&good[..12]);
            vec![
                number,
                name,
                kind,
                cut,
                without,
                asked.to_vec(),
                Vec::new(),
                last,
            ]
        })
        .await;
        let answer = ask(&[forger], &question, Transport::Udp).await.unwrap();
        assert_eq!(answer[..2], question[..2]);
        assert_eq!(answer[13], b'w');
        assert_eq!(answer[14], b'w');
    }

    #[tokio::test]
    async fn each_asks_under_a_number_of_its_own() {
        let question = asked();
        // The number stands behind the question once more.
        let telling = upstream(|asked| {
            let mut told = reply(asked, ResponseCode::NoError);
            told.extend(&asked[..2]);
            vec![told]
        })
        .await;
        let mut numbers = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let answer = ask(&[telling], &question, Transport::Udp).await.unwrap();
            assert_eq!(answer[..2], question[..2]);
            numbers.insert(answer[answer.len() - 2..].to_vec());
        }
        assert!(numbers.len() > 1, "{numbers:?}");
    }

    #[tokio::test]
    async fn by_tcp_too() {
        let question = asked();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            // The first time it hangs up, the second it answers another
            // question, and then the right one.
            drop(listener.accept().await.unwrap());
            for other in [true, false] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut answer = reply(&read(&mut stream).await.unwrap(), ResponseCode::NoError);
                answer[13] ^= u8::from(other);
                write(&mut stream, &answer).await.unwrap();
            }
        });
        let upstreams = [address; 3];
        let answer = ask(&upstreams, &question, Transport::Tcp).await;
        assert_eq!(answer, Some(reply(&question, ResponseCode::NoError)));
    }
}
