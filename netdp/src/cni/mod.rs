//! The CNI plugin (CNI specification 1.1.0, its operations and what they say
//! to a runtime). It asks the daemon for everything and keeps nothing itself.

mod check;
mod config;
mod error;
mod result;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rscni_plugin::{
    cni::{Cni, Plugin},
    error::Error,
    types::{Args, CNIResult, GcAttachment},
    version::SpecVersion,
};

use crate::{
    api::{
        client::Client,
        types::{Attachment, Sandbox},
    },
    callers,
    model::{AttachmentRequest, Container, Process},
    netns::{Namespace, NetnsError},
    plugin,
    sandbox::ProcessId,
};

use config::{Config, Wishes};

/// Who asks, as the daemon knows it.
const ENGINE: &str = "cni";

/// Whether netdp was called as a plugin: a runtime gives no arguments, and says
/// by this what it wants.
pub fn is_called() -> bool {
    std::env::args_os().len() <= 1
        && std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty())
}

/// Does what the environment and standard input ask for; answers on standard
/// output.
pub fn main() -> ExitCode {
    let version = SpecVersion::new;
    let versions = vec![version(0, 4, 0), version(1, 0, 0), version(1, 1, 0)];
    match Plugin::new(version(1, 1, 0), versions).run(&Netdp) {
        Ok(()) => ExitCode::SUCCESS,
        // Told on standard output.
        Err(_) => ExitCode::FAILURE,
    }
}

struct Netdp;

impl Cni for Netdp {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let config = Config::read(args.config())?;
        let target = Target::of(&args)?;
        result::check_previous(args.config().prev_result.as_ref(), &target)?;
        let Wishes { name, endpoint } = Wishes::of(&args, &config)?;
        let network = config.network_request()?;
        // Podman binds host ports itself, and gives the sockets to conmon, which
        // would be in the way of direct ones.
        let holds_ports = match config.hold_ports {
            Some(hold) => !hold,
            None => !network.asks_for_direct() && callers::is_called_by("podman"),
        };
        let request = AttachmentRequest {
            engine: ENGINE.to_owned(),
            callers: callers::numbers(1),
            container: Container {
                id: target.container.clone(),
                holds_ports,
            },
            name,
            netns: target.netns.clone(),
            process: process_of(&target.netns),
            network,
            list: Some(config.list.clone()),
            endpoint,
            publish: config.ports().to_vec(),
        };
        let attached = wait(client(&config).attach(&request))?.map_err(error::of)?;
        result::of(args.config(), &config, &target, &attached)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        let config = Config::read_leniently(args.config());
        let (container, interface) = (args.container_id(), args.ifname());
        let attachment = Attachment {
            engine: ENGINE.to_owned(),
            container: container.map(ToString::to_string).unwrap_or_default(),
            network: config.network.clone(),
            interface: interface.map(ToString::to_string).unwrap_or_default(),
            list: None,
        };
        match wait(client(&config).detach(&attachment))? {
            Ok(()) => Ok(()),
            // A daemon that starts looks for the namespaces of its sandboxes.
            Err(absent) if plugin::is_absent(&absent) && !exists(args.netns()) => Ok(()),
            Err(failed) => Err(error::of(failed)),
        }
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        let config = Config::read(args.config())?;
        let target = Target::of(&args)?;
        let client = client(&config);
        let sandbox: Sandbox = wait(find(&client, &config, &target))?
            .map_err(error::of)?
            .ok_or_else(|| {
                Error::NotExist(format!(
                    "container {} has no interface {} on network {}: add it again",
                    target.container, target.interface, config.network
                ))
            })?;
        check::whole(args.config(), &config, &target, &sandbox)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        let config = Config::read(args.config())?;
        wait(client(&config).status())?
            .map(drop)
            .map_err(|failed| Error::PluginNotAvailable(failed.to_string()))
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        let config = Config::read_leniently(args.config());
        // Absent, it would be every container's end.
        let valid = args.config().valid_attachments.clone().ok_or_else(|| {
            Error::InvalidNetworkConfig(
                "GC takes off what cni.dev/valid-attachments doesn't name, and the key isn't \
                 there: give it, as [] where no container is left"
                    .to_owned(),
            )
        })?;
        let client = client(&config);
        wait(collect(&client, &config, &valid))?
    }
}

