//! Carries Docker's networks as long as it is told to.

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use netdp_common::addr::{V4Addr, V6Addr};
use thiserror::Error;
use tokio::{
    sync::{Mutex, Notify, mpsc},
    task::AbortHandle,
    time::sleep,
};

use super::{
    ENGINE,
    error::DockerError,
    follow::{Follower, ROUND},
    view::View,
    wanted::{Carried, Member},
    work::{Events, Work},
};
use crate::{
    bpf::{BpfError, Counters, FlowTables},
    daemon::owner::Owner,
    model::{Acceleration, Kind, Refusal},
    netlink::{Change, NetlinkError},
    store::StoreError,
};

#[derive(Debug, Error)]
pub enum AccelerateError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Docker(#[from] DockerError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// Names or ids; empty: all.
    pub networks: &'a [String],
    /// Also where the host has rules that packets would skip.
    pub skip_rules: bool,
}

/// What is carried, for answers.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What was asked for.
    pub told: Acceleration,
    /// Why Docker's words are old.
    pub problem: Option<String>,
    pub networks: Vec<Carried>,
    /// None before the programs are loaded.
    pub seen: Option<Seen>,
}

/// What the programs write, to be read while they are followed.
#[derive(Clone)]
pub struct Seen {
    pub counters: Counters,
    pub v4: FlowTables<V4Addr>,
    pub v6: FlowTables<V6Addr>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seen")
    }
}

impl Shown {
    /// The containers that are carried, with their networks.
    pub fn carried(&self) -> impl Iterator<Item = (&Carried, &Member)> {
        let networks = self.networks.iter().filter(|it| it.left.is_none());
        networks.flat_map(|network| {
            let members = network.members.iter().filter(|it| it.left.is_none());
            members.map(move |member| (network, member))
        })
    }
}

/// Networks of Docker that are carried, or none.
#[derive(Default)]
pub struct Accelerator {
    running: Mutex<Option<Running>>,
    /// Told when something is to end, so that nothing waits for a Docker that
    /// doesn't answer.
    ending: Notify,
    shown: Arc<StdMutex<Option<Shown>>>,
}

