//! Requests that a daemon which was killed had read, and not answered.
//!
//! dockerd asks again, without the contents: what each was is noted in a file
//! until its answer has been written. The next daemon does what is noted, and
//! has the answers for who asks again without saying what for. Where several
//! have asked the same way, their answers tell them apart or don't matter: the
//! same for all is given to each, and otherwise nobody is told another's.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    http::{Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{CONTENT_TYPE, peer::Peer, serve::routed};
use crate::model::Process;

pub const CREATE: &str = "/NetworkDriver.CreateEndpoint";

/// dockerd asks again for 30 seconds at most (`defaultTimeOut` of moby's
/// `pkg/plugins/client.go`).
const ASKS_AGAIN: Duration = Duration::from_secs(40);

/// See the [module](self).
#[derive(Debug)]
pub struct Unanswered {
    folder: PathBuf,
    next: AtomicU64,
    left: Mutex<Vec<Left>>,
}

/// One that was done now, and whose answer nobody has yet.
#[derive(Debug)]
struct Left {
    path: String,
    status: StatusCode,
    answer: Bytes,
    until: SystemTime,
    _noted: Noted,
}

/// A file that says what was asked, until it is dropped.
#[derive(Debug)]
pub struct Noted(PathBuf);

impl Drop for Noted {
    fn drop(&mut self) {
        // Nothing can be done about one that is gone already.
        let _ = fs::remove_file(&self.0);
    }
}

impl Unanswered {
    /// Does what is noted in `folder`, unless it is so old that nobody asks for
    /// it any more.
    pub async fn open(folder: &Path, router: &Router) -> Self {
        let mut left = Vec::new();
        for (noted, until) in noted(folder) {
            let text = fs::read(&noted.0).unwrap_or_default();
            let Some((path, peer, contents)) = parted(&text) else {
                continue;
            };
            let mut request = Request::new(Bytes::copy_from_slice(contents));
            *request.method_mut() = Method::POST;
            let Ok(uri) = path.parse() else {
                continue;
            };
            *request.uri_mut() = uri;
            tracing::info!("{path} was asked for, and not answered: it is done now");
            let (head, body) = routed(router.clone(), request, peer).await.into_parts();
            left.push(Left {
                path: path.to_owned(),
                status: head.status,
                answer: to_bytes(body, usize::MAX).await.unwrap_or_default(),
                until,
                _noted: noted,
            });
        }
        if left.iter().filter(|it| it.path == CREATE).count() > 1 {
            for left in left.iter_mut().filter(|it| it.path == CREATE) {
                left.answer = without_mac(&left.answer);
            }
        }
        Self {
            folder: folder.to_owned(),
            next: AtomicU64::new(0),
            left: Mutex::new(left),
        }
    }

    /// Notes what is asked; without a note where none can be written.
    pub fn note(&self, path: &str, peer: Peer, contents: &[u8]) -> Option<Noted> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // In the order in which they came.
        let name = format!("{:020}-{number:010}", now.as_nanos());
        let file = self.folder.join(name);
        match write(&file, path, peer, contents) {
            Ok(()) => Some(Noted(file)),
            Err(error) => {
                tracing::debug!("cannot note {path} in {}: {error}", file.display());
                let _ = fs::remove_file(&file);
                None
            }
        }
    }

    /// The answer to a request of which nothing but its path came, where it is
    /// plain which one it is.
    pub fn take(&self, path: &str) -> Option<Response> {
        let mut left = self.left.lock().ok()?;
        let now = SystemTime::now();
        left.retain(|it| it.until > now);
        let first = left.iter().position(|it| it.path == path)?;
        let same = |it: &Left| {
            let wanted = &left[first];
            (it.status, &it.answer) == (wanted.status, &wanted.answer)
        };
        if !left.iter().filter(|it| it.path == path).all(same) {
            return None;
        }
        let Left { status, answer, .. } = left.remove(first);
        Some((status, [(header::CONTENT_TYPE, CONTENT_TYPE)], answer).into_response())
    }
}

/// What is noted in a folder, oldest first, and until when it is asked for. What
/// is older goes.
fn noted(folder: &Path) -> Vec<(Noted, SystemTime)> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    let files = match made.and_then(|()| fs::read_dir(folder)) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(
                "cannot note what dockerd asks for in {}: {error}",
                folder.display()
            );
            return Vec::new();
        }
    };
    let mut noted: Vec<_> = files
        .flatten()
        .filter_map(|file| {
            let until = file.metadata().ok()?.modified().ok()? + ASKS_AGAIN;
            Some((Noted(file.path()), until))
        })
        .filter(|(_, until)| *until > SystemTime::now())
        .collect();
    noted.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0));
    noted
}

