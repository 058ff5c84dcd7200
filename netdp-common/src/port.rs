//! Which source port a masqueraded flow gets.

use crate::addr::{Be16, proto};

/// How many ports are tried before a new flow is refused. With three quarters
/// of a range in use, all of them are taken once in 10^8.
pub const TRIES: u32 = 64;

/// The `attempt`-th candidate for a flow whose own port is `wanted`.
///
/// The first is the port itself (RFC 4787, section 4.2.1: preservation); the
/// others come from `first..=last` (host order), spread by `random`. UDP keeps
/// the port's parity (RFC 4787, REQ-4). An ICMP identifier is treated as a
/// port.
#[inline(always)]
pub const fn candidate(
    wanted: Be16,
    proto: u8,
    attempt: u32,
    random: u32,
    first: u16,
    last: u16,
) -> Be16 {
    if attempt == 0 {
        return wanted;
    }
    let span = if last > first {
        last as u32 - first as u32 + 1
    } else {
        1
    };
    let mut port = first as u32 + random % span;
    if proto == proto::UDP && (port ^ wanted.get() as u32) & 1 != 0 {
        port = if port < last as u32 {
            port + 1
        } else if port > first as u32 {
            port - 1
        } else {
            port
        };
    }
    Be16::new(port as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_own_port_comes_first() {
        assert_eq!(
            candidate(Be16::new(40000), proto::TCP, 0, 7, 1024, 65535).get(),
            40000
        );
    }

    proptest! {
        #[test]
        fn in_range_and_of_equal_parity(wanted: u16, attempt in 1u32..TRIES, random: u32,
                                        first in 1u16..=65534, more in 1u16..=5000) {
            let last = first.saturating_add(more);
            let tcp = candidate(Be16::new(wanted), proto::TCP, attempt, random, first, last).get();
            prop_assert!((first..=last).contains(&tcp));
            let udp = candidate(Be16::new(wanted), proto::UDP, attempt, random, first, last).get();
            prop_assert!((first..=last).contains(&udp));
            prop_assert_eq!(udp & 1, wanted & 1);
        }

        /// Random numbers in a row, as many of each kind as any others: none of
        /// the ports is left out, and none comes much more often (RFC 6056,
        /// section 3.3).
        #[test]
        fn every_port_of_the_range_is_as_likely(wanted: u16, attempt in 1u32..TRIES,
                                                first in 1u16..=60_000, pairs in 1u16..=500,
                                                start in 0u32..=1 << 31) {
            let span = 2 * pairs;
            let last = first + (span - 1);
            let draws = |proto| {
                let mut draws = std::vec![0; usize::from(span)];
                for random in start..start + 4 * u32::from(span) {
                    let wanted = Be16::new(wanted);
                    let port = candidate(wanted, proto, attempt, random, first, last);
                    draws[usize::from(port.get() - first)] += 1;
                }
                draws
            };
            prop_assert!(draws(proto::TCP).iter().all(|times| *times == 4));
            // Half of the ports, each with the draws of one neighbour; at the
            // end of the range with those of two, or its own alone.
            for (offset, times) in draws(proto::UDP).into_iter().enumerate() {
                let fits = (first + offset as u16) & 1 == wanted & 1;
                let expected = if fits { 4..=12 } else { 0..=0 };
                prop_assert!(expected.contains(&times), "{times} of {offset}");
            }
        }
    }
}
