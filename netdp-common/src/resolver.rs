//! Where a sandbox finds netdp's resolver.
//!
//! Programs ask at [`ADDRESS`], port [`PORT`], of their own loopback
//! interface. The resolver doesn't hold that port, so that a program of the
//! sandbox can bind port 53 at all addresses: it holds [`HELD_PORT`], and the
//! program on `lo` exchanges the two.

use crate::{
    addr::{Be16, V4Addr},
    packet::Tuple,
};

/// The resolver's address in every sandbox, Docker's.
pub const ADDRESS: V4Addr = V4Addr::new([127, 0, 0, 11]);

/// The port that programs ask at, host order.
pub const PORT: u16 = 53;

/// The port that the resolver's sockets are bound to, host order: above what
/// Linux chooses for clients (`net.ipv4.ip_local_port_range`, 32768 to 60999).
pub const HELD_PORT: u16 = 65_053;

/// What a packet on loopback has for addresses and ports: a question goes to
/// the port that the resolver holds, an answer comes from the port that was
/// asked. All others stay as they are.
#[inline(always)]
pub fn exchange(tuple: &Tuple<V4Addr>) -> Tuple<V4Addr> {
    let mut to = *tuple;
    if to.daddr == ADDRESS && to.dport == Be16::new(PORT) {
        to.dport = Be16::new(HELD_PORT);
    }
    if to.saddr == ADDRESS && to.sport == Be16::new(HELD_PORT) {
        to.sport = Be16::new(PORT);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Tuple<V4Addr> {
        Tuple {
            saddr: V4Addr::new(from.0),
            daddr: V4Addr::new(to.0),
            sport: Be16::new(from.1),
            dport: Be16::new(to.1),
        }
    }

    #[test]
    fn a_question_and_its_answer_match() {
        let client = ([127, 0, 0, 1], 40_000);
        let asked = tuple(client, ([127, 0, 0, 11], PORT));
        let heard = exchange(&asked);
        assert_eq!(heard, tuple(client, ([127, 0, 0, 11], HELD_PORT)));
        let answer = tuple(([127, 0, 0, 11], HELD_PORT), client);
        assert_eq!(exchange(&answer), tuple(([127, 0, 0, 11], PORT), client));
    }

    #[test]
    fn everything_else_stays() {
        for other in [
            tuple(([127, 0, 0, 1], 40_000), ([127, 0, 0, 1], PORT)),
            tuple(([127, 0, 0, 1], PORT), ([127, 0, 0, 1], 40_000)),
            tuple(([127, 0, 0, 1], HELD_PORT), ([127, 0, 0, 11], 80)),
            tuple(([172, 17, 0, 2], 40_000), ([172, 17, 0, 2], HELD_PORT)),
        ] {
            assert_eq!(exchange(&other), other);
        }
    }
}
