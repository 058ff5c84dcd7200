//! Keys, times and states of flows.

use crate::{
    addr::{Address, Be16, proto},
    maps::{Config, FlowKey, Times},
    packet::{Transport, Tuple},
    tcp::{self, Direction},
};

/// [`crate::maps::Flow::state`] of a flow other than TCP that only one side
/// has spoken in.
pub const UNANSWERED: u8 = 0;
/// The same once both have.
pub const ANSWERED: u8 = 1;

impl<A: Address> FlowKey<A> {
    /// The key of a published flow, a hairpin or the container's side of a
    /// masqueraded one: `local` is the container.
    #[inline(always)]
    pub fn full(remote: A, remote_port: Be16, local: A, local_port: Be16, proto: u8) -> Self {
        Self {
            remote,
            local,
            remote_port,
            local_port,
            proto,
            mapping: 0,
            pad: 0,
        }
    }

    /// A number that two keys seldom share.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let ports = u32::from(self.remote_port.raw()) << 16 | u32::from(self.local_port.raw());
        let mut tag = ports ^ u32::from(self.proto) ^ u32::from(self.mapping) << 8;
        for word in self.remote.words() {
            tag = tag.rotate_left(5) ^ *word;
        }
        for word in self.local.words() {
            tag = tag.rotate_left(5) ^ *word;
        }
        tag
    }

    /// A place in `order`: the key with the low 16 bits of a number in what is
    /// unused of it.
    #[inline(always)]
    pub fn place(&self, number: u32) -> Self {
        Self {
            pad: number as u16,
            ..*self
        }
    }

    /// The number of a place, which is that of [`Self::place`] or, with other
    /// bits above it, of an entry.
    #[inline(always)]
    pub fn is_place_of(&self, number: u32) -> bool {
        self.pad == number as u16
    }

    /// The key of a masqueraded flow: what the outside sees, whatever the
    /// host's address.
    #[inline(always)]
    pub fn masquerade(remote: A, remote_port: Be16, local_port: Be16, proto: u8) -> Self {
        Self::full(remote, remote_port, A::any(), local_port, proto)
    }

    /// The key of a mapping: its port outside, whoever the peer is.
    #[inline(always)]
    pub fn mapping(port: Be16, proto: u8) -> Self {
        Self::permit(A::any(), port, proto)
    }

    /// The key of the container's side of a mapping whose port was changed.
    #[inline(always)]
    pub fn mapped(local: A, port: Be16, proto: u8) -> Self {
        Self {
            local,
            ..Self::mapping(port, proto)
        }
    }

    /// The key of a peer's address that may send to a mapping, from any port.
    #[inline(always)]
    pub fn permit(remote: A, port: Be16, proto: u8) -> Self {
        Self {
            mapping: 1,
            ..Self::masquerade(remote, Be16::default(), port, proto)
        }
    }
}

impl<A: Address> Tuple<A> {
    /// The full key of a packet that the container sends.
    #[inline(always)]
    pub fn sent(&self, proto: u8) -> FlowKey<A> {
        FlowKey::full(self.daddr, self.dport, self.saddr, self.sport, proto)
    }

    /// The full key of a packet that the container receives.
    #[inline(always)]
    pub fn received(&self, proto: u8) -> FlowKey<A> {
        FlowKey::full(self.saddr, self.sport, self.daddr, self.dport, proto)
    }
}

/// The state after such a packet of a flow in `state`.
#[inline(always)]
pub const fn next_state(state: u8, transport: Transport, direction: Direction) -> u8 {
    match (transport, direction) {
        (Transport::Tcp(flags), _) => tcp::next(state, flags, direction),
        (_, Direction::Reply) => ANSWERED,
        (_, Direction::Original) => state,
    }
}

/// Which of the times that can be set is a flow's; by number in [`Times`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Time {
    TcpEstablished = 0,
    TcpTransitory = 1,
    Udp = 2,
    Icmp = 3,
}

