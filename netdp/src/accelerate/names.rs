//! What Docker calls the containers on netdp's own networks: a driver is told
//! neither their names nor their ids.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    SOCKET,
    docker::{Api, Inspected},
    view::View,
};

/// How long a listing waits for a Docker that has much to do: without its names,
/// it has ids.
const LISTING: Duration = Duration::from_secs(10);
/// How long a message about a start waits for them.
const START: Duration = Duration::from_secs(2);

/// A container as Docker calls it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Called {
    pub id: String,
    pub name: String,
    /// Path of its namespace, as dockerd sees it.
    key: String,
}

fn socket() -> Result<PathBuf, String> {
    match env::var("DOCKER_HOST") {
        Ok(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(path.into()),
            None => Err(format!("DOCKER_HOST={host} is no socket of this host")),
        },
        Err(_) => Ok(SOCKET.into()),
    }
}

/// The containers that run, as Docker at its usual place calls them.
///
/// # Errors
/// Why they are not known.
pub async fn called() -> Result<Vec<Called>, String> {
    let socket = socket()?;
    let asked = async {
        Api::connect(&socket)
            .await?
            .look(&mut Inspected::default(), &BTreeSet::new())
            .await
    };
    match timeout(LISTING, asked).await {
        Ok(Ok(view)) => Ok(of(view)),
        Ok(Err(error)) => {
            tracing::debug!("containers are shown without their names: {error}");
            Err(error.to_string())
        }
        Err(_) => Err(format!(
            "Docker didn't answer within {} seconds",
            LISTING.as_secs()
        )),
    }
}

/// What Docker calls the container that has this endpoint. It is asked in the
/// middle of a start, when it tells of no container in the making.
pub async fn name_of(endpoint: &str) -> Option<String> {
    let socket = socket().ok()?;
    let asked = async { Api::connect(&socket).await.ok()?.name_of(endpoint).await };
    timeout(START, asked).await.ok()?
}

fn of(view: View) -> Vec<Called> {
    let containers = view.containers.into_iter();
    containers
        .map(|container| Called {
            id: container.id,
            name: container.name,
            key: container.sandbox_key,
        })
        .collect()
}

/// The one whose namespace this is, whichever way its path is written:
/// `/var/run` is a link to `/run`.
pub fn at<'a>(called: &'a [Called], netns: &Path) -> Option<&'a Called> {
    let wanted = netns.file_name()?;
    called
        .iter()
        .find(|it| Path::new(&it.key).file_name() == Some(wanted))
}

/// The key of the one that has this name or id, or whose id alone begins so.
pub fn key<'a>(called: &'a [Called], reference: &str) -> Option<&'a str> {
    let mut exact = called.iter();
    if let Some(found) = exact.find(|it| it.name == reference || it.id == reference) {
        return last(&found.key);
    }
    let mut fitting = called.iter().filter(|it| it.id.starts_with(reference));
    match (fitting.next(), fitting.next()) {
        (Some(found), None) if !reference.is_empty() => last(&found.key),
        _ => None,
    }
}

fn last(key: &str) -> Option<&str> {
    key.rsplit('/').next().filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called() -> Vec<Called> {
        let one = |id: &str, name: &str, key: &str| Called {
            id: id.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        };
        vec![
            one("c0ffee", "web", "/var/run/docker/netns/b853af6282dc"),
            one("c0ffef", "db", "/var/run/docker/netns/0123456789ab"),
            // On the host's own network.
            one("dead00", "host", ""),
        ]
    }

    #[test]
    fn containers_are_found_by_their_namespace() {
        let called = called();
        let found = at(&called, Path::new("/run/docker/netns/0123456789ab"));
        assert_eq!(found.unwrap().name, "db");
        assert_eq!(at(&called, Path::new("/run/docker/netns/other")), None);
    }

    #[test]
    fn namespaces_are_found_by_names_and_ids() {
        let called = called();
        for reference in ["web", "c0ffee"] {
            assert_eq!(key(&called, reference), Some("b853af6282dc"));
        }
        for reference in ["c0ffe", "other", "", "host"] {
            assert_eq!(key(&called, reference), None, "{reference}");
        }
    }
}
