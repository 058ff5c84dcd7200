//! The state, its store and the host that follows it: what one request at a
//! time may touch, and how a change is done whole or undone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    model::{
        Acceleration, End, Endpoint, EndpointId, HostView, Refusal, Sandbox, SandboxId, State,
    },
    netns::Namespace,
    resolver::Resolver,
    store::{Store, StoreError},
};

use super::{
    direct::DirectPorts,
    engine::Engine,
    host::{Host, SocketProbe},
    hosts::HostsFiles,
    owner::{OwnerError, now},
    watch::identity,
};

/// What only one request at a time may touch.
pub struct Core {
    pub(super) state: State,
    store: Store,
    pub(super) engine: Engine,
    /// Told of every change.
    resolver: Arc<Resolver>,
    hosts: Arc<HostsFiles>,
    /// Of new networks that say nothing of them themselves.
    network_options: BTreeMap<String, String>,
    direct: DirectPorts,
    /// Endpoints of engines whose sandbox was seen at its path.
    seen: BTreeSet<EndpointId>,
    /// A repair or an undoing has not come to its end.
    pub(super) unfinished: bool,
}

impl Core {
    pub fn new(
        state: State,
        store: Store,
        engine: Engine,
        (resolver, hosts): (Arc<Resolver>, Arc<HostsFiles>),
        network_options: BTreeMap<String, String>,
        direct: DirectPorts,
    ) -> Self {
        Self {
            state,
            store,
            engine,
            resolver,
            hosts,
            network_options,
            direct,
            seen: BTreeSet::new(),
            unfinished: false,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Stores what an engine's networks are to be, or that nothing of them is.
    /// The host doesn't follow that by itself.
    pub fn remember(&mut self, engine: &str, told: Option<Acceleration>) -> Result<(), StoreError> {
        let mut next = self.state.clone();
        match told {
            Some(told) => drop(next.accelerations.insert(engine.to_owned(), told)),
            None => drop(next.accelerations.remove(engine)),
        }
        self.store.commit(&self.state, &next)?;
        self.state = next;
        Ok(())
    }

    /// Whether something is left that a later repair may be able to do.
    pub fn is_unsettled(&self) -> bool {
        self.unfinished
            || self.store.is_behind()
            || !self.engine.problems().is_empty()
            || !self.direct.untold().is_empty()
    }

    /// Stores what could not be stored before.
    pub(super) fn catch_up(&mut self) {
        self.store.catch_up(&self.state);
    }

    /// What keeps the state from being stored, if anything does.
    pub fn store_trouble(&self) -> Option<String> {
        self.store.trouble()
    }

    /// Takes over what has come about on the host. It is so whether it can be
    /// stored now or not: else one full disk would keep the host from being
    /// looked after. A daemon that starts meanwhile sees it anew.
    fn note(&mut self, next: State) {
        if self.store.commit(&self.state, &next).is_err() {
            tracing::debug!("stored later: what has come about on the host");
        }
        self.state = next;
    }

    /// What supervisors of direct ports are told.
    pub fn direct(&self) -> &DirectPorts {
        &self.direct
    }

    fn publish(&mut self) {
        self.direct.follow(&self.state);
        self.resolver.publish(&self.state);
        self.hosts.publish(&self.state);
    }

    pub(super) async fn repair(&mut self) -> Result<(), OwnerError> {
        // As it stays when this fails, or is given up.
        self.unfinished = true;
        if self.state.has_handed_over() {
            let host = self.engine.look(&self.state).await?;
            self.follow_ends(&host);
        }
        self.direct.narrow(&self.state);
        self.resolver.publish(&self.state);
        self.hosts.publish(&self.state);
        self.engine.repair(&self.state).await?;
        self.direct.follow(&self.state);
        self.unfinished = false;
        Ok(())
    }

    /// Checks a request against a copy of the state, stores the result, and
    /// makes the host follow. When a step fails, store and host go back.
    pub(super) async fn change<T>(
        &mut self,
        request: impl FnOnce(&mut State, &HostView<'_>) -> Result<T, Refusal>,
    ) -> Result<T, OwnerError> {
        // What has just ended must not make somebody else's request fail.
        if !self.collect().is_empty() {
            self.repair().await?;
        }
        let mut host = self.engine.look(&self.state).await?;
        if self.follow_ends(&host) {
            self.repair().await?;
            host = self.engine.look(&self.state).await?;
        }
        let mut next = self.state.clone();
        let answer = request(
            &mut next,
            &host.view(&SocketProbe, &self.network_options, now()),
        )?;
        self.store.commit(&self.state, &next)?;
        let previous = std::mem::replace(&mut self.state, next);
        self.direct.narrow(&self.state);
        let Err(error) = self.engine.change(&self.state).await else {
            self.publish();
            return Ok(answer);
        };
        tracing::info!("undoing a request that failed: {error}");
        if let Err(undoing) = self.go_back(previous).await {
            tracing::error!("cannot undo a request that failed: {undoing}");
        }
        Err(error.into())
    }

    /// Makes `previous` the state again. Where it can't be stored, the state
    /// stays what the store has, for the host to follow later.
    async fn go_back(&mut self, previous: State) -> Result<(), OwnerError> {
        self.unfinished = true;
        self.store.commit(&self.state, &previous)?;
        self.state = previous;
        self.repair().await
    }

    /// Forgets sandboxes whose program or namespace is gone.
    pub(super) fn collect(&mut self) -> Vec<SandboxId> {
        let engines = self.state.all_handed_over();
        let gone: Vec<&Sandbox> = self
            .state
            .sandboxes
            .values()
            .filter(|sandbox| !engines.contains(&sandbox.id) && !is_there(sandbox))
            .collect();
        if gone.is_empty() {
            return Vec::new();
        }
        let mut next = self.state.clone();
        let mut ids = Vec::new();
        for sandbox in gone {
            tracing::info!("sandbox {} is gone", sandbox.name);
            // It was found in the very state.
            if next.remove_sandbox(&sandbox.id.to_string()).is_ok() {
                ids.push(sandbox.id);
            }
        }
        self.note(next);
        ids
    }

    /// Follows what engines have done with the ends that they were offered.
    /// True if endpoints are gone.
    fn follow_ends(&mut self, host: &Host) -> bool {
        if !self.state.has_handed_over() {
            return false;
        }
        let mut next = self.state.clone();
        let mut seen = BTreeSet::new();
        for endpoint in next.endpoints.values().filter(|e| e.handover.is_some()) {
            let Some(sandbox) = next.sandboxes.get(&endpoint.sandbox) else {
                continue;
            };
            let is_there = match Namespace::open(&sandbox.netns) {
                Ok(_) => true,
                Err(error) => self.seen.contains(&endpoint.id) && !error.is_absence(),
            };
            if is_there {
                seen.insert(endpoint.id);
            }
        }
        // A namespace that has been at its path and isn't any more is done
        // with, though the kernel may take a while to end it and all in it.
        let left =
            |endpoint: &Endpoint| self.seen.contains(&endpoint.id) && !seen.contains(&endpoint.id);
        let gone = next.follow_ends(|endpoint| match host.far_end(endpoint) {
            End::Away if left(endpoint) => End::Gone,
            end => end,
        });
        self.seen = seen;
        for id in &gone {
            tracing::debug!("endpoint {} is gone", id.short());
        }
        self.note(next);
        !gone.is_empty()
    }
}

pub(super) fn is_there(sandbox: &Sandbox) -> bool {
    match sandbox.process {
        Some(process) => identity(process).alive(),
        // An engine's path outlives the namespace that was mounted there.
        None if sandbox.owner.is_some() => {
            Namespace::open(&sandbox.netns).map_or_else(|error| !error.is_absence(), |_| true)
        }
        None => sandbox.netns.exists(),
    }
}
