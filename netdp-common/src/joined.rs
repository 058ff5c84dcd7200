//! Which messages of a joined connection go the short way: from one socket
//! straight into the other's queue.
//!
//! A receiver reads what came the short way before what came by the stack
//! (`tcp_bpf_recvmsg`, net/ipv4/tcp_bpf.c, 6.18). So what goes the short way must
//! have nothing by the stack before it, and a direction that has once gone by the
//! stack stays there.

use crate::maps::sockmap;

/// Bytes of the largest message that goes the short way in a network with
/// [`sockmap::AUTO`]. A larger one is quicker by the stack, which hands pages
/// over where the short way copies twice.
pub const AUTO_MESSAGE: u32 = 16 << 10;

/// Bytes that may lie unread at the receiver, with [`sockmap::AUTO`].
pub const AUTO_UNREAD: u64 = 64 << 10;

/// The same with [`sockmap::ON`]. The kernel has no limit for a socket's queue of
/// this kind but that of all TCP together (`tcp_mem`).
pub const ON_UNREAD: u64 = 1 << 20;

/// Whether a message of `size` bytes goes the short way, in a direction where
/// `sent` bytes went before, of which `read` are known to have been read.
#[inline(always)]
pub const fn goes_short(mode: u32, size: u32, sent: u64, read: u64) -> bool {
    let unread = sent.wrapping_sub(read).wrapping_add(size as u64);
    match mode {
        sockmap::AUTO => size <= AUTO_MESSAGE && unread <= AUTO_UNREAD,
        sockmap::ON => unread <= ON_UNREAD,
        _ => false,
    }
}

/// How many bytes of those sent a receiver has read that has so many in its
/// queue. The queue may be ahead of the count.
#[inline(always)]
pub const fn read(sent: u64, queued: u32) -> u64 {
    sent.saturating_sub(queued as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::SocketKey;

    #[test]
    fn small_messages_go_the_short_way_while_they_are_read() {
        let auto = |size, sent, read| goes_short(sockmap::AUTO, size, sent, read);
        assert!(auto(1, 0, 0) && auto(AUTO_MESSAGE, 0, 0));
        assert!(!auto(AUTO_MESSAGE + 1, 0, 0), "a large one");
        assert!(auto(1, AUTO_UNREAD - 1, 0) && !auto(1, AUTO_UNREAD, 0));
        assert!(auto(1, 1 << 40, (1 << 40) - 9), "whatever went before");
        assert!(!goes_short(0, 1, 0, 0), "not where nobody asked for it");
    }

    #[test]
    fn a_network_that_asks_for_it_sends_large_ones_too() {
        let on = |size, sent, read| goes_short(sockmap::ON, size, sent, read);
        assert!(on(AUTO_MESSAGE + 1, AUTO_UNREAD, 0));
        assert!(!on(1, ON_UNREAD, 0), "but not without end");
    }

    #[test]
    fn what_lies_in_the_queue_is_not_read() {
        assert_eq!(read(100, 30), 70);
        assert_eq!(read(10, 30), 0, "queued, and not counted yet");
    }

    #[test]
    fn both_ends_know_which_of_them_is_the_first() {
        let one = SocketKey {
            netns: 1,
            peer_netns: 2,
            isn: 7,
            peer_isn: 9,
            ..SocketKey::default()
        };
        assert_eq!(one.peer().peer(), one);
        assert!(!one.is_second() && one.peer().is_second());
    }
}
