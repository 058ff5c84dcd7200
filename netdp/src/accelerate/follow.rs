//! Follows Docker and the host: events of the one, changes of the other's
//! network, and from time to time all of it.

use std::{
    collections::BTreeSet,
    future::pending,
    sync::{Arc, Mutex as StdMutex, Weak},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{Mutex, Notify, mpsc},
    time::{Instant, sleep, timeout_at},
};

use super::{
    keeper::Shown,
    work::{Events, Work},
};
use crate::{daemon::owner::Owner, netlink::Change};

/// Events come in bursts; they are looked at this long after the first.
const BURST: Duration = Duration::from_millis(20);
/// How often everything is looked at without an event.
pub(super) const ROUND: Duration = Duration::from_secs(10);
/// How often a Docker that doesn't answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    pub work: Arc<Mutex<Work>>,
    /// Told when something else is wanted.
    pub wake: Arc<Notify>,
    pub shown: Arc<StdMutex<Option<Shown>>>,
    pub owner: Weak<Owner>,
}

impl Follower {
    /// Never ends by itself. `events`: none where Docker has yet to answer.
    pub async fn keep(self, events: Option<Events>, mut changes: mpsc::Receiver<Change>) {
        let mut silent = events.is_none();
        let mut events = events.unwrap_or_else(nothing);
        // Containers that have to be inspected anew.
        let mut changed = BTreeSet::new();
        loop {
            let mut ask = true;
            let mut again = false;
            tokio::select! {
                event = events.next() => match event {
                    Some(container) => changed.extend(container),
                    None => {
                        silent = true;
                        events = nothing();
                    }
                },
                change = changes.recv() => match change {
                    Some(_) => ask = false,
                    None => changes = watch_again(&self.work).await,
                },
                () = self.wake.notified() => {}
                () = sleep(ROUND) => {}
                () = until_retry(silent) => again = true,
            }
            if !again {
                ask |= settle(&mut events, &mut changes, &mut changed).await;
            }
            let Some(owner) = self.owner.upgrade() else {
                return;
            };
            let mut work = self.work.lock().await;
            let answered = ask && work.ask(&changed).await.is_ok();
            if answered {
                changed.clear();
            }
            if answered && silent {
                events = work.events();
                silent = false;
            }
            if again && !answered {
                // Nothing is known that wasn't known before.
                work.show(&self.shown);
                continue;
            }
            if let Err(error) = work.reconcile(&owner).await {
                tracing::warn!("Docker's networks: {error}");
            }
            work.show(&self.shown);
        }
    }
}

fn nothing() -> Events {
    Box::pin(futures_util::stream::pending())
}

async fn until_retry(silent: bool) {
    if silent {
        sleep(RETRY).await;
    } else {
        pending().await
    }
}

/// Takes the rest of a burst; true where Docker had a part in it.
async fn settle(
    events: &mut Events,
    changes: &mut mpsc::Receiver<Change>,
    changed: &mut BTreeSet<String>,
) -> bool {
    let end = Instant::now() + BURST;
    let mut ask = false;
    loop {
        let next = async {
            tokio::select! {
                event = events.next() => event.map(|container| {
                    changed.extend(container);
                    true
                }),
                change = changes.recv() => change.is_some().then_some(false),
            }
        };
        match timeout_at(end, next).await {
            Ok(Some(docker)) => ask |= docker,
            Ok(None) => return true,
            Err(_) => return ask,
        }
    }
}

async fn watch_again(work: &Mutex<Work>) -> mpsc::Receiver<Change> {
    let netlink = work.lock().await.netlink.clone();
    loop {
        match netlink.watch().await {
            Ok(changes) => return changes,
            Err(error) => tracing::error!("{error}"),
        }
        sleep(RETRY).await;
    }
}
