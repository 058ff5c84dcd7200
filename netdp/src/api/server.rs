//! Answers requests.

use std::{io, ops::ControlFlow, path::Path as FsPath, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{self, DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State},
    http::{StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use nix::time::{ClockId, clock_gettime};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use super::{
    acceleration::{self, Acceleration, AccelerationEnd, AccelerationRequest},
    block as listed, explain,
    host_sockets::HostSockets,
    listen::Socket,
    listing::{self, Filter},
    refused::Refused,
    types::{
        Attached, Attachment, Blocked, Connect, Explained, FlowCount, FlowQuery, Limit,
        LimitRequest, Network, Ports, Removal, Sandbox, Sources, Statistics, Status,
    },
    view,
};
use crate::{
    accelerate,
    daemon::owner::{self, Owner, OwnerError},
    docker,
    explain::Question,
    model::{AttachmentRequest, NetworkRequest, Refusal, SandboxRequest},
};

/// Largest body of a request, in bytes: room for some ten thousand ports.
const LARGEST_BODY: usize = 256 * 1024;

/// The same of one that names sources: as many as can be blocked.
const LARGEST_LIST: usize = 8 * 1024 * 1024;

type Shared = State<Arc<Owner>>;
type Answer<T> = Result<Json<T>, Refused>;

/// Answers requests at `socket` until `end`, and then those that are being
/// answered.
pub async fn serve(
    socket: Socket,
    owner: Arc<Owner>,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    socket.serve(router(owner), end).await
}

fn router(owner: Arc<Owner>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/networks", get(networks).post(create_network))
        .route("/v1/networks/{name}", get(network).delete(remove_network))
        .route("/v1/sandboxes", get(sandboxes).post(create_sandbox))
        .route("/v1/sandboxes/{name}", get(sandbox).delete(remove_sandbox))
        .route("/v1/sandboxes/{name}/networks", post(connect))
        .route(
            "/v1/sandboxes/{name}/networks/{network}",
            axum::routing::delete(disconnect),
        )
        .route("/v1/sandboxes/{name}/publish", post(publish))
        .route("/v1/sandboxes/{name}/unpublish", post(unpublish))
        .route(
            "/v1/attachments",
            get(attachments).post(attach).delete(detach),
        )
        .route("/v1/accelerations", get(accelerations))
        .route(
            "/v1/accelerations/docker",
            post(accelerate).delete(end_acceleration),
        )
        .route("/v1/flows", get(flows))
        .route("/v1/flows/count", get(count_flows))
        .route("/v1/stats", get(statistics))
        .route("/v1/blocked", get(blocked))
        .route(
            "/v1/block",
            post(block).layer(DefaultBodyLimit::max(LARGEST_LIST)),
        )
        .route(
            "/v1/unblock",
            post(unblock).layer(DefaultBodyLimit::max(LARGEST_LIST)),
        )
        .route("/v1/limit", get(limit).post(set_limit).delete(end_limit))
        .route("/v1/explain", post(explain_packet))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(owner)
}

async fn unknown(uri: Uri) -> Refused {
    Refusal::not_found(format!(
        "there is nothing at {}: see the paths under /v1",
        uri.path()
    ))
    .into()
}

async fn not_allowed(request: Request) -> Refused {
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid",
        format!(
            "{} is not possible at {}",
            request.method(),
            request.uri().path()
        ),
    )
}

async fn status(State(owner): Shared) -> Json<Status> {
    let core = owner.lock().await;
    Json(view::status(&core, &owner))
}

async fn networks(State(owner): Shared) -> Json<Vec<Network>> {
    let core = owner.lock().await;
    Json(view::networks(core.state()))
}

async fn network(State(owner): Shared, Path(name): Path<String>) -> Answer<Network> {
    let core = owner.lock().await;
    let network = core.state().network(&name)?;
    Ok(Json(view::network(core.state(), network)))
}

async fn create_network(
    State(owner): Shared,
    Json(request): Json<NetworkRequest>,
) -> Answer<Network> {
    whole(async move {
        let network = owner.create_network(request).await?;
        let core = owner.lock().await;
        Ok(view::network(core.state(), &network))
    })
    .await
}

async fn remove_network(State(owner): Shared, Path(name): Path<String>) -> Answer<()> {
    whole(async move { owner.remove_network(&name).await }).await
}

async fn sandboxes(State(owner): Shared) -> Json<Vec<Sandbox>> {
    let core = owner.lock().await;
    let mut sandboxes = view::sandboxes(&core);
    drop(core);
    if sandboxes.iter().any(acceleration::is_dockers) {
        let called = accelerate::called().await.unwrap_or_default();
        for sandbox in &mut sandboxes {
            acceleration::name(sandbox, &called);
        }
    }
    sandboxes.extend(acceleration::sandboxes(owner.accelerator().shown()));
    Json(sandboxes)
}

async fn sandbox(State(owner): Shared, Path(name): Path<String>) -> Answer<Sandbox> {
    if let Some(container) = acceleration::sandbox_called(owner.accelerator().shown(), &name)
        && !is_known(&owner, &name).await
    {
        return Ok(Json(container));
    }
    let name = own_name(&owner, name).await?;
    let mut sandbox = shown(&owner, &name).await?;
    if acceleration::is_dockers(&sandbox) {
        let called = accelerate::called().await.unwrap_or_default();
        acceleration::name(&mut sandbox, &called);
    }
    Ok(Json(sandbox))
}

async fn is_known(owner: &Owner, name: &str) -> bool {
    owner.lock().await.state().sandbox(name).is_ok()
}

/// What netdp calls a sandbox that was named as Docker calls its container.
///
/// # Errors
/// It is Docker's altogether, or may be, and Docker doesn't tell.
async fn own_name(owner: &Owner, name: String) -> Result<String, OwnerError> {
    if is_known(owner, &name).await {
        return Ok(name);
    }
    if acceleration::sandbox_called(owner.accelerator().shown(), &name).is_some() {
        return Err(Refusal::conflict(format!(
            "{name} is a container of Docker's on a network of Docker's, which netdp only \
             carries: use docker's own command"
        ))
        .into());
    }
    let dockers = {
        let core = owner.lock().await;
        let mut sandboxes = core.state().sandboxes.values();
        sandboxes.any(|it| it.owner.as_deref() == Some(docker::ENGINE))
    };
    if !dockers {
        return Ok(name);
    }
    match accelerate::called().await {
        Ok(called) => Ok(accelerate::key(&called, &name).map_or(name, str::to_owned)),
        Err(why) => Err(Refusal::not_found(format!(
            "netdp itself calls no sandbox {name}, and what Docker calls its containers isn't \
             known now: {why}; try again, or name it as `netdp ps` shows it"
        ))
        .into()),
    }
}

async fn create_sandbox(
    State(owner): Shared,
    Json(request): Json<SandboxRequest>,
) -> Answer<Sandbox> {
    whole(async move {
        let sandbox = owner.create_sandbox(request).await?;
        let core = owner.lock().await;
        Ok(view::sandbox(&core, &sandbox))
    })
    .await
}

async fn remove_sandbox(
    State(owner): Shared,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer<()> {
    whole(async move {
        let own = own_name(&owner, name.clone()).await?;
        if own != name {
            return Err(Refusal::conflict(format!(
                "{name} is a container of Docker's: use `docker rm {name}`"
            ))
            .into());
        }
        owner.remove_sandbox(&own, removal.force).await
    })
    .await
}

async fn connect(
    State(owner): Shared,
    Path(name): Path<String>,
    Json(request): Json<Connect>,
) -> Answer<Sandbox> {
    whole(async move {
        let name = own_name(&owner, name).await?;
        owner
            .connect(&name, &request.network, &request.endpoint)
            .await?;
        shown(&owner, &name).await
    })
    .await
}

async fn disconnect(
    State(owner): Shared,
    Path((name, network)): Path<(String, String)>,
) -> Answer<()> {
    whole(async move {
        let own = own_name(&owner, name).await?;
        owner.disconnect(&own, &network).await
    })
    .await
}

async fn publish(
    State(owner): Shared,
    Path(name): Path<String>,
    Json(request): Json<Ports>,
) -> Answer<Sandbox> {
    whole(async move {
        let name = own_name(&owner, name).await?;
        owner.publish(&name, &request.ports, &request.allow).await?;
        shown(&owner, &name).await
    })
    .await
}

async fn unpublish(
    State(owner): Shared,
    Path(name): Path<String>,
    Json(request): Json<Ports>,
) -> Answer<Sandbox> {
    whole(async move {
        let name = own_name(&owner, name).await?;
        owner.unpublish(&name, &request.ports).await?;
        shown(&owner, &name).await
    })
    .await
}

async fn attachments(State(owner): Shared) -> Json<Vec<Attachment>> {
    let core = owner.lock().await;
    let attachments = core.state().attachments();
    Json(attachments.map(|(attachment, ..)| attachment).collect())
}

async fn attach(State(owner): Shared, Json(request): Json<AttachmentRequest>) -> Answer<Attached> {
    whole(async move {
        let network = request.network.name.clone();
        let (sandbox, endpoint) = owner.attach(request).await?;
        let core = owner.lock().await;
        let state = core.state();
        Ok(Attached {
            network: view::network(state, state.network(network.as_str())?),
            sandbox: view::sandbox(&core, state.sandbox(&sandbox.to_string())?),
            endpoint: endpoint.to_string(),
        })
    })
    .await
}

async fn detach(State(owner): Shared, Query(attachment): Query<Attachment>) -> Answer<()> {
    whole(async move { owner.detach(attachment).await }).await
}

async fn accelerations(State(owner): Shared) -> Answer<Vec<Acceleration>> {
    let shown = owner.accelerator().shown();
    let all: Result<Vec<_>, _> = shown.map(acceleration::acceleration).into_iter().collect();
    Ok(Json(all.map_err(OwnerError::from)?))
}

async fn accelerate(
    State(owner): Shared,
    Json(request): Json<AccelerationRequest>,
) -> Answer<Acceleration> {
    carried_through(async move {
        let socket = request.socket.as_deref();
        let socket = socket.unwrap_or(FsPath::new(accelerate::SOCKET));
        let accelerator = owner.accelerator();
        let wanted = accelerate::Request {
            networks: &request.networks,
            skip_rules: request.skip_rules,
        };
        let shown = accelerator.on(&owner, socket, &wanted).await?;
        Ok(acceleration::acceleration(shown).map_err(OwnerError::from)?)
    })
    .await
}

async fn end_acceleration(
    State(owner): Shared,
    Query(end): Query<AccelerationEnd>,
) -> Answer<Option<Acceleration>> {
    carried_through(async move {
        let networks = end.networks.unwrap_or_default();
        let networks: Vec<String> = networks
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let left = owner.accelerator().off(&owner, &networks).await?;
        let left = left.map(acceleration::acceleration).transpose();
        Ok(left.map_err(OwnerError::from)?)
    })
    .await
}

async fn flows(State(owner): Shared, Query(query): Query<FlowQuery>) -> Result<Response, Refused> {
    let (tables, filter) = asked(&owner, &query).await?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| u64::try_from(now.tv_sec()).unwrap_or(0));
    // Pieces wait for who reads slowly, so that few are held at a time.
    let (sender, mut pieces) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let listed = tables.list(&filter, now, |piece| {
            match sender.blocking_send(Ok(Bytes::from(piece))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        if let Err(error) = listed {
            let _ = sender.blocking_send(Err(error));
        }
    });
    // What fails before anything was sent is still refused in words.
    let first = match pieces.recv().await {
        Some(first) => first.map_err(OwnerError::from)?,
        None => Bytes::new(),
    };
    let rest = stream::unfold(pieces, |mut pieces| async {
        Some((pieces.recv().await?, pieces))
    });
    let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest));
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, body).into_response())
}

