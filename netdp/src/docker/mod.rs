//! Docker's network driver `netdp`: the remote driver and remote IPAM driver
//! protocols of libnetwork (`docs/remote.md` and `docs/ipam.md` of moby's
//! libnetwork), HTTP with JSON on a unix socket.
//!
//! Each request becomes a change of the state as a user's is. dockerd sends
//! some of them again, when it heard no answer, and leaves others out, when it
//! was killed: so what is there already, or gone already, is no error.

mod abandoned;
mod endpoint;
mod ipam;
mod network;
mod peer;
mod ports;
mod refused;
mod serve;
mod turns;
mod unanswered;
mod wire;

use std::{io, path::PathBuf, sync::Arc};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::listen::Socket,
    daemon::owner::{self, Owner, OwnerError, now},
};

use peer::Peers;
use refused::Refused;
use wire::{Capabilities, Implements, Nothing};

/// What the sandboxes and networks of this engine have as their owner.
pub const ENGINE: &str = "docker";

/// Largest body of a request, in bytes: some 130 for each of 65,535 ports, and
/// as much again.
const LARGEST_BODY: usize = 16 * 1024 * 1024;

/// Folder of what is being answered, inside the run folder.
const NOTES: &str = "docker-requests";

const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

type Shared = State<Arc<Owner>>;
type Answer<T> = Result<Json<T>, Refused>;

/// Answers dockerd at `socket` until `end`, and then all who have asked. What is
/// being answered is noted in `run_dir`.
pub async fn serve(
    socket: Socket,
    owner: Arc<Owner>,
    run_dir: PathBuf,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let peers = Arc::new(Peers::default());
    peer::follow_all(&owner, &peers, owner.lock().await.state());
    let router = router(owner).layer(Extension(peers));
    serve::serve(socket, router, &run_dir.join(NOTES), end).await
}

fn router(owner: Arc<Owner>) -> Router {
    let driver = |method: &str| format!("/NetworkDriver.{method}");
    let ipam = |method: &str| format!("/IpamDriver.{method}");
    Router::new()
        .route("/Plugin.Activate", post(activate))
        .route(&driver("GetCapabilities"), post(capabilities))
        .route(&driver("CreateNetwork"), post(network::create))
        .route(&driver("DeleteNetwork"), post(network::delete))
        .route(&driver("AllocateNetwork"), post(network::allocate))
        .route(&driver("FreeNetwork"), post(accept))
        .route(&driver("CreateEndpoint"), post(endpoint::create))
        .route(&driver("EndpointOperInfo"), post(endpoint::info))
        .route(&driver("DeleteEndpoint"), post(endpoint::delete))
        .route(&driver("Join"), post(endpoint::join))
        .route(&driver("Leave"), post(endpoint::leave))
        .route(
            &driver("ProgramExternalConnectivity"),
            post(endpoint::program),
        )
        .route(&driver("RevokeExternalConnectivity"), post(endpoint::leave))
        .route(&driver("DiscoverNew"), post(accept))
        .route(&driver("DiscoverDelete"), post(accept))
        .route(&ipam("GetCapabilities"), post(ipam::capabilities))
        .route(&ipam("GetDefaultAddressSpaces"), post(ipam::spaces))
        .route(&ipam("RequestPool"), post(ipam::request_pool))
        .route(&ipam("ReleasePool"), post(ipam::release_pool))
        .route(&ipam("RequestAddress"), post(ipam::request_address))
        .route(&ipam("ReleaseAddress"), post(ipam::release_address))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(owner)
}

/// Perhaps a dockerd that begins: what one asked for that has been killed, and
/// didn't take, or took for a container that never started, is nobody's. What one
/// asked for that lives is being started.
async fn activate(State(owner): Shared) -> Answer<Implements> {
    done(async move {
        let (offered, taken) = abandoned::of_the_gone(owner.lock().await.state(), now());
        // Reads all of /proc.
        let left = tokio::task::spawn_blocking(|| abandoned::abandoned(taken)).await;
        let left = left.unwrap_or_default();
        owner
            .change(|state, _| {
                for id in offered {
                    state.withdraw_offer(id);
                }
                for id in left {
                    state.withdraw_endpoint(id);
                }
                Ok(())
            })
            .await?;
        Ok(Implements::default())
    })
    .await
}

async fn capabilities() -> Json<Capabilities> {
    Json(Capabilities::default())
}

/// What asks for nothing of this driver.
async fn accept() -> Json<Nothing> {
    Json(Nothing {})
}

async fn unknown(uri: Uri) -> Refused {
    let text = format!("there is no method {}", uri.path());
    Refused::new(StatusCode::NOT_FOUND, text)
}

async fn not_allowed(request: Request) -> Refused {
    let text = format!("{} is asked for by POST", request.uri().path());
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn done<T: Send + 'static>(
    change: impl Future<Output = Result<T, OwnerError>> + Send + 'static,
) -> Answer<T> {
    match owner::whole(change).await {
        Ok(done) => Ok(Json(done)),
        Err(error) => Err(Refused::named(error).await),
    }
}

/// JSON both ways, whatever the request's content type is.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response(),
            Err(error) => Refused::internal(error).into_response(),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let why = format!("the request can't be read: {rejection}");
                Refused::new(rejection.status(), why)
            })?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            let text = format!("the request makes no sense: {error}");
            Refused::new(StatusCode::BAD_REQUEST, text)
        })
    }
}
