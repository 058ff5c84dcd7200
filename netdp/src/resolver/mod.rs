//! The names of sandboxes, answered inside each of them at 127.0.0.11 as Docker
//! does.
//!
//! The sockets are made in the sandbox's own namespace, so a question needs no
//! network to get here, the socket tells who asks, and no port of the host is
//! involved. What to answer comes from a snapshot ([`Names`]) that the owner of
//! the state publishes after each change: answering takes no lock of the
//! owner's.

mod answer;
mod forward;
mod listen;
mod upstream;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{
    bpf::Loopback,
    model::{
        SandboxId, State,
        names::{Names, View},
    },
    netns::Namespace,
};

use listen::{Asked, ListenError, Listening, Opened};
pub use upstream::Upstreams;

/// How often a sandbox in which the resolver can't listen is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// In so many sandboxes it begins to answer before others get their turn.
const AT_ONCE: usize = 64;

/// How often it is looked whether namespaces are still where they were.
const LOOK: Duration = Duration::from_secs(1);

/// The resolver of all sandboxes.
pub struct Resolver {
    names: watch::Sender<Arc<Names>>,
    upstreams: Arc<Upstreams>,
    loopback: Arc<StdMutex<Loopback>>,
    listening: Mutex<BTreeMap<SandboxId, Listening>>,
    /// Where it listens, and where it can't, with the reason.
    status: StdMutex<BTreeMap<SandboxId, Option<String>>>,
}

impl Resolver {
    pub fn new(loopback: Loopback, upstreams: Upstreams) -> Arc<Self> {
        Arc::new(Self {
            names: watch::Sender::default(),
            upstreams: Arc::new(upstreams),
            loopback: Arc::new(StdMutex::new(loopback)),
            listening: Mutex::default(),
            status: StdMutex::default(),
        })
    }

    /// Makes the names of `state` those that are answered.
    pub fn publish(&self, state: &State) {
        let known = Arc::clone(&self.names.borrow());
        let names = Arc::new(Names::after(&known, state));
        self.names.send_if_modified(|known| {
            let changed = *known != names;
            *known = names;
            changed
        });
    }

    /// Whether the resolver answers in a sandbox.
    pub fn listens(&self, sandbox: SandboxId) -> bool {
        matches!(self.status().get(&sandbox), Some(None))
    }

    /// The sandboxes in which it can't listen, with the reason.
    pub fn problems(&self) -> Vec<(SandboxId, String)> {
        let status = self.status();
        let failed = status
            .iter()
            .filter_map(|(id, why)| why.clone().map(|why| (*id, why)));
        failed.collect()
    }

    /// Listens wherever a sandbox is, and nowhere else.
    pub async fn follow(&self) {
        let mut listening = self.listening.lock().await;
        // Only now: whoever waited for the lock follows the latest.
        let names = Arc::clone(&self.names.borrow());
        let gone = listening.extract_if(.., |id, _| names.view(*id).is_none());
        detach(gone.map(|(_, gone)| gone)).await;
        self.status().retain(|id, _| names.view(*id).is_some());
        let new: Vec<(SandboxId, PathBuf)> = names
            .views()
            .iter()
            .filter(|(id, _)| !listening.contains_key(*id))
            .map(|(id, view)| (*id, view.netns.clone()))
            .collect();
        for some in new.chunks(AT_ONCE) {
            for (id, answer) in self.listen(some).await {
                let why = match answer {
                    Ok(opened) => {
                        listening.insert(id, opened);
                        self.status().insert(id, None);
                        continue;
                    }
                    Err(why) => why,
                };
                let known = self.status().insert(id, Some(why.clone()));
                if known.flatten().as_ref() != Some(&why) {
                    tracing::warn!("sandbox {} has no resolver: {why}", id.short());
                }
            }
        }
    }

    /// Begins to answer in these sandboxes; or says why not.
    async fn listen(
        &self,
        sandboxes: &[(SandboxId, PathBuf)],
    ) -> Vec<(SandboxId, Result<Listening, String>)> {
        let loopback = Arc::clone(&self.loopback);
        let paths: Vec<PathBuf> = sandboxes.iter().map(|(_, path)| path.clone()).collect();
        let opened = spawn_blocking(move || listen::open(&paths, &mut lock(&loopback))).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let failed = |(id, _): &(SandboxId, _)| (*id, Err(error.to_string()));
                return sandboxes.iter().map(failed).collect();
            }
        };
        let serve = |sandbox, opened: Result<Opened, ListenError>| {
            let asked = Asked {
                sandbox,
                names: self.names.subscribe(),
                upstreams: Arc::clone(&self.upstreams),
            };
            let opened = opened.map_err(|error| error.to_string())?;
            opened.serve(&asked).map_err(|error| error.to_string())
        };
        let sandboxes = sandboxes.iter().map(|(id, _)| *id);
        let served = sandboxes.zip(opened);
        served.map(|(id, opened)| (id, serve(id, opened))).collect()
    }

    /// Follows every change, and tries again what failed. `gone` is called
    /// where a namespace is no longer at its path.
    pub async fn keep(&self, gone: impl Fn()) {
        let mut names = self.names.subscribe();
        let mut tried = Instant::now();
        loop {
            if timeout(LOOK, names.changed()).await.is_err() {
                if self.let_go().await {
                    gone();
                    continue;
                }
                let again = !self.problems().is_empty() && tried.elapsed() >= RETRY;
                if !again && !self.is_behind() {
                    continue;
                }
            }
            tried = Instant::now();
            self.follow().await;
        }
    }

    /// Leaves the namespaces whose path is gone or leads to another one. The
    /// sockets in them would keep them, and nothing else tells of a path.
    async fn let_go(&self) -> bool {
        let mut listening = self.listening.lock().await;
        let names = Arc::clone(&self.names.borrow());
        let is_missing = |view: &Arc<View>| !view.netns.exists();
        let missing = names.views().values().any(is_missing);
        let left: Vec<(SandboxId, Listening)> = listening
            .extract_if(.., |_, left| !left.namespace.is_at_its_path())
            .collect();
        for (id, _) in &left {
            self.status().remove(id);
        }
        let gone = missing || !left.is_empty();
        detach(left.into_iter().map(|(_, left)| left)).await;
        gone
    }

    /// Whether there is a sandbox in which it has not tried to listen.
    fn is_behind(&self) -> bool {
        let names = self.names.borrow();
        let status = self.status();
        names.views().keys().any(|id| !status.contains_key(id))
    }

    fn status(&self) -> StdMutexGuard<'_, BTreeMap<SandboxId, Option<String>>> {
        lock(&self.status)
    }
}

/// Ends these, and takes the program off their loopback interfaces.
async fn detach(gone: impl Iterator<Item = Listening>) {
    let gone: Vec<Listening> = gone.collect();
    if gone.is_empty() {
        return;
    }
    let detached = spawn_blocking(move || {
        let namespaces: Vec<&Namespace> = gone.iter().map(|it| &it.namespace).collect();
        Loopback::detach(&namespaces);
    });
    // Ends early only with the runtime.
    let _ = detached.await;
}

fn lock<T>(mutex: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
