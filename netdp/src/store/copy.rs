//! The copy of the state, a moment behind it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    private,
    records::{FORMAT, Unreadable, check_format},
};
use crate::model::State;

/// How long to wait for a newer state before one is written: a burst of
/// requests costs one write.
const QUIET: Duration = Duration::from_millis(200);
/// How far the copy may fall behind while requests keep coming.
const LATEST: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Copy<S> {
    format: u64,
    state: S,
}

/// Writes copies in a thread of its own.
pub(super) struct Copier {
    states: Option<Sender<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (states, received) = channel();
        let thread = thread::Builder::new()
            .name("netdp-copy".into())
            .spawn(move || write_all(&path, &received))?;
        Ok(Self {
            states: Some(states),
            thread: Some(thread),
        })
    }

    pub(super) fn write_soon(&self, state: &State) {
        if let Some(states) = &self.states {
            // The thread ends only when this end of the channel does.
            let _ = states.send(state.clone());
        }
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.states = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(path: &Path, received: &Receiver<State>) {
    while let Ok(mut state) = received.recv() {
        let deadline = Instant::now() + LATEST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match received.recv_timeout(QUIET.min(left)) {
                Ok(newer) => state = newer,
                // When the store is dropped, what is left is written at once.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = write(path, &state) {
            tracing::warn!("can't write the copy {}: {error}", path.display());
        }
    }
}

/// Writes a file and renames it, so that a crash leaves the old or the new one.
fn write(path: &Path, state: &State) -> io::Result<()> {
    let unfinished = path.with_extension("json.new");
    let copy = Copy {
        format: FORMAT,
        state,
    };
    let text = serde_json::to_vec_pretty(&copy)?;
    let mut file = private().create(true).truncate(true).open(&unfinished)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// The state of a copy.
///
/// # Errors
/// A text that says why it can't be used.
pub(super) fn read(path: &Path) -> Result<State, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let copy: Copy<State> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    match check_format(copy.format) {
        Ok(()) => copy.state.check().map(|()| copy.state),
        Err(Unreadable::Damaged(why)) => Err(why),
        Err(Unreadable::Newer { found, .. }) => Err(format!("a newer netdp wrote it: {found}")),
    }
}
