//! Datagrams that are counted where they arrive: a UDP sender can't know what
//! was dropped on the way, so the sink counts and is asked afterwards.

use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use super::server::Stopping;

/// As many bytes as the small packets of RFC 2544 carry with room for a header.
pub(super) const LENGTH: usize = 64;
const COUNT_ME: &[u8; 4] = b"LOAD";
const HOW_MANY: &[u8; 4] = b"TELL";
const SO_MANY: &[u8; 4] = b"TOLD";

/// Layout: what, 4 bytes; session, u32; number, u64; zeroes. Big-endian.
pub(super) fn counted(session: u32, number: u64) -> [u8; LENGTH] {
    datagram(COUNT_ME, session, number)
}

fn datagram(what: &[u8; 4], session: u32, number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(what);
    bytes[4..8].copy_from_slice(&session.to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Session and number of a datagram of the kind `what`.
fn parse(bytes: &[u8], what: &[u8; 4]) -> Option<(u32, u64)> {
    let rest = bytes.strip_prefix(what)?;
    let (session, rest) = rest.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*session), u64::from_be_bytes(*number)))
}

/// Number of a datagram of `session` that came back from an echo.
pub(super) fn number(bytes: &[u8], session: u32) -> Option<u64> {
    let (theirs, number) = parse(bytes, COUNT_ME)?;
    (theirs == session).then_some(number)
}

pub(super) fn sink(socket: &UdpSocket, stopping: &Stopping) {
    let mut counts: HashMap<u32, u64> = HashMap::new();
    // The running session is kept out of the map: one comparison a datagram.
    let mut current = (0, 0);
    let mut buffer = [0; 64 << 10];
    while !stopping.requested() {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let bytes = &buffer[..length];
        if let Some((session, _)) = parse(bytes, COUNT_ME) {
            if session != current.0 {
                counts.insert(current.0, current.1);
                current = (session, counts.remove(&session).unwrap_or(0));
            }
            current.1 += 1;
        } else if let Some((session, _)) = parse(bytes, HOW_MANY) {
            let count = if session == current.0 {
                current.1
            } else {
                counts.get(&session).copied().unwrap_or(0)
            };
            // Lost answers are asked for again.
            drop(socket.send_to(&datagram(SO_MANY, session, count), peer));
        }
    }
}

/// Asks the sink behind a connected `socket` how many datagrams of `session`
/// it received; `None` when it does not say within a second.
pub(super) fn received(socket: &UdpSocket, session: u32) -> io::Result<Option<u64>> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; LENGTH];
    for _ in 0..10 {
        // A full queue at the sink drops the question too; the next one comes
        // after the queue has been read.
        if socket.send(&datagram(HOW_MANY, session, 0)).is_err() {
            continue;
        }
        if let Ok(length) = socket.recv(&mut buffer)
            && let Some((theirs, count)) = parse(&buffer[..length], SO_MANY)
            && theirs == session
        {
            return Ok(Some(count));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_of_another_session_or_kind_is_not_ours() {
        let bytes = counted(7, 9);
        assert_eq!(number(&bytes, 7), Some(9));
        assert_eq!(number(&bytes, 8), None);
        assert_eq!(number(&datagram(SO_MANY, 7, 9), 7), None);
        assert_eq!(number(&bytes[..15], 7), None);
        assert_eq!(number(&[], 7), None);
    }
}