async fn count_flows(State(owner): Shared, Query(query): Query<FlowQuery>) -> Answer<FlowCount> {
    let (tables, filter) = asked(&owner, &query).await?;
    match tokio::task::spawn_blocking(move || tables.count(&filter)).await {
        Ok(count) => Ok(Json(count.map_err(OwnerError::from)?)),
        Err(error) => Err(Refused::internal(error)),
    }
}

/// The flow tables and what of them is wanted. Reading them takes a while when
/// they hold many, and keeps nobody else waiting.
async fn asked(owner: &Owner, query: &FlowQuery) -> Result<(listing::Tables, Filter), Refused> {
    let shown = owner.accelerator().shown();
    let core = owner.lock().await;
    let filter = Filter::of(query, core.state(), shown.as_ref())?;
    Ok((view::flow_tables(&core, shown), filter))
}

async fn statistics(State(owner): Shared) -> Answer<Statistics> {
    let (mut statistics, sockets) = {
        let core = owner.lock().await;
        let counted = view::statistics(&core).map_err(OwnerError::from)?;
        (counted, HostSockets::of(&core))
    };
    let counts = tokio::task::spawn_blocking(move || {
        if let Err(error) = sockets.count(&mut statistics.endpoints) {
            tracing::warn!("cannot count connections of direct ports: {error}");
        }
        statistics
    });
    let mut statistics = counts.await.map_err(Refused::internal)?;
    let shown = owner.accelerator().shown();
    acceleration::count(&mut statistics, shown.as_ref()).map_err(OwnerError::from)?;
    Ok(Json(statistics))
}

