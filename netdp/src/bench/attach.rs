//! Endpoints by the daemon's API, one after another and many at once.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use tokio::runtime::Runtime;

use crate::api::client::Client;
use crate::api::types::{Ports, Removal};
use crate::model::{PortSpec, SandboxRequest};
use crate::netns::Namespace;
use crate::world::World;

/// Requests to the daemon of a world.
pub(super) struct Requests {
    client: Client,
    runtime: Runtime,
}

/// A sandbox to make.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) request: SandboxRequest,
}

impl Wanted {
    /// # Errors
    /// When the name is no name of a sandbox, or a port no port.
    pub(super) fn new(
        name: &str,
        namespace: &Namespace,
        network: Option<&str>,
        ports: &[String],
    ) -> anyhow::Result<Self> {
        let request = SandboxRequest {
            name: Some(name.parse()?),
            netns: namespace.path().into(),
            networks: network.map(str::to_owned).into_iter().collect(),
            publish: specs(ports)?,
            ..SandboxRequest::default()
        };
        Ok(Self {
            name: name.into(),
            request,
        })
    }
}

fn specs(ports: &[String]) -> anyhow::Result<Vec<PortSpec>> {
    let parse = |port: &String| port.parse::<PortSpec>().with_context(|| port.clone());
    ports.iter().map(parse).collect()
}

impl Requests {
    pub(super) fn new(world: &World) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(&world.run_dir()),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the event loop")?,
        })
    }

    /// How long the daemon took for one.
    pub(super) fn attach(&self, wanted: &Wanted) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let made = self
            .runtime
            .block_on(self.client.create_sandbox(&wanted.request));
        made.with_context(|| wanted.name.clone())?;
        Ok(began.elapsed())
    }

    /// How long all took, `at_once` of them under way at a time.
    pub(super) fn attach_all(&self, wanted: &[Wanted], at_once: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let requests = wanted.iter().map(|wanted| async {
            let made = self.client.create_sandbox(&wanted.request).await;
            made.map(drop).with_context(|| wanted.name.clone())
        });
        self.all(requests, at_once)?;
        Ok(began.elapsed())
    }

    pub(super) fn detach(&self, name: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.runtime
            .block_on(self.client.remove_sandbox(name, Removal { force: true }))
            .with_context(|| name.to_owned())?;
        Ok(began.elapsed())
    }

    pub(super) fn detach_all(&self, wanted: &[Wanted], at_once: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let requests = wanted.iter().map(|wanted| async {
            let removal = Removal { force: true };
            let removed = self.client.remove_sandbox(&wanted.name, removal).await;
            removed.with_context(|| wanted.name.clone())
        });
        self.all(requests, at_once)?;
        Ok(began.elapsed())
    }

    fn all<F: Future<Output = anyhow::Result<()>>>(
        &self,
        requests: impl Iterator<Item = F>,
        at_once: usize,
    ) -> anyhow::Result<()> {
        let done = stream::iter(requests).buffer_unordered(at_once).collect();
        let results: Vec<anyhow::Result<()>> = self.runtime.block_on(done);
        results.into_iter().collect()
    }

    /// How long one request for all of them took.
    pub(super) fn publish(&self, name: &str, ports: &[String]) -> anyhow::Result<Duration> {
        let ports = Ports {
            ports: specs(ports)?,
            allow: Vec::new(),
        };
        let began = Instant::now();
        self.runtime.block_on(self.client.publish(name, &ports))?;
        Ok(began.elapsed())
    }

    pub(super) fn unpublish(&self, name: &str, ports: &[String]) -> anyhow::Result<Duration> {
        let ports = Ports {
            ports: specs(ports)?,
            allow: Vec::new(),
        };
        let began = Instant::now();
        self.runtime.block_on(self.client.unpublish(name, &ports))?;
        Ok(began.elapsed())
    }
}
