//! What the sweep makes of an endpoint's counters (see
//! [`Usage`](crate::maps::Usage)).

use crate::maps::Config;

/// For how many seconds a flow table that had no room is not asked again.
const FULL_FOR: u32 = 2;

/// Whether an endpoint that has so many entries may open one more flow. A flow
/// that is opened has its place in the main table already, so that its answer
/// isn't refused.
#[inline(always)]
pub fn has_room(flows: u64, pending: u64, config: &Config) -> bool {
    let (flows, pending) = (counted(flows), counted(pending));
    pending < u64::from(config.pending_per_endpoint)
        && flows + pending < u64::from(config.flows_per_endpoint)
}

/// A counter as it is now: an entry may leave that never was counted.
#[inline(always)]
pub const fn counted(count: u64) -> u64 {
    if count > i64::MAX as u64 { 0 } else { count }
}

/// Whether a flow table may have room that last had none in second `full`; 0
/// where it always had. Without room an answer would be dropped, and who began
/// the flow wait for that in vain.
#[inline(always)]
pub const fn may_have_room(full: u32, now: u32) -> bool {
    full == 0 || now.wrapping_sub(full) >= FULL_FOR
}

/// What is to be added to a counter, as two's complement.
///
/// A sweep takes its time, and meanwhile entries come and go: of those that
/// were there `before` it has not `found` what had `gone` until it came by, and
/// perhaps found what came since, which is in `now` already. Only what lies
/// beyond both is an error. A number that is negative as an i64 is one too.
#[inline(always)]
pub fn drift(before: u64, now: u64, found: u64, gone: u64) -> u64 {
    let (before, now, found, gone) = (before as i64, now as i64, found as i64, gone as i64);
    let least = before.wrapping_sub(gone);
    // What came is counted already: it is what there is now, and what left.
    let most = now.wrapping_add(gone).max(least);
    if found < least {
        found.wrapping_sub(least) as u64
    } else if found > most {
        found.wrapping_sub(most) as u64
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_by_both_numbers() {
        let config = Config {
            flows_per_endpoint: 10,
            pending_per_endpoint: 4,
            ..Config::default()
        };
        assert!(has_room(6, 3, &config));
        assert!(!has_room(7, 3, &config), "the share");
        assert!(!has_room(0, 4, &config), "what isn't answered");
        assert!(has_room(1u64.wrapping_neg(), 0, &config));
    }

    #[test]
    fn a_full_table_is_asked_again_after_a_while() {
        assert!(may_have_room(0, 7));
        assert!(!may_have_room(7, 7) && !may_have_room(7, 8));
        assert!(may_have_room(7, 9));
    }

    fn signed(before: i64, now: i64, found: i64, gone: i64) -> i64 {
        drift(before as u64, now as u64, found as u64, gone as u64) as i64
    }

    #[test]
    fn what_comes_and_goes_while_a_sweep_runs_is_no_error() {
        // Nothing moves.
        assert_eq!(signed(5, 5, 5, 0), 0);
        // One came, and the sweep met it or had been there.
        assert_eq!(signed(0, 1, 1, 0), 0);
        assert_eq!(signed(0, 1, 0, 0), 0);
        // One went, and the sweep had met it or not.
        assert_eq!(signed(1, 0, 1, 1), 0);
        assert_eq!(signed(1, 0, 0, 1), 0);
        // One came, was met, and went.
        assert_eq!(signed(0, 0, 1, 1), 0);
    }

    #[test]
    fn what_was_never_counted_or_left_unseen_is_put_right() {
        assert_eq!(signed(5, 5, 7, 0), 2);
        assert_eq!(signed(5, 5, 3, 0), -2);
        assert_eq!(signed(-3, -3, 0, 0), 3);
        // Given away by the table while another came.
        assert_eq!(signed(5, 6, 3, 0), -2);
        assert_eq!(signed(5, 4, 2, 1), -2);
    }
}
