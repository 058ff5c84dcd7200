//! What supervisors of direct ports are told: a file for each sandbox that has
//! one, which outlives the daemon. Those of programs that a container runtime
//! starts are started here, by the filters that it hands over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tokio::net::UnixStream;

use crate::{
    api::{
        listen::{ListenError, Socket},
        types::Direct,
    },
    bpf::{BpfError, Layout, OwnWays, direct_cgroup},
    direct::{self, DirectError, End, HandoverError, Hears, Ports, Published, Site},
    model::{Endpoint, Mode, Sandbox, SandboxId, State},
    netns::{Namespace, NetnsError},
    whole,
};

/// Name of the socket inside the run folder at which container runtimes hand
/// over filters: a seccomp profile's `listenerPath`.
pub const SOCKET: &str = "seccomp.sock";

/// The files, and what they say.
#[derive(Debug)]
pub struct DirectPorts {
    run_dir: PathBuf,
    site: Site,
    written: BTreeMap<SandboxId, Ports>,
    /// Whose could not be written, and why.
    untold: BTreeMap<SandboxId, String>,
    /// Whose files there may be; none before they were looked for.
    known: Option<BTreeSet<SandboxId>>,
}

impl DirectPorts {
    /// In a folder of the daemon's own; `cgroup` is the control group that it
    /// has.
    pub fn new(run_dir: &Path, cgroup: &Path, bpffs: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            site: Site {
                cgroup: direct_cgroup(cgroup),
                ports: run_dir.join("direct"),
                maps: Layout::of(bpffs).maps(),
            },
            written: BTreeMap::new(),
            untold: BTreeMap::new(),
            known: None,
        }
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Says where everything is, for runtimes that start when no daemon is there.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn announce(&self) -> io::Result<()> {
        fs::create_dir_all(&self.site.ports)?;
        write(&self.run_dir.join(Site::FILE), &self.site)
    }

    /// Takes it back.
    pub fn withdraw(&self) {
        // It may never have been there.
        let _ = fs::remove_file(self.run_dir.join(Site::FILE));
    }

    /// What a supervisor of this sandbox is told, if it is to have one.
    pub fn of(&self, sandbox: &Sandbox) -> Option<Direct> {
        // Who shares a network shares its ports.
        let of = match sandbox.mode {
            Mode::Container(other) => other,
            _ => sandbox.id,
        };
        sandbox.direct.then(|| Direct {
            cgroup: self.site.cgroup.clone(),
            ports: self.path(of),
            maps: self.site.maps.clone(),
        })
    }

    /// The sandboxes whose programs nobody hears any more: a supervisor of theirs has
    /// died. What those of sandboxes that are gone have left is removed.
    pub fn unheard(&self, state: &State) -> Vec<SandboxId> {
        let dead = direct::dead(&self.site.ports);
        if dead.is_empty() {
            return Vec::new();
        }
        let networks: Vec<(u64, SandboxId)> = wanted(state)
            .iter()
            .filter_map(|(id, ports)| Some((cookie(ports)?.ok()?, *id)))
            .collect();
        let mut unheard = BTreeSet::new();
        for left in dead {
            match networks.iter().find(|(netns, _)| *netns == left.netns) {
                Some((_, id)) => drop(unheard.insert(*id)),
                None => left.forget(),
            }
        }
        unheard.into_iter().collect()
    }

    /// The sandboxes whose supervisors can't be told what is published, and why.
    pub fn untold(&self) -> &BTreeMap<SandboxId, String> {
        &self.untold
    }

    /// Writes what has changed, and what could not be written the last time.
    pub fn follow(&mut self, state: &State) {
        let is_first = self.begin();
        self.say(wanted(state), is_first);
        let known = self.known.iter().flatten();
        let behind = known.filter(|id| !self.written.contains_key(id));
        let why = |id: &SandboxId| Some((*id, self.untold.get(id)?.clone()));
        self.untold = behind.filter_map(why).collect();
    }

