//! The state, its store and the host that follows it: what one request at a
//! time may touch, and how a change is done whole or undone.

use std::sync::Arc;

use crate::{
    model::{HostView, Refusal, Sandbox, SandboxId, State},
    netlink::NetlinkError,
    resolver::Resolver,
    store::{Store, StoreError},
};

use super::{
    engine::Engine,
    host::SocketProbe,
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
    /// A repair or an undoing has not come to its end.
    pub(super) unfinished: bool,
}

impl Core {
    pub fn new(
        state: State,
        store: Store,
        engine: Engine,
        resolver: Arc<Resolver>,
        hosts: Arc<HostsFiles>,
    ) -> Self {
        Self {
            state,
            store,
            engine,
            resolver,
            hosts,
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

    /// Whether something is left that a later repair may be able to do.
    pub fn is_unsettled(&self) -> bool {
        self.unfinished || !self.engine.problems().is_empty()
    }

    fn publish(&self) {
        self.resolver.publish(&self.state);
        self.hosts.publish(&self.state);
    }

    pub(super) async fn repair(&mut self) -> Result<(), NetlinkError> {
        // As it stays when this fails, or is given up.
        self.unfinished = true;
        self.publish();
        self.engine.repair(&self.state).await?;
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
        if !self.collect()?.is_empty() {
            self.repair().await?;
        }
        let host = self.engine.look(&self.state).await?;
        let mut next = self.state.clone();
        let answer = request(&mut next, &host.view(&SocketProbe, now()))?;
        self.store.commit(&self.state, &next)?;
        let previous = std::mem::replace(&mut self.state, next);
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
        Ok(self.repair().await?)
    }

    /// Forgets sandboxes whose program or namespace is gone.
    pub(super) fn collect(&mut self) -> Result<Vec<SandboxId>, StoreError> {
        let gone: Vec<&Sandbox> = self
            .state
            .sandboxes
            .values()
            .filter(|sandbox| !is_there(sandbox))
            .collect();
        if gone.is_empty() {
            return Ok(Vec::new());
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
        self.store.commit(&self.state, &next)?;
        self.state = next;
        Ok(ids)
    }
}

fn is_there(sandbox: &Sandbox) -> bool {
    match sandbox.process {
        Some(process) => identity(process).alive(),
        None => sandbox.netns.exists(),
    }
}
