//! The servers: each listener has a thread, each TCP connection another.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::ValueEnum;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use super::{LoadError, cpu, datagram, http};

/// What a listener does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// HTTP/1.1 with keep-alive: a tiny page at `/`, [`super::WhoAmI`] at `/whoami`.
    Http,
    /// TCP: sends back what arrives.
    Echo,
    /// TCP: sends back one byte and closes, in the accepting thread: starting a
    /// thread costs as much as a connection and would hide what is measured.
    Crr,
    /// TCP: reads to the end, then tells how many bytes came (u64, big-endian).
    Sink,
    /// TCP: writes until the peer closes.
    Source,
    /// UDP: sends each datagram back.
    UdpEcho,
    /// UDP: counts datagrams and tells the count when asked.
    UdpSink,
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Http => "http",
            Self::Echo => "echo",
            Self::Crr => "crr",
            Self::Sink => "sink",
            Self::Source => "source",
            Self::UdpEcho => "udp-echo",
            Self::UdpSink => "udp-sink",
        })
    }
}

/// One socket to serve on. Port 0 lets the kernel choose.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub service: Service,
    pub bind: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What `/whoami` tells.
    pub name: String,
    pub listen: Vec<Listen>,
    /// Binds every thread of the server to this CPU.
    pub cpu: Option<usize>,
    /// TCP congestion control; the namespace's own otherwise, which a new
    /// namespace takes from the machine's.
    pub congestion: Option<String>,
    /// Whether [`Server::stop`] ends it: threads that wait then look ten times a
    /// second, which is work on the CPU that is measured.
    pub stoppable: bool,
}

impl ServerConfig {
    /// Without listeners, on any CPU, with the default congestion control,
    /// stoppable.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            listen: Vec::new(),
            cpu: None,
            congestion: None,
            stoppable: true,
        }
    }
}

/// Running servers. Dropping it stops them.
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How often a blocked thread looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(100);
const BULK_BUFFER: usize = 128 << 10;

/// Binds every listener, then serves on all of them.
///
/// # Errors
/// When any of them can't be bound, or the CPU does not exist; none serves then.
pub fn serve(config: ServerConfig) -> Result<Server, LoadError> {
    let mut server = Server {
        addresses: Vec::new(),
        stopping: Arc::default(),
        threads: Vec::new(),
    };
    let mut bound = Vec::new();
    for listen in &config.listen {
        let bind = Socket::bind(*listen, &config);
        let (socket, address) = bind.map_err(|source| LoadError::Listen {
            address: listen.bind,
            service: listen.service,
            source,
        })?;
        bound.push((socket, listen.service));
        server.addresses.push(address);
    }
    let name: Arc<str> = config.name.into();
    for (socket, service) in bound {
        let stopping = Stopping(server.stopping.clone());
        let name = name.clone();
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("load-{service}"))
            .spawn(move || {
                // Connection threads inherit the affinity of this one.
                let pinned = config.cpu.map_or(Ok(()), cpu::pin);
                let refused = pinned.is_err();
                if started.send(pinned).is_err() || refused {
                    return;
                }
                match socket {
                    Socket::Tcp(listener) => accept(&listener, service, &name, &stopping),
                    Socket::Udp(socket) if service == Service::UdpEcho => {
                        udp_echo(&socket, &stopping);
                    }
                    Socket::Udp(socket) => datagram::sink(&socket, &stopping),
                }
            })
            .map_err(LoadError::Thread)?;
        server.threads.push(thread);
        start
            .recv()
            .map_err(|_| LoadError::Thread(io::Error::other("it ended before it served")))??;
    }
    Ok(server)
}

impl Server {
    /// The bound addresses, in the order of [`ServerConfig::listen`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends every thread and connection, and waits for them.
    pub fn stop(mut self) {
        self.end();
    }

    /// Serves until the process is ended from outside.
    pub fn wait(mut self) {
        for thread in self.threads.drain(..) {
            // A panic has been printed by its thread.
            drop(thread.join());
        }
    }

    fn end(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Clone)]
pub(super) struct Stopping(Arc<AtomicBool>);