    /// Before a change of the tables: what is published no more is taken out, since
    /// programs may bind again at once when their sockets are ended, and what comes
    /// isn't written yet, since what has no entry isn't ended.
    pub fn narrow(&mut self, state: &State) {
        let is_first = self.begin();
        let mut kept = wanted(state);
        for (id, ports) in &mut kept {
            let before = self.written.get(id);
            let was = |it: &Published| before.is_some_and(|of| of.published.contains(it));
            ports.published.retain(was);
        }
        self.say(kept, is_first);
    }

    /// Reads what an earlier daemon has said, which may have ended between writing
    /// the store and the tables. True the first time.
    fn begin(&mut self) -> bool {
        if self.known.is_some() {
            return false;
        }
        let known = self.left();
        let files = known.iter().map(|id| (*id, read(&self.path(*id))));
        self.written = files.filter_map(|(id, it)| Some((id, it?))).collect();
        self.known = Some(known);
        true
    }

    fn say(&mut self, wanted: BTreeMap<SandboxId, Ports>, is_first: bool) {
        let known = self.known.take().unwrap_or_default();
        let gone = || known.iter().filter(|id| !wanted.contains_key(id));
        for id in gone() {
            // It may be gone with the folder.
            let _ = fs::remove_file(self.path(*id));
        }
        if is_first || gone().next().is_some() {
            self.forget_ways(&wanted);
        }
        self.known = Some(wanted.keys().copied().collect());
        let before = std::mem::take(&mut self.written);
        for (id, ports) in wanted {
            if before.get(&id) == Some(&ports) {
                self.written.insert(id, ports);
                continue;
            }
            let Err(error) = self.write(id, &ports) else {
                self.written.insert(id, ports);
                continue;
            };
            // What it said isn't so any more: without it nothing is handed out.
            let _ = fs::remove_file(self.path(id));
            if self.untold.insert(id, error.to_string()).is_none() {
                tracing::error!(
                    "cannot say which ports of {} are direct: {error}",
                    id.short()
                );
            }
        }
    }

    /// Takes out of the datapath how programs of other sandboxes than these reached
    /// their own ports.
    fn forget_ways(&self, sandboxes: &BTreeMap<SandboxId, Ports>) {
        let forget = || -> Result<(), ForgetError> {
            let networks = sandboxes.values().filter_map(cookie);
            let networks = networks.collect::<Result<_, _>>()?;
            OwnWays::open(&self.site.maps)?.keep(&networks);
            Ok(())
        };
        if let Err(error) = forget() {
            tracing::warn!("cannot forget the direct ports of sandboxes that are gone: {error}");
        }
    }

    /// The sandboxes whose files an earlier daemon has left.
    fn left(&self) -> BTreeSet<SandboxId> {
        let entries = fs::read_dir(&self.site.ports).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect()
    }

    fn path(&self, id: SandboxId) -> PathBuf {
        self.site.ports.join(id.to_string())
    }

    fn write(&self, id: SandboxId, ports: &Ports) -> io::Result<()> {
        fs::create_dir_all(&self.site.ports)?;
        write(&self.path(id), ports)
    }
}

/// What the files are to say.
fn wanted(state: &State) -> BTreeMap<SandboxId, Ports> {
    let sandboxes = state.sandboxes.values();
    sandboxes
        .filter(|sandbox| sandbox.direct && !matches!(sandbox.mode, Mode::Container(_)))
        .map(|sandbox| (sandbox.id, ports(state, sandbox.id)))
        .collect()
}

#[derive(Debug, thiserror::Error)]
enum ForgetError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// Of the sandbox's network, if that is there.
fn cookie(ports: &Ports) -> Option<Result<u64, NetnsError>> {
    match Namespace::open(&ports.netns) {
        Err(error) if error.is_absence() => None,
        namespace => Some(namespace.and_then(|it| it.cookie())),
    }
}

/// None of another version's.
fn read(path: &Path) -> Option<Ports> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// For root alone; it is read at any time.
fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    whole::write(path, &serde_json::to_vec(what)?, 0o600)
}

