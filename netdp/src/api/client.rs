//! Speaks to the daemon: one request a connection over the unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, task::JoinHandle};

use super::{
    acceleration::{Acceleration, AccelerationRequest},
    listen::SOCKET,
    patience::{CHANGE, Patience, QUESTION},
    types::{
        Attached, Attachment, Blocked, Connect, Explained, Failure, FlowCount, FlowQuery, Limit,
        LimitRequest, Network, Ports, Removal, Sandbox, Sources, Statistics, Status,
    },
};
use crate::explain::Question;
use crate::model::{AttachmentRequest, NetworkRequest, SandboxRequest};

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("no daemon answers at {}: start one with `netdp daemon`", path.display())]
    NoDaemon { path: PathBuf },
    #[error("may not speak to the daemon at {}: run this as root, or as a member of the socket's group", path.display())]
    NotAllowed { path: PathBuf },
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the daemon at {} broke off: {source}; a change that was asked for may have been made: see `netdp ps`, and start the daemon again if it has ended", path.display())]
    Exchange { path: PathBuf, source: hyper::Error },
    #[error("the daemon at {} is stopped (process {pid}): let it go on with `kill -CONT {pid}`, or end it and start another; a change that was asked for may be made when it goes on", path.display())]
    Stopped { path: PathBuf, pid: i32 },
    #[error("the daemon at {} has not answered for {seconds} seconds: see its log, or start it again; a change that was asked for may still be made", path.display())]
    Silent { path: PathBuf, seconds: u64 },
    /// The daemon's own words.
    #[error("{message}")]
    Refused { kind: String, message: String },
    #[error("the daemon's answer makes no sense ({status}): {source}")]
    Answer {
        status: StatusCode,
        source: serde_json::Error,
    },
}

impl ClientError {
    /// Whether the daemon answered that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == "not-found")
    }
}

