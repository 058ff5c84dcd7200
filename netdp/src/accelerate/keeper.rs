//! Carries Docker's networks as long as it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use thiserror::Error;
use tokio::{
    sync::{Mutex, Notify, mpsc},
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    docker::Api,
    error::DockerError,
    inside::{self, Interface},
    rules::{self, Judged},
    select::Selection,
    view::View,
    wanted::{Carried, Known, Wanted, wanted},
};
use crate::{
    bpf::{Accelerated, BpfError, Entry, Key, Options, Role},
    daemon::{host::Host, owner::Owner},
    model::{Publication, Refusal},
    netlink::{Change, Netlink, NetlinkError},
    plan::{self, Facts, Write},
};

/// Events come in bursts; they are looked at this long after the first.
const BURST: Duration = Duration::from_millis(20);
/// How often everything is looked at without an event.
const ROUND: Duration = Duration::from_secs(10);
/// How often a Docker that doesn't answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

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
    pub socket: PathBuf,
    /// Why Docker's words are old.
    pub problem: Option<String>,
    pub networks: Vec<Carried>,
}

/// Networks of Docker that are carried, or none.
#[derive(Default)]
pub struct Accelerator {
    running: Mutex<Option<Running>>,
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
    /// it does.
    pub async fn on(
        &self,
        owner: &Arc<Owner>,
        socket: &Path,
        request: &Request<'_>,
    ) -> Result<Shown, AccelerateError> {
        let mut running = self.running.lock().await;
        if let Some(running) = &*running {
            let mut work = running.work.lock().await;
            if work.socket != socket {
                return Err(Refusal::conflict(format!(
                    "the networks of Docker at {} are accelerated: end that first, by \
                     `netdp accelerate docker --off`",
                    work.socket.display()
                ))
                .into());
            }
            work.despite |= request.skip_rules;
            work.ask().await?;
            let mut selection = work.selection.clone();
            selection.add(request.networks, &work.view)?;
            work.selection = selection;
            work.enter().await;
            work.reconcile(owner).await?;
            running.wake.notify_one();
            return Ok(work.show(&self.shown));
        }
        let api = Api::connect(socket).await?;
        let view = api.look().await?;
        let mut selection = Selection::default();
        selection.add(request.networks, &view)?;
        let mut work = Work {
            socket: socket.to_owned(),
            api: Some(api),
            view,
            selection,
            programs: load(owner.settings().datapath.clone()).await?,
            netlink: Netlink::open()?,
            interfaces: BTreeMap::new(),
            judged: Judged::default(),
            despite: request.skip_rules,
            slots: BTreeMap::new(),
            wanted: Wanted::default(),
            problem: None,
        };
        // Before the first look, so that nothing falls between.
        let changes = work.netlink.watch().await?;
        let events = work.events();
        work.enter().await;
        work.reconcile(owner).await?;
        let shown = work.show(&self.shown);
        let work = Arc::new(Mutex::new(work));
        let wake = Arc::new(Notify::new());
        let keeper = Keeper {
            work: Arc::clone(&work),
            wake: Arc::clone(&wake),
            shown: Arc::clone(&self.shown),
            owner: Arc::downgrade(owner),
        };
        let task = tokio::spawn(keeper.keep(events, changes)).abort_handle();
        *running = Some(Running { work, wake, task });
        Ok(shown)
    }

    /// Carries these networks no longer, or none where none is named.
    pub async fn off(
        &self,
        owner: &Arc<Owner>,
        networks: &[String],
    ) -> Result<Option<Shown>, AccelerateError> {
        let mut running = self.running.lock().await;
        let Some(now) = &*running else {
            return Ok(None);
        };
        let mut work = now.work.lock().await;
        let mut selection = work.selection.clone();
        selection.remove(networks, &work.view)?;
        if !selection.is_empty() {
            work.selection = selection;
            work.reconcile(owner).await?;
            return Ok(Some(work.show(&self.shown)));
        }
        now.task.abort();
        work.programs.detach_all();
        drop(work);
        *running = None;
        *self.lock() = None;
        Ok(None)
    }

