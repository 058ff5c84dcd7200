//! What one daemon has at a time, and a killed one for a moment longer.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long something that is taken is tried again.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tries for half a second while `is_taken` holds of what went wrong.
///
/// A program that a daemon is about to run has all its descriptors, locks and
/// listening sockets among them, until it runs: where the daemon is killed in
/// that moment, they outlive it by some milliseconds.
///
/// # Errors
/// What the last attempt said.
pub fn once_free<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, TryLockError};

    use super::*;

    fn lock(file: &File) -> Result<(), TryLockError> {
        once_free(
            || file.try_lock(),
            |error| matches!(error, TryLockError::WouldBlock),
        )
    }

    #[test]
    fn what_is_let_go_soon_is_had() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = File::open(file.path()).unwrap();
        let second = File::open(file.path()).unwrap();
        lock(&first).unwrap();
        let ending = thread::spawn(move || {
            thread::sleep(PATIENCE / 10);
            drop(first);
        });
        lock(&second).unwrap();
        ending.join().unwrap();
    }

    #[test]
    fn what_somebody_keeps_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = File::open(file.path()).unwrap();
        let second = File::open(file.path()).unwrap();
        lock(&first).unwrap();
        assert!(matches!(
            lock(&second).unwrap_err(),
            TryLockError::WouldBlock
        ));
    }
}