/// Where a daemon is to be found.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    pub fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(SOCKET),
        }
    }

    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks").await
    }

    pub async fn network(&self, name: &str) -> Result<Network, ClientError> {
        self.get(&format!("/v1/networks/{}", segment(name))).await
    }

    pub async fn create_network(&self, request: &NetworkRequest) -> Result<Network, ClientError> {
        self.send(Method::POST, "/v1/networks", request).await
    }

    pub async fn remove_network(&self, name: &str) -> Result<(), ClientError> {
        self.send(
            Method::DELETE,
            &format!("/v1/networks/{}", segment(name)),
            &(),
        )
        .await
    }

    pub async fn accelerations(&self) -> Result<Vec<Acceleration>, ClientError> {
        self.get("/v1/accelerations").await
    }

    /// Returns when the networks are carried.
    pub async fn accelerate(
        &self,
        request: &AccelerationRequest,
    ) -> Result<Acceleration, ClientError> {
        self.send(Method::POST, "/v1/accelerations/docker", request)
            .await
    }

    /// Gives what is still carried.
    pub async fn end_acceleration(
        &self,
        networks: &[String],
    ) -> Result<Option<Acceleration>, ClientError> {
        let path = match networks {
            [] => "/v1/accelerations/docker".to_owned(),
            networks => format!(
                "/v1/accelerations/docker?networks={}",
                segment(&networks.join(","))
            ),
        };
        self.send(Method::DELETE, &path, &()).await
    }

    pub async fn blocked(&self) -> Result<Vec<Blocked>, ClientError> {
        self.get("/v1/blocked").await
    }

    /// All or none.
    pub async fn block(&self, sources: &Sources) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/block", sources).await
    }

    /// All or none.
    pub async fn unblock(&self, sources: &Sources) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/unblock", sources).await
    }

    /// None where there is none.
    pub async fn limit(&self) -> Result<Option<Limit>, ClientError> {
        self.get("/v1/limit").await
    }

    /// In the place of another limit.
    pub async fn set_limit(&self, limit: &LimitRequest) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/limit", limit).await
    }

    pub async fn end_limit(&self) -> Result<(), ClientError> {
        self.send(Method::DELETE, "/v1/limit", &()).await
    }

    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, ClientError> {
        self.get("/v1/sandboxes").await
    }

    pub async fn sandbox(&self, name: &str) -> Result<Sandbox, ClientError> {
        self.get(&format!("/v1/sandboxes/{}", segment(name))).await
    }

    pub async fn create_sandbox(&self, request: &SandboxRequest) -> Result<Sandbox, ClientError> {
        self.send(Method::POST, "/v1/sandboxes", request).await
    }

    /// Returns when the program has ended and its endpoints are gone.
    pub async fn remove_sandbox(&self, name: &str, removal: Removal) -> Result<(), ClientError> {
        let path = format!("/v1/sandboxes/{}?force={}", segment(name), removal.force);
        self.send(Method::DELETE, &path, &()).await
    }

    pub async fn connect(&self, name: &str, request: &Connect) -> Result<Sandbox, ClientError> {
        let path = format!("/v1/sandboxes/{}/networks", segment(name));
        self.send(Method::POST, &path, request).await
    }

    pub async fn disconnect(&self, name: &str, network: &str) -> Result<(), ClientError> {
        let path = format!(
            "/v1/sandboxes/{}/networks/{}",
            segment(name),
            segment(network)
        );
        self.send(Method::DELETE, &path, &()).await
    }

    pub async fn publish(&self, name: &str, ports: &Ports) -> Result<Sandbox, ClientError> {
        let path = format!("/v1/sandboxes/{}/publish", segment(name));
        self.send(Method::POST, &path, ports).await
    }

    pub async fn unpublish(&self, name: &str, ports: &Ports) -> Result<Sandbox, ClientError> {
        let path = format!("/v1/sandboxes/{}/unpublish", segment(name));
        self.send(Method::POST, &path, ports).await
    }

    pub async fn attach(&self, request: &AttachmentRequest) -> Result<Attached, ClientError> {
        self.send(Method::POST, "/v1/attachments", request).await
    }

    pub async fn attachments(&self) -> Result<Vec<Attachment>, ClientError> {
        self.get("/v1/attachments").await
    }

    /// What isn't there is no error.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), ClientError> {
        let Attachment {
            engine,
            container,
            network,
            interface,
            list: _,
        } = attachment;
        let path = format!(
            "/v1/attachments?engine={}&container={}&network={}&interface={}",
            segment(engine),
            segment(container),
            segment(network),
            segment(interface)
        );
        self.send(Method::DELETE, &path, &()).await
    }

    /// The flows as the daemon sends them: an array in JSON with one flow to a
    /// line, piece by piece.
    pub async fn flows(&self, query: &FlowQuery) -> Result<Pieces, ClientError> {
        let path = format!("/v1/flows{}", parameters(query));
        let answer = self.request(Method::GET, &path, Vec::new()).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let status = answer.status;
        // A refusal is never what was asked for.
        Err(read::<()>(status, &answer.whole().await?)
            .err()
            .unwrap_or_else(|| unreachable!("{status} is no success")))
    }

    pub async fn count_flows(&self, query: &FlowQuery) -> Result<FlowCount, ClientError> {
        self.get(&format!("/v1/flows/count{}", parameters(query)))
            .await
    }

    pub async fn statistics(&self) -> Result<Statistics, ClientError> {
        self.get("/v1/stats").await
    }

    pub async fn explain(&self, question: &Question) -> Result<Explained, ClientError> {
        self.send(Method::POST, "/v1/explain", question).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Vec::new()).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("requests have string keys only");
        self.exchange(method, path, body).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let answer = self.request(method, path, body).await?;
        let status = answer.status;
        read(status, &answer.whole().await?)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Pieces, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|source| self.unconnected(source))?;
        let broke_off = |source| ClientError::Exchange {
            path: self.path.clone(),
            source,
        };
        let limit = match method {
            Method::GET => QUESTION,
            _ => CHANGE,
        };
        let patience = Patience::new(self.path.clone(), &stream, limit);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broke_off)?;
        // Its end is the sender's end too, and shows there.
        let driver = tokio::spawn(connection);

        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "netdp")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("path segments are escaped");
        let answer = patience.wait(sender.send_request(request)).await?;
        let answer = answer.map_err(broke_off)?;
        Ok(Pieces {
            status: answer.status(),
            body: answer.into_body(),
            path: self.path.clone(),
            patience,
            driver,
        })
    }

    fn unconnected(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon { path }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path },
            _ => ClientError::Connect { path, source },
        }
    }
}

