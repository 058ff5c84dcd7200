//! Keeping `/etc/hosts` of running programs up to date.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use crate::{
    model::{Mode, SandboxId, State, hosts},
    sandbox::{ProcessId, hosts::update},
};

use super::watch::identity;

/// How often a program is looked for that has no file yet, and how many times:
/// the command that starts it puts the file there a moment later.
const RETRY: Duration = Duration::from_millis(250);
const TRIES: u32 = 40;

/// The lines of each program's file.
type Wanted = BTreeMap<SandboxId, (ProcessId, String)>;

/// The lines that a program's file has, or how often it was looked for.
enum Kept {
    Written(String),
    Tried(u32),
}

/// What the files of all programs shall say.
#[derive(Default)]
pub struct HostsFiles {
    wanted: watch::Sender<Arc<Wanted>>,
}

impl HostsFiles {
    /// Makes the names of `state` those that programs shall find.
    pub fn publish(&self, state: &State) {
        let wanted: Wanted = state
            .sandboxes
            .values()
            .filter(|sandbox| state.sharing(sandbox).mode != Mode::Host)
            .filter_map(|sandbox| {
                let process = identity(sandbox.process?);
                let lines = hosts::lines(&state.hosts(sandbox), &sandbox.hostname);
                Some((sandbox.id, (process, lines)))
            })
            .collect();
        let wanted = Arc::new(wanted);
        self.wanted.send_if_modified(|known| {
            let changed = *known != wanted;
            *known = wanted;
            changed
        });
    }

    /// Follows every change.
    pub async fn keep(&self) {
        let mut wanted = self.wanted.subscribe();
        let mut kept = BTreeMap::new();
        loop {
            let latest = Arc::clone(&wanted.borrow_and_update());
            let followed = spawn_blocking(move || {
                let is_whole = follow(&latest, &mut kept);
                (kept, is_whole)
            });
            let Ok((known, is_whole)) = followed.await else {
                // The runtime ends.
                return;
            };
            kept = known;
            if is_whole {
                // The sender is this very value.
                let _ = wanted.changed().await;
            } else {
                let _ = timeout(RETRY, wanted.changed()).await;
            }
        }
    }
}

/// Writes what differs. False where a file may still come.
fn follow(wanted: &Wanted, kept: &mut BTreeMap<SandboxId, Kept>) -> bool {
    kept.retain(|id, _| wanted.contains_key(id));
    let mut is_whole = true;
    for (id, (process, lines)) in wanted {
        let tries = match kept.get(id) {
            Some(Kept::Written(known)) if known == lines => continue,
            Some(Kept::Written(_)) | None => 0,
            Some(Kept::Tried(tries)) => *tries,
        };
        let written = match update(process, lines) {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!("cannot write /etc/hosts of sandbox {}: {error}", id.short());
                true
            }
        };
        let now = if written || tries >= TRIES {
            Kept::Written(lines.clone())
        } else {
            is_whole = false;
            Kept::Tried(tries + 1)
        };
        kept.insert(*id, now);
    }
    is_whole
}