    /// What is carried now.
    pub fn shown(&self) -> Option<Shown> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loading takes seconds of the CPU.
async fn load(options: Options) -> Result<Accelerated, BpfError> {
    match tokio::task::spawn_blocking(move || Accelerated::load(&options)).await {
        Ok(loaded) => loaded,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

type Events = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// What is done, and what for.
struct Work {
    socket: PathBuf,
    /// None while Docker doesn't answer.
    api: Option<Api>,
    view: View,
    selection: Selection,
    programs: Accelerated,
    netlink: Netlink,
    /// By the id of the endpoint.
    interfaces: BTreeMap<String, Interface>,
    judged: Judged,
    /// Rules of the host's own may be skipped.
    despite: bool,
    slots: BTreeMap<String, u32>,
    wanted: Wanted,
    problem: Option<String>,
}

impl Work {
    fn events(&self) -> Events {
        match &self.api {
            Some(api) => Box::pin(api.events()),
            None => Box::pin(futures_util::stream::pending()),
        }
    }

    /// Hears what Docker has to say now.
    async fn ask(&mut self) -> Result<(), DockerError> {
        let asked = async {
            if self.api.is_none() {
                self.api = Some(Api::connect(&self.socket).await?);
            }
            match &self.api {
                Some(api) => api.look().await,
                None => Ok(View::default()),
            }
        };
        match asked.await {
            Ok(view) => {
                self.view = view;
                self.problem = None;
                self.enter().await;
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                if self.problem.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                }
                // What was carried goes on as long as its interfaces are there.
                self.problem = Some(text);
                self.api = None;
                Err(error)
            }
        }
    }

    /// Looks at the host's rules, and at the interfaces of the containers.
    async fn enter(&mut self) {
        self.judged = rules::judge(&self.view, self.despite).await;
        let mut found = BTreeMap::new();
        let selected: BTreeSet<&str> = self
            .view
            .networks
            .iter()
            .filter(|network| self.selection.has(network))
            .map(|network| network.id.as_str())
            .collect();
        for container in &self.view.containers {
            let mut endpoints = container.endpoints.iter();
            if !endpoints.any(|endpoint| selected.contains(endpoint.network.as_str())) {
                continue;
            }
            match inside::interfaces(container).await {
                Ok(interfaces) => found.extend(interfaces),
                // It has ended meanwhile.
                Err(error) => tracing::debug!("container {}: {error}", container.name),
            }
        }
        self.interfaces = found;
    }

    /// Brings programs and tables in line with what is known.
    async fn reconcile(&mut self, owner: &Owner) -> Result<(), AccelerateError> {
        let links = self.netlink.links().await?;
        let host = Host::read(&self.netlink).await?;
        let (facts, published, uplinks) = {
            let core = owner.lock().await;
            let state = core.state();
            let alias = format!("netdp:{}:", state.instance);
            let facts = host.facts(core.engine().asked_uplinks(), &alias);
            let endpoints = state.endpoints.values();
            let published: Vec<Publication> =
                endpoints.flat_map(|it| it.published.clone()).collect();
            // These programs come before netdp's own, which have to be there.
            let attached = core.engine().target().datapath.attached();
            (facts, published, attached)
        };
        let addresses = self.netlink.addresses().await?;
        let addresses: Vec<_> = addresses.iter().map(|it| (it.ifindex, it.net)).collect();
        let known = Known {
            links: &links,
            addresses: &addresses,
            interfaces: &self.interfaces,
            published: &published,
            rules: &self.judged,
        };
        self.wanted = wanted(&self.view, &self.selection, &known, &mut self.slots);
        self.apply(&facts, |ifindex| {
            uplinks.get(&ifindex) == Some(&Role::Uplink)
        })?;
        Ok(())
    }

    fn apply(&mut self, facts: &Facts, is_uplink: impl Fn(u32) -> bool) -> Result<(), BpfError> {
        let Wanted {
            bridges, endpoints, ..
        } = &self.wanted;
        let want = plan::foreign(facts, bridges, endpoints);
        let mut names: BTreeMap<(u32, Role), String> = BTreeMap::new();
        for foreign in endpoints {
            let name = foreign.endpoint.host_ifname.clone();
            names.insert((foreign.ifindex, Role::Endpoint), name);
        }
        for uplink in &facts.uplinks {
            let of_tables = want.contains_key(&Key::Uplink(uplink.ifindex));
            if of_tables && is_uplink(uplink.ifindex) && !endpoints.is_empty() {
                names.insert((uplink.ifindex, Role::Uplink), uplink.ifname.clone());
            }
        }
        let gone: Vec<_> = self
            .programs
            .attached()
            .filter(|at| !names.contains_key(at))
            .collect();
        for (ifindex, role) in gone {
            self.programs.detach(ifindex, role);
        }
        let datapath = self.programs.datapath_mut();
        let have = datapath.tables()?;
        for write in plan::writes(&have, &want) {
            match write {
                Write::Put(key, entry) => datapath.put(&key, &entry)?,
                Write::Remove(key) => {
                    datapath.remove(&key)?;
                    if let (Key::Endpoint(ifindex), Some(Entry::Endpoint(endpoint))) =
                        (key, have.get(&key))
                    {
                        datapath.forget_flows(ifindex, endpoint)?;
                        datapath.clear_stats(endpoint.slot)?;
                    }
                }
            }
        }
        datapath.settle_ports()?;
        for ((ifindex, role), name) in names {
            match self.programs.attach(&name, ifindex, role) {
                Ok(()) => {}
                // It has just gone: another look follows.
                Err(error) => tracing::debug!("{error}"),
            }
        }
        Ok(())
    }

    fn show(&self, shown: &StdMutex<Option<Shown>>) -> Shown {
        let now = Shown {
            socket: self.socket.clone(),
            problem: self.problem.clone(),
            networks: self.wanted.networks.clone(),
        };
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(now.clone());
        now
    }
}

/// Follows Docker and the host.
struct Keeper {
    work: Arc<Mutex<Work>>,
    wake: Arc<Notify>,
    shown: Arc<StdMutex<Option<Shown>>>,
    owner: std::sync::Weak<Owner>,
}

impl Keeper {
    async fn keep(self, mut events: Events, mut changes: mpsc::Receiver<Change>) {
        let mut silent = false;
        loop {
            let mut ask = true;
            tokio::select! {
                event = events.next() => if event.is_none() {
                    silent = true;
                    events = Box::pin(futures_util::stream::pending());
                },
                change = changes.recv() => match change {
                    Some(_) => ask = false,
                    None => changes = watch_again(&self.work).await,
                },
                () = self.wake.notified() => {}
                () = sleep(ROUND) => {}
                () = until_retry(silent) => {}
            }
            ask |= settle(&mut events, &mut changes).await;
            let Some(owner) = self.owner.upgrade() else {
                return;
            };
            let mut work = self.work.lock().await;
            if ask && work.ask().await.is_ok() && silent {
                events = work.events();
                silent = false;
            }
            if let Err(error) = work.reconcile(&owner).await {
                tracing::warn!("Docker's networks: {error}");
            }
            work.show(&self.shown);
        }
    }
}

async fn until_retry(silent: bool) {
    if silent {
        sleep(RETRY).await;
    } else {
        pending().await
    }
}

/// Takes the rest of a burst; true where Docker had a part in it.
async fn settle(events: &mut Events, changes: &mut mpsc::Receiver<Change>) -> bool {
    let end = Instant::now() + BURST;
    let mut ask = false;
    loop {
        let next = async {
            tokio::select! {
                event = events.next() => event.is_some().then_some(true),
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
