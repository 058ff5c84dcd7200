//! How many conversations one source may begin: a token bucket, kept as one
//! number that a CPU exchanges whole.
//!
//! The number is the time at which the bucket will be full, so nothing has to
//! fill it: the theoretical arrival time of the generic cell rate algorithm
//! (ITU-T I.371, annex A).

/// `limit[0]`: the bucket that every source has.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// Nanoseconds after which a bucket has one token more; 0 where there is no
    /// limit.
    pub interval: u64,
    /// Nanoseconds after which an empty bucket is full.
    pub depth: u64,
}

/// Conversations a second that can be asked for.
pub const MAX_RATE: u32 = 1_000_000;
/// Conversations at once that can be asked for.
pub const MAX_BURST: u32 = 10_000_000;

const SECOND: u64 = 1_000_000_000;

/// How much farther ahead than an empty bucket's a number may be: CPUs read a
/// clock that goes by ticks at different moments.
const SLACK: u64 = SECOND;

impl Limit {
    /// So many conversations a second, and so many at once from a source that
    /// has begun none for a while. Both from 1 on, and at most [`MAX_RATE`] and
    /// [`MAX_BURST`].
    #[must_use]
    pub const fn new(rate: u32, burst: u32) -> Self {
        let interval = SECOND / rate as u64;
        Self {
            interval,
            depth: interval * burst as u64,
        }
    }

    /// Whether there is one.
    #[inline(always)]
    pub const fn is_set(&self) -> bool {
        self.interval != 0
    }

    /// Takes a token at a time in nanoseconds out of a bucket that would have
    /// been full at `full`: when it will be full now. 0 where it has none.
    #[inline(always)]
    pub const fn take(&self, full: u64, now: u64) -> u64 {
        let latest = now + self.depth;
        // One that is emptier than empty was filled under another limit.
        let is_known = full > now && full <= latest + SLACK;
        let next = if is_known { full } else { now } + self.interval;
        if next <= latest { next } else { 0 }
    }
}

/// Whether a conversation of UDP that was let in goes on: seconds of its last
/// datagram and of now, and how many it may be silent. Another CPU may have noted
/// the next second since the one of now was asked for.
#[inline(always)]
pub const fn goes_on(last: u32, now: u32, udp: u32) -> bool {
    is_ahead(last, now) || now.wrapping_sub(last) < udp
}

/// Whether a second is a later one than that of now, or the same.
#[inline(always)]
pub const fn is_ahead(last: u32, now: u32) -> bool {
    now.wrapping_sub(last).cast_signed() <= 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of so many that come at once are let through.
    fn at_once(limit: Limit, full: &mut u64, now: u64, many: u64) -> u64 {
        let mut taken = 0;
        for _ in 0..many {
            let next = limit.take(*full, now);
            if next != 0 {
                *full = next;
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn a_new_bucket_is_full_and_fills_as_time_goes_by() {
        let limit = Limit::new(200, 400);
        let mut full = 0;
        let now = 7 * SECOND;
        assert_eq!(at_once(limit, &mut full, now, 1000), 400);
        assert_eq!(at_once(limit, &mut full, now + 4_999_999, 9), 0);
        assert_eq!(at_once(limit, &mut full, now + 5_000_000, 9), 1);
        assert_eq!(at_once(limit, &mut full, now + SECOND, 1000), 199);
        assert_eq!(at_once(limit, &mut full, now + 60 * SECOND, 1000), 400);
    }

    #[test]
    fn no_limit_is_none() {
        assert!(!Limit::default().is_set());
        assert!(Limit::new(MAX_RATE, MAX_BURST).is_set());
    }

    /// The largest numbers do not overflow within 300 years of uptime.
    #[test]
    fn the_largest_bucket_has_all_its_tokens() {
        let limit = Limit::new(1, MAX_BURST);
        let now = 300 * 365 * 86_400 * SECOND;
        let mut full = 0;
        let many = u64::from(MAX_BURST);
        assert_eq!(at_once(limit, &mut full, now, many + 3), many);
    }

    /// A source that has emptied the bucket of a slow limit isn't kept out for
    /// its time.
    #[test]
    fn what_an_older_limit_has_left_is_forgotten() {
        let slow = Limit::new(1, 1000);
        let mut full = 0;
        at_once(slow, &mut full, SECOND, 1000);
        let quick = Limit::new(100, 200);
        assert_eq!(at_once(quick, &mut full, SECOND, 1000), 200);
    }

    #[test]
    fn a_conversation_goes_on_until_it_was_silent() {
        for (last, now, expected) in [
            (100, 100, true),
            (100, 399, true),
            (100, 400, false),
            (101, 100, true),
            // The clock's seconds go on after the last one.
            (u32::MAX, 298, true),
            (u32::MAX, 299, false),
            (0, u32::MAX, true),
        ] {
            assert_eq!(goes_on(last, now, 300), expected, "{last} {now}");
        }
    }

    /// Another CPU that reads the clock a tick later takes the last token.
    #[test]
    fn a_clock_that_is_a_tick_behind_finds_an_empty_bucket() {
        const TICK: u64 = 10_000_000;
        let limit = Limit::new(1000, 1000);
        let mut full = 0;
        at_once(limit, &mut full, SECOND, 1000);
        at_once(limit, &mut full, SECOND + TICK, 1000);
        assert_eq!(at_once(limit, &mut full, SECOND, 1000), 0);
    }

    proptest! {
        /// Never more than a full bucket and what came since, whatever comes when;
        /// and never less for who keeps to the rate.
        #[test]
        fn a_source_gets_what_the_limit_says(
            rate in 1..=MAX_RATE,
            burst in 1u32..2000,
            pauses in prop::collection::vec((0u64..2 * SECOND, 1u64..300), 1..60),
        ) {
            let limit = Limit::new(rate, burst);
            let (mut full, mut now, mut begun) = (0, SECOND, 0);
            for (pause, many) in pauses {
                now += pause;
                begun += at_once(limit, &mut full, now, many);
                let since = (now - SECOND) / limit.interval;
                prop_assert!(begun <= u64::from(burst) + since);
            }
            now = full.max(now) + 1;
            for _ in 0..50 {
                prop_assert_eq!(at_once(limit, &mut full, now, 1), 1);
                now += limit.interval;
            }
        }
    }
}
