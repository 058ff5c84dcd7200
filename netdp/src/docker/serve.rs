//! Connections of dockerd's: one request each.
//!
//! dockerd tries a request again whose connection broke, but without the
//! contents, which its first try has read to the end (`callWithRetry` of moby's
//! `pkg/plugins/client.go`). A connection that isn't made costs nothing. So none
//! is kept open for a next request, and one that was made is answered, also
//! where the daemon is about to end.

use std::{
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Json, LARGEST_BODY,
    peer::Peer,
    refused::Refused,
    turns::Turns,
    unanswered::{CREATE, Noted, Unanswered},
    wire::{Endpoint, Nothing, OperInfo},
};
use crate::{api::listen::Socket, model::EndpointId};

/// How long a request may be on its way through the socket.
const ARRIVES: Duration = Duration::from_secs(10);

/// A pause where no connection can be accepted, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(200);

const INFO: &str = "/NetworkDriver.EndpointOperInfo";
const JOIN: &str = "/NetworkDriver.Join";
const LEAVE: &str = "/NetworkDriver.Leave";
const REVOKE: &str = "/NetworkDriver.RevokeExternalConnectivity";
const DELETE: &str = "/NetworkDriver.DeleteEndpoint";

/// What says in its contents what it is for.
const NEED_CONTENTS: [&str; 14] = [
    INFO,
    LEAVE,
    REVOKE,
    DELETE,
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.DeleteNetwork",
    "/NetworkDriver.AllocateNetwork",
    CREATE,
    JOIN,
    "/NetworkDriver.ProgramExternalConnectivity",
    "/IpamDriver.RequestPool",
    "/IpamDriver.ReleasePool",
    "/IpamDriver.RequestAddress",
    "/IpamDriver.ReleaseAddress",
];

/// So many requests at once, where the socket is this daemon's own.
const AT_ONCE: usize = 1024;

/// What answers.
#[derive(Debug)]
struct Driver {
    router: Router,
    unanswered: Unanswered,
    /// None where one is answered at a time anyway.
    turns: Option<Arc<Turns>>,
}

/// Answers at `socket` until `end`, and then all who have connected. What the
/// last daemon didn't come to answer is done first; `notes` is the folder for
/// that.
pub async fn serve(
    socket: Socket,
    router: Router,
    notes: &Path,
    end: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (listener, name) = socket.into_parts();
    let unanswered = Unanswered::open(notes, &router).await;
    // Who waits at a socket that the service manager keeps outlives this daemon,
    // and who has been accepted doesn't.
    let (at_once, turns) = match name {
        Some(_) => (AT_ONCE, Some(Arc::default())),
        None => (1, None),
    };
    let driver = Arc::new(Driver {
        router,
        unanswered,
        turns,
    });
    let places = Arc::new(Semaphore::new(at_once));
    let mut answering = JoinSet::new();
    let mut answer = |stream: UnixStream, place| {
        let connection = connection(stream, Arc::clone(&driver));
        answering.spawn(async move {
            connection.await;
            drop(place);
        });
        while answering.try_join_next().is_some() {}
    };
    tokio::pin!(end);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            biased;
            () = &mut end => break,
            (accepted, place) = accepted => match accepted {
                Ok((stream, _)) => answer(stream, place.ok()),
                Err(error) => {
                    tracing::error!("cannot accept a connection of dockerd's: {error}");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    if let Some(name) = name {
        // Who comes from now on finds nobody, and tries again with all it has.
        drop(name);
        for stream in waiting(listener)? {
            answer(stream, None);
        }
    }
    while answering.join_next().await.is_some() {}
    Ok(())
}

/// Those who have connected and were not accepted yet.
fn waiting(listener: UnixListener) -> io::Result<Vec<UnixStream>> {
    let listener = listener.into_std()?;
    let mut waiting = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        waiting.push(UnixStream::from_std(stream)?);
    }
    Ok(waiting)
}

/// Reads one request, and answers it.
async fn connection(stream: UnixStream, driver: Arc<Driver>) {
    // What is noted of the request goes when its answer has been written.
    let (noted, joins) = (Mutex::new(None), Mutex::new(None));
    let peer = Peer::of(&stream);
    let service = service_fn(|request: Request<Incoming>| {
        let (noted, joins, driver) = (&noted, &joins, &driver);
        async move {
            let answer = match whole(request).await {
                Ok(request) => {
                    if request.uri().path() == JOIN
                        && let Ok(mut joins) = joins.lock()
                    {
                        *joins = endpoint_of(request.body());
                    }
                    answer(request, peer, driver, noted).await
                }
                Err(refused) => refused.into_response(),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection of dockerd's: {error}");
    }
    if let (Some(turns), Ok(Some(endpoint))) = (&driver.turns, joins.into_inner()) {
        turns.end(endpoint);
    }
}

/// A request with all of its contents.
async fn whole(request: Request<Incoming>) -> Result<Request<Bytes>, Refused> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect();
    let (status, why) = match timeout(ARRIVES, body).await {
        Ok(Ok(body)) => return Ok(Request::from_parts(head, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request is larger than {LARGEST_BODY} bytes"),
        ),
        Ok(Err(error)) => (
            StatusCode::BAD_REQUEST,
            format!("the request can't be read: {error}"),
        ),
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            "the request can't be read: it came too slowly".to_owned(),
        ),
    };
    Err(Refused::new(status, why))
}

async fn answer(
    request: Request<Bytes>,
    peer: Peer,
    driver: &Driver,
    noted: &Mutex<Option<Noted>>,
) -> Response {
    let Driver {
        router,
        unanswered,
        turns,
    } = driver;
    let path = request.uri().path();
    if request.body().is_empty() && NEED_CONTENTS.contains(&path) {
        return match unanswered.take(path) {
            Some(answer) => answer,
            None => without_contents(path),
        };
    }
    if !request.body().is_empty()
        && let Ok(mut noted) = noted.lock()
    {
        *noted = unanswered.note(path, peer, request.body());
    }
    let created = match (request.uri().path(), turns) {
        (CREATE, Some(turns)) => endpoint_of(request.body()).zip(Some(turns)),
        _ => None,
    };
    let answer = routed(router.clone(), request, peer).await;
    if let Some((endpoint, turns)) = created {
        turns.begin(endpoint).await;
    }
    answer
}

fn endpoint_of(contents: &[u8]) -> Option<EndpointId> {
    let asked: Endpoint = serde_json::from_slice(contents).ok()?;
    Some(asked.endpoint_id)
}

/// As the driver answers this process.
pub async fn routed(router: Router, mut request: Request<Bytes>, peer: Peer) -> Response {
    request.extensions_mut().insert(ConnectInfo(peer));
    match TowerToHyperService::new(router)
        .call(request.map(Body::from))
        .await
    {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// Answers a request whose contents were lost, and of which nothing is known.
/// What ends with its namespace is ended then.
fn without_contents(path: &str) -> Response {
    match path {
        INFO => Json(OperInfo { value: Nothing {} }).into_response(),
        LEAVE | REVOKE | DELETE => Json(Nothing {}).into_response(),
        _ => {
            let text = "the request came without its contents, as dockerd sends it again when \
                        netdp ended in the middle of it: try once more";
            Refused::new(StatusCode::BAD_REQUEST, text.to_owned()).into_response()
        }
    }
}