struct Running {
    work: Arc<Mutex<Work>>,
    /// Told when something else is wanted.
    wake: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Accelerator {
    /// Carries these networks too, or all where none is named, and returns when
    /// it does. What is asked for is stored.
    pub async fn on(
        &self,
        owner: &Arc<Owner>,
        socket: &Path,
        request: &Request<'_>,
    ) -> Result<Shown, AccelerateError> {
        tokio::select! {
            shown = self.begin(owner, socket, request) => shown,
            () = self.ending.notified() => Err(Refusal::conflict(
                "`netdp accelerate docker --off` came before Docker had answered",
            )
            .into()),
        }
    }

    async fn begin(
        &self,
        owner: &Arc<Owner>,
        socket: &Path,
        request: &Request<'_>,
    ) -> Result<Shown, AccelerateError> {
        let mut running = self.running.lock().await;
        let before = remembered(owner).await.unwrap_or_else(|| Acceleration {
            socket: socket.to_owned(),
            ..Acceleration::default()
        });
        if before.socket != socket {
            return Err(Refusal::conflict(format!(
                "the networks of Docker at {} are accelerated: end that first, by `netdp \
                 accelerate docker --off`",
                before.socket.display()
            ))
            .into());
        }
        let add = |view: &View| {
            let mut told = before.clone();
            told.skip_rules |= request.skip_rules;
            told.networks.add(request.networks, view).map(|()| told)
        };
        if let Some(running) = &*running {
            let mut work = running.work.lock().await;
            work.ask(&BTreeSet::new()).await?;
            let told = add(&work.view)?;
            work.follow(owner, told).await?;
            running.wake.notify_one();
            return Ok(work.show(&self.shown));
        }
        let mut work = Work::new(owner, before.clone()).await?;
        // Before the first look, so that nothing falls between.
        let changes = work.netlink.watch().await?;
        work.ask(&BTreeSet::new()).await?;
        let told = add(&work.view)?;
        work.follow(owner, told).await?;
        let shown = work.show(&self.shown);
        let events = work.events();
        *running = Some(self.keep(owner, work, Some(events), changes));
        Ok(shown)
    }

    /// Carries these networks no longer, or none where none is named, and
    /// forgets that they were asked for.
    pub async fn off(
        &self,
        owner: &Arc<Owner>,
        networks: &[String],
    ) -> Result<Option<Shown>, AccelerateError> {
        self.ending.notify_waiters();
        let mut running = self.running.lock().await;
        let Some(mut told) = remembered(owner).await else {
            return Ok(None);
        };
        let Some(now) = &mut *running else {
            // The programs could not be loaded.
            told.networks.remove(networks, &View::default())?;
            remember(owner, told).await?;
            *self.lock() = None;
            return Ok(None);
        };
        // It may be waiting for Docker, with the work in its hands.
        now.task.abort();
        let mut work = now.work.lock().await;
        let done = match told.networks.remove(networks, &work.view) {
            Ok(()) if told.networks.is_empty() => {
                remember(owner, told).await?;
                work.programs.detach_all();
                drop(work);
                *running = None;
                *self.lock() = None;
                return Ok(None);
            }
            Ok(()) => {
                let done = work.follow(owner, told).await;
                done.map(|()| work.show(&self.shown))
            }
            Err(refusal) => Err(match (&work.problem, refusal.kind) {
                (Some(problem), Kind::NotFound) => Refusal::unavailable(format!(
                    "{refusal}, as far as is known: {problem}; --off without a name ends it for all"
                ))
                .into(),
                _ => refusal.into(),
            }),
        };
        let changes = work.netlink.watch().await?;
        drop(work);
        now.task = self.follow(owner, &now.work, &now.wake, None, changes);
        done.map(Some)
    }

    /// Does what an earlier daemon was told, as soon as it can: Docker may come
    /// up later than this one.
    pub fn resume(owner: &Arc<Owner>) {
        let owner = Arc::downgrade(owner);
        tokio::spawn(async move {
            loop {
                let Some(owner) = owner.upgrade() else { return };
                let Err(error) = owner.accelerator().take_up(&owner).await else {
                    return;
                };
                drop(owner);
                tracing::error!("Docker's networks are not accelerated: {error}");
                if matches!(error, AccelerateError::Bpf(BpfError::NoTcx)) {
                    return;
                }
                sleep(ROUND).await;
            }
        });
    }

    async fn take_up(&self, owner: &Arc<Owner>) -> Result<(), AccelerateError> {
        let mut running = self.running.lock().await;
        for engine in owner.lock().await.state().accelerations.keys() {
            if engine != ENGINE {
                tracing::warn!(
                    "networks of {engine} were accelerated by a newer netdp: this one leaves them, \
                     and what was asked for, as they are"
                );
            }
        }
        let (None, Some(told)) = (&*running, remembered(owner).await) else {
            return Ok(());
        };
        *self.lock() = Some(Shown {
            told: told.clone(),
            problem: Some("Docker has yet to be asked".to_owned()),
            ..Shown::default()
        });
        let begun = async {
            let work = Work::new(owner, told).await?;
            let changes = work.netlink.watch().await?;
            Ok::<_, AccelerateError>((work, changes))
        };
        match begun.await {
            Ok((work, changes)) => {
                *running = Some(self.keep(owner, work, None, changes));
                Ok(())
            }
            Err(error) => {
                if let Some(shown) = &mut *self.lock() {
                    shown.problem = Some(error.to_string());
                }
                Err(error)
            }
        }
    }

    fn keep(
        &self,
        owner: &Arc<Owner>,
        work: Work,
        events: Option<Events>,
        changes: mpsc::Receiver<Change>,
    ) -> Running {
        let work = Arc::new(Mutex::new(work));
        let wake = Arc::new(Notify::new());
        let task = self.follow(owner, &work, &wake, events, changes);
        Running { work, wake, task }
    }

    /// `events`: none where Docker has yet to answer.
    fn follow(
        &self,
        owner: &Arc<Owner>,
        work: &Arc<Mutex<Work>>,
        wake: &Arc<Notify>,
        events: Option<Events>,
        changes: mpsc::Receiver<Change>,
    ) -> AbortHandle {
        let follower = Follower {
            work: Arc::clone(work),
            wake: Arc::clone(wake),
            shown: Arc::clone(&self.shown),
            owner: Arc::downgrade(owner),
        };
        if events.is_none() {
            wake.notify_one();
        }
        tokio::spawn(follower.keep(events, changes)).abort_handle()
    }

    /// What is carried now.
    pub fn shown(&self) -> Option<Shown> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an earlier request, or daemon, was told.
async fn remembered(owner: &Owner) -> Option<Acceleration> {
    let core = owner.lock().await;
    core.state().accelerations.get(ENGINE).cloned()
}

/// Keeps what is told from now on for the next daemon, if there is anything.
async fn remember(owner: &Owner, told: Acceleration) -> Result<(), StoreError> {
    let told = (!told.networks.is_empty()).then_some(told);
    owner.lock().await.remember(ENGINE, told)
}
