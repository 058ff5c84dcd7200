//! What the plugins of engines ask for.

use std::{fs, net::IpAddr, sync::Arc};

use crate::{
    model::{
        Attachment, AttachmentRequest, EndpointId, HostPorts, HostView, PortRange, PortTaken,
        Proto, Refusal, SandboxId, State,
    },
    netns::Namespace,
    plan::Hold,
};

use super::{
    claim,
    host::SocketProbe,
    owner::{Owner, OwnerError, choose_subnet},
    port_owner,
};

impl Owner {
    /// Puts a container on a network, which is made if it isn't there.
    pub async fn attach(
        self: &Arc<Self>,
        request: &AttachmentRequest,
    ) -> Result<(SandboxId, EndpointId), OwnerError> {
        if !request.netns.is_absolute() {
            return Err(Refusal::invalid(format!(
                "the namespace {} has to be an absolute path",
                request.netns.display()
            ))
            .into());
        }
        // Held until the endpoint is made, so that it stays the one that was
        // checked.
        let namespace = Namespace::open(&request.netns).map_err(Refusal::invalid)?;
        let pools = &self.settings().pools;
        let mut core = self.core.lock().await;
        let (sandbox, endpoint) = core
            .change(|state, host| {
                let probe = ContainerProbe {
                    container: &request.container.id,
                    callers: &request.callers,
                };
                let held = host.with_ports(&probe);
                let host = match request.container.holds_ports {
                    true => &held,
                    false => host,
                };
                let mut request = request.clone();
                let name = &request.network.name;
                if !state.networks.values().any(|it| it.name == *name) {
                    choose_subnet(&mut request.network, pools, state, host)?;
                }
                attach(state, &request, host, &namespace)
            })
            .await?;
        let made = core.state().sandboxes.get(&sandbox).cloned();
        if let Some(made) = made.filter(|made| core.state().endpoints_of(made.id).len() == 1) {
            self.watch(&made);
        }
        drop(core);
        // Its program asks for names as soon as it starts.
        self.resolver().follow().await;
        self.settle(&sandbox.to_string()).await;
        Ok((sandbox, endpoint))
    }

    /// Takes a container off a network. What isn't there is no error.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), OwnerError> {
        let mut core = self.core.lock().await;
        let gone = core
            .change(|state, _| {
                let sandbox = state.detach_container(attachment);
                Ok(sandbox.filter(|it| !state.sandboxes.contains_key(it)))
            })
            .await?;
        drop(core);
        if let Some(gone) = gone {
            self.watches.end(gone);
        }
        self.resolver().follow().await;
        Ok(())
    }
}

fn attach(
    state: &mut State,
    request: &AttachmentRequest,
    host: &HostView<'_>,
    namespace: &Namespace,
) -> Result<(SandboxId, EndpointId), Refusal> {
    let made = state.attach_container(request, host)?;
    if let Some(sandbox) = state.sandboxes.get(&made.0) {
        claim::check(state, sandbox, namespace)?;
    }
    Ok(made)
}

/// Ports of the host as a container sees them whose engine holds its ports: a
/// socket that this engine has for this very container is in nobody's way.
/// Podman 5 binds the ports itself before it calls its plugins, and gives them
/// to conmon afterwards; Podman 4 does so afterwards; and conmon has them when
/// a container is put on a further network.
struct ContainerProbe<'a> {
    container: &'a str,
    callers: &'a [u32],
}

impl HostPorts for ContainerProbe<'_> {
    fn probe(&self, address: IpAddr, port: u16, proto: Proto) -> Result<(), PortTaken> {
        let taken = SocketProbe.probe(address, port, proto);
        let Some(ports) = PortRange::single(port).filter(|_| taken.is_err()) else {
            return taken;
        };
        let owner = port_owner::find(&Hold {
            address,
            ports,
            proto,
            both: false,
        });
        match owner {
            Some(owner)
                if self.callers.contains(&owner.pid) || is_for(owner.pid, self.container) =>
            {
                Ok(())
            }
            _ => taken,
        }
    }
}

/// Whether a process was started for a container: its id is one of the
/// arguments, as it is of conmon, which holds the ports of Podman's containers.
fn is_for(pid: u32, container: &str) -> bool {
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.any(|argument| argument == container.as_bytes())
}
