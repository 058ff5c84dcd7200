//! Docker's API, by bollard, over a unix socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use bollard::{
    API_DEFAULT_VERSION, ClientVersion, Docker,
    errors::Error,
    models::{ContainerSummary, EventMessage, EventMessageTypeEnum},
    query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions},
};
use futures_util::{Stream, StreamExt};
use tokio::net::UnixStream;

use super::{
    error::DockerError,
    view::{DockerContainer, DockerNetwork, View},
};

/// Seconds that an answer may take.
const PATIENCE: u64 = 20;

/// That of Docker 20.10.
const LEAST: (usize, usize) = (1, 41);

/// Events after which networks or containers may be others. All containers with
/// a health check make some more each half minute.
const EVENTS: [&str; 9] = [
    "connect",
    "create",
    "destroy",
    "die",
    "disconnect",
    "remove",
    "rename",
    "start",
    "update",
];

/// Containers that run, as they were inspected, and as Docker listed them then.
#[derive(Default)]
pub struct Inspected(BTreeMap<String, (ContainerSummary, DockerContainer)>);

/// A Docker that answers.
pub struct Api {
    path: PathBuf,
    docker: Docker,
}

impl Api {
    /// Connects, and agrees on a version of the API.
    pub async fn connect(path: &Path) -> Result<Self, DockerError> {
        // Why a socket can't be had is better told by the socket.
        UnixStream::connect(path).await.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    DockerError::NoSocket { path }
                }
                io::ErrorKind::PermissionDenied => DockerError::NotAllowed { path },
                _ => DockerError::Connect { path, source },
            }
        })?;
        let failed = |what| {
            move |source| DockerError::Api {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let name = path.to_string_lossy();
        let docker = Docker::connect_with_unix(&name, PATIENCE, API_DEFAULT_VERSION)
            .map_err(failed("answer"))?;
        let docker = docker
            .negotiate_version()
            .await
            .map_err(failed("tell its version"))?;
        let ClientVersion {
            major_version,
            minor_version,
        } = docker.client_version();
        if (major_version, minor_version) < LEAST {
            return Err(DockerError::TooOld {
                path: path.to_owned(),
                version: format!("{major_version}.{minor_version}"),
                least: format!("{}.{}", LEAST.0, LEAST.1),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            docker,
        })
    }

    /// Its networks, and its containers that run. Inspected are those alone that
    /// are not `inspected` yet, that are listed otherwise than they were then, or
    /// of which an event told that they have `changed`.
    pub async fn look(
        &self,
        inspected: &mut Inspected,
        changed: &BTreeSet<String>,
    ) -> Result<View, DockerError> {
        let networks = self
            .docker
            .list_networks(None)
            .await
            .map_err(self.failed("list its networks"))?;
        let running = self
            .docker
            .list_containers(None::<ListContainersOptions>)
            .await
            .map_err(self.failed("list its containers"))?;
        let mut now = BTreeMap::new();
        for mut listed in running {
            let Some(id) = listed.id.clone() else {
                continue;
            };
            forget_time(&mut listed);
            if let Some((before, container)) = inspected.0.get(&id)
                && *before == listed
                && !changed.contains(&id)
                && is_there(container.pid)
            {
                now.insert(id, (listed, container.clone()));
                continue;
            }
            let shown = self
                .docker
                .inspect_container(&id, None::<InspectContainerOptions>)
                .await;
            match shown {
                Ok(shown) => {
                    if let Some(container) = DockerContainer::of(shown) {
                        now.insert(id, (listed, container));
                    }
                }
                // It has gone meanwhile.
                Err(Error::DockerResponseServerError {
                    status_code: 404, ..
                }) => {}
                Err(source) => return Err(self.failed("show a container")(source)),
            }
        }
        let containers = now.values().map(|(_, container)| container.clone());
        let mut containers: Vec<_> = containers.collect();
        *inspected = Inspected(now);
        let mut networks: Vec<_> = networks.into_iter().filter_map(DockerNetwork::of).collect();
        networks.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        containers.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Ok(View {
            networks,
            containers,
        })
    }

    /// The container, if it is one's, of each change of a container or a network
    /// since this second of the Unix epoch, until the connection ends.
    pub fn events(
        &self,
        since: u64,
    ) -> impl Stream<Item = Option<String>> + Send + Unpin + 'static + use<> {
        let types = ["container", "network"].map(str::to_owned).to_vec();
        let events = EVENTS.map(str::to_owned).to_vec();
        let options = EventsOptions {
            since: Some(since.to_string()),
            filters: Some([("type".to_owned(), types), ("event".to_owned(), events)].into()),
            ..EventsOptions::default()
        };
        let events = self.docker.clone();
        Box::pin(async_events(events, options))
    }

    /// The name of the container that runs and has this endpoint.
    pub async fn name_of(&self, endpoint: &str) -> Option<String> {
        let listed = self.docker.list_containers(None::<ListContainersOptions>);
        let has = |container: &ContainerSummary| {
            let settings = container.network_settings.as_ref();
            let networks = settings.and_then(|it| it.networks.as_ref());
            networks.is_some_and(|networks| {
                let mut ids = networks.values().map(|it| it.endpoint_id.as_deref());
                ids.any(|id| id == Some(endpoint))
            })
        };
        let container = listed.await.ok()?.into_iter().find(has)?;
        let name = container.names?.into_iter().next()?;
        Some(name.trim_start_matches('/').to_owned())
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Error) -> DockerError {
        let path = self.path.clone();
        move |source| DockerError::Api { path, what, source }
    }
}

fn async_events(
    docker: Docker,
    options: EventsOptions,
) -> impl Stream<Item = Option<String>> + Send {
    let events = docker.events(Some(options));
    events
        .take_while(|event| std::future::ready(event.is_ok()))
        .map(|event| event.ok().and_then(container))
}

/// The container that an event is about, or that joined or left the network.
pub(super) fn container(event: EventMessage) -> Option<String> {
    let actor = event.actor?;
    match event.typ? {
        EventMessageTypeEnum::CONTAINER => actor.id,
        EventMessageTypeEnum::NETWORK => actor.attributes?.remove("container"),
        _ => None,
    }
}

/// Takes out of what was listed what changes by itself.
pub(super) fn forget_time(listed: &mut ContainerSummary) {
    listed.status = None;
    listed.health = None;
    listed.size_rw = None;
    listed.size_root_fs = None;
}

/// Whether a container's process is: one that has ended and been started again
/// has another.
fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