/// Listens for filters. Who may hand one over has programs supervised, and is
/// root therefore.
///
/// # Errors
/// As [`Socket::bind_at`].
pub fn listen(run_dir: &Path) -> Result<Socket, ListenError> {
    let path = run_dir.join(SOCKET);
    let socket = Socket::bind_at(path.clone(), "--run-dir")?;
    let what = "cannot set the mode of";
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .map_err(|source| ListenError::Io { what, path, source })?;
    Ok(socket)
}

/// Starts a supervisor for each filter that is handed over, until `end`.
pub async fn supervise(socket: Socket, site: Site, end: impl Future<Output = ()>) {
    let (listener, _name) = socket.into_parts();
    let serve = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let site = site.clone();
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = take(stream, site) {
                            tracing::error!("no direct ports for a program: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::error!("cannot accept a filter: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = end => {}
    }
}

#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error(transparent)]
    Start(#[from] DirectError),
}

fn take(stream: UnixStream, site: Site) -> Result<(), TakeError> {
    let stream = stream.into_std().map_err(HandoverError::Read)?;
    stream.set_nonblocking(false).map_err(HandoverError::Read)?;
    let handed = direct::receive(&stream)?;
    let netns = format!("/proc/{}/ns/net", handed.process).into();
    let task = site.task(Hears::Filter { netns });
    direct::start(Path::new("/proc/self/exe"), handed.filter, &task, None)?;
    Ok(())
}

fn ports(state: &State, id: SandboxId) -> Ports {
    let endpoints = state.endpoints_of(id).into_iter();
    Ports {
        netns: state.sandboxes[&id].netns.clone(),
        published: endpoints.flat_map(published).collect(),
    }
}

fn published(endpoint: &Endpoint) -> impl Iterator<Item = Published> {
    endpoint.published.iter().filter_map(|publication| {
        let mut addresses = endpoint.addresses.iter();
        let family = publication.host_ip.is_ipv4();
        let address = addresses.find(|it| it.net.addr().is_ipv4() == family)?;
        Some(Published {
            publication: publication.clone(),
            end: End {
                own: address.net.addr(),
                gateway: address.gateway,
            },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{NO_SOCKETS, host, state, web};

    /// The direct ports of the host that supervisors are told.
    fn told(folder: &Path) -> Vec<u16> {
        let mut files = fs::read_dir(folder.join("direct")).unwrap();
        let file = files.next().expect("a file").unwrap().path();
        assert!(files.next().is_none());
        let ports = read(&file).expect("ports");
        let ports = ports.published.iter().map(|it| it.publication.host_port);
        ports.collect()
    }

    #[test]
    fn what_is_told_is_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = || DirectPorts::new(folder.path(), folder.path(), folder.path());
        let host = host(&NO_SOCKETS);
        let mut before = state();
        let request = web("web", &["8080:80,direct"]);
        before.create_sandbox(&request, &host).unwrap();
        let mut after = before.clone();
        let spec = ["9090:90,direct".parse().unwrap()];
        after.publish("web", &spec, &host).unwrap();
        let mut first = daemon();
        first.narrow(&before);
        assert!(told(folder.path()).is_empty());
        first.follow(&before);
        assert_eq!(told(folder.path()), [8080]);
        // One that ended between the store and the tables, and the next.
        first.narrow(&after);
        assert_eq!(told(folder.path()), [8080]);
        let mut next = daemon();
        next.narrow(&after);
        assert_eq!(told(folder.path()), [8080]);
        next.follow(&after);
        assert_eq!(told(folder.path()), [8080, 9090]);
        daemon().narrow(&before);
        assert_eq!(told(folder.path()), [8080]);
    }

    #[test]
    fn what_another_version_has_told_is_told_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = state();
        let request = web("web", &["8080:80,direct"]);
        let sandbox = state.create_sandbox(&request, &host(&NO_SOCKETS)).unwrap();
        let id = sandbox.id;
        fs::create_dir(folder.path().join("direct")).unwrap();
        fs::write(folder.path().join("direct").join(id.to_string()), "{").unwrap();
        let mut direct = DirectPorts::new(folder.path(), folder.path(), folder.path());
        direct.narrow(&state);
        assert!(told(folder.path()).is_empty());
        direct.follow(&state);
        assert_eq!(told(folder.path()), [8080]);
    }
}
