//! As much of HTTP/1.1 (RFC 9112) as a request load needs: requests without
//! a body, keep-alive, answers with a Content-Length.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LoadError;

/// A request or response head longer than this is refused.
const MAX_HEAD: usize = 8 << 10;

/// The body of `GET /whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The server's own name.
    pub name: String,
    /// Where the connection came from, as the server saw it.
    pub client: SocketAddr,
    /// Where it arrived, as the server saw it: behind a published port, the
    /// container's own address.
    pub server: SocketAddr,
}

/// An answer to [`fetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Answers requests on one connection until the peer closes it, asks for the
/// close, or sends what is no request.
pub(super) fn answer(
    stream: &mut TcpStream,
    name: &str,
    mut keep_waiting: impl FnMut() -> bool,
) -> io::Result<()> {
    let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
    let mut buffer = Vec::with_capacity(MAX_HEAD);
    let mut answers = Vec::with_capacity(MAX_HEAD);
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => buffer.extend_from_slice(&chunk[..length]),
            Err(error) if super::server::is_timeout(&error) && keep_waiting() => continue,
            Err(error) => return Err(error),
        }
        answers.clear();
        let mut close = false;
        let mut used = 0;
        while let Some(length) = head_length(&buffer[used..]) {
            close = answer_one(&buffer[used..used + length], &mut answers, || WhoAmI {
                name: name.to_owned(),
                client,
                server,
            });
            used += length;
            if close {
                break;
            }
        }
        buffer.drain(..used);
        if !close && buffer.len() > MAX_HEAD {
            write_answer(&mut answers, "431 Request Header Fields Too Large", b"");
            close = true;
        }
        stream.write_all(&answers)?;
        if close {
            return Ok(());
        }
    }
}

/// Appends the answer to one request; returns whether to close after it.
fn answer_one(head: &[u8], answers: &mut Vec<u8>, who: impl FnOnce() -> WhoAmI) -> bool {
    // The fixed request of the load generator, without looking further.
    if head == LOAD_REQUEST {
        answers.extend_from_slice(LOAD_ANSWER);
        return false;
    }
    let Some((method, path, version)) = request_line(head) else {
        write_answer(answers, "400 Bad Request", b"");
        return true;
    };
    // A body would be read as the next request.
    if method != "GET" {
        write_answer(answers, "405 Method Not Allowed", b"");
        return true;
    }
    match path {
        "/" => write_answer(answers, "200 OK", b"ok"),
        "/whoami" => match serde_json::to_vec(&who()) {
            Ok(body) => write_answer(answers, "200 OK", &body),
            Err(_) => write_answer(answers, "500 Internal Server Error", b""),
        },
        _ => write_answer(answers, "404 Not Found", b""),
    }
    match header(head, "connection") {
        Some(value) if value.eq_ignore_ascii_case("close") => true,
        Some(value) if value.eq_ignore_ascii_case("keep-alive") => false,
        _ => version == "HTTP/1.0",
    }
}

fn write_answer(answers: &mut Vec<u8>, status: &str, body: &[u8]) {
    let length = body.len();
    answers.extend_from_slice(
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
    );
    answers.extend_from_slice(body);
}

pub(super) const LOAD_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: load\r\n\r\n";
const LOAD_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Length of the head including its empty line, once that has arrived.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(end + 4)
}

fn request_line(head: &[u8]) -> Option<(&str, &str, &str)> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    let parts = (words.next()?, words.next()?, words.next()?);
    (words.next().is_none() && parts.2.starts_with("HTTP/1.")).then_some(parts)
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    std::str::from_utf8(head)
        .ok()?
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Where the parts of a complete response lie.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Framed {
    pub(super) status: u16,
    pub(super) body_at: usize,
    pub(super) length: usize,
}