/// The attachment that an operation is about.
struct Target {
    container: String,
    interface: String,
    netns: PathBuf,
}

impl Target {
    /// The crate has seen to it that they are given.
    ///
    /// # Errors
    /// The namespace isn't there, or is none.
    fn of(args: &Args) -> Result<Self, Error> {
        let missing = || Error::InvalidEnvValue("the container isn't named".to_owned());
        let target = Self {
            container: args.container_id().ok_or_else(missing)?.to_string(),
            interface: args.ifname().ok_or_else(missing)?.to_string(),
            netns: args.netns().ok_or_else(missing)?.clone(),
        };
        match Namespace::open(&target.netns) {
            Ok(_) => Ok(target),
            Err(NetnsError::Open { source, path }) if source.kind() == ErrorKind::NotFound => {
                Err(Error::NotExist(format!(
                    "container {} has no namespace at {}",
                    target.container,
                    path.display()
                )))
            }
            Err(error) => Err(Error::InvalidEnvValue(format!("CNI_NETNS: {error}"))),
        }
    }
}

fn client(config: &Config) -> Client {
    plugin::client(config.run_dir.as_deref())
}

fn wait<T>(request: impl Future<Output = T>) -> Result<T, Error> {
    plugin::wait(request)
        .map_err(|error| Error::IOFailure(format!("cannot start the event loop: {error}")))
}

/// The sandbox of a container, if it has the interface on the network.
async fn find(
    client: &Client,
    config: &Config,
    target: &Target,
) -> Result<Option<Sandbox>, crate::api::client::ClientError> {
    let attachments = client.attachments().await?;
    let is_asked_for = |it: &Attachment| {
        it.engine == ENGINE
            && it.container == target.container
            && it.network == config.network
            && it.interface == target.interface
    };
    if !attachments.iter().any(is_asked_for) {
        return Ok(None);
    }
    let sandboxes = client.sandboxes().await?;
    Ok(sandboxes.into_iter().find(|sandbox| {
        sandbox.owner.as_deref() == Some(ENGINE)
            && sandbox.container.as_ref() == Some(&target.container)
    }))
}

/// Takes off the network whoever came by this list and isn't named, as far as
/// it goes. Other lists that lead to the network have names of their own.
async fn collect(client: &Client, config: &Config, valid: &[GcAttachment]) -> Result<(), Error> {
    let attachments = client.attachments().await.map_err(error::of)?;
    let mut failed = None;
    for attachment in attachments {
        let is_valid = valid.iter().any(|valid| {
            valid.container_id == attachment.container && valid.ifname == attachment.interface
        });
        let is_ours = attachment.engine == ENGINE
            && attachment.network == config.network
            && attachment.list.as_deref() == Some(config.list.as_str());
        if is_ours
            && !is_valid
            && let Err(error) = client.detach(&attachment).await
        {
            failed = Some(error::of(error));
        }
    }
    failed.map_or(Ok(()), Err)
}

fn exists(netns: Option<&PathBuf>) -> bool {
    netns.is_some_and(|path| path.exists())
}

/// The process of a path `/proc/PID/ns/net`, which is another one's namespace
/// when the process has ended and its number has been given anew.
fn process_of(netns: &Path) -> Option<Process> {
    let pid = netns.to_str()?.strip_prefix("/proc/")?;
    let pid = pid.strip_suffix("/ns/net")?.parse().ok()?;
    let ProcessId { pid, start_time } = ProcessId::of(pid).ok()?;
    Some(Process {
        pid: u32::try_from(pid).ok()?,
        start_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_a_process_goes_with_it() {
        let this = std::process::id();
        let path = format!("/proc/{this}/ns/net");
        assert_eq!(process_of(Path::new(&path)).unwrap().pid, this);
        for path in ["/run/netns/a", "/proc/self/ns/net", "/proc/1/task/1/ns/net"] {
            assert_eq!(process_of(Path::new(path)), None, "{path}");
        }
    }
}
