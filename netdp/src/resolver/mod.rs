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

use listen::{Asked, Listening};
pub use upstream::Upstreams;

/// How often a sandbox in which the resolver can't listen is tried again.
const RETRY: Duration = Duration::from_secs(5);

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
        listening.retain(|id, gone| {
            let stays = names.view(*id).is_some();
            if !stays {
                self.detach(&gone.namespace);
            }
            stays
        });
        self.status().retain(|id, _| names.view(*id).is_some());
        for (id, view) in names.views() {
            if listening.contains_key(id) {
                continue;
            }
            match self.listen(*id, view.netns.clone()).await {
                Ok(opened) => {
                    listening.insert(*id, opened);
                    self.status().insert(*id, None);
                }
                Err(why) => {
                    let known = self.status().insert(*id, Some(why.clone()));
                    if known.flatten().as_ref() != Some(&why) {
                        tracing::warn!("sandbox {} has no resolver: {why}", id.short());
                    }
                }
            }
        }
    }

    async fn listen(&self, sandbox: SandboxId, netns: PathBuf) -> Result<Listening, String> {
        let loopback = Arc::clone(&self.loopback);
        let opened = spawn_blocking(move || listen::open(&netns, &mut lock(&loopback)))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let asked = Asked {
            sandbox,
            names: self.names.subscribe(),
            upstreams: Arc::clone(&self.upstreams),
        };
        opened.serve(&asked).map_err(|error| error.to_string())
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
        let mut gone = names.views().values().any(is_missing);
        listening.retain(|id, left| {
            let stays = left.namespace.is_at_its_path();
            if !stays {
                gone = true;
                self.detach(&left.namespace);
                self.status().remove(id);
            }
            stays
        });
        gone
    }

    /// Whether there is a sandbox in which it has not tried to listen.
    fn is_behind(&self) -> bool {
        let names = self.names.borrow();
        let status = self.status();
        names.views().keys().any(|id| !status.contains_key(id))
    }

    /// Takes its program off the loopback interface of a namespace.
    pub fn detach(&self, namespace: &Namespace) {
        lock(&self.loopback).detach(namespace);
    }

    fn status(&self) -> StdMutexGuard<'_, BTreeMap<SandboxId, Option<String>>> {
        lock(&self.status)
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
