//! The one owner of the state: every change goes through here, one after
//! another, and is done whole or not at all.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use thiserror::Error;
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    task::JoinError,
};

use crate::{
    accelerate::Accelerator,
    bpf::{self, BpfError, Loopback},
    model::{Driver, EndpointRequest, HostView, Network, NetworkRequest, PortSpec, Refusal, State},
    netlink::NetlinkError,
    netns::Namespace,
    resolver::Resolver,
    sandbox::ProcessError,
    store::{Damage, Store, StoreError},
};

use super::{
    apply::ApplyError,
    change::Core,
    direct::DirectPorts,
    engine::{Engine, EngineError},
    hosts::HostsFiles,
    together::Waiting,
    watch::Watches,
};

/// Up to so many sandboxes a daemon that starts answers requests only once names
/// are answered too.
const AT_ONCE: usize = 50;

#[derive(Debug, Error)]
pub enum OwnerError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error("cannot list the host's connections: {0}")]
    Sockets(io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the change ended halfway: {0}")]
    Halfway(#[from] JoinError),
    #[error("who made the change together with others was given up: try again")]
    GivenUp,
}

impl OwnerError {
    /// What was asked for and can't be had, in words for who asked. Anything
    /// else went wrong here, and is logged.
    pub fn refusal(self) -> Result<Refusal, Self> {
        match self {
            Self::Refused(refusal) => Ok(refusal),
            Self::Engine(EngineError::Conflict(conflict)) => Ok(Refusal::conflict(conflict)),
            Self::Engine(EngineError::Apply(ApplyError::Bpf(error @ BpfError::Driver { .. }))) => {
                Ok(Refusal::conflict(format!("cannot {error}")))
            }
            // The store has logged it, once.
            error @ Self::Store(StoreError::Unwritten { .. }) => Err(error),
            error => {
                tracing::error!("{error}");
                Err(error)
            }
        }
    }
}

/// Carries a change through even if who asked for it goes away meanwhile: the
/// future of a request is dropped then, in the middle.
pub async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, OwnerError>> + Send + 'static,
) -> Result<T, OwnerError> {
    tokio::spawn(change).await?
}

/// Where the daemon keeps what isn't in the store, and what it was told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub log_dir: PathBuf,
    /// BPF file system in which programs and maps are pinned.
    pub bpffs: PathBuf,
    /// Subnets to choose from before the usual ones.
    pub pools: Vec<IpNet>,
    /// Options of new networks that say nothing of them themselves.
    pub network_options: BTreeMap<String, String>,
    /// How programs are loaded.
    pub datapath: bpf::Options,
}

/// The state with everything that follows from it.
pub struct Owner {
    pub(super) core: Mutex<Core>,
    waiting: Waiting,
    settings: Settings,
    damage: Option<Damage>,
    resolver: Arc<Resolver>,
    hosts: Arc<HostsFiles>,
    /// Those who wait for the ends of programs.
    pub(super) watches: Watches,
    /// Told when something may have to be repaired.
    dirty: Notify,
    accelerator: Accelerator,
}

impl Owner {
    /// Takes over `state` as the store had it.
    pub fn new(
        state: State,
        store: Store,
        engine: Engine,
        settings: Settings,
        damage: Option<Damage>,
        resolver: Arc<Resolver>,
        direct: DirectPorts,
    ) -> Arc<Self> {
        let hosts = Arc::new(HostsFiles::default());
        let told = (Arc::clone(&resolver), Arc::clone(&hosts));
        Arc::new(Self {
            core: Mutex::new(Core::new(
                state,
                store,
                engine,
                told,
                settings.network_options.clone(),
                direct,
            )),
            waiting: Waiting::default(),
            settings,
            damage,
            resolver,
            hosts,
            watches: Watches::default(),
            dirty: Notify::new(),
            accelerator: Accelerator::default(),
        })
    }

    pub async fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().await
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was found to be wrong with the store.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Networks of other engines that are carried.
    pub fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// The names of the sandboxes.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// `/etc/hosts` of the programs that run.
    pub fn hosts(&self) -> &HostsFiles {
        &self.hosts
    }

    /// Brings the host to the state, makes the first network, and watches the
    /// programs that run.
    pub async fn start(self: &Arc<Self>) -> Result<(), OwnerError> {
        self.repair().await?;
        let mut core = self.core.lock().await;
        let pools = &self.settings.pools;
        let first = core
            .change(|state, host| {
                let mut planned = state.clone();
                let Some(network) = planned.ensure_first_network(host)? else {
                    return Ok(());
                };
                let mut request = NetworkRequest::new(network.name);
                choose_subnet(&mut request, pools, state, host)?;
                state.create_network(&request, host).map(drop)
            })
            .await;
        // Other networks work without it.
        if let Err(error) = first {
            tracing::warn!("the first network was not made: {error}");
        }
        for sandbox in core.state.sandboxes.values() {
            self.watch(sandbox);
        }
        let sandboxes = core.state.sandboxes.len();
        drop(core);
        self.listen_in(sandboxes).await;
        Ok(())
    }

