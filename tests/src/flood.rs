//! Floods: many packets from sources, or to destinations, of which no two are
//! the same.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netdp::netns::Namespace;

use crate::Frames;

/// Frames given to the kernel at once.
const BATCH: usize = 64;
const IP: usize = 14;
/// What a header is without options or extensions.
const HEADER4: usize = 20;
const HEADER6: usize = 40;
const TCP: u8 = 6;

/// Which address of a frame is another in each packet, in its last three bytes.
/// The source port is, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Varied {
    Source,
    Destination,
}

/// Packets sent as fast as the kernel takes them, from a thread of its own,
/// until it is dropped or `most` has passed.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<u64>>,
}

impl Flood {
    /// Sends TCP or UDP frames without IP options or extension headers, in turn,
    /// by an interface of a namespace.
    #[track_caller]
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        frames: &[Vec<u8>],
        varied: Varied,
        most: Duration,
    ) -> Self {
        let socket = Frames::open(namespace, interface);
        let templates: Vec<Template> = frames
            .iter()
            .map(|frame| Template::new(frame, varied))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let send = move || {
            let until = Instant::now() + most;
            let mut random = Random(0x9e37_79b9);
            let mut frames: Vec<Vec<u8>> = (0..BATCH)
                .map(|number| templates[number % templates.len()].frame.clone())
                .collect();
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) && Instant::now() < until {
                for (number, frame) in frames.iter_mut().enumerate() {
                    templates[number % templates.len()].vary(frame, random.next());
                }
                sent += send_all(&socket, &mut frames);
            }
            sent
        };
        Self {
            stop,
            sender: Some(thread::spawn(send)),
        }
    }

    /// Whether it goes on.
    pub fn lasts(&self) -> bool {
        self.sender
            .as_ref()
            .is_some_and(|sender| !sender.is_finished())
    }

    /// Ends it. Gives how many packets were sent.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().expect("ended once");
        sender.join().expect("the flood's thread")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

/// xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A frame whose varied fields are 0, and its checksums so.
struct Template {
    frame: Vec<u8>,
    /// Where the last four bytes of the varied address are.
    address: usize,
    transport: usize,
    /// Where the transport's checksum is.
    checksum: usize,
    /// Of the header of IPv4; that of IPv6 has no checksum.
    ip_sum: Option<u32>,
    transport_sum: u32,
}

impl Template {
    fn new(frame: &[u8], varied: Varied) -> Self {
        let mut frame = frame.to_vec();
        let is_v4 = frame[IP] >> 4 == 4;
        let (header, proto, source, length) = if is_v4 {
            (HEADER4, frame[IP + 9], 12, 4)
        } else {
            (HEADER6, frame[IP + 6], 8, 16)
        };
        let (transport, addresses) = (IP + header, IP + source..IP + source + 2 * length);
        let address = addresses.start - 4
            + match varied {
                Varied::Source => length,
                Varied::Destination => 2 * length,
            };
        let checksum = transport + if proto == TCP { 16 } else { 6 };
        frame[address + 1..address + 4].fill(0);
        frame[transport..transport + 2].fill(0);
        frame[checksum..checksum + 2].fill(0);
        if is_v4 {
            frame[IP + 10..IP + 12].fill(0);
        }
        let pseudo = sum(&frame[addresses]) + u32::from(proto) + (frame.len() - transport) as u32;
        Self {
            ip_sum: is_v4.then(|| sum(&frame[IP..transport])),
            transport_sum: pseudo + sum(&frame[transport..]),
            frame,
            address,
            transport,
            checksum,
        }
    }

    fn vary(&self, frame: &mut [u8], random: u64) {
        let bytes = random.to_be_bytes();
        frame[self.address + 1..self.address + 4].copy_from_slice(&bytes[..3]);
        frame[self.transport..self.transport + 2].copy_from_slice(&bytes[4..6]);
        let address = u32::from(bytes[0]) + u32::from(u16::from_be_bytes([bytes[1], bytes[2]]));
        let port = u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        if let Some(ip_sum) = self.ip_sum {
            let ip = !fold(ip_sum + address);
            frame[IP + 10..IP + 12].copy_from_slice(&ip.to_be_bytes());
        }
        let transport = match !fold(self.transport_sum + address + port) {
            0 => 0xffff,
            other => other,
        };
        frame[self.checksum..self.checksum + 2].copy_from_slice(&transport.to_be_bytes());
    }
}

/// RFC 1071, section 4.1, before folding.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words.fold(0, |sum, pair| {
        sum + (u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
    })
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// How many the kernel took: what it has no room for is lost, as on a wire.
fn send_all(socket: &Frames, frames: &mut [Vec<u8>]) -> u64 {
    let mut pieces: Vec<libc::iovec> = frames
        .iter_mut()
        .map(|frame| libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = pieces
        .iter_mut()
        .map(|piece| {
            // SAFETY: all bytes zero is a valid value of this struct of
            // integers and pointers.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    // SAFETY: the messages point to frames that live, of the lengths given.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as u32,
            0,
        )
    };
    if sent >= 0 {
        return sent as u64;
    }
    let error = io::Error::last_os_error();
    assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
    0
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketHeaders, TransportHeader};

    use super::*;
    use crate::{SIDES, datagram, syn};

    #[test]
    fn varied_frames_have_right_checksums() {
        let macs = ([2; 6], [4; 6]);
        for side in SIDES {
            let (from, to) = ((side.outside, 7), (side.host, 80));
            for frame in [syn(macs, from, to), datagram(macs, from, to, b"odd")] {
                for varied in [Varied::Source, Varied::Destination] {
                    let template = Template::new(&frame, varied);
                    let mut random = Random(7);
                    let mut out = template.frame.clone();
                    for _ in 0..1000 {
                        template.vary(&mut out, random.next());
                        assert_checksums(&out);
                    }
                    assert_ne!(out, frame);
                }
            }
        }
    }

    fn assert_checksums(frame: &[u8]) {
        let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let ip = headers.net.unwrap();
        if let Some((ip, _)) = ip.ipv4_ref() {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        }
        let payload = headers.payload.slice();
        let (found, right) = match (headers.transport.unwrap(), ip.ipv4_ref(), ip.ipv6_ref()) {
            (TransportHeader::Tcp(tcp), Some((ip, _)), _) => {
                (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload))
            }
            (TransportHeader::Tcp(tcp), _, Some((ip, _))) => {
                (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload))
            }
            (TransportHeader::Udp(udp), Some((ip, _)), _) => {
                (udp.checksum, udp.calc_checksum_ipv4(ip, payload))
            }
            (TransportHeader::Udp(udp), _, Some((ip, _))) => {
                (udp.checksum, udp.calc_checksum_ipv6(ip, payload))
            }
            other => panic!("{other:?}"),
        };
        // Both are zero (RFC 1071), and UDP has but the one (RFC 768).
        let one_zero = |sum| if sum == 0 { 0xffff } else { sum };
        assert_eq!(one_zero(found), one_zero(right.unwrap()));
    }
}