/// An answer that arrives piece by piece.
#[derive(Debug)]
pub struct Pieces {
    status: StatusCode,
    body: Incoming,
    path: PathBuf,
    patience: Patience,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Pieces {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.patience.wait(self.body.frame()).await? {
            let frame = frame.map_err(|source| self.broke_off(source))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    async fn whole(mut self) -> Result<Bytes, ClientError> {
        let body = self.patience.wait((&mut self.body).collect()).await?;
        Ok(body.map_err(|source| self.broke_off(source))?.to_bytes())
    }

    fn broke_off(&self, source: hyper::Error) -> ClientError {
        ClientError::Exchange {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
    let nonsense = |source| ClientError::Answer { status, source };
    if status.is_success() {
        let body = if body.is_empty() { b"null" } else { body };
        return serde_json::from_slice(body).map_err(nonsense);
    }
    let Failure { error } = serde_json::from_slice(body).map_err(nonsense)?;
    Err(ClientError::Refused {
        kind: error.kind,
        message: error.message,
    })
}

/// A query, with its question mark.
fn parameters(query: &FlowQuery) -> String {
    let FlowQuery {
        protocol,
        sandbox,
        peer,
        limit,
    } = query;
    let given = [
        ("protocol", protocol.clone()),
        ("sandbox", sandbox.clone()),
        ("peer", peer.map(|peer| peer.to_string())),
        ("limit", limit.map(|limit| limit.to_string())),
    ];
    let given: Vec<String> = given
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment(&value?))))
        .collect();
    if given.is_empty() {
        return String::new();
    }
    format!("?{}", given.join("&"))
}

/// Escapes what may not stand in a path segment (RFC 3986, 3.3).
fn segment(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    // A dot segment would be resolved away.
    match escaped.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => escaped,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::UnixListener};

    use super::*;

    #[test]
    fn any_name_makes_a_segment() {
        assert_eq!(segment("web-1"), "web-1");
        assert_eq!(segment("a/b?c d"), "a%2Fb%3Fc%20d");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("ü"), "%C3%BC");
    }

    #[test]
    fn a_query_names_what_is_asked_for() {
        assert_eq!(parameters(&FlowQuery::default()), "");
        let query = FlowQuery {
            protocol: Some("tcp".to_owned()),
            sandbox: Some("a&b".to_owned()),
            peer: Some("fd00::1".parse().unwrap()),
            limit: Some(3),
        };
        assert_eq!(
            parameters(&query),
            "?protocol=tcp&sandbox=a%26b&peer=fd00%3A%3A1&limit=3"
        );
    }

    #[test]
    fn refusals_are_the_daemons_own_words() {
        let body = br#"{"error":{"kind":"not-found","message":"no network is called x"}}"#;
        let refused = read::<()>(StatusCode::NOT_FOUND, body).unwrap_err();
        assert!(refused.is_not_found());
        assert_eq!(refused.to_string(), "no network is called x");
        let nonsense = read::<()>(StatusCode::BAD_GATEWAY, b"<html>").unwrap_err();
        assert!(matches!(nonsense, ClientError::Answer { .. }));
        read::<()>(StatusCode::NO_CONTENT, b"").unwrap();
    }

    #[tokio::test]
    async fn without_a_daemon_it_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Client::new(dir.path()).status().await.unwrap_err();
        let path = dir.path().join(SOCKET);
        assert_eq!(
            error.to_string(),
            format!(
                "no daemon answers at {}: start one with `netdp daemon`",
                path.display()
            )
        );
    }

    #[tokio::test]
    async fn a_daemon_that_ends_meanwhile_may_have_made_the_change() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let ends = async {
            let (mut stream, _) = daemon.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        };
        let client = Client::new(dir.path());
        let (asked, ()) = tokio::join!(client.remove_network("web"), ends);
        let error = asked.unwrap_err().to_string();
        assert!(
            error.contains("may have been made: see `netdp ps`"),
            "{error}"
        );
    }
}
