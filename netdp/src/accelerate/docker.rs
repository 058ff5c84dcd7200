//! Docker's API, by bollard, over a unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bollard::{
    API_DEFAULT_VERSION, ClientVersion, Docker,
    errors::Error,
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

    /// Its networks, and its containers that run.
    pub async fn look(&self) -> Result<View, DockerError> {
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
        let mut containers = Vec::new();
        for id in running.into_iter().filter_map(|container| container.id) {
            let shown = self
                .docker
                .inspect_container(&id, None::<InspectContainerOptions>)
                .await;
            match shown {
                Ok(shown) => containers.extend(DockerContainer::of(shown)),
                // It has gone meanwhile.
                Err(Error::DockerResponseServerError {
                    status_code: 404, ..
                }) => {}
                Err(source) => return Err(self.failed("show a container")(source)),
            }
        }
        let mut networks: Vec<_> = networks.into_iter().filter_map(DockerNetwork::of).collect();
        networks.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        containers.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Ok(View {
            networks,
            containers,
        })
    }

    /// An item for each change of a container or a network, until the
    /// connection ends.
    pub fn events(&self) -> impl Stream<Item = ()> + Send + Unpin + 'static + use<> {
        let types = ["container", "network"].map(str::to_owned).to_vec();
        let options = EventsOptions {
            filters: Some([("type".to_owned(), types)].into()),
            ..EventsOptions::default()
        };
        let events = self.docker.clone();
        Box::pin(async_events(events, options))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Error) -> DockerError {
        let path = self.path.clone();
        move |source| DockerError::Api { path, what, source }
    }
}

fn async_events(docker: Docker, options: EventsOptions) -> impl Stream<Item = ()> + Send {
    let events = docker.events(Some(options));
    events
        .take_while(|event| std::future::ready(event.is_ok()))
        .map(drop)
}
