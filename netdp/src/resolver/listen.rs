//! The resolver's sockets in one sandbox.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use netdp_common::resolver::{ADDRESS, HELD_PORT};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{
    answer::{self, Outcome, Transport},
    forward,
    upstream::Upstreams,
};
use crate::{
    bpf::{BpfError, Loopback},
    model::{
        SandboxId,
        names::{Names, View},
    },
    netns::{Namespace, NetnsError},
};

/// Questions of one sandbox that are asked outside at once, and its
/// connections; more are told to come again.
const MOST_FORWARDED: usize = 64;
const MOST_CONNECTIONS: usize = 16;

/// How long a connection may say nothing (RFC 7766, section 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);

/// Longest question over UDP, bytes: far more than any has.
const LONGEST: usize = 4096;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error("cannot listen at {address} in {netns}: {source}")]
    Bind {
        address: SocketAddr,
        netns: String,
        source: io::Error,
    },
    #[error("{0} is the host's own namespace")]
    Host(String),
    #[error("no thread can enter its namespace: {0}")]
    Thread(String),
}

/// What a resolver that listens in one sandbox knows.
#[derive(Clone)]
pub struct Asked {
    pub sandbox: SandboxId,
    pub names: watch::Receiver<Arc<Names>>,
    pub upstreams: Arc<Upstreams>,
}

/// Sockets in a sandbox, not served yet.
pub struct Opened {
    udp: StdUdpSocket,
    tcp: StdTcpListener,
    namespace: Namespace,
}

/// A resolver at work in one sandbox. Dropped, it ends.
pub struct Listening {
    tasks: [AbortHandle; 2],
    /// Kept, so that the program can be taken off the interface.
    pub namespace: Namespace,
}

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Makes the sockets in the namespaces at these paths, and leads questions to
/// them. Blocks for as long as a thread takes to enter them.
pub fn open(paths: &[PathBuf], loopback: &mut Loopback) -> Vec<Result<Opened, ListenError>> {
    let found: Vec<_> = paths.iter().map(|path| sandbox_at(path)).collect();
    let namespaces: Vec<&Namespace> = found.iter().filter_map(|it| it.as_ref().ok()).collect();
    let mut opened = match Namespace::run_in_each(&namespaces, |it| open_here(it, loopback)) {
        Ok(opened) => opened.into_iter(),
        Err(error) => {
            let failed = |_| Err(ListenError::Thread(error.to_string()));
            return paths.iter().map(failed).collect();
        }
    };
    let mut result = |found: Result<Namespace, ListenError>| {
        let namespace = found?;
        let (udp, tcp) = opened.next().map_or_else(
            || Err(ListenError::Thread("it ended early".to_owned())),
            |entered| entered?,
        )?;
        Ok(Opened {
            udp,
            tcp,
            namespace,
        })
    };
    found.into_iter().map(&mut result).collect()
}

/// The namespace at a path, unless it is the host's own.
fn sandbox_at(path: &Path) -> Result<Namespace, ListenError> {
    let namespace = Namespace::open(path)?;
    if namespace.inode() == Namespace::current()?.inode() {
        return Err(ListenError::Host(path.display().to_string()));
    }
    Ok(namespace)
}

type Sockets = (StdUdpSocket, StdTcpListener);

/// In the calling thread's namespace, which is `namespace`.
fn open_here(namespace: &Namespace, loopback: &mut Loopback) -> Result<Sockets, ListenError> {
    let sockets = sockets().map_err(|source| ListenError::Bind {
        address: (ADDRESS.bytes(), HELD_PORT).into(),
        netns: namespace.path().display().to_string(),
        source,
    })?;
    loopback.attach_here(namespace)?;
    Ok(sockets)
}

/// Both sockets, in the calling thread's namespace.
fn sockets() -> io::Result<Sockets> {
    let [a, b, c, d] = ADDRESS.bytes();
    let address = SockaddrIn::new(a, b, c, d, HELD_PORT);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let udp = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    bind(udp.as_raw_fd(), &address)?;
    let tcp = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // Connections of an earlier daemon may still be closing.
    setsockopt(&tcp, sockopt::ReuseAddr, &true)?;
    bind(tcp.as_raw_fd(), &address)?;
    listen(&tcp, Backlog::MAXCONN)?;
    Ok((udp.into(), tcp.into()))
}

impl Opened {
    /// Answers from now on. Must be called within a tokio runtime.
    pub fn serve(self, asked: &Asked) -> io::Result<Listening> {
        let udp = UdpSocket::from_std(self.udp)?;
        let tcp = TcpListener::from_std(self.tcp)?;
        Ok(Listening {
            tasks: [
                tokio::spawn(datagrams(Arc::new(udp), asked.clone())).abort_handle(),
                tokio::spawn(connections(tcp, asked.clone())).abort_handle(),
            ],
            namespace: self.namespace,
        })
    }
}

impl Asked {
    /// What the sandbox sees now.
    fn view(&self) -> Option<Arc<View>> {
        self.names.borrow().view(self.sandbox).cloned()
    }

    /// What is known at once.
    fn answer(&self, message: &[u8], transport: Transport) -> Outcome {
        match self.view() {
            Some(view) => answer::answer(&view, message, transport),
            None => answer::failure(message, ResponseCode::ServFail),
        }
    }

    /// What the resolvers outside say.
    async fn forward(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let upstreams = self.upstreams.read();
        match forward::ask(&upstreams, message, transport).await {
            Some(answer) => Some(answer),
            None => failure(message),
        }
    }
}

fn failure(message: &[u8]) -> Option<Vec<u8>> {
    match answer::failure(message, ResponseCode::ServFail) {
        Outcome::Answer(answer) => Some(answer),
        Outcome::Forward | Outcome::Ignore => None,
    }
}

async fn datagrams(socket: Arc<UdpSocket>, asked: Asked) {
    let mut forwarded = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = forwarded.join_next() => continue,
        };
        let (message, from) = match received {
            Ok((length, from)) => (&buffer[..length], from),
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let answer = match asked.answer(message, Transport::Udp) {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Ignore => None,
            Outcome::Forward if forwarded.len() < MOST_FORWARDED => {
                let (socket, asked) = (Arc::clone(&socket), asked.clone());
                let message = message.to_vec();
                forwarded.spawn(async move {
                    if let Some(answer) = asked.forward(&message, Transport::Udp).await {
                        let answer = answer::fitting(&message, answer);
                        send(&socket, &answer, from).await;
                    }
                });
                None
            }
            Outcome::Forward => failure(message),
        };
        if let Some(answer) = answer {
            send(&socket, &answer, from).await;
        }
    }
}

/// Who doesn't hear an answer asks again.
async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!("an answer to {to} was not sent: {error}");
    }
}

async fn connections(listener: TcpListener, asked: Asked) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if open.len() < MOST_CONNECTIONS => accepted,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let asked = asked.clone();
                open.spawn(async move {
                    // Who asks may go at any time.
                    let _ = converse(stream, &asked).await;
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn converse(mut stream: TcpStream, asked: &Asked) -> io::Result<()> {
    loop {
        let message = forward::read_within(&mut stream, IDLE).await?;
        let answer = match asked.answer(&message, Transport::Tcp) {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Forward => asked.forward(&message, Transport::Tcp).await,
            Outcome::Ignore => None,
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        tokio::time::timeout(IDLE, forward::write(&mut stream, &answer)).await??;
    }
}

/// What fails once, as for want of descriptors, may fail for a while.
async fn pause(error: &io::Error) {
    tracing::debug!("resolver: {error}");
    sleep(Duration::from_millis(100)).await;
}