impl Stopping {
    pub(super) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
    fn bind(listen: Listen, config: &ServerConfig) -> io::Result<(Self, SocketAddr)> {
        let look = config.stoppable.then_some(STOP_CHECK);
        match listen.service {
            Service::UdpEcho | Service::UdpSink => {
                let socket = UdpSocket::bind(listen.bind)?;
                socket.set_read_timeout(look)?;
                let address = socket.local_addr()?;
                Ok((Self::Udp(socket), address))
            }
            _ => {
                let listener = TcpListener::bind(listen.bind)?;
                // Accepted sockets inherit the listener's options, so a
                // connection pays no system call for them.
                if let Some(name) = &config.congestion {
                    set_congestion(&listener, name)?;
                }
                let timeout = TimeVal::milliseconds(look.map_or(0, |time| time.as_millis() as i64));
                setsockopt(&listener.as_fd(), sockopt::ReceiveTimeout, &timeout)?;
                setsockopt(&listener.as_fd(), sockopt::SendTimeout, &timeout)?;
                let address = listener.local_addr()?;
                Ok((Self::Tcp(listener), address))
            }
        }
    }
}

fn accept(listener: &TcpListener, service: Service, name: &Arc<str>, stopping: &Stopping) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !stopping.requested() {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => {
                // Out of file descriptors, or the peer has gone again: the
                // client counts its failed connection, others are served on.
                eprintln!("load server ({service}): accept: {error}");
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if service == Service::Crr {
            // What goes wrong shows at the client, which counts it.
            drop(answer_and_close(&mut stream));
            continue;
        }
        let (name, stopping) = (name.clone(), stopping.clone());
        connections.retain(|thread| !thread.is_finished());
        let connection = thread::Builder::new()
            .stack_size(BULK_BUFFER * 4)
            .spawn(move || drop(converse(&mut stream, service, &name, &stopping)));
        match connection {
            Ok(thread) => connections.push(thread),
            Err(error) => eprintln!("load server ({service}): no thread: {error}"),
        }
    }
    for connection in connections {
        drop(connection.join());
    }
}

fn answer_and_close(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

fn converse(
    stream: &mut TcpStream,
    service: Service,
    name: &str,
    stopping: &Stopping,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match service {
        Service::Http => http::answer(stream, name, || !stopping.requested()),
        Service::Sink => sink(stream, stopping),
        Service::Source => source(stream, stopping),
        _ => echo(stream, stopping),
    }
}

fn echo(stream: &mut TcpStream, stopping: &Stopping) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    while let Some(length) = read_some(stream, &mut buffer, stopping)? {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            rest = &rest[write_some(stream, rest, stopping)?..];
        }
    }
    Ok(())
}

fn sink(stream: &mut TcpStream, stopping: &Stopping) -> io::Result<()> {
    let _in_turn = cpu::InTurn::begin();
    let mut buffer = [0; BULK_BUFFER];
    let mut received = 0_u64;
    while let Some(length) = read_some(stream, &mut buffer, stopping)? {
        received += length as u64;
    }
    stream.write_all(&received.to_be_bytes())
}

fn source(stream: &mut TcpStream, stopping: &Stopping) -> io::Result<()> {
    let _in_turn = cpu::InTurn::begin();
    let buffer = [0; BULK_BUFFER];
    loop {
        write_some(stream, &buffer, stopping)?;
    }
}

/// `None` at the end of the stream.
fn read_some(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    stopping: &Stopping,
) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Ok(None),
            Ok(length) => return Ok(Some(length)),
            Err(error) if is_timeout(&error) && !stopping.requested() => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_some(stream: &mut TcpStream, bytes: &[u8], stopping: &Stopping) -> io::Result<usize> {
    loop {
        // A peer that takes every byte would keep this from ever timing out.
        if stopping.requested() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match stream.write(bytes) {
            Err(error) if is_timeout(&error) => {}
            written => return written,
        }
    }
}

fn udp_echo(socket: &UdpSocket, stopping: &Stopping) {
    let mut buffer = [0; 64 << 10];
    while !stopping.requested() {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            // A lost answer is counted by the client.
            drop(socket.send_to(&buffer[..length], peer));
        }
    }
}

pub(super) fn set_congestion(socket: &impl AsFd, name: &str) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpCongestion, &name.into()).map_err(|errno| {
        let list = match errno {
            Errno::EPERM => "allowed",
            _ => "available",
        };
        let message = format!(
            "congestion control {name}: {errno}: it has to be in net.ipv4.tcp_{list}_congestion_control"
        );
        io::Error::other(message)
    })
}

/// Whether a read, write or accept ran into the socket's timeout.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