    /// Begins to answer questions for names, but holds nobody up for long: each
    /// sandbox has to be entered for it.
    async fn listen_in(self: &Arc<Self>, sandboxes: usize) {
        if sandboxes <= AT_ONCE {
            return self.resolver.follow().await;
        }
        let owner = Arc::clone(self);
        tokio::spawn(async move { owner.resolver.follow().await });
    }

    /// Makes the host what the state wants, as far as it goes.
    pub async fn repair(&self) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.unfinished = true;
        core.catch_up();
        let gone = core.collect();
        let repaired = core.repair().await;
        drop(core);
        for id in gone {
            self.watches.end(id);
        }
        repaired
    }

    /// Something may have to be repaired.
    pub fn look_again(&self) {
        self.dirty.notify_one();
    }

    /// Waits until something may have to be repaired.
    pub async fn dirty(&self) {
        self.dirty.notified().await;
    }

    /// Changes the state as `request` says, whole or not at all.
    pub async fn change<T>(
        &self,
        request: impl FnOnce(&mut State, &HostView<'_>) -> Result<T, Refusal>,
    ) -> Result<T, OwnerError> {
        self.core.lock().await.change(request).await
    }

    /// The same in one go with what others ask for at the same time. To be
    /// called from what isn't given up in the middle ([`whole`]).
    pub(super) async fn change_with_others<T: Send + 'static>(
        &self,
        request: impl FnMut(&mut State, &HostView<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, OwnerError> {
        let answer = self.waiting.add(request);
        let mut core = self.core.lock().await;
        // None where somebody who was before has made this one, too.
        let requests = self.waiting.take();
        if !requests.is_empty() {
            core.change_together(requests).await;
        }
        drop(core);
        answer.await.map_err(|_| OwnerError::GivenUp)?
    }

    pub async fn create_network(&self, mut request: NetworkRequest) -> Result<Network, OwnerError> {
        let pools = &self.settings.pools;
        self.core
            .lock()
            .await
            .change(|state, host| {
                choose_subnet(&mut request, pools, state, host)?;
                state.create_network(&request, host)
            })
            .await
    }

    pub async fn remove_network(&self, name: &str) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, _| state.remove_network(name))
            .await
            .map(drop)
    }

    pub async fn connect(
        &self,
        name: &str,
        network: &str,
        request: &EndpointRequest,
    ) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, _| state.connect(network, name, request))
            .await?;
        drop(core);
        self.settle(name).await;
        Ok(())
    }

    pub async fn disconnect(&self, name: &str, network: &str) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, _| state.disconnect(network, name))
            .await
    }

    pub async fn publish(
        &self,
        name: &str,
        ports: &[PortSpec],
        allow: &[IpNet],
    ) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, host| state.publish_to(name, ports, allow, host))
            .await
            .map(drop)
    }

    pub async fn unpublish(&self, name: &str, ports: &[PortSpec]) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, _| state.unpublish(name, ports))
            .await
            .map(drop)
    }

    pub async fn block(&self, sources: &[IpNet]) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, host| state.block(sources, host)).await
    }

    pub async fn unblock(&self, sources: &[IpNet]) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, _| state.unblock(sources)).await
    }

    pub async fn set_limit(&self, rate: u64, burst: Option<u64>) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, host| state.set_limit(rate, burst, host.now))
            .await
    }

    pub async fn end_limit(&self) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        core.change(|state, _| {
            state.limit = None;
            Ok(())
        })
        .await
    }

    /// Nothing of other engines' networks is asked for any more.
    pub async fn forget_accelerations(&self) -> Result<(), StoreError> {
        let mut core = self.core.lock().await;
        let engines: Vec<String> = core.state.accelerations.keys().cloned().collect();
        for engine in engines {
            core.remember(&engine, None)?;
        }
        Ok(())
    }

    /// What the end of a daemon leaves to nobody.
    pub async fn leave(&self) {
        self.core.lock().await.engine.leave_uplinks().await;
    }

    /// Takes every link and program away that the state asks for.
    pub async fn remove_everything(&self) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        let Core { state, engine, .. } = &mut *core;
        let paths = state.sandboxes.values().map(|sandbox| &sandbox.netns);
        let there: Vec<Namespace> = paths
            .filter_map(|path| Namespace::open(path).ok())
            .collect();
        Loopback::detach(&there.iter().collect::<Vec<_>>());
        Ok(engine.remove_everything(state).await?)
    }
}

/// Takes a free subnet of the configured pools when the request names none of
/// IPv4.
pub(super) fn choose_subnet(
    request: &mut NetworkRequest,
    pools: &[IpNet],
    state: &State,
    host: &HostView<'_>,
) -> Result<(), Refusal> {
    let named = request.subnets.iter().any(|net| net.addr().is_ipv4());
    let chosen = request.driver == Driver::Bridge && request.wants_ipv4() && !named;
    if pools.is_empty() || !chosen {
        return Ok(());
    }
    request.subnets.push(state.free_pool(pools, host)?);
    Ok(())
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