fn write(file: &Path, path: &str, peer: Peer, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let (pid, start_time) = peer.0.map_or((0, 0), |it| (it.pid, it.start_time));
    file.write_all(format!("{path} {pid} {start_time}\n").as_bytes())?;
    file.write_all(contents)
}

/// The path, who asked, and the contents of a note.
fn parted(text: &[u8]) -> Option<(&str, Peer, &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&text[..end]).ok()?;
    let mut words = line.split(' ');
    let path = words.next()?;
    let process = Process {
        pid: words.next()?.parse().ok()?,
        start_time: words.next()?.parse().ok()?,
    };
    let peer = Peer(Some(process).filter(|it| it.pid != 0));
    Some((path, peer, &text[end + 1..]))
}

/// Without the address that netdp would choose: an interface keeps its own where
/// dockerd gives it none.
fn without_mac(answer: &[u8]) -> Bytes {
    let Ok(mut value) = serde_json::from_slice::<Value>(answer) else {
        return Bytes::copy_from_slice(answer);
    };
    if let Some(Value::Object(interface)) = value.get_mut("Interface") {
        interface.remove("MacAddress");
    }
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use axum::routing::post;

    use super::*;

    async fn text(answer: Option<Response>) -> Option<String> {
        let body = to_bytes(answer?.into_body(), usize::MAX).await.unwrap();
        Some(String::from_utf8(body.to_vec()).unwrap())
    }

    fn router() -> Router {
        let twice = async |body: String| format!("{body}{body}");
        Router::new()
            .route("/same", post(async || "{}"))
            .route("/other", post(twice))
            .route(CREATE, post(async |body: String| body))
    }

    /// A daemon that has read these, and is killed.
    async fn killed(folder: &Path, asked: &[(&str, &str)]) {
        let unanswered = Unanswered::open(folder, &router()).await;
        for (path, contents) in asked {
            let noted = unanswered
                .note(path, Peer(None), contents.as_bytes())
                .unwrap();
            std::mem::forget(noted);
        }
        let answered = unanswered.note("/same", Peer(None), b"answered").unwrap();
        drop(answered);
    }

    #[tokio::test]
    async fn who_asks_again_has_the_answer_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        killed(&folder, &[("/other", "a"), ("/same", "x"), ("/same", "y")]).await;
        let next = Unanswered::open(&folder, &router()).await;
        assert_eq!(text(next.take("/other")).await.unwrap(), "aa");
        assert_eq!(text(next.take("/other")).await, None);
        assert_eq!(text(next.take("/nothing")).await, None);
        // Killed again before the others asked.
        std::mem::forget(next);
        let next = Unanswered::open(&folder, &router()).await;
        for _ in 0..2 {
            assert_eq!(text(next.take("/same")).await.unwrap(), "{}");
        }
        assert_eq!(text(next.take("/same")).await, None);
        drop(next);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn nobody_has_anothers_answer() {
        let folder = tempfile::tempdir().unwrap();
        killed(folder.path(), &[("/other", "a"), ("/other", "b")]).await;
        let next = Unanswered::open(folder.path(), &router()).await;
        assert_eq!(text(next.take("/other")).await, None);
        let made = |mac: &str| format!(r#"{{"Interface":{{"MacAddress":"{mac}"}}}}"#);
        let (one, other) = (made("02::1"), made("02::2"));
        killed(folder.path(), &[(CREATE, &one), (CREATE, &other)]).await;
        let next = Unanswered::open(folder.path(), &router()).await;
        for _ in 0..2 {
            let answer = text(next.take(CREATE)).await.unwrap();
            assert_eq!(answer, r#"{"Interface":{}}"#);
        }
    }

    #[tokio::test]
    async fn what_is_old_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        killed(folder.path(), &[("/same", "x")]).await;
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = fs::File::options().write(true).open(file.unwrap().path());
            let long_ago = SystemTime::now() - Duration::from_secs(60);
            file.unwrap().set_modified(long_ago).unwrap();
        }
        let next = Unanswered::open(folder.path(), &router()).await;
        assert_eq!(text(next.take("/same")).await, None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