impl Time {
    /// That of a flow in this state.
    #[inline(always)]
    pub const fn of(proto: u8, state: u8) -> Self {
        match proto {
            proto::TCP if tcp::is_established(state) => Self::TcpEstablished,
            proto::TCP => Self::TcpTransitory,
            proto::UDP => Self::Udp,
            _ => Self::Icmp,
        }
    }
}

/// Seconds without a packet after which a flow in this state is forgotten.
#[inline(always)]
pub const fn timeout(config: &Config, proto: u8, state: u8) -> u32 {
    match Time::of(proto, state) {
        Time::TcpEstablished => config.tcp_established,
        Time::TcpTransitory => config.tcp_transitory,
        Time::Udp => config.udp,
        Time::Icmp => config.icmp,
    }
}

impl Times {
    /// The same by the network's own times, or 0 where it has none for it.
    #[inline(always)]
    pub const fn timeout(&self, proto: u8, state: u8) -> u32 {
        self.seconds[Time::of(proto, state) as usize]
    }
}

/// Whether a flow last seen at `last_seen` has outlived `timeout` at `now`,
/// all in seconds of the same clock.
#[inline(always)]
pub const fn is_expired(last_seen: u32, timeout: u32, now: u32) -> bool {
    // Another CPU may have written a second later than the one that `now` was
    // read in: then the difference is negative and the flow alive.
    let age = now.wrapping_sub(last_seen);
    age < u32::MAX / 2 && age > timeout
}

/// Whether the second `until` has come at `now`, both of the same clock.
#[inline(always)]
pub const fn is_past(until: u32, now: u32) -> bool {
    now.wrapping_sub(until) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::V4Addr;

    #[test]
    fn a_packet_and_its_answer_share_the_key() {
        let sent = Tuple {
            saddr: V4Addr::new([172, 17, 0, 2]),
            daddr: V4Addr::new([192, 0, 2, 1]),
            sport: Be16::new(80),
            dport: Be16::new(40000),
        };
        let received = Tuple {
            saddr: sent.daddr,
            daddr: sent.saddr,
            sport: sent.dport,
            dport: sent.sport,
        };
        assert_eq!(sent.sent(6), received.received(6));
    }

    #[test]
    fn expiry() {
        assert!(!is_expired(100, 60, 160));
        assert!(is_expired(100, 60, 161));
        assert!(!is_expired(101, 60, 100), "seen by a CPU that is ahead");
        assert!(is_expired(u32::MAX - 5, 3, 5), "the clock has wrapped");
    }

    #[test]
    fn a_second_passes() {
        assert!(!is_past(100, 99));
        assert!(is_past(100, 100));
        assert!(!is_past(3, u32::MAX), "the clock will wrap");
        assert!(is_past(u32::MAX, 3), "the clock has wrapped");
    }

    #[test]
    fn times_are_those_of_the_rfcs() {
        let config = Config::default();
        assert_eq!(
            timeout(&config, proto::TCP, tcp::state::ESTABLISHED),
            2 * 3600 + 4 * 60
        );
        assert_eq!(timeout(&config, proto::TCP, tcp::state::CLOSED), 240);
        assert_eq!(timeout(&config, proto::UDP, ANSWERED), 300);
        assert_eq!(timeout(&config, proto::ICMP, ANSWERED), 60);
    }

    #[test]
    fn a_networks_own_times_are_found_by_what_they_are_for() {
        let times = Times {
            seconds: [7, 6, 5, 0],
        };
        assert_eq!(times.timeout(proto::TCP, tcp::state::ESTABLISHED), 7);
        assert_eq!(times.timeout(proto::TCP, tcp::state::OPENING), 6);
        assert_eq!(times.timeout(proto::UDP, UNANSWERED), 5);
        assert_eq!(times.timeout(proto::ICMP, ANSWERED), 0);
    }
}
