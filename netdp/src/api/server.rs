//! Answers requests.

use std::{io, ops::ControlFlow, path::Path as FsPath, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use super::{
    acceleration::{self, Acceleration, AccelerationEnd, AccelerationRequest},
    block as listed, explain,
    extract::{Answer, Json, Query, Shared, carried_through, whole},
    host_sockets::HostSockets,
    listen::Socket,
    listing::{self, Filter},
    refused::Refused,
    sandboxes::{
        connect, create_sandbox, disconnect, publish, remove_sandbox, sandbox, sandboxes, unpublish,
    },
    types::{
        Attached, Attachment, Blocked, Explained, FlowCount, FlowQuery, Limit, LimitRequest,
        Network, Sources, Statistics, Status,
    },
    view,
};
use crate::{
    accelerate,
    daemon::owner::{Owner, OwnerError},
    explain::Question,
    model::{AttachmentRequest, NetworkRequest, Refusal},
};

/// Largest body of a request, in bytes: room for some ten thousand ports.
const LARGEST_BODY: usize = 256 * 1024;

/// The same of one that names sources: as many as can be blocked.
const LARGEST_LIST: usize = 8 * 1024 * 1024;

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
