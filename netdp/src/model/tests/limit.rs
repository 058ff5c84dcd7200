//! The limit on new conversations.

use netdp_common::limit::{MAX_BURST, MAX_RATE};

use super::state;
use crate::model::{Kind, Limit};

#[test]
fn a_limit_is_set_changed_and_ended() {
    let mut state = state();
    state.set_limit(200, Some(500), 7).unwrap();
    let set = |rate, burst, since| Some(Limit { rate, burst, since });
    assert_eq!(state.limit, set(200, 500, 7));
    state.check().unwrap();
    // Once more: it is there since then.
    state.set_limit(200, Some(500), 8).unwrap();
    assert_eq!(state.limit, set(200, 500, 7));
    state.set_limit(200, None, 9).unwrap();
    assert_eq!(state.limit, set(200, 400, 9));
    state.set_limit(u64::from(MAX_RATE), None, 9).unwrap();
    state.set_limit(1, Some(u64::from(MAX_BURST)), 9).unwrap();
    state.check().unwrap();
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let mut state = state();
    state.set_limit(7, None, 1).unwrap();
    let before = state.clone();
    for (rate, burst, why) in [
        (0, None, "would let nobody in"),
        (0, Some(1), "would let nobody in"),
        (200, Some(0), "--burst 0 is less than what a second has"),
        (200, Some(199), "say at least 200"),
        (1_000_001, None, "1000000 is the most"),
        (u64::MAX, None, "1000000 is the most"),
        (200, Some(10_000_001), "at once: 10000000 is the most"),
        (200, Some(u64::MAX), "10000000 is the most"),
    ] {
        let refusal = state.set_limit(rate, burst, 2).unwrap_err();
        assert_eq!(refusal.kind, Kind::Invalid);
        assert!(refusal.to_string().contains(why), "{refusal}");
        assert_eq!(state, before);
    }
}

#[test]
fn a_damaged_limit_is_told() {
    let mut state = state();
    for (rate, burst) in [
        (0, 1),
        (2, 1),
        (MAX_RATE + 1, MAX_BURST),
        (1, MAX_BURST + 1),
    ] {
        let since = 1;
        state.limit = Some(Limit { rate, burst, since });
        assert!(state.check().unwrap_err().contains("a limit of"));
    }
}
