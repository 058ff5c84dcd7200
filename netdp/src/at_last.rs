//! Patience of tests with what is closed: for a moment, a process that another test
//! starts has all descriptors of this one, until it runs its program.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

/// What comes of `attempt` once it doesn't fail any more.
///
/// # Panics
/// When it fails for ten seconds.
#[track_caller]
pub fn succeeds<T, E: Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < end, "{error:?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until something holds.
///
/// # Panics
/// When it doesn't for ten seconds.
#[track_caller]
pub fn holds(mut what: impl FnMut() -> bool) {
    succeeds(|| if what() { Ok(()) } else { Err("it isn't so") });
}