async fn blocked(State(owner): Shared) -> Answer<Vec<Blocked>> {
    let core = owner.lock().await;
    Ok(Json(listed::blocked(&core).map_err(OwnerError::from)?))
}

async fn block(State(owner): Shared, Json(request): Json<Sources>) -> Answer<()> {
    whole(async move { owner.block(&request.sources).await }).await
}

async fn unblock(State(owner): Shared, Json(request): Json<Sources>) -> Answer<()> {
    whole(async move { owner.unblock(&request.sources).await }).await
}

async fn limit(State(owner): Shared) -> Answer<Option<Limit>> {
    let core = owner.lock().await;
    Ok(Json(listed::limit(&core).map_err(OwnerError::from)?))
}

async fn set_limit(State(owner): Shared, Json(request): Json<LimitRequest>) -> Answer<()> {
    whole(async move { owner.set_limit(request.rate, request.burst).await }).await
}

async fn end_limit(State(owner): Shared) -> Answer<()> {
    whole(async move { owner.end_limit().await }).await
}

async fn explain_packet(State(owner): Shared, Json(question): Json<Question>) -> Answer<Explained> {
    let shown = owner.accelerator().shown();
    let core = owner.lock().await;
    let told = explain::explain(&core, shown.as_ref(), &question).await?;
    Ok(Json(told))
}

