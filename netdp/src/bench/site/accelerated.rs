//! Docker's bridge and rules, with netdp in front (`netdp accelerate docker`).
//!
//! It needs what no other mode does, a daemon on Docker's host, so it has a world
//! of its own. There is no Docker: [`Played`] tells netdp what Docker would.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, bail, ensure};
use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    EndpointSettings, Network, NetworkSettings, PortBinding, SystemVersion,
};
use futures_util::stream;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::{Inside, Outside, Own, Site, Size};
use crate::api::acceleration::Acceleration;
use crate::bench::Mode;
use crate::world::World;
use crate::world::docker_bridge::{self, DockerBridge, Iptables, PublishedPort};

/// As long as those that Docker makes.
const NETWORK: &str = "a000000000000000000000000000000000000000000000000000000000000000";
const CONTAINER: &str = "c000000000000000000000000000000000000000000000000000000000000000";
const ENDPOINT: &str = "e000000000000000000000000000000000000000000000000000000000000000";
/// Docker's first network, and its bridge.
const NAME: &str = "bridge";
const BRIDGE: &str = "docker0";

pub(super) fn build(size: &Size) -> anyhow::Result<Site> {
    let mut world = World::new("bench-docker")?;
    let ports = size.published();
    let docker = DockerBridge::on(&world, world.first_host(), Iptables::Nft, &ports)?;
    let inside = Inside {
        first: docker.container,
        address: docker_bridge::CONTAINER,
        second: docker.neighbour,
    };
    let site = Site::with_containers(&world, Mode::Accelerated, docker.host, inside, size)?;
    let outside = Outside::start(&world, size)?;

    let socket = world.dir().join("docker.sock");
    let played = Played::start(&socket, &container(&ports, site.server.pid()))?;
    world.start_daemon::<&str>(&[])?;
    accelerate(&world, &socket)?;
    Ok(Site {
        own: Some(Own {
            _outside: outside,
            _docker: Some(played),
            world,
        }),
        ..site
    })
}

/// Has netdp carry the network, and makes sure that it does.
fn accelerate(world: &World, socket: &Path) -> anyhow::Result<()> {
    let socket = socket.to_string_lossy();
    world.netdp_ok(&["accelerate", "docker", "--socket", &socket])?;
    let text = world.netdp_ok(&["accelerate", "--format", "json"])?;
    let carried: Vec<Acceleration> = serde_json::from_str(&text)?;
    let networks = carried.iter().flat_map(|it| &it.networks);
    let containers = networks.clone().flat_map(|it| &it.containers);
    let reasons = networks
        .filter_map(|it| it.reason.as_deref())
        .chain(containers.clone().filter_map(|it| it.reason.as_deref()));
    if let Some(reason) = reasons.into_iter().next() {
        bail!("netdp leaves it to Docker: {reason}");
    }
    ensure!(
        containers.filter(|it| it.accelerated).count() == 1,
        "netdp carries no container of it"
    );
    Ok(())
}

/// The one container, as Docker shows it.
fn container(ports: &[PublishedPort], pid: u32) -> ContainerInspectResponse {
    let mut bindings = HashMap::new();
    for PublishedPort { protocol, port } in ports {
        let binding = PortBinding {
            host_ip: Some("0.0.0.0".into()),
            host_port: Some(port.to_string()),
        };
        bindings.insert(format!("{port}/{protocol}"), Some(vec![binding]));
    }
    let endpoint = EndpointSettings {
        network_id: Some(NETWORK.into()),
        endpoint_id: Some(ENDPOINT.into()),
        gateway: Some(docker_bridge::GATEWAY.to_string()),
        ip_address: Some(docker_bridge::CONTAINER.to_string()),
        ip_prefix_len: Some(docker_bridge::PREFIX.into()),
        mac_address: Some(docker_bridge::mac(docker_bridge::CONTAINER)),
        ..EndpointSettings::default()
    };
    ContainerInspectResponse {
        id: Some(CONTAINER.into()),
        name: Some("/web".into()),
        state: Some(ContainerState {
            status: Some(ContainerStateStatusEnum::RUNNING),
            running: Some(true),
            pid: Some(pid.into()),
            ..ContainerState::default()
        }),
        network_settings: Some(NetworkSettings {
            ports: Some(bindings),
            networks: Some(HashMap::from([(NAME.into(), endpoint)])),
            ..NetworkSettings::default()
        }),
        ..ContainerInspectResponse::default()
    }
}

/// Docker's default network.
fn network() -> Network {
    let options = [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.name", BRIDGE),
    ];
    Network {
        id: Some(NETWORK.into()),
        name: Some(NAME.into()),
        scope: Some("local".into()),
        driver: Some("bridge".into()),
        internal: Some(false),
        options: Some(
            options
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
        ),
        ..Network::default()
    }
}

/// Answers at Docker's socket for one network with one container, where nothing
/// ever happens.
pub(super) struct Played {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Played {
    fn start(socket: &Path, container: &ContainerInspectResponse) -> anyhow::Result<Self> {
        let router = router(container);
        let listening = "cannot listen where Docker would";
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(socket).context(listening)?
        };
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = ended => {}
                }
            });
        });
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn router(container: &ContainerInspectResponse) -> Router {
    let version = SystemVersion {
        version: Some("28.5.0".into()),
        api_version: Some("1.51".into()),
        min_api_version: Some("1.24".into()),
        ..SystemVersion::default()
    };
    let listed = ContainerSummary {
        id: container.id.clone(),
        ..ContainerSummary::default()
    };
    let version = get(async move || Json(version));
    let (networks, listed, shown) = (vec![network()], vec![listed], container.clone());
    let answers = Router::new()
        .route("/version", version)
        .route("/networks", get(async move || Json(networks)))
        .route("/containers/json", get(async move || Json(listed)))
        .route("/containers/{id}/json", get(async move || Json(shown)))
        .route("/events", get(silence));
    // With the version of the API before it, or without.
    answers.clone().nest("/{api}", answers)
}

/// Events that never come.
async fn silence() -> Body {
    Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())
}
