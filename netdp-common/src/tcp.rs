//! TCP connection tracking: a function from state, flags and direction to the
//! next state.
//!
//! Only what a NAT needs (RFC 5382, RFC 7857): whether a connection is open,
//! and whether it is over. Sequence numbers are not looked at, so a forged
//! RST or FIN shortens a flow's time and nothing else; a later segment of an
//! open connection brings it back (RFC 7857, section 2.2).

use crate::packet::tcp_flags::{ACK, FIN, RST, SYN};

/// Who sent the segment: the side that opened the connection, or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Original,
    Reply,
}

/// Values of [`crate::maps::Flow::state`] for TCP.
pub mod state {
    /// A SYN was seen, or a single segment of an unknown connection.
    pub const OPENING: u8 = 1;
    pub const ESTABLISHED: u8 = 2;
    /// The opener has sent its FIN.
    pub const FIN_ORIGINAL: u8 = 3;
    /// The other side has sent its FIN.
    pub const FIN_REPLY: u8 = 4;
    /// Both have.
    pub const CLOSED: u8 = 5;
    pub const RESET: u8 = 6;
}

/// The state's name for people.
pub const fn name(state: u8) -> &'static str {
    match state {
        state::OPENING => "opening",
        state::ESTABLISHED => "established",
        state::FIN_ORIGINAL | state::FIN_REPLY => "closing",
        state::CLOSED => "closed",
        state::RESET => "reset",
        _ => "unknown",
    }
}

/// Whether the long timeout applies (RFC 5382, REQ-5).
pub const fn is_established(state: u8) -> bool {
    state == state::ESTABLISHED
}

/// Whether a segment of the side that answers can't belong to a connection in
/// this state: both sides have closed it, and the segment opens or refuses one.
#[inline(always)]
pub const fn is_of_another(state: u8, flags: u8) -> bool {
    matches!(state, state::CLOSED | state::RESET) && flags & (SYN | RST) != 0
}

/// The state after a segment with these flags.
#[inline(always)]
pub const fn next(state: u8, flags: u8, direction: Direction) -> u8 {
    if flags & RST != 0 {
        return state::RESET;
    }
    if flags & SYN != 0 {
        // A SYN opens the tuple anew where the old connection is over; the
        // SYN-ACK, and a simultaneous open, belong to the opening.
        return match state {
            state::ESTABLISHED | state::FIN_ORIGINAL | state::FIN_REPLY if flags & ACK != 0 => {
                state
            }
            state::ESTABLISHED => state::ESTABLISHED,
            _ => state::OPENING,
        };
    }
    if flags & FIN != 0 {
        return match (state, direction) {
            (state::FIN_REPLY | state::CLOSED, Direction::Original)
            | (state::FIN_ORIGINAL | state::CLOSED, Direction::Reply) => state::CLOSED,
            (_, Direction::Original) => state::FIN_ORIGINAL,
            (_, Direction::Reply) => state::FIN_REPLY,
        };
    }
    match state {
        state::FIN_ORIGINAL | state::FIN_REPLY | state::CLOSED => state,
        _ => state::ESTABLISHED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original, Reply};
    use proptest::prelude::*;

    fn after(segments: &[(u8, Direction)]) -> u8 {
        segments.iter().fold(0, |state, (flags, direction)| {
            next(state, *flags, *direction)
        })
    }

    #[test]
    fn an_ordinary_connection() {
        let open = [(SYN, Original), (SYN | ACK, Reply), (ACK, Original)];
        assert_eq!(after(&open[..1]), state::OPENING);
        assert_eq!(after(&open[..2]), state::OPENING);
        assert_eq!(after(&open), state::ESTABLISHED);
        let close = [(FIN | ACK, Original), (ACK, Reply), (FIN | ACK, Reply)];
        let half = [&open[..], &close[..2]].concat();
        assert_eq!(after(&half), state::FIN_ORIGINAL);
        let whole = [&open[..], &close[..], &[(ACK, Original)]].concat();
        assert_eq!(after(&whole), state::CLOSED);
    }

    #[test]
    fn an_answer_to_a_new_connection_is_not_of_the_closed_one() {
        assert!(is_of_another(state::CLOSED, SYN | ACK));
        assert!(is_of_another(state::RESET, RST | ACK));
        assert!(!is_of_another(state::CLOSED, FIN | ACK));
        assert!(!is_of_another(state::OPENING, SYN | ACK));
    }

    #[test]
    fn a_repeated_fin_of_one_side_does_not_close() {
        assert_eq!(
            after(&[(ACK, Original), (FIN | ACK, Reply), (FIN | ACK, Reply)]),
            state::FIN_REPLY
        );
    }

    #[test]
    fn a_tuple_is_opened_anew_after_close_and_after_reset() {
        assert_eq!(next(state::CLOSED, SYN, Original), state::OPENING);
        assert_eq!(next(state::RESET, SYN, Original), state::OPENING);
        assert_eq!(next(state::ESTABLISHED, SYN, Original), state::ESTABLISHED);
    }

    #[test]
    fn simultaneous_open() {
        assert_eq!(
            after(&[
                (SYN, Original),
                (SYN, Reply),
                (SYN | ACK, Original),
                (ACK, Reply)
            ]),
            state::ESTABLISHED
        );
    }

    #[test]
    fn data_after_a_forged_reset_brings_the_flow_back() {
        assert_eq!(next(state::RESET, ACK, Reply), state::ESTABLISHED);
    }

    proptest! {
        #[test]
        fn every_state_is_known(flags: u8, start in 0u8..7, original: bool) {
            let direction = if original { Original } else { Reply };
            prop_assert_ne!(name(next(start, flags, direction)), "unknown");
        }
    }
}