/// Finds the first response in `bytes`; `None` while more is to come.
pub(super) fn frame(bytes: &[u8]) -> Result<Option<Framed>, String> {
    let Some(body_at) = head_length(bytes) else {
        return if bytes.len() > MAX_HEAD {
            Err(format!("no end of the head within {MAX_HEAD} bytes"))
        } else {
            Ok(None)
        };
    };
    let head = &bytes[..body_at];
    let status = std::str::from_utf8(head)
        .ok()
        .and_then(|text| text.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or("no status line")?;
    let body_length: usize = header(head, "content-length")
        .ok_or("no Content-Length")?
        .parse()
        .map_err(|_| "Content-Length is no number")?;
    let length = body_at
        .checked_add(body_length)
        .ok_or("Content-Length is too large")?;
    Ok((bytes.len() >= length).then_some(Framed {
        status,
        body_at,
        length,
    }))
}

/// Fetches one page over a connection of its own.
///
/// # Errors
/// When `target` can't be reached within `timeout`, or does not answer in HTTP.
pub fn fetch(target: SocketAddr, path: &str, timeout: Duration) -> Result<Response, LoadError> {
    let reach = |source| LoadError::Reach {
        address: target,
        source,
    };
    let not_http = |reason| LoadError::NotHttp {
        address: target,
        reason,
    };
    let mut stream = TcpStream::connect_timeout(&target, timeout).map_err(reach)?;
    stream.set_read_timeout(Some(timeout)).map_err(reach)?;
    stream.set_write_timeout(Some(timeout)).map_err(reach)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(reach)?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = stream.read(&mut chunk).map_err(reach)?;
        if length == 0 {
            return Err(not_http("the connection closed in mid-answer".into()));
        }
        bytes.extend_from_slice(&chunk[..length]);
        if let Some(framed) = frame(&bytes).map_err(not_http)? {
            return Ok(Response {
                status: framed.status,
                body: bytes[framed.body_at..framed.length].to_vec(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> WhoAmI {
        WhoAmI {
            name: "web1".into(),
            client: "198.51.100.7:40000".parse().unwrap(),
            server: "172.17.0.2:80".parse().unwrap(),
        }
    }

    fn answered(head: &[u8]) -> (String, bool) {
        let mut answers = Vec::new();
        let close = answer_one(head, &mut answers, who);
        (String::from_utf8(answers).unwrap(), close)
    }

    #[test]
    fn the_short_cut_answers_what_the_long_way_would() {
        let (short, close) = answered(LOAD_REQUEST);
        assert!(!close);
        assert_eq!(
            (short, close),
            answered(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n")
        );
    }

    #[test]
    fn what_is_no_request_is_refused_and_closed() {
        for (head, status) in [
            (&b"\r\n\r\n"[..], "400"),
            (b"GET /\r\n\r\n", "400"),
            (b"GET / / HTTP/1.1\r\n\r\n", "400"),
            (b"\xff\xfe / HTTP/1.1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "405"),
        ] {
            let (answer, close) = answered(head);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(close);
        }
        assert!(answered(b"GET /x HTTP/1.1\r\n\r\n").0.contains("404"));
    }

    #[test]
    fn the_connection_header_decides_over_the_version() {
        for (head, closes) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], false),
            (b"GET / HTTP/1.1\r\ncOnnection:  Close\r\n\r\n", true),
            (b"GET / HTTP/1.0\r\n\r\n", true),
            (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ] {
            assert_eq!(answered(head).1, closes, "{head:?}");
        }
    }

    #[test]
    fn a_response_is_framed_only_when_whole() {
        for length in 0..LOAD_ANSWER.len() {
            assert_eq!(frame(&LOAD_ANSWER[..length]), Ok(None));
        }
        let two = [LOAD_ANSWER, LOAD_ANSWER].concat();
        let framed = frame(&two).unwrap().unwrap();
        assert_eq!((framed.status, framed.length), (200, LOAD_ANSWER.len()));
        assert_eq!(&two[framed.body_at..framed.length], b"ok");
    }

    #[test]
    fn a_malformed_response_says_what_is_wrong() {
        for (bytes, reason) in [
            (&b"SSH-2.0-x\r\n\r\n"[..], "no status line"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no number"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
                "too large",
            ),
        ] {
            let refusal = frame(bytes).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert!(frame(&[b'x'; MAX_HEAD + 1]).is_err());
    }
}