async fn shown(owner: &Owner, name: &str) -> Result<Sandbox, OwnerError> {
    let core = owner.lock().await;
    let sandbox = core.state().sandbox(name)?;
    Ok(view::sandbox(&core, sandbox))
}

async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, OwnerError>> + Send + 'static,
) -> Answer<T> {
    Ok(Json(owner::whole(change).await?))
}

/// The same of a change that is refused in words of its own.
async fn carried_through<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Answer<T> {
    match tokio::spawn(change).await {
        Ok(done) => done.map(Json),
        Err(error) => Err(Refused::internal(error)),
    }
}

/// JSON both ways, with refusals in netdp's own form.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let status = rejection.status();
                let why = match status {
                    StatusCode::PAYLOAD_TOO_LARGE => {
                        "the request is larger than any may be: split it".to_owned()
                    }
                    _ => format!("the request can't be read: {rejection}"),
                };
                Refused::new(status, "invalid", why)
            })?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            Refusal::invalid(format!("the request makes no sense: {error}")).into()
        })
    }
}

/// The query of a path, with refusals in netdp's own form.
struct Query<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        extract::Query::from_request_parts(parts, state)
            .await
            .map(|extract::Query(query)| Self(query))
            .map_err(|rejection| {
                Refusal::invalid(format!(
                    "the query makes no sense: {}",
                    rejection.body_text()
                ))
                .into()
            })
    }
}
