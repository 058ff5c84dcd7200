//! The copy of the state, a moment behind it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
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
/// How long after a copy could not be written that is tried again.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Copy<S> {
    format: u64,
    state: S,
}

/// Writes copies in a thread of its own.
pub(super) struct Copier {
    states: Option<Sender<State>>,
    thread: Option<JoinHandle<()>>,
    place: Arc<Place>,
}

/// Where the copy is to be.
struct Place {
    path: PathBuf,
    /// Why the last one could not be written.
    unwritten: Mutex<Option<String>>,
}

impl Copier {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (states, received) = channel();
        let place = Arc::new(Place {
            path,
            unwritten: Mutex::default(),
        });
        let written = Arc::clone(&place);
        let thread = thread::Builder::new()
            .name("netdp-copy".into())
            .spawn(move || write_all(&written, &received))?;
        Ok(Self {
            states: Some(states),
            thread: Some(thread),
            place,
        })
    }

    pub(super) fn write_soon(&self, state: &State) {
        if let Some(states) = &self.states {
            // The thread ends only when this end of the channel does.
            let _ = states.send(state.clone());
        }
    }

    /// The disk could not be written until now: until a copy is there, it isn't
    /// known to have room.
    pub(super) fn missed(&self, why: &str) {
        *self.place.unwritten() = Some(why.to_owned());
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let why = self.place.unwritten().clone()?;
        Some(format!("{}: {why}", self.place.trouble()))
    }
}

impl Place {
    fn unwritten(&self) -> MutexGuard<'_, Option<String>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> String {
        format!("can't write the copy {}", self.path.display())
    }

    /// Writes the copy, and notes whether that went well.
    fn write(&self, state: &State) -> io::Result<()> {
        let written = write(&self.path, state);
        let why = written.as_ref().err().map(ToString::to_string);
        let before = std::mem::replace(&mut *self.unwritten(), why.clone());
        if let (None, Some(why)) = (before, why) {
            tracing::warn!("{}: {why}", self.trouble());
        }
        written
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

fn write_all(place: &Place, received: &Receiver<State>) {
    let mut state = None;
    loop {
        // One that could not be written is tried again.
        let wait = if state.is_some() {
            AGAIN
        } else {
            Duration::MAX
        };
        match received.recv_timeout(wait) {
            Ok(newer) => state = Some(latest(newer, received)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(unwritten) = &state
            && place.write(unwritten).is_ok()
        {
            state = None;
        }
    }
}

/// The last of a burst of states.
fn latest(mut state: State, received: &Receiver<State>) -> State {
    let deadline = Instant::now() + LATEST;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match received.recv_timeout(QUIET.min(left)) {
            Ok(newer) => state = newer,
            // When the store is dropped, what is left is written at once.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return state,
        }
    }
}

/// Writes a file and renames it, so that a crash leaves the old or the new one.
fn write(path: &Path, state: &State) -> io::Result<()> {
    let unfinished = path.with_extension("json.new");
    let written = fill(&unfinished, state).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // Half a file is of no use to anybody, and takes room.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn fill(path: &Path, state: &State) -> io::Result<()> {
    let copy = Copy {
        format: FORMAT,
        state,
    };
    let text = serde_json::to_vec_pretty(&copy)?;
    let mut file = private().create(true).truncate(true).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
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
