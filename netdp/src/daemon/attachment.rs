//! What the plugins of engines ask for.

use std::{fs, net::IpAddr, path::PathBuf, sync::Arc};

use nix::unistd::geteuid;

use crate::{
    model::{
        Attachment, AttachmentRequest, EndpointId, HostPorts, HostView, PortRange, PortTaken,
        Proto, Refusal, SandboxId, State,
    },
    netns::Namespace,
    plan::Hold,
};

use super::{
    bound, claim,
    host::SocketProbe,
    owner::{Owner, OwnerError, choose_subnet},
    port_owner::{self, PortOwner},
};

/// The program that stays with each of Podman's containers.
const CONMON: &str = "conmon";

impl Owner {
    /// Puts a container on a network, which is made if it isn't there.
    pub async fn attach(
        self: &Arc<Self>,
        request: AttachmentRequest,
    ) -> Result<(SandboxId, EndpointId), OwnerError> {
        // Held until the endpoint is made, so that it stays the one that was
        // checked.
        let namespace = claim::open(&request.netns)?;
        let pools = self.settings().pools.clone();
        let (sandbox, endpoint) = self
            .change_with_others(move |state, host| {
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
                    choose_subnet(&mut request.network, &pools, state, host)?;
                }
                attach(state, &request, host, &namespace)
            })
            .await?;
        let core = self.core.lock().await;
        let made = core.state().sandboxes.get(&sandbox).cloned();
        if let Some(made) = made {
            self.watch(&made);
        }
        drop(core);
        // Its program asks for names as soon as it starts.
        self.resolver().follow().await;
        self.settle(&sandbox.to_string()).await;
        Ok((sandbox, endpoint))
    }

    /// Takes a container off a network. What isn't there is no error.
    pub async fn detach(&self, attachment: Attachment) -> Result<(), OwnerError> {
        let gone = self
            .change_with_others(move |state, _| {
                let sandbox = state.detach_container(&attachment);
                Ok(sandbox.filter(|it| !state.sandboxes.contains_key(it)))
            })
            .await?;
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
/// to conmon afterwards; Podman 6 the same without listening at them; Podman 4
/// does so afterwards; and conmon has them when a container is put on a further
/// network.
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
        let hold = Hold {
            address,
            ports,
            proto,
            both: false,
            direct: false,
        };
        match port_owner::find(&hold) {
            Some(owner) if self.callers.contains(&owner.pid) || is_for(&owner, self.container) => {
                Ok(())
            }
            None if self.has_bound(&hold) => Ok(()),
            _ => taken,
        }
    }
}

impl ContainerProbe<'_> {
    /// Whether the engine has a port without listening at it.
    fn has_bound(&self, hold: &Hold) -> bool {
        self.callers.iter().any(|pid| bound::has(*pid, hold))
            || port_owner::processes()
                .filter(|process| is_for(process, self.container))
                .any(|process| bound::has(process.pid, hold))
    }
}

/// Whether a process is an engine's that was started for a container: it runs
/// as root or as the daemon does, the container's id is one of its arguments,
/// and it is conmon, which holds the ports of Podman's containers, unless the
/// id is one that nothing else has by chance. Its name alone would tell
/// nothing, and an id may be as short as a word.
fn is_for(owner: &PortOwner, container: &str) -> bool {
    let process = PathBuf::from(format!("/proc/{}", owner.pid));
    let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    is_engines(&status)
        && (owner.command == CONMON || is_long_id(container))
        && read("cmdline")
            .split(|byte| *byte == 0)
            .any(|argument| argument == container.as_bytes())
}

/// Whether all user ids of a process, by its `/proc/PID/status` (proc(5)), are
/// root's, or all are the daemon's. The folder's owner doesn't tell: that of a
/// process that can't be dumped is root.
fn is_engines(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let ids: Vec<u32> = ids
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map_while(|id| id.parse().ok())
        .collect();
    let all = |user: u32| ids.len() == 4 && ids.iter().all(|id| *id == user);
    all(0) || all(geteuid().as_raw())
}

/// 256 random bits in hexadecimal digits, as Podman, Docker and containerd
/// name containers.
fn is_long_id(container: &str) -> bool {
    container.len() == 64 && container.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn an_engine_is_root_or_the_daemons_user() {
        let of = |ids: &str| is_engines(&format!("Name:\tconmon\nUid:\t{ids}\nGid:\t7\t7\t7\t7\n"));
        assert!(of("0\t0\t0\t0"));
        let own = geteuid().as_raw();
        assert!(of(&format!("{own}\t{own}\t{own}\t{own}")));
        for others in [
            "4242\t4242\t4242\t4242",
            "4242\t0\t0\t0",
            "0\t0\t4242\t0",
            "",
            "0\t0",
        ] {
            assert!(!of(others), "{others}");
        }
        assert!(!is_engines(""));
    }

    #[test]
    fn a_process_with_the_id_is_conmon_unless_the_id_is_long() {
        let long = "0123456789abcdef".repeat(4);
        let is_for = |argument: &str, command: &str, container: &str| {
            // Ends with its standard input. Only once it runs are its
            // arguments there to be read.
            let mut child = Command::new("sh")
                .args(["-c", "echo; read line", argument])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = [0];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut said)
                .unwrap();
            let owner = PortOwner {
                command: command.to_owned(),
                pid: child.id(),
            };
            let found = is_for(&owner, container);
            child.wait().unwrap();
            found
        };
        assert!(is_for("web", "conmon", "web"));
        assert!(!is_for("webs", "conmon", "web"));
        assert!(!is_for("web", "sh", "web"));
        assert!(is_for(&long, "sh", &long));
        assert!(!is_for(&long[1..], "sh", &long[1..]));
    }
}
