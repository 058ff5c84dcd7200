//! Times as programs compute with them.

const NANOSECONDS: u64 = 1_000_000_000;
/// 2^30 ns in seconds, as a fraction of 2^31, rounded down.
const SCALE: u64 = (1 << 61) / NANOSECONDS;

/// Whole seconds of a time in nanoseconds, of 2^32 seconds at most.
///
/// Without a division: one of 64 bits takes a CPU as long as a lookup in a hash
/// table, and each packet would wait for it.
#[inline(always)]
pub const fn seconds(nanoseconds: u64) -> u32 {
    // At most two too few: of what the first shift takes off one and a bit, of
    // the fraction's rest less than a half.
    let mut seconds = ((nanoseconds >> 30) * SCALE) >> 31;
    let mut rest = nanoseconds - seconds * NANOSECONDS;
    if rest >= NANOSECONDS {
        rest -= NANOSECONDS;
        seconds += 1;
    }
    if rest >= NANOSECONDS {
        seconds += 1;
    }
    seconds as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAST: u64 = (1 << 32) * NANOSECONDS;

    #[test]
    fn seconds_begin_and_end_where_they_should() {
        for second in [0, 1, 2, 86_400, 1 << 31, (1 << 32) - 1] {
            let begin = second * NANOSECONDS;
            assert_eq!(u64::from(seconds(begin)), second);
            assert_eq!(u64::from(seconds(begin + NANOSECONDS - 1)), second);
        }
    }

    proptest! {
        #[test]
        fn seconds_are_those_of_a_division(time in 0..LAST) {
            prop_assert_eq!(u64::from(seconds(time)), time / NANOSECONDS);
        }
    }
}
