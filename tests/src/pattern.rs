//! Streams of bytes of which every one is known in advance, so that a byte
//! lost, doubled, moved or changed on the way shows where it arrives.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use crate::hear;

/// No power of two, so that what slips by a segment or a page never matches.
const BLOCK: usize = (256 << 10) - 31;

/// A stream of pseudo-random bytes; each block begins with its own number.
pub struct Pattern {
    /// As much of it as was asked for: short streams are many.
    block: Vec<u8>,
    state: u64,
    position: u64,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self {
            block: Vec::new(),
            state: seed.wrapping_mul(2) | 1,
            position: 0,
        }
    }

    /// Makes the block at least so long.
    fn grow(&mut self, length: usize) {
        while self.block.len() < length {
            // xorshift64 (Marsaglia, 2003).
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.block.extend_from_slice(&self.state.to_le_bytes());
        }
    }

    /// The next bytes of the stream, at least one and at most `most`.
    pub fn next(&mut self, most: u64) -> &[u8] {
        let (number, offset) = (
            self.position / BLOCK as u64,
            (self.position % BLOCK as u64) as usize,
        );
        let length = (BLOCK - offset).min(usize::try_from(most).unwrap_or(BLOCK));
        self.grow((offset + length).max(8));
        self.block[..8].copy_from_slice(&number.to_le_bytes());
        self.position += length as u64;
        &self.block[offset..offset + length]
    }

    /// Takes what was received for the stream's next bytes.
    ///
    /// # Panics
    /// When it isn't them.
    #[track_caller]
    pub fn check(&mut self, mut received: &[u8]) {
        while !received.is_empty() {
            let at = self.position;
            let expected = self.next(received.len() as u64);
            let (now, later) = received.split_at(expected.len());
            assert!(now == expected, "other bytes than sent, after byte {at}");
            received = later;
        }
    }

    /// How many bytes of the stream were sent or received.
    pub fn position(&self) -> u64 {
        self.position
    }
}

/// Sends the first `length` bytes of a stream and says that there are no more.
#[track_caller]
pub fn send(mut stream: &TcpStream, seed: u64, length: u64) {
    let mut pattern = Pattern::new(seed);
    while pattern.position() < length {
        let rest = length - pattern.position();
        let bytes = pattern.next(rest);
        stream.write_all(bytes).expect("send");
    }
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("say that this is the end");
}

/// Receives to the end.
///
/// # Panics
/// When it isn't the first `length` bytes of the stream and nothing else.
#[track_caller]
pub fn receive(stream: &TcpStream, seed: u64, length: u64) {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let received = hear(stream, &mut buffer);
        if received == 0 {
            break;
        }
        pattern.check(&buffer[..received]);
    }
    assert_eq!(pattern.position(), length, "bytes were lost");
}

/// Carries `length` bytes in each direction at the same time and compares all.
#[track_caller]
pub fn transfer(near: &TcpStream, far: &TcpStream, length: u64) {
    thread::scope(|scope| {
        scope.spawn(|| send(near, 1, length));
        scope.spawn(|| send(far, 2, length));
        scope.spawn(|| receive(near, 2, length));
        receive(far, 1, length);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_in_any_pieces() {
        let mut whole = Vec::new();
        let mut pattern = Pattern::new(7);
        while whole.len() < 3 * BLOCK {
            whole.extend_from_slice(pattern.next(100_003));
        }
        let mut other = Pattern::new(7);
        for piece in whole.chunks(1448) {
            other.check(piece);
        }
        assert_eq!(other.position(), whole.len() as u64);
    }

    #[test]
    #[should_panic(expected = "other bytes than sent")]
    fn a_block_too_late_is_noticed() {
        let mut pattern = Pattern::new(7);
        while pattern.position() < BLOCK as u64 {
            pattern.next(u64::MAX);
        }
        let second = pattern.next(1000).to_vec();
        Pattern::new(7).check(&second);
    }
}
