//! Sandboxes that users ask for: making one, waiting for its program, and removing
//! it.

use std::{sync::Arc, time::Duration};

use crate::{
    model::{Refusal, Sandbox, SandboxId, SandboxRequest},
    netlink::{Netlink, NetlinkError},
    netns::Namespace,
};

use super::{
    claim,
    owner::{Owner, OwnerError},
    watch::{identity, terminate},
};

/// How long a link may take until packets pass it.
const LINK_PATIENCE: Duration = Duration::from_millis(1500);

impl Owner {
    pub async fn create_sandbox(
        self: &Arc<Self>,
        request: SandboxRequest,
    ) -> Result<Sandbox, OwnerError> {
        if let Some(process) = request.process
            && !identity(process).alive()
        {
            return Err(Refusal::invalid(format!(
                "process {} has ended: start it again",
                process.pid
            ))
            .into());
        }
        // Held until the sandbox is made, so that it stays the one that was
        // checked.
        let namespace = claim::open(&request.netns)?;
        let sandbox = self
            .change_with_others(move |state, host| {
                let sandbox = state.create_sandbox(&request, host)?;
                claim::check(state, &sandbox, &namespace)?;
                Ok(sandbox)
            })
            .await?;
        self.watch(&sandbox);
        // Its program asks for names as soon as it starts.
        self.resolver().follow().await;
        self.settle(&sandbox.id.to_string()).await;
        Ok(sandbox)
    }

    /// Waits until packets pass the sandbox's interfaces: the kernel takes a
    /// while to notice that a link has come up.
    pub(super) async fn settle(&self, sandbox: &str) {
        let core = self.core.lock().await;
        let Ok(sandbox) = core.state.sandbox(sandbox).cloned() else {
            return;
        };
        let endpoints = core.state.endpoints_of(sandbox.id);
        let names: Vec<(String, String)> = endpoints
            .into_iter()
            .map(|endpoint| (endpoint.host_ifname.clone(), endpoint.ifname.clone()))
            .collect();
        let host = core.engine.target().netlink.clone();
        drop(core);
        let waited = async {
            let inside = Netlink::open_in(&Namespace::open(&sandbox.netns)?)?;
            for (host_end, sandbox_end) in &names {
                host.wait_ready(host_end, LINK_PATIENCE).await?;
                inside.wait_ready(sandbox_end, LINK_PATIENCE).await?;
            }
            Ok::<_, NetlinkError>(())
        };
        // What has gone meanwhile, nobody waits for.
        if let Err(error) = waited.await {
            tracing::debug!("sandbox {}: {error}", sandbox.name);
        }
    }

    /// Removes a sandbox. One whose program runs is refused unless `force`
    /// says that the program is to be ended.
    pub async fn remove_sandbox(&self, name: &str, force: bool) -> Result<(), OwnerError> {
        let core = self.core.lock().await;
        let sandbox = core.state.sandbox(name)?.clone();
        if core.state.is_handed_over(sandbox.id) {
            let engine = sandbox.owner.as_deref().unwrap_or("an engine");
            return Err(Refusal::conflict(format!(
                "sandbox {} is a container of {engine}: remove it there",
                sandbox.name
            ))
            .into());
        }
        drop(core);
        if let Some(process) = sandbox.process {
            let process = identity(process);
            if process.alive() {
                if !force {
                    return Err(Refusal::in_use(format!(
                        "sandbox {} runs as process {}: end that first, or say \
                         `netdp rm -f {}`",
                        sandbox.name, process, sandbox.name
                    ))
                    .into());
                }
                terminate(process).await?;
            }
        }
        // By its identity: meanwhile the name may have gone to another.
        match self.forget(sandbox.id).await {
            // The watch saw the end first.
            Err(OwnerError::Refused(_)) => Ok(()),
            forgotten => forgotten,
        }
    }

    async fn forget(&self, id: SandboxId) -> Result<(), OwnerError> {
        let forgotten = self
            .change_with_others(move |state, _| state.remove_sandbox(&id.to_string()))
            .await;
        // Refused where another request has found it gone already.
        if matches!(forgotten, Ok(_) | Err(OwnerError::Refused(_))) {
            self.watches.end(id);
        }
        forgotten.map(drop)
    }

    /// Waits for the end of the sandbox's program, and removes the sandbox
    /// then.
    pub(super) fn watch(self: &Arc<Self>, sandbox: &Sandbox) {
        let Some(process) = sandbox.process else {
            return;
        };
        let id = sandbox.id;
        let owner = Arc::downgrade(self);
        self.watches.begin(id, identity(process), async move {
            let Some(owner) = owner.upgrade() else { return };
            match owner.forget(id).await {
                Ok(()) | Err(OwnerError::Refused(_)) => {}
                Err(error) => {
                    tracing::warn!("sandbox {}: {error}", id.short());
                    owner.look_again();
                }
            }
        });
    }
}
